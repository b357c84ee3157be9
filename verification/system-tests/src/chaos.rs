//! Runs random faults on three brokers, each behind a proxy: crash points, kills, frozen processes, brokers that are
//! killed alone or together, connections, disks, the gateway, and bad records that are replayed again and again.
//! After each run the system must become idle without help, with no event lost, duplicated or out of order.
//!
//! All runs of one call share their stores and topics, so the last audit covers everything.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;

use crate::{
    Ground, Table,
    crash_points::Point,
    kafka::{Cluster, Kafka},
    proxy::{Proxy, REQUESTS, Wire},
    services::Kind,
    times::Times,
    world::World,
};

/// The number of faults in a run.
const FAULTS: u64 = 3;

/// The percentage of faults after which an order must be paid before the next fault.
const ALONE: u32 = 60;

/// After this many runs, the answers of all calls are compared with the whole of both topics, as the Python reader sees
/// them.
const BOOKS: u64 = 5;

/// Longer than the transaction timeout, and than every timeout of a client.
const FROZEN: Duration = Duration::from_secs(12);

/// The maximum duration of a fault in brokers, connections, disks and the gateway, in milliseconds.
const BROKEN: u64 = 4000;

/// The maximum duration of a gateway fault. It is short because the backoff doubles with each failed call, and some
/// payments fail three more times without a fault.
const GATEWAY: Duration = Duration::from_millis(1200);

/// The title of the recovery times.
const RECOVERED: &str = "until an order is paid again after";

/// The kinds of faults.
#[derive(Clone, Copy, Debug)]
enum Fault {
    CrashPoint,
    Kill,
    Freeze,
    KillBroker,
    KillAllBrokers,
    RollingRestart,
    Wire,
    Disk,
    Gateway,
    BadRecords,
    Replay,
}

/// The weight of each fault in the random choice.
const CHANCES: [(Fault, u32); 11] = [
    (Fault::CrashPoint, 30),
    (Fault::Kill, 8),
    (Fault::Freeze, 3),
    (Fault::KillBroker, 8),
    (Fault::KillAllBrokers, 3),
    (Fault::RollingRestart, 2),
    (Fault::Wire, 28),
    (Fault::Disk, 6),
    (Fault::Gateway, 6),
    (Fault::BadRecords, 4),
    (Fault::Replay, 4),
];

pub(crate) fn run(ground: &Ground) -> anyhow::Result<Table> {
    let directory = tempfile::tempdir()?;
    let mut cluster = Cluster::start(&ground.jars, directory.path())?;
    let mut world = World::start(&ground.programs_with_faults, directory.path(), &cluster.address(), "3")?;
    world.recover()?;
    let (mut times, mut quiet, mut orders) = (Times::default(), Times::default(), 0);
    let (mut events, mut findings) = (0, Vec::new());
    for number in 1..=ground.runs {
        let seed = ground.seed.wrapping_add(number - 1);
        let began = Instant::now();
        let mut story = Vec::new();
        let went = one(seed, &mut cluster, &mut world, &mut times, &mut story);
        let went = went.and_then(|run| Ok((run.placed, run.findings, world.go_quiet(run.last_fault)?)));
        let went = went.with_context(|| {
            let _ = world.keep_logs(&ground.kept.join("logs"));
            times.print(RECOVERED);
            quiet.print("");
            format!("run {number}, seed {seed}, after {}:\n{}", story.join(", "), world.logs())
        });
        let (placed, mut found, (settled, at_the_end)) = went?;
        found.extend(at_the_end);
        orders += placed;
        quiet.add("quiet after the last fault".to_owned(), settled);
        findings.extend(found.into_iter().map(|finding| format!("seed {seed}: {finding}")));
        if number % BOOKS == 0 || number == ground.runs {
            let (compared, found) = world.compare_books(&ground.reader)?;
            events = compared;
            findings.extend(found.into_iter().map(|finding| format!("by seed {seed}: {finding}")));
        }
        println!(
            "    run {number:>3}/{}  seed {seed}  {placed:>5} orders  {:>5.1} s  quiet after {:>4.1} s  {} findings  {}",
            ground.runs,
            began.elapsed().as_secs_f64(),
            settled.as_secs_f64(),
            findings.len(),
            story.join(", ")
        );
        if !findings.is_empty() {
            world.keep_logs(&ground.kept.join("logs"))?;
            break;
        }
    }
    times.print(RECOVERED);
    quiet.print("");
    println!("    {orders} orders, {} records that are not events, {events} events compared", world.bad_records);
    Ok(vec![("chaos", (events, findings))])
}

/// The result of a run.
struct Run {
    placed: u64,
    last_fault: Instant,
    /// The findings of the audits during the load.
    findings: Vec<String>,
}

