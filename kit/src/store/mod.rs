//! The event store: an append-only log of events, kept in one SQLite file by one process.
//!
//! * A commit is answered once it is synced to disk. Commits that wait at the same moment share one sync.
//! * Positions are gapless and in commit order, so that a reader that goes by position never skips an event.
//! * The read table and the inbox offsets are committed together with the events, so that they never disagree.
//!
//! A commit that failed because the store cannot write may be repeated as it is. If it was stored after all, the repeat
//! is refused, because the stream has left the expected version.

mod commit;
mod error;
mod location;
mod log;
mod metrics;
mod sqlite;
mod table;

use std::{
    sync::{Arc, mpsc},
    thread,
    time::{Instant, SystemTime},
};

use rusqlite::Connection;
use tokio::sync::{oneshot, watch};

pub use self::{
    commit::{Append, Commit, CommitError, ConsumedRecord, OffsetMove, SourceProgress, TopicPartition},
    error::{BoxError, OpenError, ReadError},
    location::{Location, StoreId, StoreIdentity},
    log::{Log, Snapshot},
    metrics::StoreMetrics,
    table::{Column, Query, Row, RowUpdate, StoredRow, Table, TableSource, Value},
};
use self::{
    metrics::Outcome,
    sqlite::{
        Rebuild, events, facts, last_records, open,
        readers::Readers,
        tables,
        writer::{self, Request},
    },
};
use crate::event::{Event, Position, StreamId};

/// The number of commits that may wait for the disk before further ones are refused.
const QUEUE: usize = 4096;

/// The size of the events that one list reads, in bytes. Its answer stays below the 4 MiB that gRPC clients take by
/// default.
const LIST_BYTES: usize = 1024 * 1024;

/// The fact with the id of the store.
const STORE_ID_FACT: &str = "store_id";

/// The fact that says why the store is refused.
const REFUSAL_FACT: &str = "refusal";

/// An open store. Clones share it; it closes when the last one is dropped.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    id: StoreId,
    opened_at: Position,
    requests: Option<mpsc::SyncSender<Request>>,
    /// The newest position that is synced to disk and may be read.
    head: watch::Receiver<Position>,
    /// True if the last attempt to write succeeded.
    writable: watch::Receiver<bool>,
    readers: Arc<Readers>,
    table: Option<&'static Table>,
    writer: Option<thread::JoinHandle<()>>,
    metrics: StoreMetrics,
}

