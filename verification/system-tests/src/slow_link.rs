//! Runs order-service over a link with a long round trip. It must publish without replacing its producers, and an older
//! copy of its store must be refused before it takes a call.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};

use crate::{
    Ground, Table, checks,
    kafka::Kafka,
    load,
    services::{Kind, Service},
};

const TOPIC: &str = "order-events";

/// The round trip between two continents, and more.
const ROUND_TRIP: Duration = Duration::from_millis(400);

const ORDERS: usize = 300;

pub(crate) fn run(ground: &Ground) -> anyhow::Result<Table> {
    let Ground { jars, programs, reader, .. } = ground;
    let directory = tempfile::tempdir()?;
    let (home, copy) = (directory.path().join("home"), directory.path().join("copy"));
    for made in [&home, &copy] {
        fs::create_dir(made)?;
    }
    let (kafka, proxy) = Kafka::start_behind_a_proxy(jars, directory.path())?;
    let brokers = kafka.address();
    let slow = proxy.address().to_string();
    let start = |home: &_| Service::start(programs, home, &slow, Kind::Orders, &[]);

    let mut service = start(&home)?;
    let mut expected = service.place("early", 20)?;
    reader.wait_for(&brokers, TOPIC, &expected)?;
    service.stop()?;
    service.copy_store(&copy)?;

    proxy.set_round_trip(ROUND_TRIP);
    service.start_again()?;
    let began = Instant::now();
    expected.extend(service.place("slow", ORDERS)?);
    reader.wait_for(&brokers, TOPIC, &expected)?;
    let took = began.elapsed().as_secs_f64();
    println!("    {ORDERS} orders placed and published in {took:.1} s, with a round trip of {ROUND_TRIP:?}");
    let retired = load::metric(&service.url("metrics"), "relay_retired_producers_total")?;
    service.stop()?;
    let records = reader.read(&brokers, TOPIC)?;
    let mut findings = checks::same_as_store(&records, &service.file("orders.db"))?;
    if retired != 0.0 {
        findings.push(format!("{retired} producers were replaced"));
    }

    let mut stale = start(&copy)?;
    let taken = load::place_once(&stale.orders_url(), "on-an-older-copy");
    ensure!(taken.is_err(), "an older copy has taken an order: {taken:?}\n{}", stale.last_lines());
    stale.expect_refusal("does not have the event that was published from it").context("the older copy")?;
    println!("    an older copy of the store: refused before it took a call");
    Ok(vec![("slow link", (records.len(), findings))])
}
