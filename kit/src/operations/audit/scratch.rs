//! Sorts the records of the followed topics by stream, in a temporary file. So the memory of the audit does not grow
//! with the topics.

use std::fs;

use rusqlite::{Connection, Row, Rows, Statement, config::DbConfig, params};

use crate::{
    event::{EventId, StreamId},
    inbox::dead_letters::Origin,
    kafka::record::{Incoming, Received},
    store::Log,
};

/// A record of a followed topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumedRecord {
    /// The index of the topic among the followed ones.
    pub(super) topic: usize,
    /// The partition of the record.
    pub partition: i32,
    /// The offset of the record.
    pub offset: i64,
    /// The id of the event.
    pub id: EventId,
    /// The full name of the message.
    pub event_type: String,
    /// The encoded message.
    pub payload: Vec<u8>,
}

impl ConsumedRecord {
    /// Returns the record as the inbox would read it.
    pub(super) fn incoming(&self, stream: StreamId) -> Incoming<'_> {
        let Self { id, event_type, payload, .. } = self;
        Incoming { id: *id, stream, event_type, causation: None, traceparent: None, tracestate: None, payload }
    }
}

/// The temporary database. It is deleted when it is dropped.
pub(super) struct Scratch(Connection);

impl Scratch {
    /// Opens the database, and unlinks its file at once, so that it is deleted however this process ends. The file is
    /// beside the store, because a directory for temporary files may not have enough space.
    pub(super) fn open(log: &Log) -> rusqlite::Result<Self> {
        let path = log.path_beside(&format!("-audit-{}", std::process::id()));
        let connection = Connection::open(&path)?;
        let scratch = Self::begin(connection)?;
        let _ = fs::remove_file(path);
        Ok(scratch)
    }

    fn begin(connection: Connection) -> rusqlite::Result<Self> {
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?; // as in the store
        connection.execute_batch(
            "PRAGMA locking_mode = EXCLUSIVE;
             PRAGMA journal_mode = OFF;
             PRAGMA synchronous = OFF;
             PRAGMA cache_size = -65536;
             CREATE TABLE consumed (
                 stream BLOB, topic INTEGER, partition INTEGER, offset INTEGER, id BLOB, type TEXT, payload BLOB,
                 PRIMARY KEY (stream, topic, partition, offset)
             ) WITHOUT ROWID;
             CREATE TABLE dead_letters (
                 topic INTEGER, partition INTEGER, offset INTEGER, failures INTEGER DEFAULT 0, retried INTEGER DEFAULT 0,
                 PRIMARY KEY (topic, partition, offset)
             ) WITHOUT ROWID;
             BEGIN", // one transaction, which is never committed
        )?;
        Ok(Self(connection))
    }

    pub(super) fn add(&self, topic: usize, record: &Received, incoming: &Incoming<'_>) -> rusqlite::Result<()> {
        self.0.prepare_cached("INSERT INTO consumed VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?.execute(params![
            incoming.stream.0,
            topic,
            record.partition,
            record.offset,
            incoming.id.0,
            incoming.event_type,
            incoming.payload
        ])?;
        Ok(())
    }

    /// Notes that a record is in the dead letters, and how often it had failed.
    pub(super) fn add_dead_letter(&self, topic: usize, origin: &Origin, failures: u32) -> rusqlite::Result<()> {
        self.note("failures", topic, origin, failures)
    }

    /// Notes that a record was replayed and consumed again, and how often it had failed before.
    pub(super) fn add_replay(&self, topic: usize, origin: &Origin, failures: u32) -> rusqlite::Result<()> {
        self.note("retried", topic, origin, failures)
    }

    fn note(&self, column: &str, topic: usize, origin: &Origin, failures: u32) -> rusqlite::Result<()> {
        let sql = format!(
            "INSERT INTO dead_letters (topic, partition, offset, {column}) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT DO UPDATE SET {column} = max({column}, excluded.{column})"
        );
        let Origin { partition, offset, .. } = origin;
        self.0.prepare_cached(&sql)?.execute(params![topic, partition, offset, failures])?;
        Ok(())
    }

    /// Returns whether a record is in the dead letters. One that was replayed is there only if it has failed again.
    pub(super) fn is_dead_lettered(&self, topic: usize, partition: i32, offset: i64) -> rusqlite::Result<bool> {
        self.0
            .prepare_cached(
                "SELECT 1 FROM dead_letters
                 WHERE topic = ?1 AND partition = ?2 AND offset = ?3 AND failures > retried",
            )?
            .exists(params![topic, partition, offset])
    }

    pub(super) fn count_dead_letters(&self, topic: usize) -> rusqlite::Result<u64> {
        let sql = "SELECT count(*) FROM dead_letters WHERE topic = ?1 AND failures > retried";
        self.0.query_row(sql, [topic], |row| row.get(0))
    }

    /// Prepares the query of all consumed records, for [`Sorted`].
    pub(super) fn sorted(&self) -> rusqlite::Result<Statement<'_>> {
        let columns = "stream, topic, partition, offset, id, type, payload";
        self.0.prepare(&format!("SELECT {columns} FROM consumed ORDER BY stream, topic, partition, offset"))
    }
}

