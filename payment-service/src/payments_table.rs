//! The read table of payments: which of them are due, and when.

use std::time::SystemTime;

use oncelog::{
    aggregate::Payload as _,
    edge::page::Place,
    event::{Event, StreamId, from_micros, to_micros},
    store::ReadTable,
};
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use uuid::Uuid;

use crate::payment::PaymentEvent;

/// One row for each payment, with its newest state and when the gateway is to be called next.
pub(crate) struct PaymentsTable;

impl ReadTable for PaymentsTable {
    const VERSION: u32 = 2;
    const TABLES: &'static [&'static str] = &["payments"];
    const SCHEMA: &'static str = "
        CREATE TABLE IF NOT EXISTS payments (
            order_id        BLOB PRIMARY KEY,           -- UUID, 16 bytes
            state           TEXT NOT NULL,              -- as in the API, such as REQUESTED or NEEDS_REVIEW
            create_time     INTEGER NOT NULL,           -- microseconds since 1970
            cancelled       INTEGER NOT NULL DEFAULT 0, -- 1 once the order is being cancelled
            failed_attempts INTEGER NOT NULL DEFAULT 0, -- calls to the gateway without a definite answer
            due_time        INTEGER                     -- microseconds since 1970; NULL while nothing is to be done
        ) STRICT, WITHOUT ROWID;
        CREATE INDEX IF NOT EXISTS payments_due ON payments (due_time) WHERE due_time IS NOT NULL;
        CREATE INDEX IF NOT EXISTS payments_by_time ON payments (create_time, order_id);
        CREATE INDEX IF NOT EXISTS payments_by_state ON payments (state, create_time, order_id);
    ";
    const SET_ASIDE: &'static str = "
        CREATE TEMP TABLE attempts AS
            SELECT order_id, failed_attempts, due_time FROM payments WHERE due_time IS NOT NULL;
    ";
    const PUT_BACK: &'static str = "
        UPDATE payments SET failed_attempts = attempts.failed_attempts, due_time = attempts.due_time
            FROM attempts WHERE attempts.order_id = payments.order_id AND payments.due_time IS NOT NULL;
        DROP TABLE attempts;
    ";

    fn apply(&mut self, table: &Connection, event: &Event) -> rusqlite::Result<()> {
        let order_id = event.stream.0;
        let statement = match PaymentEvent::decode(&event.payload) {
            Ok(PaymentEvent::Requested { .. }) => {
                "INSERT INTO payments (order_id, state, create_time, due_time) VALUES (?1, 'REQUESTED', ?2, ?2)"
            }
            // One that is in review stays there. A refund is due at once, however long the charge was to wait.
            Ok(PaymentEvent::CancellationRequested) => {
                "UPDATE payments SET cancelled = 1, failed_attempts = 0,
                    state = iif(state = 'NEEDS_REVIEW', state, 'CANCELLING'),
                    due_time = iif(state = 'NEEDS_REVIEW', NULL, ?2) WHERE order_id = ?1"
            }
            Ok(PaymentEvent::Completed { .. }) => {
                "UPDATE payments SET failed_attempts = 0, state = iif(cancelled, 'CANCELLING', 'COMPLETED'),
                    due_time = iif(cancelled, ?2, NULL) WHERE order_id = ?1"
            }
            Ok(PaymentEvent::Failed { .. }) => FAILED,
            Ok(PaymentEvent::Voided { .. }) => VOIDED,
            Ok(PaymentEvent::Refunded { .. }) => REFUNDED,
            Ok(PaymentEvent::ReviewRequired(_)) => NEEDS_REVIEW,
            Err(error) => return Err(rusqlite::Error::ToSqlConversionFailure(error.into())),
        };
        let mut statement = table.prepare_cached(statement)?;
        if statement.parameter_count() == 2 {
            statement.execute(params![order_id, to_micros(event.time)])?;
        } else {
            statement.execute([order_id])?;
        }
        Ok(())
    }
}

