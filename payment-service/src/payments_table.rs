//! The read table of payments: which of them are due, and when.

use std::time::SystemTime;

use event_sourcing::{
    aggregate::Payload as _,
    event::{Event, StreamId, from_micros, to_micros},
    store::ReadTable,
};
use rusqlite::{Connection, OptionalExtension as _, params};

use crate::payment::PaymentEvent;

/// One row for each payment, with its newest state and when the gateway is to be called next.
pub(crate) struct PaymentsTable;

impl ReadTable for PaymentsTable {
    const SCHEMA: &'static str = "
        CREATE TABLE IF NOT EXISTS payments (
            order_id        BLOB PRIMARY KEY,           -- UUID, 16 bytes
            state           TEXT NOT NULL,              -- REQUESTED, COMPLETED or FAILED
            amount          INTEGER NOT NULL,           -- in the currency's minor unit
            currency_code   TEXT NOT NULL,
            failed_attempts INTEGER NOT NULL DEFAULT 0, -- calls to the gateway without a definite answer
            due_time        INTEGER                     -- microseconds since 1970; NULL once it is final
        ) STRICT, WITHOUT ROWID;
        CREATE INDEX IF NOT EXISTS payments_due ON payments (due_time) WHERE due_time IS NOT NULL;
    ";

    fn apply(&mut self, table: &Connection, event: &Event) -> rusqlite::Result<()> {
        let order_id = event.stream.0;
        let state = match PaymentEvent::decode(&event.payload) {
            Ok(PaymentEvent::Requested { money, .. }) => {
                table
                    .prepare_cached(
                        "INSERT INTO payments (order_id, state, amount, currency_code, due_time)
                         VALUES (?1, 'REQUESTED', ?2, ?3, ?4)",
                    )?
                    .execute(params![order_id, money.amount(), money.currency_code(), to_micros(event.time)])?;
                return Ok(());
            }
            Ok(PaymentEvent::Completed { .. }) => "COMPLETED",
            Ok(PaymentEvent::Failed(_)) => "FAILED",
            Err(error) => return Err(rusqlite::Error::ToSqlConversionFailure(error.into())),
        };
        table
            .prepare_cached("UPDATE payments SET state = ?2, due_time = NULL WHERE order_id = ?1")?
            .execute(params![order_id, state])?;
        Ok(())
    }
}

/// A payment that waits for the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub(crate) order: StreamId,
    pub(crate) failed_attempts: u32,
    /// When the gateway is to be called.
    pub(crate) due: SystemTime,
}

/// Up to `limit` payments that wait for the gateway, those that are due first before the others.
pub(crate) fn waiting(table: &Connection, limit: usize) -> rusqlite::Result<Vec<Waiting>> {
    table
        .prepare_cached(
            "SELECT order_id, failed_attempts, due_time FROM payments
             WHERE due_time IS NOT NULL ORDER BY due_time LIMIT ?1",
        )?
        .query_map([limit], |row| {
            Ok(Waiting { order: StreamId(row.get(0)?), failed_attempts: row.get(1)?, due: from_micros(row.get(2)?) })
        })?
        .collect()
}

/// One payment, while it waits for the gateway.
pub(crate) fn waiting_for(table: &Connection, order: StreamId) -> rusqlite::Result<Option<Waiting>> {
    table
        .prepare_cached("SELECT failed_attempts, due_time FROM payments WHERE order_id = ?1 AND due_time IS NOT NULL")?
        .query_row([order.0], |row| Ok(Waiting { order, failed_attempts: row.get(0)?, due: from_micros(row.get(1)?) }))
        .optional()
}

/// Counts a failed attempt and sets the time of the next one. Nothing, if the payment is final by now.
pub(crate) fn postpone(table: &Connection, order: StreamId, due: SystemTime) -> rusqlite::Result<()> {
    table
        .prepare_cached(
            "UPDATE payments SET failed_attempts = failed_attempts + 1, due_time = ?2
             WHERE order_id = ?1 AND due_time IS NOT NULL",
        )?
        .execute(params![order.0, to_micros(due)])?;
    Ok(())
}

/// The payments that are not final.
pub fn unfinished(table: &Connection) -> rusqlite::Result<Vec<StreamId>> {
    table
        .prepare("SELECT order_id FROM payments WHERE due_time IS NOT NULL")?
        .query_map([], |row| row.get(0).map(StreamId))?
        .collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use event_sourcing::{
        aggregate::{Envelope, Payload as _},
        event::{EventId, Position, Version, now},
        money::Money,
    };

    use super::*;

    fn event(order: StreamId, time: SystemTime, event: &PaymentEvent) -> Event {
        let envelope = Envelope { id: EventId::generate(), stream: order, version: Version(1), time };
        Event {
            position: Position(1),
            stream: order,
            version: envelope.version,
            id: envelope.id,
            event_type: event.event_type().to_owned(),
            time,
            causation: None,
            traceparent: None,
            payload: event.encode(&envelope),
        }
    }

    #[test]
    fn what_is_due_first_comes_first_until_it_is_final() {
        let table = Connection::open_in_memory().expect("opens");
        table.execute_batch(PaymentsTable::SCHEMA).expect("a table");
        let (start, second) = (now(), Duration::from_secs(1));
        let orders = [0, 1, 2].map(|_| StreamId::generate());
        let requested = PaymentEvent::Requested { money: Money::new(500, "USD").expect("valid"), order_time: start };
        for (order, after) in orders.iter().zip([2, 0, 1]) {
            PaymentsTable.apply(&table, &event(*order, start + second * after, &requested)).expect("applied");
        }
        let due =
            |limit| -> Vec<_> { waiting(&table, limit).expect("reads").iter().map(|payment| payment.order).collect() };
        assert_eq!(due(9), [orders[1], orders[2], orders[0]]);
        assert_eq!(due(1), [orders[1]]);

        postpone(&table, orders[1], start + second * 9).expect("postponed");
        assert_eq!(due(9), [orders[2], orders[0], orders[1]]);
        let payment = waiting_for(&table, orders[1]).expect("reads").expect("it waits");
        assert_eq!((payment.failed_attempts, payment.due), (1, start + second * 9));

        let completed = PaymentEvent::Completed { gateway_reference: "ch".to_owned() };
        PaymentsTable.apply(&table, &event(orders[2], start, &completed)).expect("applied");
        postpone(&table, orders[2], start).expect("nothing to postpone");
        assert_eq!(due(9), [orders[0], orders[1]]);
        assert_eq!(unfinished(&table).expect("reads").len(), 2);
    }
}
