//! The event store: an append-only log of events, kept in one SQLite file by one process.
//!
//! * A commit is answered once it is synced to disk; commits that wait at the same moment share one sync.
//! * Positions are gapless and in commit order: a reader that goes by position can skip nothing.
//! * What must never be seen apart from the events is committed with them: the read table, the inbox offsets.
//!
//! A commit that fails because the store cannot write may be made again as it is: either it is still
//! possible, or the expected version tells that it was stored after all.

mod sqlite;

use std::{
    path::{Path, PathBuf},
    str::FromStr,
    sync::{Arc, mpsc},
    thread,
    time::{Instant, SystemTime},
};

use rusqlite::Connection;
use tokio::sync::{oneshot, watch};
use uuid::Uuid;

use self::sqlite::{
    reads::{self, Readers},
    schema,
    writer::{self, Request},
};
pub use self::sqlite::{
    reads::{Log, Snapshot, stream as events_of},
    schema::OpenError,
};
use crate::{
    event::{Event, NewEvent, Position, StreamId, Version},
    runtime::metrics::{Outcome, StoreMetrics},
};

/// How many commits may wait for the disk before further ones are refused.
const QUEUE: usize = 4096;

/// Where a store is: `sqlite:PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location(PathBuf);

impl Location {
    /// The SQLite file at `path`.
    pub fn sqlite(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl FromStr for Location {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix("sqlite:") {
            Some(path) if !path.is_empty() => Ok(Self(path.into())),
            _ => Err("a store is given as sqlite:PATH".to_owned()),
        }
    }
}

impl std::fmt::Display for Location {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "sqlite:{}", self.0.display())
    }
}

/// Made once with the store. What the store does to the outside carries it, so that two stores never meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StoreId(pub Uuid);

impl StoreId {
    /// The store as `ce_source` names it: `/order-service/<store id>`.
    pub fn source(self, service: &str) -> String {
        format!("/{service}/{self}")
    }
}

impl std::fmt::Display for StoreId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// A table for questions that a fold of one stream can't answer. It is updated by the append, in its transaction.
///
/// An error fails the commits of the moment as a failing disk would, so it is for failures of SQLite alone.
pub trait ReadTable: Send + 'static {
    /// Counts up with every change of the schema, or of what is put there: a store whose tables are of another version
    /// has them made anew from the log when it is opened.
    const VERSION: u32;

    /// The names of the tables.
    const TABLES: &'static [&'static str];

    /// The statements that make the tables, and their indices, where they are missing.
    const SCHEMA: &'static str;

    /// Statements that copy to temporary tables what is no event, before the tables are made anew…
    const SET_ASIDE: &'static str = "";

    /// … and statements that put it back.
    const PUT_BACK: &'static str = "";

    /// Takes one appended event in.
    fn apply(&mut self, table: &Connection, event: &Event) -> rusqlite::Result<()>;
}

/// Whose store it is, as it is checked when opened.
#[derive(Clone, Copy, Debug)]
pub struct Owner {
    /// The service's name.
    pub service: &'static str,
    /// Every event type that this program can read.
    pub event_types: &'static [&'static str],
}

/// Everything that happens, or doesn't, in one step.
#[derive(Default)]
pub struct Commit {
    /// Events, at most one entry for each stream.
    pub appends: Vec<Append>,
    /// How far topics were read to get here.
    pub offsets: Vec<OffsetMove>,
    /// A change of the read table that is no event.
    pub table: Option<TableWrite>,
}

/// A change of the read table that is no event.
pub type TableWrite = Box<dyn FnOnce(&Connection) -> rusqlite::Result<()> + Send>;

impl Commit {
    /// Just these events.
    pub fn append(append: Append) -> Self {
        Self { appends: vec![append], ..Self::default() }
    }

    /// Just this change of the read table.
    pub fn table(write: impl FnOnce(&Connection) -> rusqlite::Result<()> + Send + 'static) -> Self {
        Self { table: Some(Box::new(write)), ..Self::default() }
    }
}

/// Events for the end of one stream.
#[derive(Clone, Debug)]
pub struct Append {
    /// Whose end.
    pub stream: StreamId,
    /// The version that the stream must have for the events to be appended.
    pub expected: Version,
    /// The events, in order.
    pub events: Vec<NewEvent>,
}

/// A partition of a topic of a Kafka cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicPartition {
    /// The cluster's id: a fresh cluster is read from its beginning.
    pub cluster: String,
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
}

/// Moves the offset up to which a partition has had its effect.
#[derive(Clone, Debug)]
pub struct OffsetMove {
    /// Of which partition.
    pub partition: TopicPartition,
    /// The offset that must be stored for the move to be made; `None`: none.
    pub from: Option<i64>,
    /// The offset of the next record to be read.
    pub to: i64,
}

/// Why a commit was not made.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CommitError {
    /// The stream is not at the expected version. Nothing was stored.
    #[error("stream {stream} is at version {actual}, not {expected}")]
    Conflict {
        /// Which stream.
        stream: StreamId,
        /// The version that was asked for.
        expected: Version,
        /// The version it has.
        actual: Version,
    },
    /// The partition was not read to the expected offset. Nothing was stored.
    #[error("{topic}/{partition} was read to {actual:?}, not {expected:?}: does another process read for this store?")]
    OffsetMoved {
        /// Which topic.
        topic: String,
        /// Which partition.
        partition: i32,
        /// The offset that was asked for.
        expected: Option<i64>,
        /// The offset that is stored.
        actual: Option<i64>,
    },
    /// Too many commits wait for the disk. Nothing was stored.
    #[error("too many calls wait for the store")]
    Overloaded,
    /// The store cannot write. The commit may or may not come to light later; it may be made again as it is.
    #[error("the store cannot write")]
    Unavailable(#[source] Arc<rusqlite::Error>),
    /// The store was closed, or its thread has died. The commit may or may not have been made.
    #[error("the store is closed")]
    Closed,
}

