//! The read table of a service: a description that names no database, its rows, and queries over them.

use std::{borrow::Cow, time::SystemTime};

use crate::event::{Event, StreamId};
use crate::store::error::BoxError;

/// A read table: one row for each stream, computed from the stream's events.
///
/// Each index ends with the key of the table, so that it serves pages in the order of its last column. An index that
/// begins with an optional column leaves out the rows that have no value there.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// The name of the table in the database.
    pub name: &'static str,
    /// The version of the table. Increment it with every change of the table, or of what the rows hold. A store whose
    /// table has another version rebuilds it from the log when it is opened.
    pub version: u32,
    /// The column of the stream's id.
    pub key: &'static str,
    /// The other columns.
    pub columns: &'static [Column],
    /// The indexes, each a list of columns.
    pub indexes: &'static [&'static [Column]],
}

/// A column of a read table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    pub(in crate::store) name: &'static str,
    pub(in crate::store) kind: Kind,
    pub(in crate::store) is_optional: bool,
    pub(in crate::store) is_kept: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Kind {
    Text,
    Integer,
    Time,
}

impl Column {
    /// Creates a column of text.
    pub const fn text(name: &'static str) -> Self {
        Self { name, kind: Kind::Text, is_optional: false, is_kept: false }
    }

    /// Creates a column of whole numbers.
    pub const fn integer(name: &'static str) -> Self {
        Self { name, kind: Kind::Integer, is_optional: false, is_kept: false }
    }

    /// Creates a column of times, to the microsecond.
    pub const fn time(name: &'static str) -> Self {
        Self { name, kind: Kind::Time, is_optional: false, is_kept: false }
    }

    /// Allows rows without a value.
    pub const fn optional(self) -> Self {
        Self { is_optional: true, ..self }
    }

    /// Keeps the value in a rebuild, if both the old row and the rebuilt row have a value.
    ///
    /// This is for data that no event describes, such as the time of the next attempt. See [`RowUpdate`].
    pub const fn kept(self) -> Self {
        Self { is_kept: true, ..self }
    }
}

/// A value in a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// No value, in an optional column.
    Null,
    /// Text.
    Text(Cow<'static, str>),
    /// A whole number.
    Integer(i64),
    /// A time, to the microsecond.
    Time(SystemTime),
}

impl Value {
    fn assert_fits(&self, column: &Column) {
        let fits = match self {
            Self::Null => column.is_optional,
            Self::Text(_) => column.kind == Kind::Text,
            Self::Integer(_) => column.kind == Kind::Integer,
            Self::Time(_) => column.kind == Kind::Time,
        };
        assert!(fits, "{self:?} does not fit the column {}", column.name);
    }
}

impl From<&'static str> for Value {
    fn from(text: &'static str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Integer(number)
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Self {
        Self::Integer(number.into())
    }
}

impl From<SystemTime> for Value {
    fn from(time: SystemTime) -> Self {
        Self::Time(time)
    }
}

impl<V: Into<Value>> From<Option<V>> for Value {
    fn from(value: Option<V>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// The row of a stream: a value for each column of the [`Table`], in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row(pub(in crate::store) Vec<Value>);

impl Row {
    /// Creates a row of these values.
    pub fn new(values: impl Into<Vec<Value>>) -> Self {
        Self(values.into())
    }

    /// Panics unless the row fits the table. A row that does not fit is a mistake in the program. It would fail every
    /// commit of its group.
    pub(crate) fn assert_fits(&self, table: &Table) {
        assert_eq!(self.0.len(), table.columns.len(), "a row of {} has a value for each column", table.name);
        self.0.iter().zip(table.columns).for_each(|(value, column)| value.assert_fits(column));
    }
}

/// A row as the read table has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRow {
    /// The stream that the row belongs to.
    pub stream: StreamId,
    pub(in crate::store) columns: &'static [Column],
    pub(in crate::store) values: Vec<Value>,
}

impl StoredRow {
    /// Returns the text in a column, or an empty text if there is none.
    pub fn text(&self, column: Column) -> &str {
        match self.value(column) {
            Value::Text(text) => text,
            Value::Null | Value::Integer(_) | Value::Time(_) => "",
        }
    }

