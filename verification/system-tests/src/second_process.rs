//! Starts a second process that publishes the same store. On an older copy it is refused, and does not disturb the
//! first. On a current copy it takes over, and the first process ends, even if it was frozen during the takeover.

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

/// Longer than the transaction timeout, and than every timeout of a client or a broker.
const FROZEN: Duration = Duration::from_secs(12);

#[expect(clippy::disallowed_methods, reason = "it waits until everything has timed out")]
#[expect(clippy::too_many_lines, reason = "the scenario, from beginning to end")]
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
    println!("    on an older copy of the store: refused; the first process continues to publish");

    first.freeze()?;
    thread::sleep(FROZEN);
    first.resume()?;
    expected.extend(first.place("resumed", 20)?);
    reader.wait_for(&brokers, "order-events", &expected)?;
    first.check()?;
    println!("    frozen for {} s without a takeover: the process continues", FROZEN.as_secs());

    // Freeze under load, most likely with an open transaction and calls in flight.
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
    first.expect_end("another process has taken over")?;
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
        findings.push("the frozen process published after it was resumed".to_owned());
    }
    println!("    frozen under load, replaced by a process on a copy, resumed: it ends, and publishes nothing more");
    let charges = payments(ground).context("payment-service")?;
    Ok(vec![("second process", (records.len(), findings)), ("second payer", charges)])
}

/// Freezes a payment-service with calls to the gateway in flight, and replaces it. When it is resumed, it must charge
/// nothing more, and end.
#[expect(clippy::disallowed_methods, reason = "it waits until everything has timed out")]
fn payments(ground: &Ground) -> anyhow::Result<checks::Findings> {
    let Ground { jars, programs, reader, .. } = ground;
    let directory = tempfile::tempdir()?;
    let kafka = Kafka::start(jars, directory.path())?;
    let brokers = kafka.address();
    let (first_home, second_home) = (directory.path().join("first"), directory.path().join("second"));
    fs::create_dir(&first_home)?;
    fs::create_dir(&second_home)?;
    // Both processes share one gateway.
    symlink(first_home.join("charges.db"), second_home.join("charges.db"))?;
    let start = |home: &Path| Service::start(programs, home, &brokers, Kind::Payments, &["--gateway-latency", "300"]);
    let orders = Service::start(programs, directory.path(), &brokers, Kind::Orders, &[])?;
    let mut first = start(&first_home)?;
    first.wait_for_line(&["reading", "order-events"])?;
    let mut placed = orders.place("early", 50)?;
    let ledger = first.file("charges.db");
    freeze_between_writes(&first, &ledger)?;
    first.copy_store(&second_home)?;
    let second = start(&second_home)?;
    placed.extend(orders.place("meanwhile", 50)?);
    let all_are_paid = reader.wait_until(&brokers, "order-events", |records| {
        records.iter().filter(|record| record.event.as_deref() == Some("order_paid")).count() == placed.len()
    });
    all_are_paid.with_context(|| format!("the second process logged:\n{}", second.last_lines()))?;
    thread::sleep(FROZEN);
    let before = checks::charges(&ledger)?;
    first.resume()?;
    first.expect_end("another process has taken over")?;
    let mut findings = Vec::new();
    let after = checks::charges(&ledger)?;
    if before != after {
        findings.push("the frozen process charged after it was resumed".to_owned());
    }
    findings.extend(
        placed
            .iter()
            .filter(|order| after.get(*order) != Some(&1))
            .map(|order| format!("order {order} was not charged exactly once")),
    );
    let (code, said) = second.subcommand(&["audit", "--kafka-brokers", &brokers])?;
    if code != Some(0) {
        findings.push(said);
    }
    println!("    payment-service frozen with calls in flight, replaced, resumed: it ends, and charges nothing more");
    Ok((after.len(), findings))
}

/// Freezes a payment-service while it does not write to the ledger. The ledger stands for the gateway, which a frozen
/// service does not hold up: a process frozen inside a write would keep the lock of the file.
#[expect(clippy::disallowed_methods, reason = "the signal reaches all threads a moment later")]
fn freeze_between_writes(service: &Service, ledger: &Path) -> anyhow::Result<()> {
    let ledger = rusqlite::Connection::open(ledger)?;
    ledger.busy_timeout(Duration::ZERO)?;
    for _ in 0..1000 {
        service.freeze()?;
        thread::sleep(Duration::from_millis(20));
        if ledger.execute_batch("BEGIN IMMEDIATE; ROLLBACK").is_ok() {
            return Ok(());
        }
        service.resume()?;
        thread::sleep(Duration::from_millis(1));
    }
    anyhow::bail!("the ledger was locked at every attempt to freeze the service")
}
