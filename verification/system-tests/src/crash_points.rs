//! Runs each crash point of both services under load. The process crashes before and after every step, repeats it,
//! loses its answer, or fails at it. After each crash point an order must be paid. At the end no event may be lost,
//! duplicated or out of order.

use std::{
    fmt::Debug,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use oncelog::runtime::fault::{self, Disturbance};

use crate::{Ground, Table, kafka::Kafka, services::Kind, times::Times, world::World};

/// Timeout for reaching a crash point under load.
const MET: Duration = Duration::from_secs(60);

/// After this many points, both audits run during the load.
const AUDITED: usize = 20;

/// A step of a service, and the disturbance that is injected there.
#[derive(Clone, Debug)]
pub(crate) struct Point {
    pub(crate) service: Kind,
    pub(crate) step: String,
    pub(crate) disturbance: Disturbance,
    /// The fault that makes the service reach the step, or an empty string.
    pub(crate) before: &'static str,
}

impl Point {
    /// Returns all crash points.
    pub(crate) fn all() -> Vec<Self> {
        let kit = [Kind::Orders, Kind::Payments].into_iter().flat_map(|service| {
            fault::Step::ALL.into_iter().flat_map(move |step| {
                // A writer is opened when one was replaced, and a transaction is aborted when a record failed.
                let before = [(fault::Step::Open, "Commit LoseAnswer 0 1"), (fault::Step::Abort, "Drain Fail 0 1")];
                let before = before.into_iter().find(|(of, _)| *of == step).map_or("", |(_, before)| before);
                Self::of(service, step, step.disturbances(), before)
            })
        });
        let charging = payment_service::fault::Step::ALL
            .into_iter()
            .flat_map(|step| Self::of(Kind::Payments, step, step.disturbances(), ""));
        kit.chain(charging).collect()
    }

    fn of(
        service: Kind,
        step: impl Debug,
        disturbances: &'static [Disturbance],
        before: &'static str,
    ) -> impl Iterator<Item = Self> {
        let step = format!("{step:?}");
        disturbances.iter().map(move |disturbance| Self {
            service,
            step: step.clone(),
            disturbance: *disturbance,
            before,
        })
    }

    fn is_crash(&self) -> bool {
        matches!(self.disturbance, Disturbance::CrashBefore | Disturbance::CrashAfter)
    }

    /// Injects the disturbance after `passes` undisturbed steps, and restarts the service if it crashed there.
    #[expect(clippy::disallowed_methods, reason = "a short pause between two polls")]
    pub(crate) fn meet(&self, world: &mut World, passes: u32) -> anyhow::Result<()> {
        let Self { service, step, disturbance, before } = self;
        if step == "SetAside" {
            world.write_bad_records(service.reads(), u64::from(passes) + 1)?;
        }
        let name = world.services.of(*service).name;
        let armed = format!("{before}\n{step} {disturbance:?} {} 1", if before.is_empty() { passes } else { 0 });
        world.services.of(*service).arm(armed.trim_start())?;
        let deadline = Instant::now() + MET;
        let met = || format!("{name}: {step} {disturbance:?}");
        loop {
            let service = world.services.of(*service);
            if service.has_ended()? {
                // The step may have been reached without the fault in `before`.
                let was_met = !service.looks_out_for(&format!("{step} {disturbance:?} "));
                ensure!(self.is_crash() && was_met, "{} ended the process: {}", met(), service.last_lines());
                service.disarm();
                return service.start_again();
            }
            if service.has_met_them() && !self.is_crash() {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{} was not reached within {MET:?}: {}", met(), service.last_lines());
            if step == "SetAside" {
                // The service may have read the first records before it noticed the crash point.
                world.write_bad_records(self.service.reads(), 1)?;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

pub(crate) fn run(ground: &Ground) -> anyhow::Result<Table> {
    let directory = tempfile::tempdir()?;
    let kafka = Kafka::start(&ground.jars, directory.path())?;
    let mut world = World::start(&ground.programs_with_faults, directory.path(), &kafka.address(), "1")?;
    let mut chance = fastrand::Rng::with_seed(ground.seed);
    println!("    seed {}", ground.seed);
    world.start_load("crash-points", ground.seed);
    world.recover()?;
    let (mut times, began) = (Times::default(), Instant::now());
    let mut findings = Vec::new();
    let points = Point::all();
    for (number, point) in points.iter().enumerate() {
        if number % AUDITED == 0 {
            findings.extend(world.audit(&[])?);
        }
        let passed = point.meet(&mut world, chance.u32(..4)).and_then(|()| world.recover());
        let passed = passed.with_context(|| format!("at {point:?}: {}", world.logs()))?;
        times.add(format!("{:?}", point.disturbance), passed);
    }
    let placed = world.placed();
    let (quiet, found) = world.go_quiet(Instant::now())?;
    findings.extend(found);
    times.print("until an order is paid again after");
    println!(
        "    {} points reached in {:.0} s, {placed} orders meanwhile; idle {:.1} s later",
        points.len(),
        began.elapsed().as_secs_f64(),
        quiet.as_secs_f64()
    );
    let (events, found) = world.compare_books(&ground.reader)?;
    findings.extend(found);
    if !findings.is_empty() {
        world.keep_logs(&ground.kept.join("logs"))?;
    }
    Ok(vec![("crash points", (points.len(), Vec::new())), ("their events", (events, findings))])
}
