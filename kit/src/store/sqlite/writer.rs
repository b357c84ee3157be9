//! The thread that owns the write connection. It commits all waiting requests with one sync (group commit).

use std::{
    collections::HashSet,
    sync::{Arc, mpsc},
    time::Duration,
    vec,
};

use rusqlite::{Connection, OptionalExtension as _, ffi, params};
use tokio::sync::{oneshot, watch};

use super::{last_records, open::Opened, schema, tables};
use crate::{
    event::{Event, Position, StreamId, Version, to_micros},
    runtime::fault::{self, Step},
    store::{
        commit::{Append, Commit, CommitError, OffsetMove},
        metrics::{EventType, StoreMetrics},
        table::Table,
    },
};

/// The largest number of commits that share one sync.
const GROUP: usize = 1024;

/// The interval of test writes after a failed write, while there are no requests.
const PROBE: Duration = Duration::from_secs(1);

/// The test write. It needs as much disk space as some events, and leaves nothing behind.
const PROBE_WRITE: &str = "
    INSERT INTO facts (key, value) VALUES ('probe', hex(zeroblob(16384)));
    DELETE FROM facts WHERE key = 'probe';
";

pub(in crate::store) struct Request {
    pub(in crate::store) commit: Commit,
    pub(in crate::store) answer: oneshot::Sender<Result<Position, CommitError>>,
}

pub(in crate::store) fn run(
    opened: Opened,
    table: Option<&'static Table>,
    metrics: &StoreMetrics,
    queue: &mpsc::Receiver<Request>,
    head: &watch::Sender<Position>,
    writable: &watch::Sender<bool>,
) {
    let Opened { connection, event_types, lock, head: _, id: _ } = opened;
    let mut writer = Writer { connection, table, event_types, appended: Vec::new() };
    let mut can_write = true;
    while let Some(group) = next_group(queue, can_write) {
        let result = writer.commit(group);
        can_write = result.failure.is_none();
        if let Some(committed) = result.head {
            for event_type in writer.appended.drain(..) {
                metrics.events.get_or_create(&EventType { event_type }).inc();
            }
            head.send_if_modified(|known| std::mem::replace(known, committed) != committed);
        }
        note(writable, result.failure.as_deref());
        fault::before(Step::Answer);
        for (answer, outcome) in result.answers {
            let _ = answer.send(outcome); // the caller may have dropped its future
        }
        fault::after(Step::Answer);
    }
    drop(writer);
    drop(lock);
}

/// Waits for a request, and takes the others that wait by then. Returns an empty group if it is time for a test write.
/// Returns `None` once the store is closed.
fn next_group(queue: &mpsc::Receiver<Request>, writable: bool) -> Option<Vec<Request>> {
    let first = if writable {
        Some(queue.recv().ok()?)
    } else {
        match queue.recv_timeout(PROBE) {
            Ok(request) => Some(request),
            Err(mpsc::RecvTimeoutError::Timeout) => None,
            Err(mpsc::RecvTimeoutError::Disconnected) => return None,
        }
    };
    Some(first.into_iter().chain(queue.try_iter().take(GROUP - 1)).collect())
}

fn note(writable: &watch::Sender<bool>, failure: Option<&rusqlite::Error>) {
    let changed = writable.send_if_modified(|known| std::mem::replace(known, failure.is_none()) != failure.is_none());
    match failure {
        Some(error) if changed => {
            tracing::error!(error = %error, "the store cannot write; calls are refused until it can");
        }
        None if changed => tracing::info!("the store can write again"),
        _ => {}
    }
}

struct Writer {
    connection: Connection,
    table: Option<&'static Table>,
    /// The event types that the store has held so far.
    event_types: HashSet<String>,
    /// The types of the events in the current group, for the metrics.
    appended: Vec<String>,
}

type Answer = (oneshot::Sender<Result<Position, CommitError>>, Result<Position, CommitError>);

struct Committed {
    answers: Vec<Answer>,
    /// The newest position, if the group was committed.
    head: Option<Position>,
    failure: Option<Arc<rusqlite::Error>>,
}

impl Writer {
    fn commit(&mut self, group: Vec<Request>) -> Committed {
        let mut answers = Vec::with_capacity(group.len());
        let mut waiting = group.into_iter();
        match self.write(&mut waiting, &mut answers) {
            Ok(head) => Committed { answers, head: Some(head), failure: None },
            Err(error) => {
                let failure = Arc::new(error);
                self.recover();
                let unavailable = || Err(CommitError::Unavailable(Arc::clone(&failure)));
                let answers = answers
                    .into_iter()
                    .map(|(answer, outcome)| (answer, outcome.and_then(|_| unavailable())))
                    .chain(waiting.map(|request| (request.answer, unavailable())))
                    .collect();
                Committed { answers, head: None, failure: Some(failure) }
            }
        }
    }

