//! A second process that publishes for the same store: one that must not is refused and disturbs nobody; one that
//! takes over ends the first, also when the first was frozen all the while.

use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::Context as _;

use crate::{
    Ground, Table, checks,
    kafka::Kafka,
    load,
    services::{Kind, Service},
};

/// Longer than a transaction may be open, and than any time-out of a client or a broker.
const FROZEN: Duration = Duration::from_secs(12);

#[expect(clippy::disallowed_methods, reason = "it waits until everything has timed out")]
pub(crate) fn run(ground: &Ground) -> anyhow::Result<Table> {
    let Ground { jars, programs, reader, .. } = ground;
    let directory = tempfile::tempdir()?;
    let kafka = Kafka::start(jars, directory.path())?;
    let brokers = kafka.address();
    let start = |directory: &Path| Service::start(programs, directory, &brokers, Kind::Orders, &[]);
    let home = |name: &str| -> anyhow::Result<_> {
        let home = directory.path().join(name);
        fs::create_dir(&home)?;
        Ok(home)
    };

    let mut first = start(&home("first")?)?;
    let mut expected = first.place("early", 20)?;
    reader.wait_for(&brokers, "order-events", &expected)?;
    first.stop()?;
    let old_copy = home("old copy")?;
    first.copy_store(&old_copy)?;
    first.start_again()?;
    expected.extend(first.place("later", 20)?);
    reader.wait_for(&brokers, "order-events", &expected)?;

    let mut stale = start(&old_copy)?;
    stale.expect_refusal("does not have the event that was published from it")?;
    expected.extend(first.place("beside", 20)?);
    reader.wait_for(&brokers, "order-events", &expected)?;
    first.check()?;
    println!("    on an older copy of the store: refused; the first one goes on publishing");

    first.freeze()?;
    thread::sleep(FROZEN);
    first.resume()?;
    expected.extend(first.place("resumed", 20)?);
    reader.wait_for(&brokers, "order-events", &expected)?;
    first.check()?;
    println!("    frozen for {} s, and nobody has taken over: it goes on", FROZEN.as_secs());

    // Frozen under load: most likely with a transaction open and calls under way.
    let (url, gone) = (first.orders_url(), Arc::new(AtomicBool::new(false)));
    let stop = Arc::clone(&gone);
    let callers = thread::spawn(move || load::place_until(&url, "doomed", &stop));
    thread::sleep(Duration::from_millis(300));
    first.freeze()?;
    let copy = home("copy")?;
    first.copy_store(&copy)?;
    let mut second = start(&copy)?;
    let answered_by_the_second = second.place("second", 20)?;
    reader.wait_for(&brokers, "order-events", &answered_by_the_second)?;
    thread::sleep(FROZEN);
    let before = reader.read(&brokers, "order-events")?;
    first.resume()?;
    first.expect_refusal("another process has taken over")?;
    gone.store(true, Ordering::Relaxed);
    callers.join().map_err(|_panic| anyhow::anyhow!("a caller panicked"))?;
    expected.extend(answered_by_the_second);
    expected.extend(second.place("last", 20)?);
    reader.wait_for(&brokers, "order-events", &expected)?;
    second.check()?;
    second.stop()?;

    let records = reader.read(&brokers, "order-events")?;
    let mut findings = checks::same_as_store(&records, &second.file("orders.db"))?;
    if records.iter().filter(|record| before.iter().all(|known| known.id != record.id)).count() != 20 {
        findings.push("the frozen process has published after it was resumed".to_owned());
    }
    println!("    frozen under load, another one started on a copy, resumed: it ends, and has published nothing more");
    let charges = payments(ground).context("payment-service")?;
    Ok(vec![("second process", (records.len(), findings)), ("second payer", charges)])
}

/// A payment-service that is frozen with calls to the gateway under way, and replaced: when it is resumed it charges
/// nothing more, and ends.
#[expect(clippy::disallowed_methods, reason = "it waits until everything has timed out")]
fn payments(ground: &Ground) -> anyhow::Result<checks::Findings> {
    let Ground { jars, programs, reader, .. } = ground;
    let directory = tempfile::tempdir()?;
    let kafka = Kafka::start(jars, directory.path())?;
    let brokers = kafka.address();
    let (first_home, second_home) = (directory.path().join("first"), directory.path().join("second"));
    fs::create_dir(&first_home)?;
    fs::create_dir(&second_home)?;
    // One gateway: it is outside of both.
    symlink(first_home.join("charges.db"), second_home.join("charges.db"))?;
    let start = |home: &Path| Service::start(programs, home, &brokers, Kind::Payments, &["--gateway-latency", "300"]);
    let orders = Service::start(programs, directory.path(), &brokers, Kind::Orders, &[])?;
    let mut first = start(&first_home)?;
    first.wait_for_line(&["reading", "order-events"])?;
    let mut placed = orders.place("early", 50)?;
    first.freeze()?;
    first.copy_store(&second_home)?;
    let second = start(&second_home)?;
    placed.extend(orders.place("meanwhile", 50)?);
    reader.wait_until(&brokers, "order-events", |records| {
        records.iter().filter(|record| record.event.as_deref() == Some("order_paid")).count() == placed.len()
    })?;
    thread::sleep(FROZEN);
    let ledger = first.file("charges.db");
    let before = checks::charges(&ledger)?;
    first.resume()?;
    first.expect_refusal("another process has taken over")?;
    let mut findings = Vec::new();
    let after = checks::charges(&ledger)?;
    if before != after {
        findings.push("the frozen process has charged after it was resumed".to_owned());
    }
    findings.extend(
        placed
            .iter()
            .filter(|order| after.get(*order) != Some(&1))
            .map(|order| format!("order {order} was not charged once")),
    );
    let (code, said) = second.subcommand(&["audit", "--kafka-brokers", &brokers])?;
    if code != Some(0) {
        findings.push(said);
    }
    println!(
        "    payment-service frozen with calls under way, replaced, resumed: it ends, and has charged nothing more"
    );
    Ok((after.len(), findings))
}
