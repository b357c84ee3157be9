//! Prints the events of orders and payments, one per line, until Ctrl-C. Usage: feed BROKERS [GROUP]

use std::{collections::HashSet, env, error::Error, pin::pin};

use orders::events::v1::{OrderEvent, order_event::Event::OrderCreated};
use payments::events::v1::{PaymentEvent, payment_event::Event::PaymentRequested};
use prost::Message as _;
use rdkafka::consumer::{Consumer as _, StreamConsumer};
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};

include!(concat!(env!("OUT_DIR"), "/events.rs")); // generated from proto/ by build.rs

fn show(record: &BorrowedMessage<'_>, seen: &mut HashSet<Vec<u8>>) -> Result<(), Box<dyn Error>> {
    let header = |name| record.headers()?.iter().filter(|h| h.key == name).last()?.value.filter(|v| !v.is_empty());
    let (Some(id), Some(sequence), Some(value)) = (header("ce_id"), header("ce_sequence"), record.payload()) else {
        return Err("no ce_id, no ce_sequence or no value".into());
    };
    // Plain protobuf, without a schema registry's framing. An unset oneof is an event newer than this reader.
    let (order_id, version, name, amount) = if record.topic() == "order-events" {
        let OrderEvent { order_id, version, event, .. } = OrderEvent::decode(value)?;
        let amount = if let Some(OrderCreated(created)) = &event { Some(created.amount) } else { None };
        (order_id, version, event.map(<&str>::from), amount)
    } else {
        let PaymentEvent { order_id, version, event, .. } = PaymentEvent::decode(value)?;
        let amount = if let Some(PaymentRequested(requested)) = &event { Some(requested.amount) } else { None };
        (order_id, version, event.map(<&str>::from), amount)
    };
    // Kafka holds each event once, but a reader that crashed or lost a partition rereads some.
    if seen.insert(id.to_owned()) {
        let (name, amount) = (name.unwrap_or("newer"), amount.map_or("-".to_owned(), |amount| amount.to_string()));
        println!("{} {} {order_id} {version} {name} {amount}", record.topic(), str::from_utf8(sequence)?);
    }
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let consumer: StreamConsumer = rdkafka::ClientConfig::new()
        .set("bootstrap.servers", env::args().nth(1).ok_or("usage: feed BROKERS [GROUP]")?)
        .set("group.id", env::args().nth(2).unwrap_or("example-rust".to_owned()))
        .set("isolation.level", "read_committed") // leaves out aborted records
        .set("auto.offset.reset", "earliest")
        .set("enable.auto.offset.store", "false") // by default it may be committed before its record is processed
        .create()?;
    consumer.subscribe(&["order-events", "payment-events"])?;
    // `seen` is unbounded and lost at exit: a reader with side effects persists it together with them.
    let (mut seen, mut stop) = (HashSet::new(), pin!(tokio::signal::ctrl_c()));
    loop {
        let read = tokio::select! { read = consumer.recv() => read, _ = &mut stop => return Ok(()) };
        match read {
            Ok(record) => {
                if let Err(error) = show(&record, &mut seen) {
                    eprintln!("skipped {}/{}@{}: {error}", record.topic(), record.partition(), record.offset());
                }
                consumer.store_offset_from_message(&record)?; // marks it for the commit: every 5 s, and at the end
            }
            Err(error) => eprintln!("{error}"),
        }
    }
}