    fn write(&mut self, waiting: &mut vec::IntoIter<Request>, answers: &mut Vec<Answer>) -> rusqlite::Result<Position> {
        self.connection.execute_batch("BEGIN IMMEDIATE")?;
        // Read each time, because a commit that was reported as failed may have been made after all.
        let mut head = schema::head(&self.connection)?;
        let full = || fault::fails(Step::Append).then(|| failure(ffi::SQLITE_FULL)).map_or(Ok(()), Err);
        if waiting.len() == 0 {
            full()?;
            self.connection.execute_batch(PROBE_WRITE)?;
        }
        for Request { commit, answer } in waiting.by_ref() {
            fault::before(Step::Append);
            let staged = self.stage_or_refuse(commit, head);
            fault::after(Step::Append);
            match full().and(staged) {
                Ok(Ok(position)) => {
                    head = position;
                    answers.push((answer, Ok(head)));
                }
                Ok(Err(refusal)) => answers.push((answer, Err(refusal))),
                Err(error) => {
                    answers.push((answer, Ok(head)));
                    return Err(error);
                }
            }
        }
        fault::around(Step::Sync, || failure(ffi::SQLITE_IOERR_FSYNC), || self.connection.execute_batch("COMMIT"))?;
        Ok(head)
    }

    fn stage_or_refuse(&mut self, commit: Commit, head: Position) -> rusqlite::Result<Result<Position, CommitError>> {
        match self.refusal(&commit)? {
            Some(refusal) => Ok(Err(refusal)),
            None => self.stage(commit, head).map(Ok),
        }
    }

    /// Rolls back, and forgets what was assumed about the content of the file.
    fn recover(&mut self) {
        self.appended.clear();
        if !self.connection.is_autocommit() {
            let _ = self.connection.execute_batch("ROLLBACK");
        }
        self.event_types.clear();
    }

    /// Returns the reason to refuse a commit, if there is one. This is checked before the commit writes anything. So a
    /// refused commit leaves nothing behind in its group.
    fn refusal(&self, commit: &Commit) -> rusqlite::Result<Option<CommitError>> {
        for &Append { stream, expected, .. } in &commit.appends {
            let actual = self.version(stream)?;
            if actual != expected {
                return Ok(Some(CommitError::Conflict { stream, expected, actual }));
            }
        }
        for OffsetMove { partition: at, from, .. } in &commit.offsets {
            let actual = self
                .connection
                .prepare_cached(
                    "SELECT next_offset FROM inbox_offsets WHERE cluster = ?1 AND topic = ?2 AND partition = ?3",
                )?
                .query_row(params![at.cluster, at.topic, at.partition], |row| row.get(0))
                .optional()?;
            if actual != *from {
                return Ok(Some(CommitError::OffsetMoved {
                    topic: at.topic.clone(),
                    partition: at.partition,
                    expected: *from,
                    actual,
                }));
            }
        }
        Ok(None)
    }

    fn version(&self, stream: StreamId) -> rusqlite::Result<Version> {
        self.connection
            .prepare_cached("SELECT version FROM events WHERE stream = ?1 ORDER BY version DESC LIMIT 1")?
            .query_row([stream.0], |row| row.get(0).map(Version))
            .optional()
            .map(Option::unwrap_or_default)
    }

    /// Writes a commit that was not refused, and returns the newest position.
    fn stage(&mut self, commit: Commit, mut head: Position) -> rusqlite::Result<Position> {
        for Append { stream, expected, events, row } in commit.appends {
            for (new, number) in events.into_iter().zip(1..) {
                head.0 += 1;
                self.insert(&Event::stored(new, head, stream, expected.plus(number)))?;
            }
            match (self.table, row) {
                (Some(table), Some(row)) => tables::put(&self.connection, table, stream, &row)?,
                (Some(table), None) => tables::remove(&self.connection, table, stream)?,
                (None, _) => {}
            }
        }
        for OffsetMove { partition: at, to, .. } in commit.offsets {
            self.connection
                .prepare_cached(
                    "INSERT INTO inbox_offsets (cluster, topic, partition, next_offset) VALUES (?1, ?2, ?3, ?4)
                     ON CONFLICT DO UPDATE SET next_offset = excluded.next_offset",
                )?
                .execute(params![at.cluster, at.topic, at.partition, to])?;
        }
        for (at, progress) in &commit.sources {
            last_records::put(&self.connection, at, progress)?;
        }
        for update in &commit.updates {
            if let Some(table) = self.table {
                tables::update(&self.connection, table, update)?;
            }
        }
        if let Some(write) = commit.write {
            write(&self.connection)?;
        }
        Ok(head)
    }

    fn insert(&mut self, event: &Event) -> rusqlite::Result<()> {
        if !self.event_types.contains(&event.event_type) {
            self.connection
                .prepare_cached("INSERT OR IGNORE INTO event_types (type) VALUES (?1)")?
                .execute([&event.event_type])?;
            self.event_types.insert(event.event_type.clone());
        }
        self.connection
            .prepare_cached(
                "INSERT INTO events (position, stream, version, id, type, time, causation, traceparent, tracestate,
                    payload)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
            )?
            .execute(params![
                event.position.0,
                event.stream.0,
                event.version.0,
                event.id.0,
                event.event_type,
                to_micros(event.time),
                event.causation.map(|cause| cause.0),
                event.trace.as_ref().map(|trace| &trace.traceparent),
                event.trace.as_ref().and_then(|trace| trace.tracestate.as_ref()),
                event.payload,
            ])?;
        self.appended.push(event.event_type.clone());
        Ok(())
    }
}

fn failure(code: i32) -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(ffi::Error::new(code), None)
}
