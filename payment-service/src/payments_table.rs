//! The read table of payments, for lists and for the payments that are due.

use std::time::SystemTime;

use oncelog::{
    aggregate::{Loaded, ReadTable},
    edge::Page,
    event::StreamId,
    store::{Column, Query, ReadError, Row, RowUpdate, Store, StoredRow, Table},
};

use crate::payment::{Payment, State};

/// The state, as the API names it, such as `REQUESTED` or `NEEDS_REVIEW`.
const STATE: Column = Column::text("state");
/// The time at which the payment was requested.
const CREATE_TIME: Column = Column::time("create_time");
/// The number of calls to the gateway without an answer, while one is due.
const FAILED_ATTEMPTS: Column = Column::integer("failed_attempts").optional().kept();
/// The time of the next call to the gateway, while one is due.
const DUE_TIME: Column = Column::time("due_time").optional().kept();

/// One row for each payment.
#[derive(Debug)]
pub struct PaymentsTable;

impl ReadTable for PaymentsTable {
    type Domain = Payment;

    const TABLE: Option<&'static Table> = Some(&Table {
        name: "payments",
        version: 3,
        key: "order_id",
        columns: &[STATE, CREATE_TIME, FAILED_ATTEMPTS, DUE_TIME],
        indexes: &[&[DUE_TIME], &[CREATE_TIME], &[STATE, CREATE_TIME]],
    });

    /// A payment is due at the time of its newest event. So a refund is due at once, even if the charge was postponed.
    fn row(payment: &Loaded<Payment>) -> Option<Row> {
        let Payment::Known { state, .. } = &payment.state else { return None };
        let due = matches!(state, State::Requested | State::Cancelling { .. }).then_some(payment.update_time);
        Some(Row::new([name(state).into(), payment.create_time.into(), due.map(|_| 0_i64).into(), due.into()]))
    }
}

fn name(state: &State) -> &'static str {
    match state {
        State::Requested => "REQUESTED",
        State::Completed { .. } => "COMPLETED",
        State::Failed(_) => "FAILED",
        State::Cancelling { .. } => "CANCELLING",
        State::Voided => "VOIDED",
        State::Refunded { .. } => "REFUNDED",
        State::NeedsReview { .. } => "NEEDS_REVIEW",
    }
}

/// A payment that waits for the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub(crate) order: StreamId,
    pub(crate) failed_attempts: u32,
    /// The time of the next call.
    pub(crate) due: SystemTime,
}

impl Waiting {
    /// Returns the payment of a row, if it waits for the gateway.
    pub(crate) fn of(row: &StoredRow) -> Option<Self> {
        let due = row.time(DUE_TIME)?;
        let failed_attempts = row.integer(FAILED_ATTEMPTS).and_then(|count| count.try_into().ok()).unwrap_or(0);
        Some(Self { order: row.stream, failed_attempts, due })
    }

    /// Counts a failed attempt and sets the time of the next one, unless the payment is final by then.
    pub(crate) fn postponed(self, due: SystemTime) -> RowUpdate {
        RowUpdate::new(self.order)
            .set(FAILED_ATTEMPTS, self.failed_attempts.saturating_add(1))
            .set(DUE_TIME, due)
            .only_where_set(DUE_TIME)
    }
}

/// Selects up to `limit` payments that wait for the gateway, in the order of their due time. The last one is the first
/// that is not due yet.
pub(crate) fn waiting(now: SystemTime, limit: usize) -> Query {
    Query::all().oldest_first(DUE_TIME).through(now).limit(limit)
}

/// Selects up to `limit` payments that wait for the gateway, and are due at a time or later.
pub(crate) fn waiting_from(time: SystemTime, limit: usize) -> Query {
    Query::all().from(DUE_TIME, time).limit(limit)
}

/// Selects a page of payments, from the newest to the oldest.
pub(crate) fn page(state: Option<&'static str>, page: &Page) -> Query {
    let query = page.query(CREATE_TIME);
    match state {
        Some(state) => query.equal(STATE, state),
        None => query,
    }
}

