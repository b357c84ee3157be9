//! The read table on SQLite. All statements are generated from the description of the table.

use rusqlite::{
    Connection, Row as SqlRow, ToSql,
    types::{ToSqlOutput, Value as SqlValue},
};
use uuid::Uuid;

use crate::{
    event::{StreamId, from_micros, to_micros},
    store::table::{Column, Kind, Order, Query, Row, RowUpdate, StoredRow, Table, Value},
};

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        match self {
            Self::Null => Ok(ToSqlOutput::Owned(SqlValue::Null)),
            Self::Text(text) => text.as_ref().to_sql(),
            Self::Integer(number) => number.to_sql(),
            Self::Time(time) => Ok(to_micros(*time).into()),
        }
    }
}

/// Creates the table and its indexes, if they are missing.
pub(super) fn create(connection: &Connection, table: &Table) -> rusqlite::Result<()> {
    let Table { name, key, .. } = table;
    let mut sql = format!("CREATE TABLE IF NOT EXISTS {name} ({key} BLOB PRIMARY KEY");
    for Column { name, kind, is_optional, .. } in table.columns {
        let kind = match kind {
            Kind::Text => "TEXT",
            Kind::Integer | Kind::Time => "INTEGER",
        };
        sql += &format!(", {name} {kind}{}", if *is_optional { "" } else { " NOT NULL" });
    }
    sql += ") STRICT, WITHOUT ROWID;";
    for index in table.indexes {
        let columns: Vec<_> = index.iter().map(|column| column.name).chain([*key]).collect();
        let index_name = index.iter().map(|column| column.name).collect::<Vec<_>>().join("_and_");
        let filter = index.iter().find(|column| column.is_optional);
        let filter = filter.map_or_else(String::new, |column| format!(" WHERE {} IS NOT NULL", column.name));
        sql +=
            &format!("CREATE INDEX IF NOT EXISTS {name}_by_{index_name} ON {name} ({}){filter};", columns.join(", "));
    }
    connection.execute_batch(&sql)
}

/// Returns whether the table exists with exactly the columns of its description.
pub(super) fn has_its_columns(connection: &Connection, table: &Table) -> rusqlite::Result<bool> {
    let expected = [table.key].into_iter().chain(table.columns.iter().map(|column| column.name));
    Ok(columns(connection, table)?.iter().map(String::as_str).eq(expected))
}

fn columns(connection: &Connection, table: &Table) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare("SELECT name FROM pragma_table_info(?1) ORDER BY cid")?;
    statement.query_map([table.name], |row| row.get(0))?.collect()
}

/// Inserts or replaces a row.
pub(super) fn put(connection: &Connection, table: &Table, stream: StreamId, row: &Row) -> rusqlite::Result<()> {
    let mut sql = format!("INSERT OR REPLACE INTO {} ({}", table.name, table.key);
    table.columns.iter().for_each(|column| sql += &format!(", {}", column.name));
    sql += ") VALUES (?";
    table.columns.iter().for_each(|_| sql += ", ?");
    sql += ")";
    let stream: &dyn ToSql = &stream.0;
    let values: Vec<_> = [stream].into_iter().chain(row.0.iter().map(|value| value as &dyn ToSql)).collect();
    connection.prepare_cached(&sql)?.execute(&*values)?;
    Ok(())
}

/// Removes a row, if there is one.
pub(super) fn remove(connection: &Connection, table: &Table, stream: StreamId) -> rusqlite::Result<()> {
    let sql = format!("DELETE FROM {} WHERE {} = ?1", table.name, table.key);
    connection.prepare_cached(&sql)?.execute([stream.0])?;
    Ok(())
}

/// Changes columns of a row.
pub(super) fn update(connection: &Connection, table: &Table, update: &RowUpdate) -> rusqlite::Result<()> {
    if update.values.is_empty() {
        return Ok(());
    }
    let columns: Vec<_> = update.values.iter().map(|(column, _)| format!("{} = ?", column.name)).collect();
    let mut sql = format!("UPDATE {} SET {} WHERE {} = ?", table.name, columns.join(", "), table.key);
    if let Some(column) = update.only_where_set {
        sql += &format!(" AND {} IS NOT NULL", column.name);
    }
    let values = update.values.iter().map(|(_, value)| value as &dyn ToSql);
    let values: Vec<_> = values.chain([&update.stream.0 as &dyn ToSql]).collect();
    connection.prepare_cached(&sql)?.execute(&*values)?;
    Ok(())
}

/// Returns the rows that a query selects.
pub(in crate::store) fn select(
    connection: &Connection,
    table: &'static Table,
    query: &Query,
) -> rusqlite::Result<Vec<StoredRow>> {
    let (sql, values) = statement(table, query);
    let mut statement = connection.prepare_cached(&sql)?;
    let values: Vec<_> = values.iter().map(|value| &**value).collect();
    let mut rows = statement.query(&*values)?;
    let mut selected = Vec::new();
    while let Some(row) = rows.next()? {
        let row = stored(table, row)?;
        let is_last = match (query.order, query.through) {
            (Some(Order::OldestFirst(column)), Some(through)) => row.time(column).is_some_and(|time| time > through),
            _ => false,
        };
        selected.push(row);
        if is_last {
            break;
        }
    }
    Ok(selected)
}

