//! The read table of a domain.

use std::marker::PhantomData;

use super::{Aggregate, Loaded};
use crate::{
    event::Event,
    store::{BoxError, Row, Table, TableSource},
};

/// A table for queries over many streams, such as lists.
///
/// The row of a stream is computed from the folded aggregate after its newest event, and is committed together with
/// that event. So a service writes no SQL, and a batch of events writes each row once.
///
/// Data that no event describes, such as the time of the next attempt, is in [kept](crate::store::Column::kept)
/// columns. A [`RowUpdate`](crate::store::RowUpdate) changes them.
pub trait ReadTable: Send + Sync + 'static {
    /// The domain whose streams have rows.
    type Domain: Aggregate;

    /// The description of the table; `None` for no table.
    const TABLE: Option<&'static Table>;

    /// Computes the row of a stream; `None` for no row.
    fn row(aggregate: &Loaded<Self::Domain>) -> Option<Row>;

    /// Returns the table together with the function that computes its rows from events.
    #[doc(hidden)]
    fn source() -> Option<TableSource> {
        Self::TABLE.map(|table| TableSource { table, row: row_of::<Self> })
    }
}

fn row_of<T: ReadTable + ?Sized>(events: &[Event]) -> Result<Option<Row>, BoxError> {
    Ok(T::row(&Loaded::fold(events)?))
}

/// No read table, for a domain without lists.
#[derive(Debug)]
pub struct NoTable<A>(PhantomData<fn() -> A>);

impl<A: Aggregate> ReadTable for NoTable<A> {
    type Domain = A;
    const TABLE: Option<&'static Table> = None;

    fn row(_: &Loaded<A>) -> Option<Row> {
        None
    }
}