/// Returns the payments that wait for the gateway.
pub fn unfinished(store: &Store) -> Result<Vec<StreamId>, ReadError> {
    let rows = store.rows_blocking(&Query::all().is_set(DUE_TIME))?;
    Ok(rows.into_iter().map(|row| row.stream).collect())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use contracts::{
        money::Money,
        payments::{PaymentEvent, Review},
    };
    use oncelog::{
        aggregate::{Envelope, Payload as _},
        event::{Event, EventId, NewEvent, Position, Version, now},
        store::{Append, Commit, Location, StoreIdentity},
    };

    use super::*;

    const IDENTITY: StoreIdentity =
        StoreIdentity { service: "payment-service", event_types: contracts::payments::TOPIC.event_types };

    fn open(location: &Location) -> Store {
        Store::open(location, IDENTITY, PaymentsTable::source()).expect("opens")
    }

    /// Appends an event to a payment.
    fn append(store: &Store, order: StreamId, time: SystemTime, event: &PaymentEvent) {
        let mut events = store.read_stream_blocking(order).expect("reads");
        let expected = Version(events.len() as u64);
        let envelope = Envelope { id: EventId::generate(), stream: order, version: expected.plus(1), time };
        let new = NewEvent {
            id: envelope.id,
            event_type: event.event_type(),
            time,
            causation: None,
            trace: None,
            payload: event.encode(&envelope),
        };
        events.push(Event::stored(new.clone(), Position(1), order, envelope.version));
        let row = PaymentsTable::row(&Loaded::fold(&events).expect("folds"));
        let append = Append { stream: order, expected, events: vec![new], row };
        store.commit_blocking(Commit::append(append)).expect("stored");
    }

    fn requested() -> PaymentEvent {
        PaymentEvent::Requested { money: Money::new(500, "USD").expect("valid"), order_time: SystemTime::UNIX_EPOCH }
    }

    fn postpone(store: &Store, order: StreamId, due: SystemTime) {
        let row = store.rows_blocking(&Query::all()).expect("reads").into_iter().find(|row| row.stream == order);
        let waiting = row.as_ref().and_then(Waiting::of).unwrap_or(Waiting { order, failed_attempts: 0, due });
        store.commit_blocking(Commit::update(waiting.postponed(due))).expect("stored");
    }

    #[test]
    fn what_is_due_first_comes_first_until_it_is_final() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = open(&Location::sqlite(directory.path().join("payments.db")));
        let (start, second) = (now(), Duration::from_secs(1));
        let orders = [0, 1, 2].map(|_| StreamId::generate());
        for (order, after) in orders.iter().zip([2, 0, 1]) {
            append(&store, *order, start + second * after, &requested());
        }

        let by = |now, limit| -> Vec<_> {
            let rows = store.rows_blocking(&waiting(now, limit)).expect("reads");
            rows.iter().map(|row| row.stream).collect()
        };
        let due = |limit| by(start + second * 99, limit);
        assert_eq!(due(9), [orders[1], orders[2], orders[0]]);
        assert_eq!(by(start, 9), [orders[1], orders[2]], "one is due, and the next one follows");
        assert_eq!(due(1), [orders[1]]);
        let later = store.rows_blocking(&waiting_from(start + second * 2, 9)).expect("reads");
        assert_eq!(later.iter().map(|row| row.stream).collect::<Vec<_>>(), [orders[0]]);

        postpone(&store, orders[1], start + second * 9);
        assert_eq!(due(9), [orders[2], orders[0], orders[1]]);
        let rows = store.rows_blocking(&waiting(start + second * 99, 9)).expect("reads");
        let last = Waiting::of(&rows[2]).expect("it is due");
        assert_eq!((last.failed_attempts, last.due), (1, start + second * 9));

        let completed = PaymentEvent::Completed { gateway_reference: "ch".to_owned(), settled_by: String::new() };
        append(&store, orders[2], start, &completed);
        postpone(&store, orders[2], start);
        assert_eq!(due(9), [orders[0], orders[1]], "a final payment is not postponed");
        assert_eq!(unfinished(&store).expect("reads").len(), 2);
    }

    /// A rebuild from the log gives the same rows as the single appends, and keeps the attempts.
    #[test]
    fn a_rebuild_gives_the_same_table_with_its_attempts() {
        let directory = tempfile::tempdir().expect("a directory");
        let location = Location::sqlite(directory.path().join("payments.db"));
        let store = open(&location);
        let settled_by = String::new;
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
            life.iter().for_each(|event| append(&store, order, now(), event));
            postpone(&store, order, now() + Duration::from_secs(17));
        }

        let before = store.rows_blocking(&Query::all()).expect("reads");
        assert_eq!(before.len(), 10);
        let attempted = before.iter().filter(|row| row.integer(FAILED_ATTEMPTS) == Some(1));
        assert_eq!(attempted.count(), 5);
        drop(store);
        Store::rebuild(&location, IDENTITY, PaymentsTable::source()).expect("rebuilt");

        assert_eq!(open(&location).rows_blocking(&Query::all()).expect("reads"), before);
    }
}
