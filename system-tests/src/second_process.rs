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

use anyhow::{Context as _, ensure};

use crate::{
    Ground, Table,
    kafka::Kafka,
    load,
    reader::Record,
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
    let mut expected = place(&first, "early", 20)?;
    reader.wait_for(&brokers, "order-events", &expected)?;
    first.stop()?;
    let old_copy = home("old copy")?;
    copy_store(&first, &old_copy)?;
    first.start_again()?;
    expected.extend(place(&first, "later", 20)?);
    reader.wait_for(&brokers, "order-events", &expected)?;

    let mut stale = start(&old_copy)?;
    expect_refusal(&mut stale, "does not have the event that was published from it")?;
    expected.extend(place(&first, "beside", 20)?);
    reader.wait_for(&brokers, "order-events", &expected)?;
    first.check()?;
    println!("    on an older copy of the store: refused; the first one goes on publishing");

    first.freeze()?;
    thread::sleep(FROZEN);
    first.resume()?;
    expected.extend(place(&first, "resumed", 20)?);
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
    copy_store(&first, &copy)?;
    let mut second = start(&copy)?;
    let answered_by_the_second = place(&second, "second", 20)?;
    reader.wait_for(&brokers, "order-events", &answered_by_the_second)?;
    thread::sleep(FROZEN);
    let before = reader.read(&brokers, "order-events")?;
    first.resume()?;
    expect_refusal(&mut first, "another process has taken over")?;
    gone.store(true, Ordering::Relaxed);
    callers.join().map_err(|_panic| anyhow::anyhow!("a caller panicked"))?;
    expected.extend(answered_by_the_second);
    expected.extend(place(&second, "last", 20)?);
    reader.wait_for(&brokers, "order-events", &expected)?;
    second.check()?;
    second.stop()?;

    let records = reader.read(&brokers, "order-events")?;
    let mut findings = compare(&records, &second.file("orders.db"))?;
    if records.iter().filter(|record| before.iter().all(|known| known.id != record.id)).count() != 20 {
        findings.push("the frozen process has published after it was resumed".to_owned());
    }
    println!("    frozen under load, another one started on a copy, resumed: it ends, and has published nothing more");
    Ok(vec![("second process", (records.len(), findings))])
}

fn place(service: &Service, name: &str, count: usize) -> anyhow::Result<Vec<String>> {
    load::place_some(&service.orders_url(), (0..count).map(|number| format!("{name}-{number}")))
}

fn expect_refusal(service: &mut Service, reason: &str) -> anyhow::Result<()> {
    let code = service.wait_until_it_ends()?;
    let log = service.last_lines();
    ensure!(code == Some(70), "it ended with {code:?}:\n{log}");
    let errors: Vec<_> = log.lines().filter(|line| line.contains("ERROR")).collect();
    ensure!(errors.len() == 1 && errors[0].contains(reason), "it does not say, in one line, {reason:?}:\n{log}");
    Ok(())
}

/// What a copy of a stopped or frozen process's files is: the state after a crash.
fn copy_store(service: &Service, to: &Path) -> anyhow::Result<()> {
    for name in ["orders.db", "orders.db-wal"] {
        let file = service.file(name);
        if file.exists() {
            fs::copy(&file, to.join(name)).with_context(|| format!("cannot copy {}", file.display()))?;
        }
    }
    Ok(())
}

/// Every event of the store once, at its position, and nothing else.
fn compare(records: &[Record], store: &Path) -> anyhow::Result<Vec<String>> {
    let store = rusqlite::Connection::open(store)?;
    let mut query = store.prepare("SELECT lower(hex(id)) FROM events ORDER BY position")?;
    let stored: Vec<String> = query.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    let mut published: Vec<_> = records.iter().map(|record| (record.sequence, record.id.replace('-', ""))).collect();
    published.sort_unstable();
    let expected: Vec<_> = (1..).zip(stored).collect();
    let differing = expected.iter().zip(&published).filter(|(expected, published)| expected != published);
    let mut findings: Vec<_> =
        differing.map(|(expected, found)| format!("{found:?} where {expected:?} should be")).collect();
    if expected.len() != published.len() {
        findings.push(format!("{} events are stored, {} are published", expected.len(), published.len()));
    }
    Ok(findings)
}
