//! Measures latencies, processor time and recovery on one real broker, and prints a table. It tests nothing.
//!
//! `cargo run --release -p system-tests -- --only figures`

use std::{
    collections::HashMap,
    fs,
    process::Stdio,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use rdkafka::{
    ClientConfig, Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
};

use crate::{
    Ground, Table,
    kafka::Kafka,
    load,
    services::{Service, Services},
};

const PARTITIONS: i32 = 3;
const RESTARTS: usize = 10;

/// The number of orders that are placed while the broker is down.
const BACKLOG: u64 = 20_000;

/// The number of further orders before the second audit.
const MORE: u64 = 60_000;

const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn run(ground: &Ground) -> anyhow::Result<Table> {
    if cfg!(debug_assertions) {
        println!("    NOTE: these are figures of a debug build; add --release");
    }
    let directory = tempfile::tempdir()?;
    let mut kafka = Kafka::start(&ground.jars, directory.path())?;
    let mut services = Services::start(&ground.programs, directory.path(), &kafka.address())?;
    let seen = Seen::default();
    services.orders.place("warm-up", 20)?;
    ground.reader.wait_until(&kafka.address(), "payment-events", |records| records.len() >= 40)?;
    let _follower = Follower::start(&kafka.address(), &seen)?;

    println!("    {:<54} {:>8} {:>8} {:>8}", "", "p50", "p99", "max");
    // The higher rate comes first, because it warms up the broker.
    for (rate, seconds) in [(1000, 20), (100, 30)] {
        let before = [cpu(&services.orders)?, cpu(&services.payments)?];
        let began = Instant::now();
        let placed = load::place_at(&services.orders.orders_url(), &format!("rate-{rate}"), rate, rate * seconds)?;
        let took = began.elapsed().as_secs_f64();
        let after = [cpu(&services.orders)?, cpu(&services.payments)?];
        let latencies = placed.iter().map(|(order, placed)| Ok(seen.completed(order)? - *placed));
        row(&format!("{rate}/s: order accepted → PaymentCompleted visible"), latencies.collect::<anyhow::Result<_>>()?);
        let share = |index: usize| 100.0 * (after[index] - before[index]) / took;
        println!("    {rate}/s: of one core, order-service {:.1} %, payment-service {:.1} %", share(0), share(1));
    }

    let before = [cpu(&services.orders)?, cpu(&services.payments)?];
    pause(Duration::from_secs(20));
    let idle = [cpu(&services.orders)? - before[0], cpu(&services.payments)? - before[1]].map(|seconds| 5.0 * seconds);
    println!("    idle: of one core, order-service {:.2} %, payment-service {:.2} %", idle[0], idle[1]);

    for (name, topic) in [("order-service", "order-events"), ("payment-service", "payment-events")] {
        let mut recoveries = Vec::new();
        for _ in 0..RESTARTS {
            let stop = Arc::new(AtomicBool::new(false));
            let (url, stopped) = (services.orders.orders_url(), Arc::clone(&stop));
            let callers = busy(url, stopped);
            pause(Duration::from_millis(500)); // the service is killed while it works
            let killed = Instant::now();
            let service = if topic == "order-events" { &mut services.orders } else { &mut services.payments };
            service.kill_and_start()?;
            recoveries.push(seen.first_after(topic, Instant::now())? - killed);
            stop.store(true, Ordering::Relaxed);
            callers.join().map_err(|_panic| anyhow::anyhow!("a caller panicked"))?;
        }
        row(&format!("{name}: kill -9 → restarted → next event published"), recoveries);
    }

    audits(&services, &kafka.address())?;
    kafka.kill()?;
    let placed = load::place_at(&services.orders.orders_url(), "backlog", 4000, BACKLOG)?;
    let down = Instant::now();
    kafka.start_again()?;
    let up = Instant::now();
    for (order, _) in &placed {
        seen.completed(order)?;
    }
    println!(
        "    backlog of {BACKLOG} orders: broker up after {:.1} s, all paid {:.1} s later",
        (up - down).as_secs_f64(),
        up.elapsed().as_secs_f64()
    );
    load::place_at(&services.orders.orders_url(), "more", 2000, MORE)?;
    audits(&services, &kafka.address())?;
    Ok(Table::new())
}

/// Measures the time and the memory of both audits while the services run.
fn audits(services: &Services, brokers: &str) -> anyhow::Result<()> {
    for service in [&services.orders, &services.payments] {
        let began = Instant::now();
        let mut audit = service
            .command_of(&["audit", "--kafka-brokers", brokers])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let mut peak = 0;
        while audit.try_wait()?.is_none() {
            peak = memory(audit.id()).unwrap_or(0).max(peak);
            pause(Duration::from_millis(5));
        }
        let took = began.elapsed().as_secs_f64();
        let output = audit.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "{}: {said}", service.name);
        let count = |line: &str| line.split_whitespace().nth(1).and_then(|count| count.parse::<f64>().ok());
        let records: f64 = said.lines().filter(|line| line.contains("records")).filter_map(count).sum();
        println!(
            "    {} audit: {records:.0} records in {took:.1} s, {:.0}/s, at most {} MB",
            service.name,
            records / took,
            peak / 1024
        );
    }
    Ok(())
}