/// Runs load and faults. Some faults begin before the system has recovered from the one before.
#[expect(clippy::disallowed_methods, reason = "load between two faults")]
fn one(
    seed: u64,
    cluster: &mut Cluster,
    world: &mut World,
    times: &mut Times,
    story: &mut Vec<String>,
) -> anyhow::Result<Run> {
    let mut chance = fastrand::Rng::with_seed(seed);
    world.start_load(&format!("chaos-{seed}"), seed);
    world.recover()?;
    let findings = world.audit(&[])?; // during the load
    let mut last_fault = Instant::now();
    for number in 1..=FAULTS {
        thread::sleep(Duration::from_millis(chance.u64(..800)));
        let fault = choose(&mut chance);
        story.push(format!("{fault:?}"));
        let (kind, told) = happen(fault, &mut chance, cluster, world).with_context(|| format!("{fault:?}"))?;
        if let Some(last) = story.last_mut() {
            *last = told;
        }
        last_fault = Instant::now();
        if number == FAULTS || chance.u32(..100) < ALONE {
            times.add(kind, world.recover()?);
        }
    }
    Ok(Run { placed: world.placed(), last_fault, findings })
}

fn choose(chance: &mut fastrand::Rng) -> Fault {
    let mut left = chance.u32(..CHANCES.iter().map(|(_, share)| share).sum::<u32>());
    for (fault, share) in CHANCES {
        match left.checked_sub(share) {
            None => return fault,
            Some(rest) => left = rest,
        }
    }
    Fault::CrashPoint
}

/// Injects a fault until it is over, and returns its kind and its description.
#[expect(clippy::disallowed_methods, reason = "the duration of the fault")]
#[expect(clippy::too_many_lines, reason = "one arm for each kind of fault")]
fn happen(
    fault: Fault,
    chance: &mut fastrand::Rng,
    cluster: &mut Cluster,
    world: &mut World,
) -> anyhow::Result<(String, String)> {
    let kind = if chance.bool() { Kind::Orders } else { Kind::Payments };
    let name = world.services.of(kind).name;
    let lasting = Duration::from_millis(chance.u64(500..BROKEN));
    let broker = chance.usize(..Cluster::SIZE);
    let all = |what: String| Ok((what.clone(), what));
    match fault {
        Fault::CrashPoint => {
            let points = Point::all();
            let point = &points[chance.usize(..points.len())];
            point.meet(world, chance.u32(..20))?;
            let told = format!("{} {} {:?}", world.services.of(point.service).name, point.step, point.disturbance);
            Ok((format!("crash point: {:?}", point.disturbance), told))
        }
        Fault::Kill => {
            world.services.of(kind).kill_and_start()?;
            all(format!("{name} killed"))
        }
        Fault::Freeze => {
            world.services.of(kind).freeze()?;
            thread::sleep(FROZEN);
            world.services.of(kind).resume()?;
            all(format!("{name} frozen for {} s", FROZEN.as_secs()))
        }
        Fault::KillBroker => {
            cluster.brokers[broker].kill_and_start(lasting)?;
            Ok(("a broker killed".to_owned(), format!("broker {broker} killed for {lasting:?}")))
        }
        Fault::KillAllBrokers => {
            cluster.kill_all_and_start()?;
            all("all brokers killed".to_owned())
        }
        Fault::RollingRestart => {
            cluster.brokers.iter_mut().try_for_each(Kafka::restart)?;
            all("rolling restart of the brokers".to_owned())
        }
        Fault::Wire => {
            let (request, number) = REQUESTS[chance.usize(..REQUESTS.len())];
            let wire = Wire::ALL[chance.usize(..Wire::ALL.len())];
            let times = chance.u32(1..4);
            cluster.proxies.iter().for_each(|proxy| proxy.disturb(number, wire, times));
            // Some requests are sent only when a producer is replaced.
            world.services.of(kind).arm("Commit LoseAnswer 0 1")?;
            thread::sleep(lasting);
            world.services.of(kind).disarm();
            let was_met = cluster.proxies.iter().map(Proxy::heal).fold(false, |met, healed| met | healed);
            let met = if was_met { "" } else { ", which did not come" };
            Ok((format!("wire: {wire:?}{met}"), format!("{wire:?} of {times} {request}{met}")))
        }
        Fault::Disk => {
            let (step, how) = if chance.bool() { ("Append", "full") } else { ("Sync", "failing") };
            world.services.of(kind).arm(&format!("{step} Fail 0 1000000"))?;
            thread::sleep(lasting);
            world.services.of(kind).disarm();
            Ok((format!("disk of {name} {how}"), format!("disk of {name} {how} for {lasting:?}")))
        }
        Fault::Gateway => {
            let how = ["Fail", "LoseAnswer", "Repeat"][chance.usize(..3)];
            world.services.payments.arm(&format!("Charge {how} 0 1000000\nRefund {how} 0 1000000"))?;
            let lasting = lasting.min(GATEWAY);
            thread::sleep(lasting);
            world.services.payments.disarm();
            Ok((format!("gateway: {how}"), format!("gateway: {how} for {lasting:?}")))
        }
        Fault::BadRecords => {
            world.write_bad_records(kind.reads(), chance.u64(1..50))?;
            all("bad records".to_owned())
        }
        Fault::Replay => {
            world.recover()?; // a cluster that recovers from a fault may be slow to answer
            let brokers = cluster.address();
            // Records that are not events fail again, and are listed again.
            let args = ["dead-letters", "replay", "--all", "--kafka-brokers", &brokers];
            let (code, said) = world.services.of(kind).subcommand(&args)?;
            anyhow::ensure!(code == Some(0), "{code:?}: {said}");
            all("dead letters put back".to_owned())
        }
    }
}
