//! Crash points: the steps at which a test may end the process, have the step done twice, or lose its answer.
//!
//! Without the feature `faults` everything here is empty and is compiled to nothing. With it, a program looks at each
//! step into the file that `FAULTS_FILE` names: lines such as `Commit CrashAfter 3 1`, which let so many steps pass and
//! then disturb so many. What was disturbed is said on stderr.

use std::{fmt::Debug, future::Future};

/// A step of the kit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// The store writes one commit's events into its open transaction.
    Append,
    /// The store syncs the transaction to disk.
    Sync,
    /// The store tells whoever waits for it.
    Answer,
    /// The relay's producers are initialized, which fences their predecessors.
    Open,
    /// A Kafka transaction begins.
    Begin,
    /// Its records are put into the producer's queue.
    Send,
    /// Their acknowledgements are waited for.
    Drain,
    /// The transaction is committed.
    Commit,
    /// The transaction is aborted.
    Abort,
    /// The inbox hands effects and offsets to the store.
    InboxCommit,
    /// The inbox writes what it cannot read to the dead letters.
    SetAside,
}

impl Step {
    /// Each of them.
    pub const ALL: [Self; 11] = [
        Self::Append,
        Self::Sync,
        Self::Answer,
        Self::Open,
        Self::Begin,
        Self::Send,
        Self::Drain,
        Self::Commit,
        Self::Abort,
        Self::InboxCommit,
        Self::SetAside,
    ];

    /// What can happen to it. A step that hands on what it was given can't be repeated by itself: whoever asked for it
    /// asks again.
    pub const fn disturbances(self) -> &'static [Disturbance] {
        use Disturbance::{CrashAfter, CrashBefore, Fail, LoseAnswer, Repeat};
        match self {
            Self::Answer => &[CrashBefore, CrashAfter],
            Self::Append => &[CrashBefore, CrashAfter, Fail],
            Self::Open | Self::Begin | Self::Drain | Self::Commit => {
                &[CrashBefore, CrashAfter, Repeat, LoseAnswer, Fail]
            }
            Self::Sync | Self::Send | Self::Abort | Self::InboxCommit | Self::SetAside => {
                &[CrashBefore, CrashAfter, LoseAnswer, Fail]
            }
        }
    }
}

/// What happens to a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Disturbance {
    /// The process dies before it.
    CrashBefore,
    /// The process dies after it.
    CrashAfter,
    /// It is done twice, and the second answer counts.
    Repeat,
    /// It is done, and its answer is an error.
    LoseAnswer,
    /// It is not done, and its answer is an error.
    Fail,
}

/// Does a step; a test may disturb it. `failure` is the error of an answer that is lost.
pub fn around<T, E>(
    step: impl Debug,
    failure: impl FnOnce() -> E,
    mut action: impl FnMut() -> Result<T, E>,
) -> Result<T, E> {
    before(&step);
    if fails(&step) {
        return Err(failure());
    }
    if disturbs(&step, Disturbance::Repeat) {
        let _ = action();
    }
    let result = action();
    after(&step);
    if disturbs(&step, Disturbance::LoseAnswer) { Err(failure()) } else { result }
}

/// [`around`] for async steps.
pub async fn around_async<T, E, F: Future<Output = Result<T, E>>>(
    step: impl Debug,
    failure: impl FnOnce() -> E,
    action: impl Fn() -> F,
) -> Result<T, E> {
    before(&step);
    if fails(&step) {
        return Err(failure());
    }
    if disturbs(&step, Disturbance::Repeat) {
        let _ = action().await;
    }
    let result = action().await;
    after(&step);
    if disturbs(&step, Disturbance::LoseAnswer) { Err(failure()) } else { result }
}

/// A step begins that only a crash disturbs.
pub fn before(step: impl Debug) {
    if disturbs(&step, Disturbance::CrashBefore) {
        std::process::abort();
    }
}

/// Whether a step is not to be done.
pub fn fails(step: impl Debug) -> bool {
    disturbs(&step, Disturbance::Fail)
}

/// A step has ended that only a crash disturbs.
pub fn after(step: impl Debug) {
    if disturbs(&step, Disturbance::CrashAfter) {
        std::process::abort();
    }
}

#[cfg(not(feature = "faults"))]
#[inline(always)]
fn disturbs(_: &impl Debug, _: Disturbance) -> bool {
    false
}

#[cfg(feature = "faults")]
use armed::disturbs;

#[cfg(feature = "faults")]
mod armed {
    use std::{
        collections::HashMap,
        fmt::Debug,
        fs,
        sync::{Mutex, PoisonError},
    };

    use super::Disturbance;

    /// How often each line was met since it came.
    static MET: Mutex<Option<HashMap<String, u32>>> = Mutex::new(None);

    #[expect(clippy::disallowed_methods, clippy::print_stderr, reason = "only in programs that are built for tests")]
    pub(super) fn disturbs(step: &impl Debug, disturbance: Disturbance) -> bool {
        let Ok(path) = std::env::var("FAULTS_FILE") else { return false };
        let mut met = MET.lock().unwrap_or_else(PoisonError::into_inner);
        let met = met.get_or_insert_default();
        let Ok(text) = fs::read_to_string(&path) else {
            met.clear();
            return false;
        };
        let wanted = format!("{step:?} {disturbance:?} ");
        let line = text.lines().find_map(|line| Some((line, line.strip_prefix(&wanted)?)));
        let Some((line, counts)) = line else { return false };
        let mut counts = counts.split(' ').map(|count| count.parse().unwrap_or(0_u32));
        let (pass, disturb) = (counts.next().unwrap_or(0), counts.next().unwrap_or(1));
        let times = met.entry(line.to_owned()).or_default();
        *times += 1;
        if *times <= pass {
            return false;
        }
        eprintln!("fault: {step:?} {disturbance:?}");
        if *times >= pass + disturb {
            let rest: Vec<_> = text.lines().filter(|other| *other != line).collect();
            let done = if rest.is_empty() { fs::remove_file(&path) } else { fs::write(&path, rest.join("\n")) };
            drop(done); // it may have been taken away meanwhile
            met.remove(line);
        }
        true
    }
}