const FAILED: &str = "UPDATE payments SET state = 'FAILED', due_time = NULL WHERE order_id = ?1";
const VOIDED: &str = "UPDATE payments SET state = 'VOIDED', due_time = NULL WHERE order_id = ?1";
const REFUNDED: &str = "UPDATE payments SET state = 'REFUNDED', due_time = NULL WHERE order_id = ?1";
const NEEDS_REVIEW: &str = "UPDATE payments SET state = 'NEEDS_REVIEW', due_time = NULL WHERE order_id = ?1";

/// A payment that waits for the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub(crate) order: StreamId,
    pub(crate) failed_attempts: u32,
    /// When the gateway is to be called.
    pub(crate) due: SystemTime,
}

/// Up to `limit` payments that wait for the gateway, those that are due first before the others; the first one that is
/// not due yet is the last.
pub(crate) fn waiting(table: &Connection, now: SystemTime, limit: usize) -> rusqlite::Result<Vec<Waiting>> {
    let mut statement = table.prepare_cached(
        "SELECT order_id, failed_attempts, due_time FROM payments
         WHERE due_time IS NOT NULL ORDER BY due_time LIMIT ?1",
    )?;
    let mut rows = statement.query([limit])?;
    let mut waiting = Vec::new();
    while let Some(row) = rows.next()? {
        let due = from_micros(row.get(2)?);
        waiting.push(Waiting { order: StreamId(row.get(0)?), failed_attempts: row.get(1)?, due });
        if due > now {
            break;
        }
    }
    Ok(waiting)
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

/// One page of payments in a state, the newest first, and one more if there are more.
pub(crate) fn page(
    table: &Connection,
    state: Option<&str>,
    after: Option<Place>,
    limit: usize,
) -> rusqlite::Result<Vec<Place>> {
    let wanted = if state.is_some() { "state = ?1" } else { "?1 IS NULL" };
    let sql = format!(
        "SELECT create_time, order_id FROM payments
         WHERE {wanted} AND (create_time, order_id) < (?2, ?3) ORDER BY create_time DESC, order_id DESC LIMIT ?4"
    );
    let (time, id) = after.map_or((i64::MAX, Uuid::max()), |place| (to_micros(place.create_time), place.id.0));
    let place = |row: &Row<'_>| Ok(Place { create_time: from_micros(row.get(0)?), id: StreamId(row.get(1)?) });
    table.prepare_cached(&sql)?.query_map(params![state, time, id, limit], place)?.collect()
}

/// The payments of which more is to be heard without anyone's doing.
pub fn unfinished(table: &Connection) -> rusqlite::Result<Vec<StreamId>> {
    table
        .prepare("SELECT order_id FROM payments WHERE due_time IS NOT NULL")?
        .query_map([], |row| row.get(0).map(StreamId))?
        .collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use contracts::money::Money;
    use oncelog::{
        aggregate::{Envelope, Payload as _},
        event::{EventId, NewEvent, Position, Version, now},
        store::{Append, Commit, Location, Owner, Store},
    };

    use super::*;
    use crate::payment::Review;

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
        let by = |now, limit| -> Vec<_> {
            waiting(&table, now, limit).expect("reads").iter().map(|payment| payment.order).collect()
        };
        let due = |limit| by(start + second * 99, limit);
        assert_eq!(due(9), [orders[1], orders[2], orders[0]]);
        assert_eq!(by(start, 9), [orders[1], orders[2]], "one is due, and then comes the next");
        assert_eq!(due(1), [orders[1]]);

        postpone(&table, orders[1], start + second * 9).expect("postponed");
        assert_eq!(due(9), [orders[2], orders[0], orders[1]]);
        let payment = waiting_for(&table, orders[1]).expect("reads").expect("it waits");
        assert_eq!((payment.failed_attempts, payment.due), (1, start + second * 9));

        let completed = PaymentEvent::Completed { gateway_reference: "ch".to_owned(), settled_by: String::new() };
        PaymentsTable.apply(&table, &event(orders[2], start, &completed)).expect("applied");
        postpone(&table, orders[2], start).expect("nothing to postpone");
        assert_eq!(due(9), [orders[0], orders[1]]);
        assert_eq!(unfinished(&table).expect("reads").len(), 2);
    }

    /// What the log gives is what the events left one by one, and what is no event stays.
    #[test]
    fn a_rebuild_gives_the_same_table_with_its_attempts() {
        let directory = tempfile::tempdir().expect("a directory");
        let location = Location::sqlite(directory.path().join("payments.db"));
        let owner = Owner { service: "payment-service", event_types: crate::payment_event::EVENT_TYPES };
        let store = Store::open(&location, owner, PaymentsTable).expect("opens");
        let settled_by = String::new;
        let requested = || PaymentEvent::Requested {
            money: Money::new(500, "USD").expect("valid"),
            order_time: SystemTime::UNIX_EPOCH,
        };
        let completed = || PaymentEvent::Completed { gateway_reference: "ch".to_owned(), settled_by: settled_by() };
        let review = || PaymentEvent::ReviewRequired(Review::ChargeUnknown);
        let cancelled = || PaymentEvent::CancellationRequested;
        let refunded = || PaymentEvent::Refunded { gateway_reference: "re".to_owned(), settled_by: settled_by() };
        for life in [
            vec![requested()],
            vec![requested(), completed()],
            vec![requested(), cancelled()],
            vec![requested(), completed(), cancelled()],
            vec![requested(), cancelled(), completed()],
            vec![requested(), cancelled(), completed(), refunded()],
            vec![requested(), review()],
            vec![requested(), review(), cancelled()],
            vec![requested(), review(), cancelled(), completed()],
            vec![requested(), cancelled(), PaymentEvent::Voided { settled_by: settled_by() }],
            vec![PaymentEvent::Voided { settled_by: settled_by() }],
        ] {
            let order = StreamId::generate();
            let events = life.iter().zip(1..).map(|(event, version)| {
                let envelope =
                    Envelope { id: EventId::generate(), stream: order, version: Version(version), time: now() };
                NewEvent {
                    id: envelope.id,
                    event_type: event.event_type(),
                    time: envelope.time,
                    causation: None,
                    traceparent: None,
                    payload: event.encode(&envelope),
                }
            });
            let append = Append { stream: order, expected: Version::NONE, events: events.collect() };
            store.commit_blocking(Commit::append(append)).expect("stored");
            let due = now() + Duration::from_secs(17);
            store.commit_blocking(Commit::table(move |table| postpone(table, order, due))).expect("stored");
        }
        let before = store.read_blocking(rows).expect("reads");
        assert_eq!(before.len(), 10);
        assert_eq!(before.iter().filter(|row| row.contains("failed_attempts: 1")).count(), 5);
        drop(store);
        Store::rebuild(&location, owner, PaymentsTable).expect("rebuilt");
        let store = Store::open(&location, owner, PaymentsTable).expect("opens");
        assert_eq!(store.read_blocking(rows).expect("reads"), before);
    }

    fn rows(table: &Connection) -> rusqlite::Result<Vec<String>> {
        let sql = "SELECT order_id, state, create_time, cancelled, failed_attempts, due_time FROM payments ORDER BY 1";
        table
            .prepare(sql)?
            .query_map([], |row| {
                let order = StreamId(row.get(0)?);
                let (state, time): (String, i64) = (row.get(1)?, row.get(2)?);
                let (cancelled, failed_attempts, due): (bool, u32, Option<i64>) =
                    (row.get(3)?, row.get(4)?, row.get(5)?);
                Ok(format!("{order} {state} {time} {cancelled} failed_attempts: {failed_attempts} {due:?}"))
            })?
            .collect()
    }
}