/// Why the store could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// SQLite says why.
    #[error("the store cannot be read")]
    Sqlite(#[from] rusqlite::Error),
    /// The program is stopping.
    #[error("the store is closed")]
    Closed,
}

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
    /// Whether the newest attempt to write succeeded.
    writable: watch::Receiver<bool>,
    readers: Arc<Readers>,
    writer: Option<thread::JoinHandle<()>>,
    metrics: StoreMetrics,
}

impl Store {
    /// Opens the store, or makes it where there is none, and starts the thread that writes it.
    pub fn open<T: ReadTable>(location: &Location, owner: Owner, mut table: T) -> Result<Self, OpenError> {
        let opened = schema::open(location.path(), owner, &mut table, false)?;
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
                writer: Some(writer),
                metrics,
            }),
        })
    }

    /// Makes the read tables of a store that nobody has open anew from its log. Interrupted, it leaves the old ones.
    pub fn rebuild<T: ReadTable>(location: &Location, owner: Owner, mut table: T) -> Result<(), OpenError> {
        if !location.path().exists() {
            return Err(OpenError::Missing { path: location.path().to_owned() });
        }
        schema::open(location.path(), owner, &mut table, true).map(drop)
    }

    /// The store's id.
    pub fn id(&self) -> StoreId {
        self.inner.id
    }

    /// The newest position when the store was opened: what is after it happened in this process.
    pub fn opened_at(&self) -> Position {
        self.inner.opened_at
    }

    /// The newest position that may be read, and a way to wait for the next.
    pub fn head(&self) -> watch::Receiver<Position> {
        self.inner.head.clone()
    }

    /// Whether the store can write, as far as the newest attempt tells. While it can't, it keeps trying by itself.
    pub fn writable(&self) -> watch::Receiver<bool> {
        self.inner.writable.clone()
    }

    /// Commits, and returns the position of the newest event once everything is synced to disk.
    ///
    /// # Cancellation
    /// If the future is dropped, the commit may or may not be made, but never a part of it.
    pub async fn commit(&self, commit: Commit) -> Result<Position, CommitError> {
        let asked = Instant::now();
        let answer = match self.submit(commit) {
            Ok(answer) => answer.await.unwrap_or(Err(CommitError::Closed)),
            Err(refused) => Err(refused),
        };
        self.note(asked, &answer);
        answer
    }

    /// [`Store::commit`] for threads that may block: it waits for room instead of being refused.
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

    /// What the store counts and measures.
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

    /// One stream's events, in order.
    pub async fn read_stream(&self, stream: StreamId) -> Result<Vec<Event>, ReadError> {
        self.read(move |connection| reads::stream(connection, stream)).await
    }

    /// [`Store::read_stream`] for threads that may block.
    pub fn read_stream_blocking(&self, stream: StreamId) -> Result<Vec<Event>, ReadError> {
        self.read_blocking(|connection| reads::stream(connection, stream))
    }

    /// Up to `limit` events of all streams after a position, in order.
    pub async fn read_all(&self, after: Position, limit: usize) -> Result<Vec<Event>, ReadError> {
        self.read(move |connection| reads::all(connection, after, limit)).await
    }

    /// [`Store::read_all`] for threads that may block.
    pub fn read_all_blocking(&self, after: Position, limit: usize) -> Result<Vec<Event>, ReadError> {
        self.read_blocking(|connection| reads::all(connection, after, limit))
    }

    /// When the event at a position happened; `None` where there is none.
    pub async fn time_of(&self, position: Position) -> Result<Option<SystemTime>, ReadError> {
        self.read(move |connection| reads::time_of(connection, position)).await
    }

    /// The stored offsets of a topic: the partition, and the offset of the next record to be read.
    pub fn offsets_blocking(&self, cluster: &str, topic: &str) -> Result<Vec<(i32, i64)>, ReadError> {
        self.read_blocking(|connection| reads::offsets(connection, cluster, topic))
    }

    /// A fact that the store keeps for the service, such as how many partitions its topic has.
    pub fn fact_blocking(&self, key: &str) -> Result<Option<String>, ReadError> {
        self.read_blocking(|connection| reads::fact(connection, key))
    }

    /// Keeps a fact.
    pub fn keep_fact_blocking(&self, key: &str, value: &str) -> Result<(), CommitError> {
        let (key, value) = (key.to_owned(), value.to_owned());
        self.commit_blocking(Commit::table(move |connection| writer::keep_fact(connection, &key, &value)))?;
        Ok(())
    }

    /// Keeps a fact no longer.
    pub fn forget_fact_blocking(&self, key: &str) -> Result<(), CommitError> {
        let key = key.to_owned();
        self.commit_blocking(Commit::table(move |connection| writer::forget_fact(connection, &key)))?;
        Ok(())
    }

    /// Asks a question of the tables, away from the async threads.
    pub async fn read<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, ReadError> {
        let readers = Arc::clone(&self.inner.readers);
        let _permit = self.inner.readers.permit().await?;
        tokio::task::spawn_blocking(move || readers.read(question)).await.map_err(|_stopping| ReadError::Closed)?
    }

    /// [`Store::read`] for threads that may block.
    pub fn read_blocking<T>(&self, question: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, ReadError> {
        self.inner.readers.read(question)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.readers.close(); // so that the writer's connection is the last, which folds the write-ahead log in
        self.requests = None; // the writer ends once it has answered what waits
        if let Some(writer) = self.writer.take()
            && writer.thread().id() != thread::current().id()
        {
            let _ = writer.join();
        }
    }
}

#[cfg(test)]
mod tests;
