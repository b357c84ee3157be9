//! Runs both services with crash points, under load. At the end the system must become idle without help, both audits
//! must find nothing, and the Python reader must see exactly what the callers were answered.

use std::{
    collections::HashMap,
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use rdkafka::{
    ClientConfig,
    producer::{BaseProducer, BaseRecord, Producer as _},
};
use serde_json::Value;

use crate::{
    checks, load,
    mixed_load::{Books, MixedLoad},
    reader::Reader,
    services::Services,
};

/// The system must become idle within this time after the last fault.
const QUIET: Duration = Duration::from_secs(30);

/// An order must be paid within this time after a fault. It allows for a timeout of ten seconds and the retries after
/// it.
const RECOVERED: Duration = Duration::from_secs(60);

/// The services, their callers, and the recorded answers.
pub(crate) struct World {
    pub(crate) services: Services,
    brokers: String,
    load: Option<MixedLoad>,
    books: Books,
    probes: u64,
    /// The number of written records that are not events.
    pub(crate) bad_records: u64,
}

impl World {
    /// Starts the services in a directory. They assume that the gateway forgets a key after a few seconds, so that a
    /// delayed payment has to be looked up.
    pub(crate) fn start(programs: &Path, directory: &Path, brokers: &str, copies: &str) -> anyhow::Result<Self> {
        let both = ["--topic-replication", copies];
        let services = Services::start_with(programs, directory, brokers, &both, &["--gateway-key-memory", "6"])?;
        let brokers = brokers.to_owned();
        Ok(Self { services, brokers, load: None, books: Books::new(), probes: 0, bad_records: 0 })
    }

    /// Starts the callers.
    pub(crate) fn start_load(&mut self, name: &str, seed: u64) {
        self.load = Some(MixedLoad::start(&self.services.orders.orders_url(), name, seed));
    }

    pub(crate) fn placed(&self) -> u64 {
        self.load.as_ref().map_or(0, MixedLoad::placed)
    }

    /// Places an order and waits until it is paid. Returns the time, which is the recovery time after a fault.
    #[expect(clippy::disallowed_methods, reason = "a short pause between two polls")]
    pub(crate) fn recover(&mut self) -> anyhow::Result<Duration> {
        let began = Instant::now();
        self.probes += 1;
        let url = self.services.orders.orders_url();
        let order = load::place_some(&url, [format!("probe-{}", self.probes)])?.remove(0);
        while get(&format!("{url}/{order}")).is_none_or(|order| order["state"] != "PAID") {
            ensure!(began.elapsed() < RECOVERED, "order {order} is not paid after {RECOVERED:?}: {}", self.logs());
            thread::sleep(Duration::from_millis(10));
        }
        self.books.insert(order, crate::mixed_load::Placed { amount: 500, cancelled: false });
        Ok(began.elapsed())
    }

    /// Writes records that are not events between the events of a topic.
    pub(crate) fn write_bad_records(&mut self, topic: &str, count: u64) -> anyhow::Result<()> {
        let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", &self.brokers).create()?;
        for number in 0..count {
            let key = format!("bad-{number}");
            producer.send(BaseRecord::to(topic).key(&key).payload("no event")).map_err(|(error, _)| error)?;
        }
        producer.flush(Duration::from_secs(20))?;
        self.bad_records += count;
        Ok(())
    }

    /// Stops the callers, and waits until the system is idle and both audits find nothing. This must be so within half
    /// a minute of the last fault. Returns the time since the last fault, and the remaining findings of the audits.
    #[expect(clippy::disallowed_methods, reason = "a short pause between two polls")]
    pub(crate) fn go_quiet(&mut self, last_fault: Instant) -> anyhow::Result<(Duration, Vec<String>)> {
        if let Some(load) = self.load.take() {
            self.books.extend(load.finish().with_context(|| self.logs())?);
        }
        let url = self.services.orders.orders_url();
        let none = |state: &str| {
            let page = get(&format!("{url}?state={state}&pageSize=1"));
            page.is_some_and(|page| page["orders"].as_array().is_some_and(Vec::is_empty))
        };
        loop {
            self.services.orders.check()?;
            self.services.payments.check()?;
            let is_late = last_fault.elapsed() > QUIET;
            if none("CREATED") && none("CANCELLING") {
                let quiet = last_fault.elapsed();
                let findings = self.audit(&["--wait", "0"])?;
                if findings.is_empty() || is_late {
                    return Ok((quiet, findings));
                }
            }
            ensure!(!is_late, "the system is not idle after {QUIET:?}: {}", self.logs());
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Runs both audits while the services run, and returns their findings.
    pub(crate) fn audit(&self, more: &[&str]) -> anyhow::Result<Vec<String>> {
        let mut findings = Vec::new();
        for service in [&self.services.orders, &self.services.payments] {
            let (code, said) = service.subcommand(&[&["audit", "--kafka-brokers", &self.brokers], more].concat())?;
            let told = said.lines().take_while(|line| !line.starts_with("stored events"));
            match code {
                Some(0) => {}
                Some(1) => findings.extend(told.map(|line| format!("{} audit: {line}", service.name))),
                _ => bail!("{} audit ended with {code:?}:\n{said}", service.name),
            }
        }
        Ok(findings)
    }

    /// Compares the recorded answers with the topics and the ledger. Returns the number of events, and the findings.
    pub(crate) fn compare_books(&self, reader: &Reader) -> anyhow::Result<(usize, Vec<String>)> {
        let orders = reader.read(&self.brokers, "order-events")?;
        let payments = reader.read(&self.brokers, "payment-events")?;
        let mut findings = checks::each_once_in_order(&orders);
        findings.extend(checks::each_once_in_order(&payments));
        let mut ends: HashMap<&str, &str> = HashMap::new();
        let mut created: HashMap<&str, u32> = HashMap::new();
        for record in &orders {
            let event = record.event.as_deref().unwrap_or("unknown");
            if event == "order_created" {
                *created.entry(&record.order_id).or_default() += 1;
            } else {
                ends.insert(&record.order_id, event); // each order's events are in one partition, in order
            }
        }
        for (order, placed) in &self.books {
            match (created.remove(order.as_str()), ends.get(order.as_str())) {
                (Some(1), Some(end)) if placed.may_end(end) => {}
                (times, end) => {
                    findings.push(format!(
                        "order {order} was answered as {placed:?}, was created {times:?} times and ended with {end:?}"
                    ));
                }
            }
        }
        let moved = checks::charged_and_kept(&self.services.payments.file("charges.db"))?;
        for (order, end) in &ends {
            let expected = (1, i64::from(*end == "order_paid"));
            match moved.get(*order) {
                None if *end != "order_paid" && *end != "order_refunded" => {}
                Some(charged) if *charged == expected => {}
                charged => findings.push(format!("order {order} ended with {end}; (charges, unrefunded): {charged:?}")),
            }
        }
        // Every created order was answered, because each caller retries until it gets an answer.
        findings.extend(created.keys().map(|order| format!("order {order} was created and was never answered")));
        Ok((orders.len() + payments.len(), findings))
    }

    /// Returns the last lines of both logs.
    pub(crate) fn logs(&self) -> String {
        let Services { orders, payments } = &self.services;
        format!("order-service:\n{}\npayment-service:\n{}", orders.last_lines(), payments.last_lines())
    }

    /// Copies the logs of both services to a directory.
    pub(crate) fn keep_logs(&self, to: &Path) -> anyhow::Result<()> {
        fs::create_dir_all(to)?;
        for service in [&self.services.orders, &self.services.payments] {
            let name = format!("{}.log", service.name);
            fs::copy(service.file(&name), to.join(&name))?;
        }
        Ok(())
    }
}

fn get(url: &str) -> Option<Value> {
    ureq::get(url).call().ok()?.body_mut().read_json().ok()
}