impl Store {
    /// Opens the store, or creates it if there is none, and starts the thread that writes it.
    pub fn open(location: &Location, identity: StoreIdentity, table: Option<TableSource>) -> Result<Self, OpenError> {
        let opened = open::open(location.path(), identity, table, Rebuild::IfOutdated)?;
        let table = table.map(|source| source.table);
        let (requests, queue) = mpsc::sync_channel(QUEUE);
        let (head_sender, head) = watch::channel(opened.head);
        let (writable_sender, writable) = watch::channel(true);
        let (id, opened_at) = (opened.id, opened.head);
        let metrics = StoreMetrics::default();
        let counted = metrics.clone();
        let writer = thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || writer::run(opened, table, &counted, &queue, &head_sender, &writable_sender))
            .map_err(|source| OpenError::Io { path: location.path().to_owned(), source })?;
        let readers = Arc::new(Readers::new(location.path().to_owned()));
        Ok(Self {
            inner: Arc::new(Inner {
                id,
                opened_at,
                requests: Some(requests),
                head,
                writable,
                readers,
                table,
                writer: Some(writer),
                metrics,
            }),
        })
    }

    /// Rebuilds the read table of a closed store from its log. An interrupted rebuild leaves the old table in place.
    pub fn rebuild(location: &Location, identity: StoreIdentity, table: Option<TableSource>) -> Result<(), OpenError> {
        if !location.path().exists() {
            return Err(OpenError::Missing { path: location.path().to_owned() });
        }
        open::open(location.path(), identity, table, Rebuild::Always).map(drop)
    }

    /// Returns the id of the store.
    pub fn id(&self) -> StoreId {
        self.inner.id
    }

    /// Returns the newest position at the time when the store was opened. This process stored all later events.
    pub fn opened_at(&self) -> Position {
        self.inner.opened_at
    }

    /// Returns a receiver of the newest position that may be read. It can also be used to wait for the next one.
    pub fn head(&self) -> watch::Receiver<Position> {
        self.inner.head.clone()
    }

    /// Returns a receiver that is true if the last attempt to write succeeded. After a failure, the store retries every
    /// second.
    pub fn writable(&self) -> watch::Receiver<bool> {
        self.inner.writable.clone()
    }

    /// Commits, and returns the position of the newest event once everything is synced to disk.
    ///
    /// # Cancellation
    /// If the future is dropped, the commit may or may not be made. It is never made in part.
    pub async fn commit(&self, commit: Commit) -> Result<Position, CommitError> {
        let asked = Instant::now();
        let answer = match self.submit(commit) {
            Ok(answer) => answer.await.unwrap_or(Err(CommitError::Closed)),
            Err(refused) => Err(refused),
        };
        self.note(asked, &answer);
        answer
    }

    /// [`Store::commit`] for threads that may block. While the queue is full, it waits instead of being refused.
    pub fn commit_blocking(&self, commit: Commit) -> Result<Position, CommitError> {
        let (answer, answered) = oneshot::channel();
        let requests = self.inner.requests.as_ref().ok_or(CommitError::Closed)?;
        let asked = Instant::now();
        requests.send(Request { commit, answer }).map_err(|_closed| CommitError::Closed)?;
        let answer = answered.blocking_recv().unwrap_or(Err(CommitError::Closed));
        self.note(asked, &answer);
        answer
    }

    fn note(&self, asked: Instant, answer: &Result<Position, CommitError>) {
        let outcome = match answer {
            Ok(_) => return self.inner.metrics.append_duration.observe(asked.elapsed().as_secs_f64()),
            Err(CommitError::Conflict { .. }) => "conflict",
            Err(CommitError::OffsetMoved { .. }) => "offset_moved",
            Err(CommitError::Overloaded) => "overloaded",
            Err(CommitError::Unavailable(_) | CommitError::Closed) => "unavailable",
        };
        self.inner.metrics.refused.get_or_create(&Outcome { outcome }).inc();
    }

    /// Returns the metrics of the store.
    pub fn metrics(&self) -> &StoreMetrics {
        &self.inner.metrics
    }

    fn submit(&self, commit: Commit) -> Result<oneshot::Receiver<Result<Position, CommitError>>, CommitError> {
        let (answer, answered) = oneshot::channel();
        let requests = self.inner.requests.as_ref().ok_or(CommitError::Closed)?;
        requests.try_send(Request { commit, answer }).map_err(|error| match error {
            mpsc::TrySendError::Full(_) => CommitError::Overloaded,
            mpsc::TrySendError::Disconnected(_) => CommitError::Closed,
        })?;
        Ok(answered)
    }

    /// Returns the events of a stream, in order.
    pub async fn read_stream(&self, stream: StreamId) -> Result<Vec<Event>, ReadError> {
        self.read(move |connection| events::stream(connection, stream)).await
    }

    /// [`Store::read_stream`] for threads that may block.
    pub fn read_stream_blocking(&self, stream: StreamId) -> Result<Vec<Event>, ReadError> {
        self.read_blocking(|connection| events::stream(connection, stream))
    }

    /// Returns up to `limit` events of all streams after a position, in order.
    pub async fn read_all(&self, after: Position, limit: usize) -> Result<Vec<Event>, ReadError> {
        self.read(move |connection| events::all(connection, after, limit)).await
    }

    /// [`Store::read_all`] for threads that may block.
    pub fn read_all_blocking(&self, after: Position, limit: usize) -> Result<Vec<Event>, ReadError> {
        self.read_blocking(|connection| events::all(connection, after, limit))
    }

    /// Returns the time of the event at a position, or `None` if there is no such event.
    pub async fn time_of(&self, position: Position) -> Result<Option<SystemTime>, ReadError> {
        self.read(move |connection| events::time_of(connection, position)).await
    }

    /// Returns the stored offsets of a topic: each partition, with the offset of the next record to be consumed.
    pub fn offsets_blocking(&self, cluster: &str, topic: &str) -> Result<Vec<(i32, i64)>, ReadError> {
        self.read_blocking(|connection| events::offsets(connection, cluster, topic))
    }

    /// Returns how far the sources of a topic are consumed, each with its partition. A source that was consumed only by
    /// version 0.1.0 is missing.
    pub fn sources_blocking(&self, cluster: &str, topic: &str) -> Result<Vec<(i32, SourceProgress)>, ReadError> {
        self.read_blocking(|connection| last_records::of_topic(connection, cluster, topic))
    }

    /// Returns a fact that is stored for the service, such as the number of partitions of its topic.
    pub fn fact_blocking(&self, key: &str) -> Result<Option<String>, ReadError> {
        self.read_blocking(|connection| facts::get(connection, key))
    }

    /// Stores that the store is refused, and why. The refusal survives restarts.
    pub(crate) fn refuse_blocking(&self, reason: &str) -> Result<(), CommitError> {
        self.set_fact_blocking(REFUSAL_FACT, reason)
    }

    /// Gives an empty store the id of a lost one, to restore it. The id is in use once the store is opened again.
    pub(crate) fn adopt_blocking(&self, id: StoreId) -> Result<(), CommitError> {
        self.set_fact_blocking(STORE_ID_FACT, &id.to_string())
    }

    /// Returns why the store is refused.
    pub(crate) fn refusal_blocking(&self) -> Result<Option<String>, ReadError> {
        self.fact_blocking(REFUSAL_FACT)
    }

    /// Lifts the refusal of the store, if there is one.
    pub(crate) fn lift_refusal_blocking(&self) -> Result<(), CommitError> {
        self.remove_fact_blocking(REFUSAL_FACT)
    }

    /// Stores a fact.
    pub fn set_fact_blocking(&self, key: &str, value: &str) -> Result<(), CommitError> {
        let (key, value) = (key.to_owned(), value.to_owned());
        self.commit_blocking(Commit::write(move |connection| facts::set(connection, &key, &value)))?;
        Ok(())
    }

    /// Removes a fact.
    pub fn remove_fact_blocking(&self, key: &str) -> Result<(), CommitError> {
        let key = key.to_owned();
        self.commit_blocking(Commit::write(move |connection| facts::remove(connection, &key)))?;
        Ok(())
    }

    /// Returns rows of the read table.
    pub async fn rows(&self, query: Query) -> Result<Vec<StoredRow>, ReadError> {
        self.read_table(move |connection, table| tables::select(connection, table, &query)).await
    }

    /// [`Store::rows`] for threads that may block.
    pub fn rows_blocking(&self, query: &Query) -> Result<Vec<StoredRow>, ReadError> {
        let Some(table) = self.inner.table else { return Ok(Vec::new()) };
        self.read_blocking(|connection| tables::select(connection, table, query))
    }

    /// Returns rows of the read table, each with the events of its stream from the same snapshot. Ends early where the
    /// events take more than a mebibyte, and returns whether it did.
    pub async fn rows_with_events(&self, query: Query) -> Result<(Vec<(StoredRow, Vec<Event>)>, bool), ReadError> {
        self.read_table(move |connection, table| {
            let moment = connection.unchecked_transaction()?;
            let (mut found, mut bytes) = (Vec::new(), 0);
            for row in tables::select(&moment, table, &query)? {
                let events = events::stream(&moment, row.stream)?;
                bytes += events.iter().map(|event| event.payload.len()).sum::<usize>();
                if bytes > LIST_BYTES && !found.is_empty() {
                    return Ok((found, true));
                }
                found.push((row, events));
            }
            Ok((found, false))
        })
        .await
    }

    /// Returns the events of a stream, in order, and its row from the same snapshot.
    pub async fn read_stream_with_row(&self, stream: StreamId) -> Result<(Vec<Event>, Option<StoredRow>), ReadError> {
        let table = self.inner.table;
        self.read(move |connection| {
            let moment = connection.unchecked_transaction()?;
            let row = table.map_or(Ok(None), |table| tables::get(&moment, table, stream))?;
            Ok((events::stream(&moment, stream)?, row))
        })
        .await
    }

    /// Returns the number of rows of the read table.
    pub fn count_rows_blocking(&self) -> Result<u64, ReadError> {
        let Some(table) = self.inner.table else { return Ok(0) };
        self.read_blocking(|connection| tables::count(connection, table))
    }

    async fn read_table<T: Default + Send + 'static>(
        &self,
        question: impl FnOnce(&Connection, &'static Table) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, ReadError> {
        let Some(table) = self.inner.table else { return Ok(T::default()) };
        self.read(move |connection| question(connection, table)).await
    }

    /// Runs a query on a thread that may block.
    async fn read<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, ReadError> {
        let readers = Arc::clone(&self.inner.readers);
        let _permit = self.inner.readers.permit().await?;
        tokio::task::spawn_blocking(move || readers.read(question)).await.map_err(|_stopping| ReadError::Closed)?
    }

    /// [`Store::read`] for threads that may block.
    fn read_blocking<T>(&self, question: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, ReadError> {
        self.inner.readers.read(question)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.readers.close(); // the writer's connection is then the last, and folds the write-ahead log into the file
        self.requests = None; // the writer ends once it has answered the waiting commits
        if let Some(writer) = self.writer.take()
            && writer.thread().id() != thread::current().id()
        {
            let _ = writer.join();
        }
    }
}

#[cfg(test)]
mod tests;
