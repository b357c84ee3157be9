//! The feed: a line for every record, as it is read back from the topics.

use std::{
    collections::HashMap,
    convert::Infallible,
    io::{self, Write as _},
    iter,
    time::{Duration, SystemTime},
};

use contracts::{
    money::Money,
    proto::{
        orders::events::v1::{OrderEvent, order_event},
        payments::events::v1::{PaymentEvent, payment_event},
    },
};
use oncelog::{
    kafka::{client::Client, record::Received, tail::Tail},
    runtime::stop::Stop,
};
use prost::Message as _;
use prost_types::Timestamp;

/// How many orders are remembered for their amount and the time of their call.
const REMEMBERED: usize = 10_000;

/// Prints until asked to stop. Orders that were taken before `started` are marked: the broker is new, and hears again.
pub(crate) fn run(client: &Client, started: SystemTime, stop: &Stop) -> Result<(), Infallible> {
    let tail = loop {
        match Tail::open(client, &[order_service::TOPIC, payment_service::TOPIC]) {
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
        // Kafka orders the records of one partition; what came together from several is shown as it happened.
        batch.sort_by_key(|record| {
            let time: Option<Timestamp> = record.header("ce_time").and_then(|time| time.parse().ok());
            time.map(|time| (time.seconds, time.nanos))
        });
        for record in &batch {
            let line = line(record, SystemTime::now(), started, &mut orders);
            let _ = writeln!(io::stdout(), "{line}"); // a closed terminal is no reason to stop
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
    let Some((event, order_id, note)) = told(record, orders) else {
        return format!("{clock}  {place:<20} (not one of ours)");
    };
    let known = orders.get(&order_id);
    let amount = known.map_or("", |known| &known.amount);
    let since = match known.map(|known| known.taken) {
        Some(taken) if taken >= started => {
            format!("{:>5} ms", now.duration_since(taken).unwrap_or_default().as_millis())
        }
        Some(_) => "  again".to_owned(), // it was taken before this start
        None => String::new(),
    };
    format!("{clock}  {place:<20} {event:<28} {order_id}  {amount:<12} {since}  {note}").trim_end().to_owned()
}

/// The event's name, its order, and a word on it.
fn told(record: &Received, orders: &mut HashMap<String, Known>) -> Option<(&'static str, String, String)> {
    let value = record.value.as_deref()?;
    if record.topic == order_service::TOPIC {
        let message = OrderEvent::decode(value).ok()?;
        let (name, note) = match message.event? {
            order_event::Event::OrderCreated(created) => {
                remember(&message.order_id, message.occur_time, created.amount, &created.currency_code, orders);
                ("OrderCreated", String::new())
            }
            order_event::Event::OrderPaid(_) => ("OrderPaid", String::new()),
            order_event::Event::OrderPaymentFailed(failed) => ("OrderPaymentFailed", failed.code),
            order_event::Event::OrderCancellationRequested(_) => ("OrderCancellationRequested", String::new()),
            order_event::Event::OrderCancelled(_) => ("OrderCancelled", String::new()),
            order_event::Event::OrderRefunded(_) => ("OrderRefunded", String::new()),
        };
        Some((name, message.order_id, note))
    } else {
        let message = PaymentEvent::decode(value).ok()?;
        let (name, note) = match message.event? {
            payment_event::Event::PaymentRequested(_) => ("PaymentRequested", String::new()),
            payment_event::Event::PaymentCompleted(_) => ("PaymentCompleted", String::new()),
            payment_event::Event::PaymentFailed(failed) => ("PaymentFailed", failed.code),
            payment_event::Event::PaymentCancellationRequested(_) => ("PaymentCancellationRequested", String::new()),
            payment_event::Event::PaymentVoided(_) => ("PaymentVoided", String::new()),
            payment_event::Event::PaymentRefunded(_) => ("PaymentRefunded", String::new()),
            payment_event::Event::PaymentReviewRequired(review) => ("PaymentReviewRequired", review.code),
        };
        Some((name, message.order_id, note))
    }
}

fn remember(
    order_id: &str,
    taken: Option<Timestamp>,
    amount: i64,
    currency_code: &str,
    orders: &mut HashMap<String, Known>,
) {
    if orders.len() >= REMEMBERED {
        orders.clear();
    }
    let taken = taken.and_then(|time| SystemTime::try_from(time).ok()).unwrap_or(SystemTime::UNIX_EPOCH);
    let amount = Money::new(amount, currency_code).map_or_else(|_| amount.to_string(), |money| money.to_string());
    orders.insert(order_id.to_owned(), Known { amount, taken });
}
