//! Cuts the newest records off the logs of a broker, as a power loss or an unclean election does: off the topic of
//! checkpoints, off one partition of the events before and during a session, and between records and their marker.

use anyhow::{Context as _, ensure};

use crate::{
    Ground, Table, checks,
    kafka::Kafka,
    load,
    reader::{Reader, Record},
    services::{Kind, Service},
};

const TOPIC: &str = "order-events";
const CHECKPOINTS: &str = "order-service.checkpoints";

/// The number of checkpoints that are lost. It is smaller than the number of transactions of a few orders.
const LOST_CHECKPOINTS: usize = 3;

const LOST: &str = "has lost records at the end of partition";

struct Case<'a> {
    kafka: Kafka,
    brokers: String,
    service: Service,
    reader: &'a Reader,
    expected: Vec<String>,
}

pub(crate) fn run(ground: &Ground) -> anyhow::Result<Table> {
    let Ground { jars, programs, reader, .. } = ground;
    let directory = tempfile::tempdir()?;
    let kafka = Kafka::start(jars, directory.path())?;
    let brokers = kafka.address();
    let service = Service::start(programs, directory.path(), &brokers, Kind::Orders, &[])?;
    let mut case = Case { kafka, brokers, service, reader, expected: Vec::new() };
    case.place("first")?;

    case.service.stop()?;
    case.lose_checkpoints()?;
    case.service.start_again()?;
    case.service.wait_for_line(&["the checkpoint is behind the topic"])?;
    case.place("after-the-checkpoint")?;
    println!("    checkpoints lost: publishing continues after the newest record of the topic");

    case.service.stop()?;
    case.lose_the_tail()?;
    case.service.start_again()?;
    case.settle()?;
    println!("    the tail of a partition lost before the start: refused; published again beyond its former end");

    case.lose_the_tail()?;
    // The service is running, and publishes again.
    let _ = load::place_once(&case.service.orders_url(), "behind-the-loss");
    case.settle()?;
    println!("    the tail of a partition lost in mid-session: refused; published again beyond its former end");

    case.service.stop()?;
    case.lose_a_marker()?;
    case.service.start_again()?;
    case.service.wait_for_line(&["ending transactions that were left open"])?;
    case.settle()?;
    println!("    a marker lost: the transaction is ended, and its records are published again");

    let records = case.reader.read(&case.brokers, TOPIC)?;
    case.service.stop()?;
    let mut findings = checks::same_as_store(&records, &case.service.file("orders.db"))?;
    findings.extend(checks::each_once_in_order(&records));
    Ok(vec![("lost tail", (records.len(), findings))])
}

impl Case<'_> {
    /// Places orders and waits until they are published.
    fn place(&mut self, name: &str) -> anyhow::Result<()> {
        for number in 0..20 {
            self.expected.extend(self.service.place(&format!("{name}-{number}"), 1)?); // each in its own transaction
        }
        self.reader.wait_for(&self.brokers, TOPIC, &self.expected).map(drop)
    }

    fn lose_checkpoints(&mut self) -> anyhow::Result<()> {
        self.kafka.kill()?;
        let files = self.kafka.files_of(CHECKPOINTS, 0);
        let written: Vec<_> = files.batches()?.into_iter().filter(|batch| !batch.is_marker).collect();
        ensure!(written.len() > LOST_CHECKPOINTS, "there are only {} checkpoints", written.len());
        files.cut_at(written[written.len() - LOST_CHECKPOINTS].first_offset)?;
        self.kafka.start_again()
    }

    /// Returns the newest record of the topic.
    fn newest(&self) -> anyhow::Result<Record> {
        let records = self.reader.read(&self.brokers, TOPIC)?;
        records.into_iter().max_by_key(|record| record.sequence).context("the topic is empty")
    }

    fn lose_the_tail(&mut self) -> anyhow::Result<()> {
        let newest = self.newest()?;
        self.kafka.kill()?;
        self.kafka.files_of(TOPIC, newest.partition).cut_at(newest.offset)?;
        self.kafka.start_again()
    }

    fn lose_a_marker(&mut self) -> anyhow::Result<()> {
        let newest = self.newest()?;
        self.kafka.kill()?;
        let files = self.kafka.files_of(TOPIC, newest.partition);
        let batches = files.batches()?;
        let marker = batches.iter().find(|batch| batch.is_marker && batch.first_offset > newest.offset);
        files.cut_at(marker.context("the transaction has no marker")?.first_offset)?;
        self.kafka.start_again()
    }

    /// Expects the refusal of a lost tail, settles it, and checks that every event is there once. No event has an offset
    /// that another record had before the loss.
    fn settle(&mut self) -> anyhow::Result<()> {
        self.service.expect_refusal(LOST)?;
        let before = self.reader.read(&self.brokers, TOPIC)?;
        let (code, said) = self.service.subcommand(&["reconcile", "--kafka-brokers", &self.brokers])?;
        ensure!(code == Some(0) && said.contains("to be published again"), "{code:?}: {said}");
        let (code, said) = self.service.subcommand(&["reconcile", "--apply", "--kafka-brokers", &self.brokers])?;
        ensure!(code == Some(0) && said.contains("they are published again"), "{code:?}: {said}");
        self.reader.wait_for(&self.brokers, TOPIC, &self.expected)?;
        let again = self.reader.read(&self.brokers, TOPIC)?;
        let is_new = |record: &&Record| before.iter().all(|known| known.id != record.id);
        for record in again.iter().filter(is_new) {
            let end = before.iter().filter(|known| known.partition == record.partition).map(|known| known.offset).max();
            ensure!(record.offset > end.unwrap_or(0) + 500, "an offset was used again: {record:?}");
        }
        self.place(&format!("settled-{}", self.expected.len()))
    }
}
