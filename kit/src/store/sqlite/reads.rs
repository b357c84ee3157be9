//! Reading beside the writer: a few read-only connections, each of which sees whole commits only.

use std::{
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use rusqlite::{Connection, OpenFlags, OptionalExtension as _, Row, config::DbConfig, params};
use tokio::sync::{Semaphore, SemaphorePermit};
use uuid::Uuid;

use super::schema;
use crate::event::{Event, EventId, Position, StreamId, Version, from_micros};
use crate::store::{Location, OpenError, Owner, ReadError, StoreId, TopicPartition};

/// The log of a store, read beside the process that writes it.
pub struct Log {
    readers: Readers,
    id: StoreId,
}

impl Log {
    /// Opens the log of a store that is there. Nothing is changed, and nobody is kept from anything.
    pub fn open(location: &Location, owner: Owner) -> Result<Self, OpenError> {
        let path = location.path();
        let readers = Readers { cache_size: Some(LOG_CACHE), ..Readers::new(path.to_owned()) };
        Ok(Self { readers, id: schema::inspect(path, owner)? })
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
        self.readers.read(|connection| all(connection, after, limit))
    }

    /// A fact that the store keeps for its service.
    pub fn fact(&self, key: &str) -> Result<Option<String>, ReadError> {
        self.readers.read(|connection| fact(connection, key))
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
            Ok(Snapshot { head: schema::head(&moment)?, offsets: all_offsets(&moment)?, time })
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
        self.readers.read(|connection| streams(connection, after, through, limit))
    }

    /// One stream's events after a position, in order.
    pub fn read_stream(&self, stream: StreamId, after: Position) -> Result<Vec<Event>, ReadError> {
        let events = self.readers.read(|connection| self::stream(connection, stream))?;
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

/// Enough for a disk; more would only wait for each other.
const CONNECTIONS: usize = 4;

/// For whoever reads a whole log, and streams in the order of their ids: 32 MiB, in SQLite's way to say so.
const LOG_CACHE: i32 = -32_768;

pub(in crate::store) struct Readers {
    path: PathBuf,
    /// SQLite's `cache_size` of each connection, if not the default.
    cache_size: Option<i32>,
    idle: Mutex<Vec<Connection>>,
    permits: Semaphore,
}

impl Readers {
    pub(in crate::store) fn new(path: PathBuf) -> Self {
        Self { path, cache_size: None, idle: Mutex::new(Vec::new()), permits: Semaphore::new(CONNECTIONS) }
    }

    pub(in crate::store) async fn permit(&self) -> Result<SemaphorePermit<'_>, ReadError> {
        self.permits.acquire().await.map_err(|_closed| ReadError::Closed)
    }

    pub(in crate::store) fn read<T>(
        &self,
        question: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, ReadError> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let connection = match idle {
            Some(connection) => connection,
            None => self.connect()?,
        };
        let answer = question(&connection)?; // a connection that failed is not used again
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < CONNECTIONS {
            idle.push(connection);
        }
        Ok(answer)
    }

    /// Closes the connections that nobody uses.
    pub(in crate::store) fn close(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn connect(&self) -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags)?;
        connection.busy_timeout(Duration::from_secs(5))?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?; // as in schema.rs
        if let Some(size) = self.cache_size {
            connection.pragma_update(None, "cache_size", size)?;
        }
        Ok(connection)
    }
}

const COLUMNS: &str = "position, stream, version, id, type, time, causation, traceparent, payload";

/// One stream's events, in order: for a question that asks for more than that of the same moment.
pub fn stream(connection: &Connection, stream: StreamId) -> rusqlite::Result<Vec<Event>> {
    let sql = format!("SELECT {COLUMNS} FROM events WHERE stream = ?1 ORDER BY version");
    connection.prepare_cached(&sql)?.query_map([stream.0], event)?.collect()
}

pub(in crate::store) fn all(connection: &Connection, after: Position, limit: usize) -> rusqlite::Result<Vec<Event>> {
    let sql = format!("SELECT {COLUMNS} FROM events WHERE position > ?1 ORDER BY position LIMIT ?2");
    connection.prepare_cached(&sql)?.query_map(params![after.0, limit], event)?.collect()
}

fn streams(
    connection: &Connection,
    after: Option<StreamId>,
    through: Position,
    limit: usize,
) -> rusqlite::Result<Vec<Vec<Event>>> {
    // Not `?1 IS NULL OR stream > ?1`, which no index serves. No stream has the empty id.
    let sql =
        format!("SELECT {COLUMNS} FROM events WHERE stream > ?1 AND position <= ?2 ORDER BY stream, version LIMIT ?3");
    let after = after.map(|stream| stream.0.as_bytes().to_vec()).unwrap_or_default();
    let events: Vec<Event> = connection
        .prepare_cached(&sql)?
        .query_map(params![after, through.0, limit], event)?
        .collect::<Result<_, _>>()?;
    let full = events.len() == limit;
    let mut streams: Vec<Vec<Event>> = Vec::new();
    for event in events {
        match streams.last_mut().filter(|stream| stream.last().is_some_and(|last| last.stream == event.stream)) {
            Some(stream) => stream.push(event),
            None => streams.push(vec![event]),
        }
    }
    // The last one may be cut off. If it is the only one, it has more events than the limit.
    if full
        && let Some(last) = streams.pop()
        && streams.is_empty()
    {
        let whole = last.first().map_or(Ok(Vec::new()), |first| stream(connection, first.stream))?;
        streams.push(whole.into_iter().filter(|event| event.position <= through).collect());
    }
    Ok(streams)
}

pub(in crate::store) fn time_of(connection: &Connection, position: Position) -> rusqlite::Result<Option<SystemTime>> {
    let time = connection.query_row("SELECT time FROM events WHERE position = ?1", [position.0], |row| row.get(0));
    Ok(time.optional()?.map(from_micros))
}

pub(in crate::store) fn offsets(
    connection: &Connection,
    cluster: &str,
    topic: &str,
) -> rusqlite::Result<Vec<(i32, i64)>> {
    connection
        .prepare_cached("SELECT partition, next_offset FROM inbox_offsets WHERE cluster = ?1 AND topic = ?2")?
        .query_map([cluster, topic], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect()
}

fn all_offsets(connection: &Connection) -> rusqlite::Result<Vec<(TopicPartition, i64)>> {
    let row = |row: &Row<'_>| {
        let at = TopicPartition { cluster: row.get(0)?, topic: row.get(1)?, partition: row.get(2)? };
        Ok((at, row.get(3)?))
    };
    connection
        .prepare_cached("SELECT cluster, topic, partition, next_offset FROM inbox_offsets")?
        .query_map([], row)?
        .collect()
}

pub(in crate::store) fn fact(connection: &Connection, key: &str) -> rusqlite::Result<Option<String>> {
    connection.query_row("SELECT value FROM facts WHERE key = ?1", [key], |row| row.get(0)).optional()
}

fn event(row: &Row<'_>) -> rusqlite::Result<Event> {
    Ok(Event {
        position: Position(row.get(0)?),
        stream: StreamId(row.get(1)?),
        version: Version(row.get(2)?),
        id: EventId(row.get(3)?),
        event_type: row.get(4)?,
        time: from_micros(row.get(5)?),
        causation: row.get::<_, Option<Uuid>>(6)?.map(EventId),
        traceparent: row.get(7)?,
        payload: row.get(8)?,
    })
}
