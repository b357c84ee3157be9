//! The lifetime of a cluster: durable, or as long as the process.

use std::collections::HashSet;

use crate::event::StreamId;

/// The lifetime of the cluster, which decides what it remembers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cluster {
    /// The cluster outlives the process, and remembers what was published to it.
    Durable,
    /// The cluster lives only as long as this process: the embedded mock broker.
    Ephemeral {
        /// The streams that were not finished when the store was opened. Their events are published from the
        /// beginning, and then everything that comes after.
        unfinished: HashSet<StreamId>,
    },
}
