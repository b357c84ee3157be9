//! The feed: prints a line for every record that it consumes from the topics.

use std::{
    collections::HashMap,
    convert::Infallible,
    io::{self, Write as _},
    iter,
    time::{Duration, SystemTime},
};

use contracts::{money::Money, orders::OrderEvent, payments::PaymentEvent};
use oncelog::{
    embedded::{Client, Received, Tail},
    runtime::Stop,
};
use prost_types::Timestamp;

/// The maximum number of orders whose amount and time are kept in memory.
const REMEMBERED: usize = 10_000;

/// Prints records until it has to stop. Orders that were taken before `started` are marked: the broker is new, so their
/// events are published again.
pub(crate) fn run(client: &Client, started: SystemTime, stop: &Stop) -> Result<(), Infallible> {
    let tail = loop {
        match Tail::open(client, &[contracts::orders::TOPIC.name, contracts::payments::TOPIC.name]) {
            Ok(tail) => break tail,
            Err(error) => tracing::debug!(error = %error, "the feed waits for the broker"),
        }
        stop.sleep(Duration::from_millis(100));
        if stop.is_requested() {
            return Ok(());
        }
    };
    let mut orders = HashMap::new();
    while !stop.is_requested() {
        let first = tail.next(Duration::from_millis(100));
        let mut batch: Vec<_> = first.into_iter().chain(iter::from_fn(|| tail.next(Duration::ZERO))).collect();
        // Kafka orders the records of one partition only. Records of several partitions are sorted by time.
        batch.sort_by_key(|record| {
            let time: Option<Timestamp> = record.header("ce_time").and_then(|time| time.parse().ok());
            time.map(|time| (time.seconds, time.nanos))
        });
        for record in &batch {
            let line = line(record, SystemTime::now(), started, &mut orders);
            let _ = writeln!(io::stdout(), "{line}"); // a closed terminal does not end the feed
        }
    }
    Ok(())
}

struct Known {
    amount: String,
    taken: SystemTime,
}

fn line(record: &Received, now: SystemTime, started: SystemTime, orders: &mut HashMap<String, Known>) -> String {
    let clock = Timestamp::from(now).to_string();
    let clock = clock.get(11..23).unwrap_or(&clock);
    let place = record.place().to_string();
    let Some((event, order_id, note)) = describe(record, orders) else {
        return format!("{clock}  {place:<20} (not an event of these services)");
    };
    let known = orders.get(&order_id);
    let amount = known.map_or("", |known| &known.amount);
    let since = match known.map(|known| known.taken) {
        Some(taken) if taken >= started => {
            format!("{:>5} ms", now.duration_since(taken).unwrap_or_default().as_millis())
        }
        Some(_) => "  again".to_owned(), // taken before this start, and published again
        None => String::new(),
    };
    format!("{clock}  {place:<20} {event:<28} {order_id}  {amount:<12} {since}  {note}").trim_end().to_owned()
}

/// Returns the name of the event, the id of its order, and a note.
fn describe(record: &Received, orders: &mut HashMap<String, Known>) -> Option<(String, String, String)> {
    let incoming = record.open().ok()?;
    let order_id = incoming.stream.to_string();
    let note = if record.topic == contracts::orders::TOPIC.name {
        let decoded = incoming.event::<OrderEvent>().ok()??;
        match decoded.event {
            OrderEvent::Created(details) => {
                let taken = decoded.envelope.and_then(|envelope| envelope.time);
                remember(&order_id, taken, details.money, orders);
                String::new()
            }
            OrderEvent::PaymentFailed(failure) => failure.code,
            OrderEvent::Paid { .. }
            | OrderEvent::CancellationRequested
            | OrderEvent::Cancelled
            | OrderEvent::Refunded { .. } => String::new(),
        }
    } else {
        match incoming.event::<PaymentEvent>().ok()??.event {
            PaymentEvent::Failed { decline, .. } => decline.code,
            PaymentEvent::ReviewRequired(review) => review.code().to_owned(),
            PaymentEvent::Requested { .. }
            | PaymentEvent::Completed { .. }
            | PaymentEvent::CancellationRequested
            | PaymentEvent::Voided { .. }
            | PaymentEvent::Refunded { .. } => String::new(),
        }
    };
    let name = incoming.event_type.rsplit('.').next().unwrap_or_default();
    Some((name.to_owned(), order_id, note))
}

fn remember(order_id: &str, taken: Option<SystemTime>, money: Money, orders: &mut HashMap<String, Known>) {
    if orders.len() >= REMEMBERED {
        orders.clear();
    }
    let taken = taken.unwrap_or(SystemTime::UNIX_EPOCH);
    orders.insert(order_id.to_owned(), Known { amount: money.to_string(), taken });
}
