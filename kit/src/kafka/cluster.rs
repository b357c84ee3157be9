//! How long a cluster lives.

use std::collections::HashSet;

use crate::event::StreamId;

/// How the cluster came to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cluster {
    /// It is there for good, and remembers what was published to it.
    Existing,
    /// It began with this process and ends with it: the embedded one.
    New {
        /// The streams that another service may still have to hear of, as of the opening of the store; they are
        /// published from their beginning, and everything that comes after.
        unfinished: HashSet<StreamId>,
    },
}
