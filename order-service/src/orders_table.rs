//! The read table of orders: what can be asked of all of them.

use std::time::SystemTime;

use oncelog::{
    aggregate::Payload as _,
    edge::page::Place,
    event::{Event, StreamId, from_micros, to_micros},
    store::ReadTable,
};
use rusqlite::{Connection, Row, params};
use uuid::Uuid;

use crate::order::OrderEvent;

/// One row for each order, with its newest state.
pub(crate) struct OrdersTable;

impl ReadTable for OrdersTable {
    const VERSION: u32 = 2;
    const TABLES: &'static [&'static str] = &["orders"];
    const SCHEMA: &'static str = "
        CREATE TABLE IF NOT EXISTS orders (
            order_id    BLOB PRIMARY KEY,      -- UUID, 16 bytes
            state       TEXT NOT NULL,         -- as in the API, such as PAID
            create_time INTEGER NOT NULL,      -- microseconds since 1970
            customer_id TEXT NOT NULL          -- empty if none was given
        ) STRICT, WITHOUT ROWID;
        CREATE INDEX IF NOT EXISTS orders_unsettled ON orders (order_id) WHERE state IN ('CREATED', 'CANCELLING');
        CREATE INDEX IF NOT EXISTS orders_by_time ON orders (create_time, order_id);
        CREATE INDEX IF NOT EXISTS orders_by_state ON orders (state, create_time, order_id);
        CREATE INDEX IF NOT EXISTS orders_by_customer ON orders (customer_id, create_time, order_id)
            WHERE customer_id <> '';
        CREATE INDEX IF NOT EXISTS orders_by_customer_and_state ON orders (customer_id, state, create_time, order_id)
            WHERE customer_id <> '';
    ";

    fn apply(&mut self, table: &Connection, event: &Event) -> rusqlite::Result<()> {
        let order_id = event.stream.0;
        let state = match OrderEvent::decode(&event.payload) {
            Ok(OrderEvent::Created(details)) => {
                table
                    .prepare_cached(
                        "INSERT INTO orders (order_id, state, create_time, customer_id) VALUES (?1, 'CREATED', ?2, ?3)",
                    )?
                    .execute(params![order_id, to_micros(event.time), details.customer_id])?;
                return Ok(());
            }
            Ok(OrderEvent::Paid { .. }) => "PAID",
            Ok(OrderEvent::PaymentFailed(_)) => "PAYMENT_FAILED",
            Ok(OrderEvent::CancellationRequested) => "CANCELLING",
            Ok(OrderEvent::Cancelled) => "CANCELLED",
            Ok(OrderEvent::Refunded { .. }) => "REFUNDED",
            Err(error) => return Err(rusqlite::Error::ToSqlConversionFailure(error.into())),
        };
        table.prepare_cached("UPDATE orders SET state = ?2 WHERE order_id = ?1")?.execute(params![order_id, state])?;
        Ok(())
    }
}

/// Which orders are wanted: those that match all that is given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    /// As in the table.
    pub(crate) state: Option<&'static str>,
    pub(crate) customer_id: Option<String>,
    pub(crate) created_from: Option<SystemTime>,
    pub(crate) created_until: Option<SystemTime>,
}

/// One page of orders after a place, the newest first. Each combination of filters has an index in its order.
pub(crate) fn page(
    table: &Connection,
    filter: &Filter,
    after: Option<Place>,
    limit: usize,
) -> rusqlite::Result<Vec<Place>> {
    // Up to here, and not including it: what was shown last, or the time given.
    let until = filter.created_until.map(|time| (to_micros(time), Uuid::nil()));
    let shown = after.map(|place| (to_micros(place.create_time), place.id.0));
    let (time, id) = until.into_iter().chain(shown).min().unwrap_or((i64::MAX, Uuid::max()));
    let from = filter.created_from.map_or(0, to_micros);
    let state = if filter.state.is_some() { "state = ?1" } else { "?1 IS NULL" };
    let customer = if filter.customer_id.is_some() { "customer_id = ?2 AND customer_id <> ''" } else { "?2 IS NULL" };
    let sql = format!(
        "SELECT create_time, order_id FROM orders
         WHERE {state} AND {customer} AND (create_time, order_id) < (?3, ?4) AND create_time >= ?5
         ORDER BY create_time DESC, order_id DESC LIMIT ?6"
    );
    let place = |row: &Row<'_>| Ok(Place { create_time: from_micros(row.get(0)?), id: StreamId(row.get(1)?) });
    table
        .prepare_cached(&sql)?
        .query_map(params![filter.state, filter.customer_id, time, id, from, limit], place)?
        .collect()
}

/// The orders whose payment is still to be heard of.
pub fn unfinished(table: &Connection) -> rusqlite::Result<Vec<StreamId>> {
    table
        .prepare("SELECT order_id FROM orders WHERE state IN ('CREATED', 'CANCELLING')")?
        .query_map([], |row| row.get(0).map(StreamId))?
        .collect()
}

/// How many orders there are.
pub fn count(table: &Connection) -> rusqlite::Result<u64> {
    table.query_row("SELECT count(*) FROM orders", [], |row| row.get(0))
}