/// Returns the peak memory of a process so far, in KiB.
fn memory(process: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.split_whitespace().next()?.parse().ok()
}

#[expect(clippy::disallowed_methods, reason = "the tests have no supervisor")]
fn busy(url: String, stop: Arc<AtomicBool>) -> thread::JoinHandle<()> {
    thread::spawn(move || load::place_until(&url, &format!("busy-{}", uuid::Uuid::now_v7()), &stop))
}

#[expect(clippy::disallowed_methods, reason = "measurements last a fixed time")]
fn pause(duration: Duration) {
    thread::sleep(duration);
}

fn row(what: &str, mut durations: Vec<Duration>) {
    durations.sort_unstable();
    let at = |share: f64| durations[((durations.len() - 1) as f64 * share) as usize].as_secs_f64() * 1000.0;
    println!("    {what:<54} {:>5.0} ms {:>5.0} ms {:>5.0} ms", at(0.5), at(0.99), at(1.0));
}

/// Returns the processor time of a process so far, in seconds.
fn cpu(service: &Service) -> anyhow::Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", service.process_id()))?;
    let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok()).context("no such field");
    Ok((ticks(11)? + ticks(12)?) / 100.0) // user and system time, in hundredths of a second
}

/// The times at which a `read_committed` reader saw events.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Times>>);

#[derive(Default)]
struct Times {
    /// The number of payment events of each order, and the time of the newest one.
    payments: HashMap<String, (u32, Instant)>,
    newest: HashMap<String, Instant>,
}

impl Seen {
    /// Waits for the PaymentCompleted event of the order, and returns when it was seen.
    fn completed(&self, order: &str) -> anyhow::Result<Instant> {
        self.wait(|times| times.payments.get(order).filter(|(events, _)| *events == 2).map(|(_, time)| *time))
    }

    /// Waits for the first record of a topic after a moment, and returns when it was seen.
    fn first_after(&self, topic: &str, moment: Instant) -> anyhow::Result<Instant> {
        self.wait(|times| times.newest.get(topic).copied().filter(|time| *time > moment))
    }

    fn wait(&self, found: impl Fn(&Times) -> Option<Instant>) -> anyhow::Result<Instant> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(time) = found(&self.0.lock().unwrap_or_else(PoisonError::into_inner)) {
                return Ok(time);
            }
            ensure!(Instant::now() < deadline, "the expected event was not seen within {PATIENCE:?}");
            pause(Duration::from_millis(1));
        }
    }
}

/// Reads both topics from their current ends. Stops when dropped.
struct Follower(Arc<AtomicBool>);

impl Follower {
    #[expect(clippy::disallowed_methods, reason = "the tests have no supervisor")]
    fn start(brokers: &str, seen: &Seen) -> anyhow::Result<Self> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .set("group.id", "figures")
            .set("isolation.level", "read_committed")
            .create()?;
        let mut list = TopicPartitionList::new();
        for topic in ["order-events", "payment-events"] {
            for partition in 0..PARTITIONS {
                list.add_partition_offset(topic, partition, Offset::End)?;
            }
        }
        consumer.assign(&list)?;
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, seen) = (Arc::clone(&stop), seen.clone());
        thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let Some(Ok(record)) = consumer.poll(Duration::from_millis(100)) else { continue };
                let now = Instant::now();
                let mut times = seen.0.lock().unwrap_or_else(PoisonError::into_inner);
                times.newest.insert(record.topic().to_owned(), now);
                // PaymentRequested comes first, PaymentCompleted last.
                if record.topic() == "payment-events"
                    && let Some(Ok(order)) = record.key().map(std::str::from_utf8)
                {
                    let (events, time) = times.payments.entry(order.to_owned()).or_insert((0, now));
                    (*events, *time) = (*events + 1, now);
                }
            }
        });
        pause(Duration::from_secs(1)); // the consumer has to find the ends first
        Ok(Self(stop))
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
