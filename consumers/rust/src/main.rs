//! Prints what happens to orders and payments, one line per event. Usage: feed BROKERS [--until-end]

use std::{collections::HashSet, env, error::Error, pin::pin, time::Duration};

use orders::events::v1::{OrderEvent, order_event::Event as Order};
use payments::events::v1::{PaymentEvent, payment_event::Event as Payment};
use prost::Message as _;
use rdkafka::consumer::{Consumer as _, StreamConsumer};
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList, error::KafkaError};

include!(concat!(env!("OUT_DIR"), "/events.rs")); // from proto/, by build.rs

const TOPICS: [&str; 2] = ["order-events", "payment-events"];

fn show(record: &BorrowedMessage<'_>, seen: &mut HashSet<Vec<u8>>) -> Result<(), Box<dyn Error>> {
    let header =
        |name| record.headers()?.iter().find(|header| header.key == name)?.value.filter(|value| !value.is_empty());
    let (Some(id), Some(sequence), Some(value)) = (header("ce_id"), header("ce_sequence"), record.payload()) else {
        return Err("no ce_id, no ce_sequence or no value".into());
    };
    // Plain protobuf, without a schema registry's framing. A oneof that is unset is an event newer than this reader.
    let (order_id, version, name, amount) = if record.topic() == TOPICS[0] {
        let event = OrderEvent::decode(value)?;
        let (name, amount) = match event.event {
            Some(Order::OrderCreated(created)) => ("order_created", Some(created.amount)),
            Some(Order::OrderPaid(_)) => ("order_paid", None),
            Some(Order::OrderPaymentFailed(_)) => ("order_payment_failed", None),
            None => ("newer", None),
        };
        (event.order_id, event.version, name, amount)
    } else {
        let event = PaymentEvent::decode(value)?;
        let (name, amount) = match event.event {
            Some(Payment::PaymentRequested(requested)) => ("payment_requested", Some(requested.amount)),
            Some(Payment::PaymentCompleted(_)) => ("payment_completed", None),
            Some(Payment::PaymentFailed(_)) => ("payment_failed", None),
            None => ("newer", None),
        };
        (event.order_id, event.version, name, amount)
    };
    // Kafka has each event once; a reader that crashed or lost a partition reads some again.
    if seen.insert(id.to_owned()) {
        let amount = amount.map_or("-".to_owned(), |amount| amount.to_string());
        println!("{} {} {order_id} {version} {name} {amount}", record.topic(), str::from_utf8(sequence)?);
    }
    Ok(())
}

/// Reads to the end of the partitions, or for ever, or to Ctrl-C.
async fn read(
    consumer: &StreamConsumer,
    seen: &mut HashSet<Vec<u8>>,
    mut unread: Option<HashSet<i32>>,
) -> Result<(), Box<dyn Error>> {
    let mut stop = pin!(tokio::signal::ctrl_c());
    while unread.as_ref().is_none_or(|unread| !unread.is_empty()) {
        let read = tokio::select! {
            read = consumer.recv() => read,
            _ = &mut stop => break,
        };
        match (read, &mut unread) {
            (Ok(record), unread) => {
                if let Err(error) = show(&record, seen) {
                    eprintln!("skipped {}/{}@{}: {error}", record.topic(), record.partition(), record.offset());
                }
                if unread.is_none() {
                    consumer.store_offset_from_message(&record)?; // only now is it up for commit: every 5 s, and at the end
                }
            }
            // An event of its own, for the last offset tells nothing: where a transaction ends, a marker takes one up.
            (Err(KafkaError::PartitionEOF(partition)), Some(unread)) => _ = unread.remove(&partition),
            (Err(error), _) => eprintln!("{error}"),
        }
    }
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let brokers = env::args().nth(1).ok_or("usage: feed BROKERS [--until-end]")?;
    let until_end = env::args().nth(2).as_deref() == Some("--until-end");
    let consumer: StreamConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "example-rust")
        .set("isolation.level", "read_committed") // what was aborted never happened
        .set("auto.offset.reset", "earliest")
        .set("enable.auto.commit", (!until_end).to_string())
        .set("enable.auto.offset.store", "false") // the default lets an offset be committed before its record was looked at
        .set("enable.partition.eof", until_end.to_string())
        .create()?;
    let mut seen = HashSet::new(); // grows for ever, ends with the process: who has effects keeps what was seen with them
    if !until_end {
        consumer.subscribe(&TOPICS)?;
        return read(&consumer, &mut seen, None).await;
    }
    // One after the other: an end that librdkafka reports has no topic in rdkafka, only the partition's number.
    for topic in TOPICS {
        let metadata = consumer.fetch_metadata(Some(topic), Duration::from_secs(10))?;
        let (mut partitions, mut assignment) = (HashSet::new(), TopicPartitionList::new());
        for partition in metadata.topics()[0].partitions() {
            partitions.insert(partition.id());
            assignment.add_partition_offset(topic, partition.id(), Offset::Beginning)?;
        }
        if partitions.is_empty() {
            return Err(format!("{topic} is not there").into());
        }
        consumer.assign(&assignment)?;
        read(&consumer, &mut seen, Some(partitions)).await?;
    }
    Ok(())
}
