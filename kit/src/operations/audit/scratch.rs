//! The records of the followed topic, sorted by the stream that they are about, in a temporary file: so the audit needs
//! no more memory for a long topic than for a short one.

use std::fs;

use rusqlite::{Connection, Row, Rows, Statement, config::DbConfig, params};

use crate::{
    event::{EventId, StreamId},
    kafka::record::Incoming,
    store::Log,
};

/// A record of the followed topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// The event's name.
    pub id: EventId,
    /// The full name of the message it carries.
    pub event_type: String,
    /// The encoded message.
    pub payload: Vec<u8>,
}

impl Heard {
    /// The record as the inbox would read it.
    pub(super) fn incoming(&self, stream: StreamId) -> Incoming<'_> {
        let Self { id, event_type, payload, .. } = self;
        Incoming { id: *id, stream, event_type, causation: None, traceparent: None, payload }
    }
}

/// Gone when dropped.
pub(super) struct Scratch(Connection);

impl Scratch {
    /// Opens it in a file that has no name any more, whatever ends this process. Beside the store: there is room for
    /// what the store holds, which a directory for temporary files may not have.
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
             CREATE TABLE heard (
                 stream BLOB, partition INTEGER, offset INTEGER, id BLOB, type TEXT, payload BLOB,
                 PRIMARY KEY (stream, partition, offset)
             ) WITHOUT ROWID;
             CREATE TABLE set_aside (
                 partition INTEGER, offset INTEGER, failures INTEGER DEFAULT 0, retried INTEGER DEFAULT 0,
                 PRIMARY KEY (partition, offset)
             ) WITHOUT ROWID;
             BEGIN", // one transaction, which nothing ever ends
        )?;
        Ok(Self(connection))
    }

    pub(super) fn add(&self, partition: i32, offset: i64, record: &Incoming<'_>) -> rusqlite::Result<()> {
        self.0.prepare_cached("INSERT INTO heard VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?.execute(params![
            record.stream.0,
            partition,
            offset,
            record.id.0,
            record.event_type,
            record.payload
        ])?;
        Ok(())
    }

    /// Notes that a record was set aside after it had failed so often.
    pub(super) fn add_set_aside(&self, partition: i32, offset: i64, failures: u32) -> rusqlite::Result<()> {
        self.note("failures", partition, offset, failures)
    }

    /// Notes that a record which had failed so often was put back, and read again.
    pub(super) fn add_retried(&self, partition: i32, offset: i64, failures: u32) -> rusqlite::Result<()> {
        self.note("retried", partition, offset, failures)
    }

    fn note(&self, column: &str, partition: i32, offset: i64, failures: u32) -> rusqlite::Result<()> {
        let sql = format!(
            "INSERT INTO set_aside (partition, offset, {column}) VALUES (?1, ?2, ?3)
             ON CONFLICT DO UPDATE SET {column} = max({column}, excluded.{column})"
        );
        self.0.prepare_cached(&sql)?.execute(params![partition, offset, failures])?;
        Ok(())
    }

    /// Whether a record is set aside: one that was put back and read again is so only if it has failed again.
    pub(super) fn is_set_aside(&self, partition: i32, offset: i64) -> rusqlite::Result<bool> {
        self.0
            .prepare_cached("SELECT 1 FROM set_aside WHERE partition = ?1 AND offset = ?2 AND failures > retried")?
            .exists([i64::from(partition), offset])
    }

    pub(super) fn count_set_aside(&self) -> rusqlite::Result<u64> {
        self.0.query_row("SELECT count(*) FROM set_aside WHERE failures > retried", [], |row| row.get(0))
    }

    /// All that was heard; to be gone through with [`Sorted`].
    pub(super) fn sorted(&self) -> rusqlite::Result<Statement<'_>> {
        let columns = "stream, partition, offset, id, type, payload";
        self.0.prepare(&format!("SELECT {columns} FROM heard ORDER BY stream, partition, offset"))
    }
}

/// What was heard, stream by stream in the order of their ids.
pub(super) struct Sorted<'a> {
    rows: Rows<'a>,
    next: Option<(StreamId, Heard)>,
}

impl<'a> Sorted<'a> {
    pub(super) fn begin(statement: &'a mut Statement<'_>) -> rusqlite::Result<Self> {
        let mut sorted = Self { rows: statement.query([])?, next: None };
        sorted.advance()?;
        Ok(sorted)
    }

    /// The next stream of which something was heard.
    pub(super) fn stream(&self) -> Option<StreamId> {
        self.next.as_ref().map(|(stream, _)| *stream)
    }

    /// What was heard about a stream that is the next one or comes before it; by partition and offset.
    pub(super) fn about(&mut self, stream: StreamId) -> rusqlite::Result<Vec<Heard>> {
        debug_assert!(self.stream().is_none_or(|next| next >= stream), "streams are asked for in order");
        let mut about = Vec::new();
        while let Some((_, heard)) = self.next.take_if(|(next, _)| *next == stream) {
            about.push(heard);
            self.advance()?;
        }
        Ok(about)
    }

    fn advance(&mut self) -> rusqlite::Result<()> {
        let heard = |row: &Row<'_>| -> rusqlite::Result<_> {
            let heard = Heard {
                partition: row.get(1)?,
                offset: row.get(2)?,
                id: EventId(row.get(3)?),
                event_type: row.get(4)?,
                payload: row.get(5)?,
            };
            Ok((StreamId(row.get(0)?), heard))
        };
        self.next = self.rows.next()?.map(heard).transpose()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_heard_comes_stream_by_stream_and_record_by_record() {
        let scratch = Connection::open_in_memory().and_then(Scratch::begin).expect("opens");
        let mut streams = [(); 3].map(|()| StreamId::generate());
        streams.sort();
        let [first, second, third] = streams;
        for (partition, offset, stream) in [(1, 7, third), (0, 9, first), (0, 8, third), (1, 6, third), (0, 2, second)]
        {
            let (id, payload) = (EventId::generate(), [].as_slice());
            let record = Incoming { id, stream, event_type: "t", causation: None, traceparent: None, payload };
            scratch.add(partition, offset, &record).expect("added");
        }
        let mut statement = scratch.sorted().expect("prepared");
        let mut heard = Sorted::begin(&mut statement).expect("begun");
        let mut about = |stream| -> (Option<StreamId>, Vec<(i32, i64)>) {
            let next = heard.stream();
            let about = heard.about(stream).expect("reads");
            (next, about.iter().map(|heard| (heard.partition, heard.offset)).collect())
        };
        assert_eq!(about(StreamId(uuid::Uuid::nil())), (Some(first), vec![]), "nothing was heard of that");
        assert_eq!(about(first), (Some(first), vec![(0, 9)]));
        assert_eq!(about(second), (Some(second), vec![(0, 2)]));
        assert_eq!(about(third), (Some(third), vec![(0, 8), (1, 6), (1, 7)]));
        assert_eq!(about(third), (None, vec![]));
    }
}