/// Consumed records, stream by stream in the order of their ids.
pub(super) struct Sorted<'a> {
    rows: Rows<'a>,
    next: Option<(StreamId, ConsumedRecord)>,
}

impl<'a> Sorted<'a> {
    pub(super) fn begin(statement: &'a mut Statement<'_>) -> rusqlite::Result<Self> {
        let mut sorted = Self { rows: statement.query([])?, next: None };
        sorted.advance()?;
        Ok(sorted)
    }

    /// Returns the next stream that has a record.
    pub(super) fn stream(&self) -> Option<StreamId> {
        self.next.as_ref().map(|(stream, _)| *stream)
    }

    /// Returns the records of a stream, by topic, partition and offset. Streams must be read in the order of their ids.
    pub(super) fn about(&mut self, stream: StreamId) -> rusqlite::Result<Vec<ConsumedRecord>> {
        debug_assert!(self.stream().is_none_or(|next| next >= stream), "streams are read in order");
        let mut about = Vec::new();
        while let Some((_, record)) = self.next.take_if(|(next, _)| *next == stream) {
            about.push(record);
            self.advance()?;
        }
        Ok(about)
    }

    fn advance(&mut self) -> rusqlite::Result<()> {
        let consumed = |row: &Row<'_>| -> rusqlite::Result<_> {
            let record = ConsumedRecord {
                topic: row.get(1)?,
                partition: row.get(2)?,
                offset: row.get(3)?,
                id: EventId(row.get(4)?),
                event_type: row.get(5)?,
                payload: row.get(6)?,
            };
            Ok((StreamId(row.get(0)?), record))
        };
        self.next = self.rows.next()?.map(consumed).transpose()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_stream_by_stream_and_record_by_record() {
        let scratch = Connection::open_in_memory().and_then(Scratch::begin).expect("opens");
        let mut streams = [(); 3].map(|()| StreamId::generate());
        streams.sort();
        let [first, second, third] = streams;
        for (partition, offset, stream) in [(1, 7, third), (0, 9, first), (0, 8, third), (1, 6, third), (0, 2, second)]
        {
            let (id, payload) = (EventId::generate(), [].as_slice());
            let incoming =
                Incoming { id, stream, event_type: "t", causation: None, traceparent: None, tracestate: None, payload };
            let (topic, headers) = ("t".to_owned(), Vec::new());
            let record = Received { topic, partition, offset, key: None, value: None, headers, time: None };
            scratch.add(0, &record, &incoming).expect("added");
        }
        let mut statement = scratch.sorted().expect("prepared");
        let mut sorted = Sorted::begin(&mut statement).expect("begun");
        let mut about = |stream| -> (Option<StreamId>, Vec<(i32, i64)>) {
            let next = sorted.stream();
            let about = sorted.about(stream).expect("reads");
            (next, about.iter().map(|record| (record.partition, record.offset)).collect())
        };
        assert_eq!(about(StreamId(uuid::Uuid::nil())), (Some(first), vec![]), "it has no record");
        assert_eq!(about(first), (Some(first), vec![(0, 9)]));
        assert_eq!(about(second), (Some(second), vec![(0, 2)]));
        assert_eq!(about(third), (Some(third), vec![(0, 8), (1, 6), (1, 7)]));
        assert_eq!(about(third), (None, vec![]));
    }
}
