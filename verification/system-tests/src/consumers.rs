//! Runs the five readers under `consumers/` on topics that also hold aborted, invalid and repeated records. All must
//! print the same events.

use std::{path::Path, process::Command, time::Duration};

use anyhow::Context as _;
use contracts::proto::orders::events::v1::{OrderCreated, OrderEvent, order_event};
use prost::Message as _;
use rdkafka::{
    ClientConfig,
    message::{Header, OwnedHeaders},
    producer::{BaseProducer, BaseRecord, Producer as _},
};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{Ground, Table, kafka::Kafka, reader::Record, services::Services, tools};

/// This many orders are paid, as many are declined, and as many are cancelled.
const ORDERS: usize = 40;

const READERS: usize = 5;

const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn run(ground: &Ground) -> anyhow::Result<Table> {
    let Ground { jars, programs, reader, .. } = ground;
    let directory = tempfile::tempdir()?;
    let kafka = Kafka::start(jars, directory.path())?;
    let brokers = kafka.address();
    let mut services = Services::start(programs, directory.path(), &brokers)?;
    let url = services.orders.orders_url();
    let paid = services.orders.place("paid", ORDERS)?;
    for _ in 0..ORDERS {
        place(&url, 4001)?;
        let order = place(&url, 500)?;
        ureq::post(format!("{url}/{order}/cancel")).send_empty()?;
    }
    let count = |records: &[Record], events: &[&str]| {
        records.iter().filter(|record| record.event.as_deref().is_some_and(|event| events.contains(&event))).count()
    };
    let orders = reader.wait_until(&brokers, "order-events", |records| {
        let of_paid: Vec<_> = records.iter().filter(|record| paid.contains(&record.order_id)).collect();
        of_paid.iter().filter(|record| record.event.as_deref() == Some("order_paid")).count() == ORDERS
            && count(records, &["order_payment_failed"]) == ORDERS
            && count(records, &["order_cancelled", "order_refunded"]) == ORDERS
    })?;
    services.stop()?;
    let payments = reader.read(&brokers, "payment-events")?;
    println!("    {} orders paid, declined and cancelled", 3 * ORDERS);

    let skipped = write_what_is_odd(&brokers)?;
    println!("    added: two aborted events, records that are not events, one event of an unknown type twice");

    let compare = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../consumers/compare");
    let said = tools::run(Command::new(compare).arg(&brokers))?;
    said.lines().for_each(|line| println!("    {line}"));
    // One more than the events of the services: the event of an unknown type.
    let expected = format!("{} events, {skipped} skipped", orders.len() + payments.len() + 1);
    let agree = said.lines().filter(|line| line.contains(&expected)).count();
    let findings = if agree == READERS { vec![] } else { vec![format!("{agree} of {READERS} read {expected}")] };
    Ok(vec![("consumers", (READERS * (orders.len() + payments.len()), findings))])
}

fn place(url: &str, amount: i64) -> anyhow::Result<String> {
    let order: Value = ureq::post(url).send_json(json!({"amount": amount}))?.body_mut().read_json()?;
    order["orderId"].as_str().map(str::to_owned).context("the answer has no order id")
}

/// Writes unusual records to one partition, so that one fetch returns them all. Returns how many of them are not
/// events.
fn write_what_is_odd(brokers: &str) -> anyhow::Result<usize> {
    let producer: BaseProducer =
        ClientConfig::new().set("bootstrap.servers", brokers).set("transactional.id", "odd").create()?;
    producer.init_transactions(PATIENCE)?;
    let send = |id: Option<&str>, value: Option<&[u8]>| -> anyhow::Result<()> {
        let mut headers =
            OwnedHeaders::new().insert(Header { key: "ce_sequence", value: Some("99999999999999999999") });
        if let Some(id) = id {
            headers = headers.insert(Header { key: "ce_id", value: Some(id) });
        }
        let record = BaseRecord::<[u8], [u8]>::to("order-events").partition(0).headers(headers);
        let record = if let Some(value) = value { record.payload(value) } else { record };
        producer.send(record).map_err(|(error, _)| error)?;
        Ok(producer.flush(PATIENCE)?)
    };
    let abort_one = || -> anyhow::Result<()> {
        producer.begin_transaction()?;
        let (id, event) = event(true);
        send(Some(&id), Some(&event))?;
        Ok(producer.abort_transaction(PATIENCE)?)
    };
    let (id, mut newer) = event(false);
    newer.extend([0x9a, 0x06, 0x00]); // field 99, an empty message

    // One producer aborts, commits and aborts again: its id alone does not identify the aborted records.
    abort_one()?;
    producer.begin_transaction()?;
    send(Some(&id), Some(&newer))?;
    send(Some(&id), Some(&newer))?;
    let odd = [(None, Some(newer.as_slice())), (Some("no value"), None), (Some("damaged"), Some(&[0xff; 3]))];
    for (id, value) in odd {
        send(id, value)?;
    }
    producer.commit_transaction(PATIENCE)?;
    abort_one()?;
    Ok(odd.len())
}

/// Returns the id and the bytes of an event. Without `with_what_happened`, its `oneof` is unset.
fn event(with_what_happened: bool) -> (String, Vec<u8>) {
    let created = OrderCreated { amount: 500, currency_code: "USD".to_owned(), ..Default::default() };
    let event = OrderEvent {
        event_id: Uuid::now_v7().to_string(),
        order_id: Uuid::now_v7().to_string(),
        version: 1,
        occur_time: Some(Default::default()),
        event: with_what_happened.then_some(order_event::Event::OrderCreated(created)),
    };
    (event.event_id.clone(), event.encode_to_vec())
}
