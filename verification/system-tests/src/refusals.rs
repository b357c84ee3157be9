//! Makes a service refuse to continue, and settles each case with its command: an older copy of the store, a lost
//! checkpoint, another cluster, an empty store in place of a lost one. A store that has diverged from its topic is refused, and no command settles it.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::ensure;

use crate::{
    Ground, Table, checks,
    kafka::Kafka,
    load,
    services::{Kind, Service},
};

const TOPIC: &str = "order-events";

const PATIENCE: Duration = Duration::from_secs(60);

#[expect(clippy::too_many_lines, reason = "the scenario, from beginning to end")]
pub(crate) fn run(ground: &Ground) -> anyhow::Result<Table> {
    let Ground { jars, programs, reader, .. } = ground;
    let directory = tempfile::tempdir()?;
    let (first, second) = (directory.path().join("first cluster"), directory.path().join("second cluster"));
    let (home, copy) = (directory.path().join("home"), directory.path().join("copy"));
    let volume = directory.path().join("empty volume");
    for made in [&first, &second, &home, &copy, &volume] {
        fs::create_dir(made)?;
    }
    let kafka = Kafka::start(jars, &first)?;
    let brokers = kafka.address();

    kafka.create_topic(TOPIC)?; // with Kafka's default retention of a week
    let mut service = Service::start(programs, &home, &brokers, Kind::Orders, &[])?;
    service.wait_for_line(&["publishing to order-events waits", "retention.ms=604800000", "kafka-configs.sh"])?;
    let taken = load::place_once(&service.orders_url(), "before-it-has-met-its-cluster");
    ensure!(taken.is_err(), "a new store has accepted an order before it had met its cluster: {taken:?}");
    kafka.set_topic(TOPIC, "retention.ms=-1")?;
    let mut expected = service.place("kept", 50)?;
    reader.wait_for(&brokers, TOPIC, &expected)?;
    println!("    a topic with a retention time: logged with the command that corrects it, and used after that");
    service.stop()?;
    service.copy_store(&copy)?;
    service.start_again()?;
    expected.extend(service.place("later", 50)?);
    reader.wait_for(&brokers, TOPIC, &expected)?;
    service.stop()?;

    fs::copy(copy.join("orders.db"), home.join("orders.db"))?;
    service.start_again()?;
    let older = "does not have the event that was published from it";
    service.expect_refusal(older)?;
    settle(&mut service, &brokers, older, "50 events from the topic are taken into the store")?;
    expected.extend(service.place("restored", 10)?);
    reader.wait_for(&brokers, TOPIC, &expected)?;
    service.stop()?;
    println!("    an older copy of the store: refused; the missing events are restored from the topic");

    kafka.delete_topic("order-service.checkpoints")?;
    service.start_again()?;
    let missing = "has no checkpoint of it";
    service.expect_refusal(missing)?;
    settle(&mut service, &brokers, missing, "the checkpoint is lost: it is written again, at 110")?;
    expected.extend(service.place("checkpoint", 10)?);
    let records = reader.wait_for(&brokers, TOPIC, &expected)?;
    service.stop()?;
    let mut findings = checks::same_as_store(&records, &service.file("orders.db"))?;
    let mut compared = records.len();
    println!("    a lost checkpoint: refused; rewritten from the topic");

    // The copy accepts orders of its own, which are never published.
    let mut strayed = Service::start(programs, &copy, "127.0.0.1:9", Kind::Orders, &[])?;
    strayed.place("strayed", 5)?;
    strayed.stop()?;
    let (code, said) = strayed.subcommand(&["reconcile", "--apply", "--kafka-brokers", &brokers])?;
    ensure!(code == Some(69) && said.contains("the store has another event at position 51"), "{code:?}: {said}");
    println!("    a store that has diverged: nothing is changed, and the first differing event is named");

    kafka.delete_topic(TOPIC)?;
    service.start_again()?;
    let gone = "the topic order-events is gone";
    service.expect_refusal(gone)?;
    let (code, said) = service.subcommand(&["reconcile", "--apply", "--kafka-brokers", &brokers])?;
    ensure!(code == Some(69) && said.contains("order-events has 0 partitions and had 1"), "{code:?}: {said}");
    service.expect_refusal_after_restart(gone)?;
    service.stop()?;
    println!("    a topic that was deleted: refused, and not created again");

    let other = Kafka::start(jars, &second)?;
    let other_brokers = other.address();
    let mut moved = Service::start(programs, &home, &other_brokers, Kind::Orders, &[])?;
    moved.expect_refusal(gone)?; // until the operator has confirmed the other cluster
    settle(&mut moved, &other_brokers, gone, "it is published from its beginning")?;
    reader.wait_for(&other_brokers, TOPIC, &expected)?;
    moved.stop()?;
    println!("    another cluster: refused; published there from the beginning");

    let mut restored = Service::start(programs, &volume, &other_brokers, Kind::Orders, &[])?;
    let new = "has events of another store";
    restored.expect_refusal(new)?;
    settle(&mut restored, &other_brokers, new, "events from the topic are taken into the store")?;
    let again = load::place_once(&restored.orders_url(), "kept-0")?;
    ensure!(expected.first() == Some(&again), "a used request id was taken again: {again}");
    expected.extend(restored.place("restored-from-the-topic", 10)?);
    reader.wait_for(&other_brokers, TOPIC, &expected)?;
    println!("    an empty store in place of a lost one: refused; restored from the topic under its old id");

    other.add_partitions(TOPIC, 4)?;
    let deadline = Instant::now() + PATIENCE;
    let mut late = 0;
    while load::get(&restored.url("readyz")).unwrap_or_default().0 != 503 {
        ensure!(Instant::now() < deadline, "the service does not notice the added partition");
        let _ = load::place_once(&restored.orders_url(), &format!("late-{late}"));
        late += 1;
    }
    restored.expect_refusal("has 4 partitions and had 3")?;
    let records = reader.read(&other_brokers, TOPIC)?;
    let new = records.iter().filter(|record| record.partition == 3).count();
    ensure!(new == 0, "{new} records are in the new partition");
    println!("    a partition that is added while it runs: refused, with no record in it");
    findings.extend(checks::prefix_of_store(&records, &restored.file("orders.db"))?);
    compared += records.len();
    Ok(vec![("refusals", (compared, findings))])
}

/// Runs `reconcile`, first without and then with `--apply`, and waits until the service continues. Until then the refusal
/// survives a restart, and a call must fail: an order that such a store accepts could not be reconciled with the
/// published events.
fn settle(service: &mut Service, brokers: &str, why: &str, what: &str) -> anyhow::Result<()> {
    let (code, said) = service.subcommand(&["reconcile", "--kafka-brokers", brokers])?;
    ensure!(code == Some(0) && said.contains("nothing was changed"), "{code:?}: {said}");
    service.expect_refusal_after_restart(why)?;
    let taken = load::place_once(&service.orders_url(), "while-it-is-refused");
    ensure!(taken.is_err(), "a refused store has accepted an order: {taken:?}\n{}", service.last_lines());
    let (code, said) = service.subcommand(&["reconcile", "--apply", "--kafka-brokers", brokers])?;
    ensure!(code == Some(0) && said.contains(what), "{code:?}: {said}");
    service.wait_for_line(&["the refusal was lifted"])
}
