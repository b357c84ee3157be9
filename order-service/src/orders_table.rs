//! The read table of orders: what can be asked of all of them.

use event_sourcing::{
    aggregate::Payload as _,
    event::{Event, StreamId},
    store::ReadTable,
};
use rusqlite::{Connection, params};

use crate::order::OrderEvent;

/// One row for each order, with its newest state.
pub(crate) struct OrdersTable;

impl ReadTable for OrdersTable {
    const SCHEMA: &'static str = "
        CREATE TABLE IF NOT EXISTS orders (
            order_id      BLOB PRIMARY KEY,      -- UUID, 16 bytes
            state         TEXT NOT NULL,         -- CREATED, PAID or PAYMENT_FAILED
            amount        INTEGER NOT NULL,      -- in the currency's minor unit
            currency_code TEXT NOT NULL,
            customer_id   TEXT NOT NULL
        ) STRICT, WITHOUT ROWID;
        CREATE INDEX IF NOT EXISTS orders_unfinished ON orders (order_id) WHERE state = 'CREATED';
    ";

    fn apply(&mut self, table: &Connection, event: &Event) -> rusqlite::Result<()> {
        let order_id = event.stream.0;
        let state = match OrderEvent::decode(&event.payload) {
            Ok(OrderEvent::Created(details)) => {
                table
                    .prepare_cached(
                        "INSERT INTO orders (order_id, state, amount, currency_code, customer_id)
                         VALUES (?1, 'CREATED', ?2, ?3, ?4)",
                    )?
                    .execute(params![
                        order_id,
                        details.money.amount(),
                        details.money.currency_code(),
                        details.customer_id
                    ])?;
                return Ok(());
            }
            Ok(OrderEvent::Paid { .. }) => "PAID",
            Ok(OrderEvent::PaymentFailed(_)) => "PAYMENT_FAILED",
            Err(error) => return Err(rusqlite::Error::ToSqlConversionFailure(error.into())),
        };
        table.prepare_cached("UPDATE orders SET state = ?2 WHERE order_id = ?1")?.execute(params![order_id, state])?;
        Ok(())
    }
}

/// The orders whose payment is still to be heard of.
pub fn unfinished(table: &Connection) -> rusqlite::Result<Vec<StreamId>> {
    table
        .prepare("SELECT order_id FROM orders WHERE state = 'CREATED'")?
        .query_map([], |row| row.get(0).map(StreamId))?
        .collect()
}

/// How many orders there are.
pub fn count(table: &Connection) -> rusqlite::Result<u64> {
    table.query_row("SELECT count(*) FROM orders", [], |row| row.get(0))
}
