//! Cuts the tail off a followed topic, as a power loss or an unclean election does: before a start, while the service
//! waits at the end, and so that the topic has grown again when the service looks. Every order must be charged once.

use std::collections::HashSet;

use anyhow::ensure;

use crate::{
    Ground, Table,
    bare_orders::{BareOrder, BareOrders},
    checks,
    kafka::Kafka,
    services::{Kind, Service},
};

const TOPIC: &str = "order-events";

const LOST: &[&str] = &["topics have lost records that were consumed"];

pub(crate) fn run(ground: &Ground) -> anyhow::Result<Table> {
    let Ground { jars, programs, reader, .. } = ground;
    let directory = tempfile::tempdir()?;
    let mut kafka = Kafka::start(jars, directory.path())?;
    let brokers = kafka.address();
    kafka.create_topic(TOPIC)?;
    let mut service = Service::start(programs, directory.path(), &brokers, Kind::Payments, &[])?;
    let mut producer = BareOrders::new(&brokers);
    let mut orders = producer.publish(0, 100)?;
    let charged = |orders: &[BareOrder]| {
        let ids: Vec<_> = orders.iter().map(|order| order.order.clone()).collect();
        reader.wait_for(&brokers, "payment-events", &ids)
    };
    charged(&orders)?;

    // Some of the lost records are published again, at other offsets.
    service.stop()?;
    cut_last_batches(&mut kafka, 3)?;
    kafka.start_again()?;
    producer.publish_again(0, &orders[80..])?;
    orders.extend(producer.publish(0, 30)?);
    service.start_again()?;
    charged(&orders)?;
    service.wait_for_line(LOST)?;
    println!("    a tail that is lost before a start: noticed, and what is published again is not handled twice");

    // The service waits at the end of the topic. The lost records are never published again.
    cut_last_batches(&mut kafka, 2)?;
    kafka.start_again()?;
    service.wait_for_line(&[LOST[0], "from offset 120 to 100"])?;
    orders.extend(producer.publish(0, 10)?);
    charged(&orders)?;
    println!("    a tail that is lost while the service runs: noticed, and the next records are handled");

    // When the service looks again, the topic is longer than before.
    service.freeze()?;
    cut_last_batches(&mut kafka, 4)?;
    kafka.start_again()?;
    orders.extend(producer.publish(0, 60)?);
    service.resume()?;
    let records = charged(&orders)?;
    service.check()?;
    println!("    a topic that has grown again when the service looks: no record is skipped");

    let mut findings = checks::each_once_in_order(&records);
    let expected: HashSet<_> = orders.iter().map(|order| &order.order).collect();
    let found: HashSet<_> = records.iter().map(|record| &record.order_id).collect();
    if found != expected {
        findings.push(format!("{} orders have payments, of {}", found.len(), expected.len()));
    }
    Ok(vec![("truncated topic", (records.len(), findings))])
}

/// Kills the broker, and cuts the last batches off the followed topic.
fn cut_last_batches(kafka: &mut Kafka, count: usize) -> anyhow::Result<()> {
    kafka.kill()?;
    let files = kafka.files_of(TOPIC, 0);
    let batches = files.batches()?;
    ensure!(batches.len() > count, "{} batches", batches.len());
    files.cut_at(batches[batches.len() - count].first_offset)
}
