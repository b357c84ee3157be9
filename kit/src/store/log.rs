//! Reads the log of a store while another process may write it.

use std::{path::PathBuf, time::SystemTime};

use crate::{
    event::{Event, Position, StreamId},
    store::{
        REFUSAL_FACT,
        commit::TopicPartition,
        error::{OpenError, ReadError},
        location::{Location, StoreId, StoreIdentity},
        sqlite::{events, facts, readers::Readers, schema},
    },
};

/// The log of a store, opened for reading only. Another process may write it at the same time.
pub struct Log {
    readers: Readers,
    id: StoreId,
}

impl Log {
    /// Opens the log of an existing store. This changes nothing, and blocks no other process.
    pub fn open(location: &Location, identity: StoreIdentity) -> Result<Self, OpenError> {
        let path = location.path();
        Ok(Self { id: schema::inspect(path, identity)?, readers: Readers::of_log(path.to_owned()) })
    }

    /// Returns the id of the store.
    pub fn id(&self) -> StoreId {
        self.id
    }

    /// Returns the newest position.
    pub fn head(&self) -> Result<Position, ReadError> {
        self.readers.read(schema::head)
    }

    /// Returns up to `limit` events of all streams after a position, in order.
    pub fn read_all(&self, after: Position, limit: usize) -> Result<Vec<Event>, ReadError> {
        self.readers.read(|connection| events::all(connection, after, limit))
    }

    /// Returns a fact that is stored for the service.
    pub fn fact(&self, key: &str) -> Result<Option<String>, ReadError> {
        self.readers.read(|connection| facts::get(connection, key))
    }

    /// Returns why the store is refused, if it is.
    pub fn refusal(&self) -> Result<Option<String>, ReadError> {
        self.fact(REFUSAL_FACT)
    }

    /// Returns the path of the store with this ending. It is on the same disk.
    pub fn path_beside(&self, ending: &str) -> PathBuf {
        let mut path = self.readers.path.clone().into_os_string();
        path.push(ending);
        path.into()
    }

    /// Returns a snapshot of the store.
    pub fn snapshot(&self) -> Result<Snapshot, ReadError> {
        self.readers.read(|connection| {
            let moment = connection.unchecked_transaction()?; // so that head and offsets are from the same commit
            // Taken before the head is read, so that the snapshot has every event that was stored before this time. If
            // another system did something before it, such as a charge, the event that led to that is here too.
            let time = SystemTime::now();
            Ok(Snapshot { head: schema::head(&moment)?, offsets: events::all_offsets(&moment)?, time })
        })
    }

    /// Returns the next streams in the order of their ids, each with all of its events up to a position.
    ///
    /// Returns at least one stream, if there is one, and no more than about `limit` events.
    pub fn read_streams(
        &self,
        after: Option<StreamId>,
        through: Position,
        limit: usize,
    ) -> Result<Vec<Vec<Event>>, ReadError> {
        self.readers.read(|connection| events::streams(connection, after, through, limit))
    }

    /// Returns the events of a stream after a position, in order.
    pub fn read_stream(&self, stream: StreamId, after: Position) -> Result<Vec<Event>, ReadError> {
        let events = self.readers.read(|connection| events::stream(connection, stream))?;
        Ok(events.into_iter().filter(|event| event.position > after).collect())
    }
}

/// A consistent view of a store at one point in time.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The newest position.
    pub head: Position,
    /// The offset of the next record to be consumed of each partition.
    pub offsets: Vec<(TopicPartition, i64)>,
    /// The time of the snapshot.
    pub time: SystemTime,
}