/// Returns the row of a stream.
pub(in crate::store) fn get(
    connection: &Connection,
    table: &'static Table,
    stream: StreamId,
) -> rusqlite::Result<Option<StoredRow>> {
    let sql = format!("{} WHERE {} = ?1", select_from(table), table.key);
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query([stream.0])?;
    rows.next()?.map(|row| stored(table, row)).transpose()
}

/// Returns the number of rows.
pub(in crate::store) fn count(connection: &Connection, table: &Table) -> rusqlite::Result<u64> {
    connection.query_row(&format!("SELECT count(*) FROM {}", table.name), [], |row| row.get(0))
}

fn select_from(table: &Table) -> String {
    let columns: Vec<_> = [table.key].into_iter().chain(table.columns.iter().map(|column| column.name)).collect();
    format!("SELECT {} FROM {}", columns.join(", "), table.name)
}

type Parameters<'a> = Vec<Box<dyn ToSql + 'a>>;

fn statement<'a>(table: &Table, query: &'a Query) -> (String, Parameters<'a>) {
    let mut conditions = Vec::new();
    let mut values: Parameters<'a> = Vec::new();
    for (column, value) in &query.equals {
        conditions.push(format!("{} = ?", column.name));
        values.push(Box::new(value));
    }
    if let Some(column) = query.is_set {
        conditions.push(format!("{} IS NOT NULL", column.name));
    }
    if let Some((column, time)) = query.from {
        conditions.push(format!("{} >= ?", column.name));
        values.push(Box::new(to_micros(time)));
    }
    let mut order = String::new();
    match query.order {
        Some(Order::NewestFirst(column)) => {
            if column.is_optional {
                conditions.push(format!("{} IS NOT NULL", column.name));
            }
            // An index serves only one bound, so use the smaller one: the given time, or the end of the last page.
            let before = query.before.map(|time| (to_micros(time), Uuid::nil()));
            let after = query.after.map(|(time, stream)| (to_micros(time), stream.0));
            if let Some((time, stream)) = before.into_iter().chain(after).min() {
                conditions.push(format!("({}, {}) < (?, ?)", column.name, table.key));
                values.push(Box::new(time));
                values.push(Box::new(stream));
            }
            order = format!(" ORDER BY {} DESC, {} DESC", column.name, table.key);
        }
        Some(Order::OldestFirst(column)) => {
            conditions.push(format!("{} IS NOT NULL", column.name));
            order = format!(" ORDER BY {}, {}", column.name, table.key);
        }
        None => {}
    }
    let mut sql = select_from(table);
    if !conditions.is_empty() {
        sql += &format!(" WHERE {}", conditions.join(" AND "));
    }
    sql += &order;
    if let Some(limit) = query.limit {
        sql += " LIMIT ?";
        values.push(Box::new(limit));
    }
    (sql, values)
}

fn stored(table: &'static Table, row: &SqlRow<'_>) -> rusqlite::Result<StoredRow> {
    let value = |(index, column): (usize, &Column)| -> rusqlite::Result<Value> {
        Ok(match column.kind {
            Kind::Text => row.get::<_, Option<String>>(index)?.into(),
            Kind::Integer => row.get::<_, Option<i64>>(index)?.into(),
            Kind::Time => row.get::<_, Option<i64>>(index)?.map(from_micros).into(),
        })
    };
    let values = (1..).zip(table.columns).map(value).collect::<Result<_, _>>()?;
    Ok(StoredRow { stream: StreamId(row.get(0)?), columns: table.columns, values })
}

const KEPT: &str = "temp.kept";

/// Saves the kept columns of the old table, and returns those that it has.
pub(super) fn save_kept(connection: &Connection, table: &Table) -> rusqlite::Result<Vec<&'static str>> {
    let old = columns(connection, table)?;
    let kept = table.columns.iter().filter(|column| column.is_kept && old.iter().any(|name| name == column.name));
    let kept: Vec<_> = kept.map(|column| column.name).collect();
    if !old.iter().any(|name| name == table.key) {
        return Ok(Vec::new()); // under another key, the rows are others
    }
    if !kept.is_empty() {
        let (key, columns, from) = (table.key, kept.join(", "), table.name);
        let any = kept.iter().map(|column| format!("{column} IS NOT NULL")).collect::<Vec<_>>().join(" OR ");
        connection.execute_batch(&format!(
            "CREATE TEMP TABLE kept ({key} BLOB PRIMARY KEY, {columns}) WITHOUT ROWID;
             INSERT INTO {KEPT} SELECT {key}, {columns} FROM main.{from} WHERE {any}"
        ))?;
    }
    Ok(kept)
}

/// Restores the saved columns in rows whose rebuilt value is not NULL.
pub(super) fn restore_kept(connection: &Connection, table: &Table, kept: &[&str]) -> rusqlite::Result<()> {
    if kept.is_empty() {
        return Ok(());
    }
    let Table { name, key, .. } = table;
    for column in kept {
        connection.execute_batch(&format!(
            "UPDATE main.{name} SET {column} = kept.{column} FROM {KEPT} AS kept
             WHERE kept.{key} = {name}.{key} AND {name}.{column} IS NOT NULL AND kept.{column} IS NOT NULL"
        ))?;
    }
    connection.execute_batch(&format!("DROP TABLE {KEPT}"))
}
