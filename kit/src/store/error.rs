//! Errors of opening and reading a store.

use std::{
    error::Error,
    io,
    path::{Path, PathBuf},
};

use rusqlite::ErrorCode;

/// Any error.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// A store that could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// SQLite reported an error.
    #[error("the store cannot be read")]
    Sqlite(#[from] rusqlite::Error),
    /// The program is stopping.
    #[error("the store is closed")]
    Closed,
}

impl ReadError {
    /// Returns whether a later attempt may succeed. Otherwise the file is damaged, or the program is stopping.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Closed => false,
            Self::Sqlite(error) => matches!(
                error.sqlite_error_code(),
                Some(
                    ErrorCode::DatabaseBusy
                        | ErrorCode::DatabaseLocked
                        | ErrorCode::SystemIoFailure
                        | ErrorCode::CannotOpen
                        | ErrorCode::DiskFull
                        | ErrorCode::OutOfMemory
                        | ErrorCode::PermissionDenied
                )
            ),
        }
    }
}

/// A store that could not be opened. Each message is one line that says what to change.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("the store {} is in use by {}; stop that process, or give another path", path.display(), holder(*process))]
    InUse {
        /// The store's file.
        path: PathBuf,
        /// The other process, if known.
        process: Option<u32>,
    },
    /// There is no file.
    #[error("there is no store at {}; give the path of a store", path.display())]
    Missing {
        /// The path.
        path: PathBuf,
    },
    /// The file is not an event store.
    #[error("{} is not an event store; give another path", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The store belongs to another service.
    #[error("the store {} belongs to {service}; give another path", path.display())]
    OtherService {
        /// The store's file.
        path: PathBuf,
        /// The service that the store belongs to.
        service: String,
    },
    /// The store was written by a newer program.
    #[error("the store {} was written by a newer version ({what}); run that version or a later one", path.display())]
    Newer {
        /// The store's file.
        path: PathBuf,
        /// The part of the store that this program does not know.
        what: String,
    },
    /// The file could not be opened or locked.
    #[error("cannot open the store {}: {source}", path.display())]
    Io {
        /// The store's file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// SQLite could not open or read the file.
    #[error("cannot open the store {}: {source}", path.display())]
    Sqlite {
        /// The store's file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: rusqlite::Error,
    },
    /// The read table could not be rebuilt from the log. The old one is still there.
    #[error("cannot rebuild the read table of {}: {source}", path.display())]
    Rebuild {
        /// The store's file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: BoxError,
    },
}

impl OpenError {
    /// Converts an error that SQLite reported while a store was opened or checked.
    pub(in crate::store) fn sqlite(path: &Path, source: rusqlite::Error) -> Self {
        if source.sqlite_error_code() == Some(ErrorCode::NotADatabase) {
            return Self::Foreign { path: path.to_owned() };
        }
        Self::Sqlite { path: path.to_owned(), source }
    }
}

fn holder(process: Option<u32>) -> String {
    process.map_or_else(|| "another process".to_owned(), |id| format!("process {id}"))
}
