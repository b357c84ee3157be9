//! Checks the records that the Python reader saw, and the gateway's ledger, at the end of a test.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
};

use crate::{load::Books, reader::Record};

/// The number of compared records, and the findings.
pub(crate) type Findings = (usize, Vec<String>);

/// Checks that every event is there once, in the order of its stream, with no gap, and that each order has exactly the
/// events of `life`.
pub(crate) fn topic(records: &[Record], books: &Books, life: [&str; 2]) -> Findings {
    let mut findings = each_once_in_order(records);
    let mut lives: HashMap<&str, Vec<&str>> = HashMap::new();
    for record in in_order(records) {
        lives.entry(&record.key).or_default().push(record.event.as_deref().unwrap_or("unknown"));
    }
    for order in books.values() {
        match lives.remove(order.as_str()) {
            Some(events) if events == life => {}
            Some(events) => findings.push(format!("order {order} has {events:?}")),
            None => findings.push(format!("order {order} was answered and is not in the topic")),
        }
    }
    findings.extend(lives.keys().map(|order| format!("order {order} is in the topic and was never answered")));
    (records.len(), findings)
}

/// Checks that every event is there once, in the order of its stream, and that no position of the store is missing.
pub(crate) fn each_once_in_order(records: &[Record]) -> Vec<String> {
    let mut findings = Vec::new();
    let (mut ids, mut versions) = (HashSet::new(), HashMap::<&str, u64>::new());
    for record in in_order(records) {
        let place = format!("{}@{} ({})", record.partition, record.offset, record.key);
        if !ids.insert(&record.id) {
            findings.push(format!("published twice: {place}"));
        }
        if record.id != record.event_id || record.key != record.order_id {
            findings.push(format!("headers and value disagree: {place}"));
        }
        let version = versions.entry(&record.key).or_default();
        *version += 1;
        if *version != record.version {
            findings.push(format!("version {} instead of {version}: {place}", record.version));
        }
    }
    let mut sequences: Vec<_> = records.iter().map(|record| record.sequence).collect();
    sequences.sort_unstable();
    if let Some((found, expected)) = sequences.iter().zip(1..).find(|(found, expected)| *found != expected) {
        findings.push(format!("missing: sequence {expected}, the next one is {found}"));
    }
    findings
}

fn in_order(records: &[Record]) -> Vec<&Record> {
    let mut sorted: Vec<_> = records.iter().collect();
    sorted.sort_by_key(|record| (record.partition, record.offset));
    sorted
}

/// Checks that each order was charged once, and that nothing else was charged.
pub(crate) fn ledger(charges: &HashMap<String, u64>, books: &Books) -> Findings {
    let mut findings = Vec::new();
    for order in books.values() {
        match charges.get(order) {
            Some(1) => {}
            charges => findings.push(format!("order {order} was charged {} times", charges.unwrap_or(&0))),
        }
    }
    if charges.len() > books.len() {
        findings.push(format!("{} orders were charged, {} were placed", charges.len(), books.len()));
    }
    (charges.len(), findings)
}

/// Returns the number of charges of each order.
pub(crate) fn charges(ledger: &Path) -> anyhow::Result<HashMap<String, u64>> {
    let ledger = rusqlite::Connection::open(ledger)?;
    let mut query = ledger.prepare("SELECT key, count(*) FROM charges WHERE reference IS NOT NULL GROUP BY key")?;
    let charges = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
    Ok(charges)
}

/// Returns the number of charges of each order, and how many of them were not refunded, from the gateway's ledger.
pub(crate) fn charged_and_kept(ledger: &Path) -> anyhow::Result<HashMap<String, (i64, i64)>> {
    let ledger = rusqlite::Connection::open(ledger)?;
    let mut query = ledger.prepare(
        "SELECT key, count(*), count(*) - (SELECT count(*) FROM refunds WHERE refunds.key = charges.key)
         FROM charges WHERE reference IS NOT NULL GROUP BY key",
    )?;
    let moved = query.query_map([], |row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?))))?;
    Ok(moved.collect::<Result<_, _>>()?)
}

/// Checks that every event of the store is published once, with its position, and that nothing else is published.
pub(crate) fn same_as_store(records: &[Record], store: &Path) -> anyhow::Result<Vec<String>> {
    let mut findings = prefix_of_store(records, store)?;
    let stored: usize =
        rusqlite::Connection::open(store)?.query_row("SELECT count(*) FROM events", [], |row| row.get(0))?;
    if stored != records.len() {
        findings.push(format!("{stored} events are stored, {} are published", records.len()));
    }
    Ok(findings)
}

/// Checks that the published events are the first ones of the store, each once, with its position.
pub(crate) fn prefix_of_store(records: &[Record], store: &Path) -> anyhow::Result<Vec<String>> {
    let store = rusqlite::Connection::open(store)?;
    let mut query = store.prepare("SELECT lower(hex(id)) FROM events ORDER BY position")?;
    let stored: Vec<String> = query.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    let mut published: Vec<_> = records.iter().map(|record| (record.sequence, record.id.replace('-', ""))).collect();
    published.sort_unstable();
    let differing = (1..).zip(stored).zip(&published).filter(|(expected, published)| expected != *published);
    let mut findings: Vec<_> =
        differing.map(|(expected, found)| format!("{found:?} instead of {expected:?}")).collect();
    findings.truncate(10);
    Ok(findings)
}
