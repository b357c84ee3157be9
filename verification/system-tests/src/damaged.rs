//! Flips one bit in a batch of a followed topic. Only its partition may wait, and its place must be named. The batch is
//! skipped by an operator's decision, and replayed once the log is repaired. A record that is too large for the topic of
//! dead letters must not stop its partition either.

use std::time::Duration;

use anyhow::ensure;
use rdkafka::{
    ClientConfig,
    producer::{BaseProducer, BaseRecord, Producer as _},
};

use crate::{
    Ground, Table,
    bare_orders::{BareOrder, BareOrders},
    checks,
    kafka::Kafka,
    services::{Kind, Service},
};

const TOPIC: &str = "order-events";

/// The first offset of the damaged batch, as the service names it.
const BATCH: &str = "order-events/1@10";

pub(crate) fn run(ground: &Ground) -> anyhow::Result<Table> {
    let Ground { jars, programs, reader, .. } = ground;
    let directory = tempfile::tempdir()?;
    let mut kafka = Kafka::start(jars, directory.path())?;
    let brokers = kafka.address();
    kafka.create_topic(TOPIC)?;
    kafka.add_partitions(TOPIC, 3)?;
    let mut producer = BareOrders::new(&brokers);
    let mut orders = Vec::new();
    for partition in 0..3 {
        orders.push(producer.publish(partition, 30)?);
    }
    flip_a_bit(&mut kafka)?;

    let mut service = Service::start(programs, directory.path(), &brokers, Kind::Payments, &[])?;
    let charged = |orders: &[&[BareOrder]]| {
        let ids: Vec<_> = orders.iter().copied().flatten().map(|order| order.order.clone()).collect();
        reader.wait_for(&brokers, "payment-events", &ids)
    };
    let records = charged(&[&orders[0], &orders[1][..10], &orders[2]])?;
    let waiting: Vec<_> = orders[1][10..].iter().map(|order| &order.order).collect();
    ensure!(!records.iter().any(|record| waiting.contains(&&record.order_id)), "a record after the batch was handled");
    service.wait_for_line(&["damaged", BATCH])?;
    println!("    a damaged batch: named by its place; what is before it and in other partitions is handled");

    orders.push(producer.publish(2, 10)?);
    charged(&[&orders[3]])?;
    service.restart()?;
    let mut skip = vec!["dead-letters", "skip", "--kafka-brokers", &brokers, "order-events/2@10"];
    let (code, said) = service.subcommand(&skip)?;
    ensure!(code == Some(0), "{code:?}: {said}");
    service.wait_for_line(&["no damaged batch to be skipped", "order-events/2@10"])?;
    skip[4] = BATCH;
    let (code, said) = service.subcommand(&skip)?;
    ensure!(code == Some(0), "{code:?}: {said}");
    charged(&[&orders[1][20..]])?;
    let (code, said) = service.subcommand(&["dead-letters", "list", "--kafka-brokers", &brokers])?;
    let listed = said.lines().filter(|line| line.contains("offsets 10 to 19 was damaged, and skipped")).count();
    ensure!(code == Some(0) && listed == 10, "{code:?}: {said}");
    service.stop()?;
    let decided: String = rusqlite::Connection::open(service.file("payments.db"))?.query_row(
        "SELECT value FROM facts WHERE key = ?1",
        [format!("skipped {BATCH}")],
        |row| row.get(0),
    )?;
    ensure!(decided.starts_with("to offset 20 at "), "{decided}");
    println!("    skipped by a decision, which the store keeps: only its ten records are dead letters");

    flip_a_bit(&mut kafka)?;
    service.start_again()?;
    let (code, said) = service.subcommand(&["dead-letters", "replay", "--all", "--kafka-brokers", &brokers])?;
    ensure!(code == Some(0) && said.contains("10 replayed"), "{code:?}: {said}");
    charged(&[&orders[1]])?;
    println!("    replayed after the log was repaired");

    publish_large(&brokers)?;
    orders.push(producer.publish(0, 10)?);
    let all: Vec<&[BareOrder]> = orders.iter().map(Vec::as_slice).collect();
    let records = charged(&all)?;
    let (code, said) = service.subcommand(&["dead-letters", "list", "--kafka-brokers", &brokers])?;
    ensure!(code == Some(0) && said.lines().count() == 1 && said.contains("order-events/0@30 "), "{code:?}: {said}");
    println!("    a record that its producer compressed, too large for the dead letters: listed, and blocks nothing");
    Ok(vec![("damaged batch", (records.len(), checks::each_once_in_order(&records)))])
}

/// Publishes a record that is small only as long as it is compressed. It cannot be read as an event.
fn publish_large(brokers: &str) -> anyhow::Result<()> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("compression.type", "gzip").set("message.max.bytes", "10000000");
    let producer: BaseProducer = config.create()?;
    let value = vec![0; 5_000_000];
    let record = BaseRecord::<str, [u8]>::to(TOPIC).partition(0).payload(&value);
    producer.send(record).map_err(|(error, _)| error)?;
    Ok(producer.flush(Duration::from_secs(10))?)
}

/// Flips a bit in the second batch of a partition. Flipped again, it is as before.
fn flip_a_bit(kafka: &mut Kafka) -> anyhow::Result<()> {
    kafka.stop()?;
    kafka.files_of(TOPIC, 1).flip_bit(10)?;
    kafka.start_again()
}
