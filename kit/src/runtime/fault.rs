//! Fault points: steps at which a test can end the process, repeat the step, let it fail, or lose its answer.
//!
//! Without the feature `faults` this module compiles to nothing. With it, the program reads the file that `FAULTS_FILE`
//! names at each step. A line such as `Commit CrashAfter 3 1` skips the first 3 steps of that kind and disturbs the
//! next one. The program reports each disturbance on stderr.

use std::{
    fmt::Debug,
    future::{self, Future},
};

use futures_util::FutureExt as _;

/// A step of the kit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// The store writes the events of one commit into its open transaction.
    Append,
    /// The store syncs the transaction to disk.
    Sync,
    /// The store answers the callers that wait for the commit.
    Answer,
    /// The store reads.
    Read,
    /// The relay initializes its producers, which fences their predecessors.
    Open,
    /// The relay begins a Kafka transaction.
    Begin,
    /// The relay puts the records of a transaction into the producer's queue.
    Send,
    /// The relay waits for the acknowledgements of the records.
    Drain,
    /// The relay commits a transaction.
    Commit,
    /// The relay aborts a transaction.
    Abort,
    /// The inbox commits effects and offsets to the store.
    InboxCommit,
    /// The inbox writes a record that it cannot read to the dead letters.
    SetAside,
}

impl Step {
    /// All steps.
    pub const ALL: [Self; 12] = [
        Self::Append,
        Self::Sync,
        Self::Answer,
        Self::Read,
        Self::Open,
        Self::Begin,
        Self::Send,
        Self::Drain,
        Self::Commit,
        Self::Abort,
        Self::InboxCommit,
        Self::SetAside,
    ];

    /// The disturbances that are possible at a step. A step that passes its input on cannot be repeated alone: its
    /// caller retries it instead.
    pub const fn disturbances(self) -> &'static [Disturbance] {
        use Disturbance::{CrashAfter, CrashBefore, Fail, LoseAnswer, Repeat};
        match self {
            Self::Answer => &[CrashBefore, CrashAfter],
            Self::Read => &[CrashBefore, Fail],
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

/// A disturbance of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Disturbance {
    /// The process dies before the step.
    CrashBefore,
    /// The process dies after the step.
    CrashAfter,
    /// The step runs twice, and the second answer counts.
    Repeat,
    /// The step runs, but its answer is replaced with an error.
    LoseAnswer,
    /// The step does not run, and its answer is an error.
    Fail,
}

/// Runs a step, which a test may disturb. `failure` makes the error of a step that fails or loses its answer.
pub fn around<T, E>(
    step: impl Debug,
    failure: impl FnOnce() -> E,
    mut action: impl FnMut() -> Result<T, E>,
) -> Result<T, E> {
    let done = around_async(step, failure, || future::ready(action())).now_or_never();
    done.expect("every future in there is ready at once")
}

/// Runs an async step, like [`around`].
pub async fn around_async<T, E, F: Future<Output = Result<T, E>>>(
    step: impl Debug,
    failure: impl FnOnce() -> E,
    mut action: impl FnMut() -> F,
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

/// Marks the begin of a step. A test may end the process here.
pub fn before(step: impl Debug) {
    if disturbs(&step, Disturbance::CrashBefore) {
        std::process::abort();
    }
}

/// Returns true if the test lets the step fail, so that it must not run.
pub fn fails(step: impl Debug) -> bool {
    disturbs(&step, Disturbance::Fail)
}

/// Marks the end of a step. A test may end the process here.
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

    /// The number of matching steps for each line of the file, since the line appeared.
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
            drop(done); // the test may have removed the file meanwhile
            met.remove(line);
        }
        true
    }
}
