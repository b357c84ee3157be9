//! A second process that publishes for the same store: one that must not is refused and disturbs nobody; one that
//! takes over ends the first, also when the first was frozen all the while.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

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
    Ok(vec![("second process", (records.len(), findings))])
}
