//! The location and the identity of a store.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use uuid::Uuid;

/// The location of a store: `sqlite:PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location(PathBuf);

impl Location {
    /// Creates the location of the SQLite file at `path`.
    pub fn sqlite(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl FromStr for Location {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix("sqlite:") {
            Some(path) if !path.is_empty() => Ok(Self(path.into())),
            _ => Err("a store is given as sqlite:PATH".to_owned()),
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sqlite:{}", self.0.display())
    }
}

/// The id of a store, generated when the store is created.
///
/// `transactional.id`s, the checkpoint and `ce_source` contain it, so that two stores never share one of these names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StoreId(pub Uuid);

impl StoreId {
    /// Returns the value of `ce_source`: `/order-service/<store id>`.
    pub fn source(self, service: &str) -> String {
        format!("/{service}/{self}")
    }
}

impl FromStr for StoreId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self).map_err(|_error| "a store's id is a UUID, as `ce_source` ends with it".to_owned())
    }
}

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The service and event types that a store is checked against when it is opened.
#[derive(Clone, Copy, Debug)]
pub struct StoreIdentity {
    /// The name of the service that the store belongs to.
    pub service: &'static str,
    /// The event types that this program can read.
    pub event_types: &'static [&'static str],
}
