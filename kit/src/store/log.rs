//! The log of a store, read beside the process that writes it.

use std::{path::PathBuf, time::SystemTime};

use crate::{
    event::{Event, Position, StreamId},
    store::{
        commit::TopicPartition,
        error::{OpenError, ReadError},
        location::{Location, StoreId, StoreIdentity},
        sqlite::{events, readers::Readers, schema},
    },
};

/// The log of a store, read beside the process that writes it.
pub struct Log {
    readers: Readers,
    id: StoreId,
}

impl Log {
    /// Opens the log of a store that is there. Nothing is changed, and nobody is kept from anything.
    pub fn open(location: &Location, identity: StoreIdentity) -> Result<Self, OpenError> {
        let path = location.path();
        Ok(Self { id: schema::inspect(path, identity)?, readers: Readers::of_log(path.to_owned()) })
    }

    /// The store's id.
    pub fn id(&self) -> StoreId {
        self.id
    }

    /// The newest position.
    pub fn head(&self) -> Result<Position, ReadError> {
        self.readers.read(schema::head)
    }

    /// Up to `limit` events of all streams after a position, in order.
    pub fn read_all(&self, after: Position, limit: usize) -> Result<Vec<Event>, ReadError> {
        self.readers.read(|connection| events::all(connection, after, limit))
    }

    /// A fact that the store keeps for its service.
    pub fn fact(&self, key: &str) -> Result<Option<String>, ReadError> {
        self.readers.read(|connection| events::fact(connection, key))
    }

    /// A path beside the store, on the same disk.
    pub fn path_beside(&self, ending: &str) -> PathBuf {
        let mut path = self.readers.path.clone().into_os_string();
        path.push(ending);
        path.into()
    }

    /// The store as it is now.
    pub fn snapshot(&self) -> Result<Snapshot, ReadError> {
        self.readers.read(|connection| {
            let moment = connection.unchecked_transaction()?; // so that both are of one commit
            // Taken first: what others did before it, the store has in the order in which they did.
            let time = SystemTime::now();
            Ok(Snapshot { head: schema::head(&moment)?, offsets: events::all_offsets(&moment)?, time })
        })
    }

    /// The next streams in the order of their ids, each whole up to a position: at least one, if there is one, and no
    /// more than about `limit` events.
    pub fn read_streams(
        &self,
        after: Option<StreamId>,
        through: Position,
        limit: usize,
    ) -> Result<Vec<Vec<Event>>, ReadError> {
        self.readers.read(|connection| events::streams(connection, after, through, limit))
    }

    /// One stream's events after a position, in order.
    pub fn read_stream(&self, stream: StreamId, after: Position) -> Result<Vec<Event>, ReadError> {
        let events = self.readers.read(|connection| events::stream(connection, stream))?;
        Ok(events.into_iter().filter(|event| event.position > after).collect())
    }
}

/// A moment in the life of a store.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The newest position.
    pub head: Position,
    /// How far topics were read: the offset of the next record of each partition.
    pub offsets: Vec<(TopicPartition, i64)>,
    /// When it was.
    pub time: SystemTime,
}
