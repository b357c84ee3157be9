//! The only way to change a stream: load it, decide a command, append the events, and retry after a conflict.

use std::marker::PhantomData;

use super::{Aggregate, Cause, ExecuteError, LoadError, Loaded, ReadTable};
use crate::{
    event::StreamId,
    store::{Append, Commit, CommitError, Query, ReadError, Row, RowUpdate, Store, StoredRow},
};

/// The streams of a domain in its store. Clones share the store.
pub struct Streams<T> {
    store: Store,
    table: PhantomData<fn() -> T>,
}

impl<T> Clone for Streams<T> {
    fn clone(&self) -> Self {
        Self { store: self.store.clone(), table: PhantomData }
    }
}

/// Aggregates with their rows.
#[derive(Clone, Debug)]
pub struct Listing<A> {
    /// The rows, each with its aggregate.
    pub entries: Vec<(StoredRow, Loaded<A>)>,
    /// True if there are more entries, which would have made the list too large.
    pub is_cut: bool,
}

type RejectionOf<T> = <<T as ReadTable>::Domain as Aggregate>::Rejection;
type CommandOf<T> = <<T as ReadTable>::Domain as Aggregate>::Command;

impl<T: ReadTable> Streams<T> {
    /// Creates the streams of a store that was opened with the same read table.
    pub fn new(store: Store) -> Self {
        Self { store, table: PhantomData }
    }

    /// Returns the store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Loads the aggregate of a stream, with every commit that was answered before.
    pub async fn load(&self, stream: StreamId) -> Result<Loaded<T::Domain>, LoadError> {
        Loaded::fold(&self.store.read_stream(stream).await?)
    }

    /// Loads the aggregate of a stream and its row from the same snapshot.
    pub async fn load_with_row(&self, stream: StreamId) -> Result<(Loaded<T::Domain>, Option<StoredRow>), LoadError> {
        let (events, row) = self.store.read_stream_with_row(stream).await?;
        Ok((Loaded::fold(&events)?, row))
    }

    /// Executes a command on a stream: loads the stream, decides, and appends the events. If another commit has changed
    /// the stream in between, this is repeated.
    ///
    /// Returns the aggregate after the command, once all of its events are synced to disk.
    ///
    /// # Cancellation
    /// If the future is dropped, all of the events may be stored, or none.
    pub async fn execute(
        &self,
        stream: StreamId,
        command: &CommandOf<T>,
        cause: &Cause,
    ) -> Result<Loaded<T::Domain>, ExecuteError<RejectionOf<T>>> {
        self.attempt(stream, command, cause, self.load(stream).await?).await
    }

    /// [`execute`](Self::execute) for a stream that most likely has no events yet. It is not read first.
    ///
    /// # Cancellation
    /// As for [`execute`](Self::execute).
    pub async fn execute_new(
        &self,
        stream: StreamId,
        command: &CommandOf<T>,
        cause: &Cause,
    ) -> Result<Loaded<T::Domain>, ExecuteError<RejectionOf<T>>> {
        self.attempt(stream, command, cause, Loaded::default()).await
    }

    async fn attempt(
        &self,
        stream: StreamId,
        command: &CommandOf<T>,
        cause: &Cause,
        mut loaded: Loaded<T::Domain>,
    ) -> Result<Loaded<T::Domain>, ExecuteError<RejectionOf<T>>> {
        loop {
            let expected = loaded.version;
            let events = loaded.execute(stream, command, cause).map_err(ExecuteError::Rejected)?;
            if events.is_empty() {
                return Ok(loaded);
            }
            let append = Append { stream, expected, events, row: Self::row(&loaded) };
            match self.store.commit(Commit::append(append)).await {
                Ok(_) => return Ok(loaded),
                Err(CommitError::Conflict { .. }) => loaded = self.load(stream).await?,
                Err(other) => return Err(ExecuteError::Commit(other)),
            }
        }
    }

    /// Computes the row of an aggregate.
    ///
    /// # Panics
    /// If the row does not fit the table.
    pub(crate) fn row(loaded: &Loaded<T::Domain>) -> Option<Row> {
        let row = T::row(loaded)?;
        row.assert_fits(T::TABLE?);
        Some(row)
    }

    /// Returns rows of the read table.
    pub async fn rows(&self, query: Query) -> Result<Vec<StoredRow>, ReadError> {
        self.store.rows(query).await
    }

    /// Returns rows of the read table, each with the aggregate of its stream from the same snapshot. A long list is
    /// cut.
    pub async fn list(&self, query: Query) -> Result<Listing<T::Domain>, LoadError> {
        let (rows, is_cut) = self.store.rows_with_events(query).await?;
        let entries = rows.into_iter().map(|(row, events)| Ok((row, Loaded::fold(&events)?)));
        Ok(Listing { entries: entries.collect::<Result<_, LoadError>>()?, is_cut })
    }

    /// Changes columns of a row that no event describes.
    pub async fn update(&self, update: RowUpdate) -> Result<(), CommitError> {
        self.store.commit(Commit::update(update)).await.map(|_| ())
    }
}
