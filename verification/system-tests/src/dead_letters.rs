//! Dead-letters records that cannot be processed yet, and replays them later. Each must be replayed once, although the
//! replay and the service are killed.

use std::{
    collections::HashSet,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use contracts::proto::payments::events::v1::{PaymentCompleted, PaymentEvent, payment_event};
use prost::Message as _;
use rdkafka::{
    ClientConfig,
    message::{Header, OwnedHeaders},
    producer::{BaseProducer, BaseRecord, Producer as _},
};
use serde_json::Value;
use uuid::Uuid;

use crate::{
    Ground, Table,
    kafka::Kafka,
    services::{Kind, Service},
};

/// The number of orders whose payments arrive before the orders are placed.
const EARLY: usize = 300;

/// The number of payments whose orders are never placed.
const UNKNOWN: usize = 50;

/// The number of replays that are killed before one may finish.
const KILLS: u64 = 8;

/// The UUID namespace in which order-service derives order ids from request ids.
const REQUEST_IDS: Uuid = Uuid::from_u128(0x8f0c_2f0e_51f6_4b6a_9d0d_6a4c_5e1b_77a3);

const RETRIES: &str = "order-service.retries";

pub(crate) fn run(ground: &Ground) -> anyhow::Result<Table> {
    let Ground { jars, programs, reader, .. } = ground;
    let directory = tempfile::tempdir()?;
    let kafka = Kafka::start(jars, directory.path())?;
    let brokers = kafka.address();
    kafka.create_topic("payment-events")?;
    let mut service = Service::start(programs, directory.path(), &brokers, Kind::Orders, &[])?;
    let early = (0..EARLY).map(|number| order_of(&format!("early-{number}")));
    let unknown = (0..UNKNOWN).map(|number| order_of(&format!("never-{number}")));
    let orders: Vec<_> = early.chain(unknown).collect();
    publish(&brokers, &orders)?;
    wait_for_letters(&service, &brokers, EARLY + UNKNOWN, 1)?;
    println!("    {} payments of unknown orders: dead-lettered and listed", EARLY + UNKNOWN);

    let (code, said) = service.subcommand(&replay(&brokers, &["payment-events/0@999999"]))?;
    ensure!(code == Some(69) && said.contains("nothing was replayed"), "{code:?}: {said}");
    let mut expected = service.place("early", EARLY)?;
    for kill in 0..KILLS {
        kill_after(service.command_of(&replay(&brokers, &["--all"])), Duration::from_millis(60 * kill))?;
        if kill == KILLS / 2 {
            service.kill_and_start()?;
        }
    }
    let (code, said) = service.subcommand(&replay(&brokers, &["--all"]))?;
    ensure!(code == Some(0), "{code:?}: {said}");
    let settled = reader.wait_until(&brokers, "order-events", |records| records.len() >= 2 * EARLY)?;
    wait_for_letters(&service, &brokers, UNKNOWN, 2)?;
    println!("    replayed, with {KILLS} kills of the replay and one of the service; what fails again is listed again");

    let retried = reader.read(&brokers, RETRIES)?;
    let mut findings = Vec::new();
    let distinct: HashSet<_> = retried.iter().map(|record| &record.id).collect();
    if retried.len() != EARLY + UNKNOWN || distinct.len() != retried.len() {
        findings.push(format!("{} records of {} dead letters were replayed", retried.len(), distinct.len()));
    }
    expected.sort_unstable();
    let mut paid: Vec<_> = settled.iter().filter(|record| record.event.as_deref() == Some("order_paid")).collect();
    paid.sort_unstable_by_key(|record| &record.order_id);
    if !paid.iter().map(|record| &record.order_id).eq(&expected) {
        findings.push(format!("{} orders were paid, of {}", paid.len(), expected.len()));
    }

    // A single dead letter is replayed by its id.
    let letters = letters(&service, &brokers)?;
    let id = letters[0]["id"].as_str().context("a dead letter without an id")?;
    let (code, said) = service.subcommand(&replay(&brokers, &[id]))?;
    ensure!(code == Some(0) && said.contains("1 replayed"), "{code:?}: {said}");
    wait_for_count(&service, &brokers, UNKNOWN)?;

    // Tombstones and garbage in both topics. Those among the replays are listed, and none blocks the command.
    for topic in ["order-service.dead-letters", RETRIES] {
        write_garbage(&brokers, topic)?;
    }
    wait_for_count(&service, &brokers, UNKNOWN + 3)?;
    let (code, said) = service.subcommand(&replay(&brokers, &["--all"]))?;
    ensure!(code == Some(0) && said.contains("53 replayed"), "{code:?}: {said}");
    wait_for_count(&service, &brokers, UNKNOWN + 3)?;
    println!("    tombstones and garbage in the topics of dead letters and of replays: nothing is blocked");
    Ok(vec![("dead letters", (retried.len() + paid.len(), findings))])
}

fn order_of(request_id: &str) -> String {
    Uuid::new_v5(&REQUEST_IDS, request_id.as_bytes()).to_string()
}

fn replay<'a>(brokers: &'a str, which: &[&'a str]) -> Vec<&'a str> {
    [&["dead-letters", "replay", "--kafka-brokers", brokers], which].concat()
}

fn letters(service: &Service, brokers: &str) -> anyhow::Result<Vec<Value>> {
    let (code, said) = service.subcommand(&["dead-letters", "list", "--json", "--kafka-brokers", brokers])?;
    ensure!(code == Some(0), "{code:?}: {said}");
    said.lines().filter(|line| line.starts_with('{')).map(|line| Ok(serde_json::from_str(line)?)).collect()
}

/// Waits until `count` dead letters are listed, each with this number of failures.
#[expect(clippy::disallowed_methods, reason = "a short pause between two polls")]
fn wait_for_letters(service: &Service, brokers: &str, count: usize, failures: u64) -> anyhow::Result<()> {
    for _ in 0..100 {
        let listed = letters(service, brokers)?;
        if listed.len() == count && listed.iter().all(|letter| letter["failures"] == failures) {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(100));
    }
    let listed = letters(service, brokers)?;
    anyhow::bail!("{} are listed instead of {count} with {failures} failures: {:?}", listed.len(), listed.first())
}

/// Waits until `count` dead letters are listed.
#[expect(clippy::disallowed_methods, reason = "a short pause between two polls")]
fn wait_for_count(service: &Service, brokers: &str, count: usize) -> anyhow::Result<()> {
    for _ in 0..100 {
        if letters(service, brokers)?.len() == count {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(100));
    }
    anyhow::bail!("{} are listed instead of {count}", letters(service, brokers)?.len())
}

/// Writes a tombstone, a record without headers, and one with half of the headers of a dead letter.
fn write_garbage(brokers: &str, topic: &str) -> anyhow::Result<()> {
    let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", brokers).create()?;
    let headers = OwnedHeaders::new().insert(Header { key: "dead_letter_topic", value: Some("payment-events") });
    let bare = || BaseRecord::<str, str>::to(topic).key("garbage");
    for record in [bare(), bare().payload("garbage"), bare().headers(headers)] {
        producer.send(record).map_err(|(error, _)| error)?;
    }
    Ok(producer.flush(Duration::from_secs(10))?)
}

#[expect(clippy::disallowed_methods, reason = "the time of the kill varies")]
fn kill_after(mut command: Command, time: Duration) -> anyhow::Result<()> {
    let mut process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    thread::sleep(time);
    process.kill()?;
    process.wait()?;
    Ok(())
}

/// Publishes a PaymentCompleted event for each order, as payment-service would.
pub(crate) fn publish(brokers: &str, orders: &[String]) -> anyhow::Result<()> {
    let producer: BaseProducer =
        ClientConfig::new().set("bootstrap.servers", brokers).set("partitioner", "murmur2_random").create()?;
    for order in orders {
        let id = Uuid::now_v7().to_string();
        let completed = PaymentCompleted { gateway_reference: format!("ch_{order}"), ..Default::default() };
        let event = PaymentEvent {
            event_id: id.clone(),
            order_id: order.clone(),
            version: 2,
            occur_time: Some(Default::default()),
            event: Some(payment_event::Event::PaymentCompleted(completed)),
        };
        let headers = [
            ("ce_specversion", "1.0"),
            ("ce_id", &id),
            ("ce_type", "payments.events.v1.PaymentCompleted"),
            ("ce_source", "/payment-service/test"),
            ("ce_subject", order),
            ("ce_time", "2026-01-31T12:00:00Z"),
            ("ce_sequence", "00000000000000000001"),
            ("content-type", "application/protobuf"),
        ];
        let headers = headers
            .iter()
            .fold(OwnedHeaders::new(), |headers, (key, value)| headers.insert(Header { key, value: Some(*value) }));
        let payload = event.encode_to_vec();
        let record = BaseRecord::to("payment-events").key(order.as_str()).payload(&payload).headers(headers);
        producer.send(record).map_err(|(error, _)| error)?;
    }
    producer.flush(Duration::from_secs(10))?;
    Ok(())
}