    /// Returns the number in a column.
    pub fn integer(&self, column: Column) -> Option<i64> {
        match self.value(column) {
            Value::Integer(number) => Some(*number),
            Value::Null | Value::Text(_) | Value::Time(_) => None,
        }
    }

    /// Returns the time in a column.
    pub fn time(&self, column: Column) -> Option<SystemTime> {
        match self.value(column) {
            Value::Time(time) => Some(*time),
            Value::Null | Value::Text(_) | Value::Integer(_) => None,
        }
    }

    fn value(&self, column: Column) -> &Value {
        let index = self.columns.iter().position(|known| *known == column);
        index.and_then(|index| self.values.get(index)).unwrap_or(&Value::Null)
    }
}

/// Changes columns of a row that no event describes. A row that does not exist, or does not match, stays as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowUpdate {
    pub(in crate::store) stream: StreamId,
    pub(in crate::store) values: Vec<(Column, Value)>,
    pub(in crate::store) only_where_set: Option<Column>,
}

impl RowUpdate {
    /// Creates an update of the stream's row.
    pub fn new(stream: StreamId) -> Self {
        Self { stream, values: Vec::new(), only_where_set: None }
    }

    /// Sets a column. The next event replaces the value with that of [`Append::row`](super::Append::row).
    pub fn set(mut self, column: Column, value: impl Into<Value>) -> Self {
        let value = value.into();
        value.assert_fits(&column);
        self.values.push((column, value));
        self
    }

    /// Changes only rows that have a value in a column.
    pub fn only_where_set(mut self, column: Column) -> Self {
        self.only_where_set = Some(column);
        self
    }
}

/// Selects rows of the read table. All conditions must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    pub(in crate::store) equals: Vec<(Column, Value)>,
    pub(in crate::store) from: Option<(Column, SystemTime)>,
    pub(in crate::store) before: Option<SystemTime>,
    pub(in crate::store) is_set: Option<Column>,
    pub(in crate::store) order: Option<Order>,
    pub(in crate::store) after: Option<(SystemTime, StreamId)>,
    pub(in crate::store) through: Option<SystemTime>,
    pub(in crate::store) limit: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Order {
    NewestFirst(Column),
    OldestFirst(Column),
}

impl Query {
    /// Selects every row, in no order.
    pub fn all() -> Self {
        Self::default()
    }

    /// Selects rows with this value.
    pub fn equal(mut self, column: Column, value: impl Into<Value>) -> Self {
        self.equals.push((column, value.into()));
        self
    }

    /// Selects rows that have a value in a column.
    pub fn is_set(mut self, column: Column) -> Self {
        self.is_set = Some(column);
        self
    }

    /// Selects rows with this time or a later one.
    pub fn from(mut self, column: Column, time: SystemTime) -> Self {
        self.from = Some((column, time));
        self
    }

    /// Returns rows from the newest to the oldest.
    pub fn newest_first(mut self, column: Column) -> Self {
        self.order = Some(Order::NewestFirst(column));
        self
    }

    /// With [`newest_first`](Self::newest_first): selects rows before this time.
    pub fn before(mut self, time: SystemTime) -> Self {
        self.before = Some(time);
        self
    }

    /// With [`newest_first`](Self::newest_first): continues after this row, the last one of the page before.
    pub fn after(mut self, time: SystemTime, stream: StreamId) -> Self {
        self.after = Some((time, stream));
        self
    }

    /// Returns rows from the oldest to the newest.
    pub fn oldest_first(mut self, column: Column) -> Self {
        self.order = Some(Order::OldestFirst(column));
        self
    }

    /// With [`oldest_first`](Self::oldest_first): ends with the first row after this time.
    pub fn through(mut self, time: SystemTime) -> Self {
        self.through = Some(time);
        self
    }

    /// Returns at most this number of rows.
    pub fn limit(mut self, rows: usize) -> Self {
        self.limit = Some(rows);
        self
    }
}

/// A read table together with the function that computes its rows.
#[derive(Clone, Copy, Debug)]
pub struct TableSource {
    /// The table.
    pub table: &'static Table,
    /// Computes the row of a stream from all of its events; `None` for no row.
    pub row: fn(&[Event]) -> Result<Option<Row>, BoxError>,
}
