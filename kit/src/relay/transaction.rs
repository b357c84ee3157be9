//! What a Kafka transaction may do next. Pure: the writer runs it on librdkafka, tests on anything.
//!
//! It exists for two facts that no error and no callback tells.
//!
//! * In Kafka's transaction protocol a delayed commit or abort can end a *later* transaction of the same
//!   producer (Jepsen on Bufstream 0.1.0, 2024; KIP-890 closes it, librdkafka does not have it yet:
//!   librdkafka #5423). What tells is the time: librdkafka sends a request again only after
//!   `retry.backoff.ms` ± 20 %. So a producer whose commit or abort failed, or took longer than three
//!   quarters of that, is never used again; its successor's `init_transactions` bumps the epoch and fences
//!   whatever is still under way.
//! * An abort before the first acknowledgement can overtake the registration of its partitions
//!   (librdkafka #4849). So an abort comes only after the records were waited for.

use std::time::Duration;

use crate::kafka::client::RETRY_BACKOFF;

/// A commit or abort that took longer may have been sent twice.
pub const SURELY_SENT_ONCE: Duration = Duration::from_millis(RETRY_BACKOFF.as_millis() as u64 * 3 / 4);

/// What the driver is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Begin a transaction.
    Begin,
    /// Put every record into the producer's queue.
    Send,
    /// Wait until every record was acknowledged, or one was not.
    Drain,
    /// Commit.
    Commit,
    /// Abort.
    Abort,
    /// Nothing more.
    Finish(Finish),
}

/// What came of an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Input {
    /// Whether it went well.
    pub result: Result<(), Fault>,
    /// How long it took.
    pub took: Duration,
}

/// What kind of failure it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// Anything after which this producer can do no more, such as a successor with its `transactional.id`, or a
    /// transaction that stayed open for too long: the broker's answer is the same.
    Fatal,
    /// Anything else.
    Failed,
}

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Finish {
    /// What became of its records.
    pub outcome: Outcome,
    /// Whether the producer may begin another one. If not, it is to be dropped and replaced.
    pub reusable: bool,
}

/// What became of a transaction's records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// `read_committed` readers see all of them.
    Committed,
    /// They will never see any, once the producer's successor is initialized if it is not reusable.
    NotCommitted,
    /// One or the other: the checkpoint tells, read after the successor is initialized.
    Unknown,
}

/// One transaction, from before its beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Transaction {
    doing: Action,
    /// A record failed: abort where the commit would be.
    failed: bool,
}

impl Transaction {
    /// The transaction, and the first thing to do.
    pub fn start() -> (Self, Action) {
        (Self { doing: Action::Begin, failed: false }, Action::Begin)
    }

    /// Takes what came of the last action and says what to do next.
    pub fn next(&mut self, input: Input) -> Action {
        self.doing = match (self.doing, input.result) {
            (Action::Begin, Ok(())) => Action::Send,
            // Nobody asked for a commit, so there is none.
            (Action::Begin, Err(_)) | (Action::Send | Action::Drain | Action::Abort, Err(Fault::Fatal)) => {
                finish(Outcome::NotCommitted, false)
            }
            (Action::Send, result) => {
                self.failed = result.is_err();
                Action::Drain
            }
            (Action::Drain, Ok(())) if !self.failed => Action::Commit,
            (Action::Drain, _) => Action::Abort,
            (Action::Commit, Ok(())) => finish(Outcome::Committed, input.took <= SURELY_SENT_ONCE),
            // The failed commit may have been the second copy: only the checkpoint knows.
            (Action::Commit, Err(Fault::Fatal | Fault::Failed)) => finish(Outcome::Unknown, false),
            (Action::Abort, result) => finish(Outcome::NotCommitted, result.is_ok() && input.took <= SURELY_SENT_ONCE),
            (Action::Finish(finish), _) => Action::Finish(finish),
        };
        self.doing
    }
}

fn finish(outcome: Outcome, reusable: bool) -> Action {
    Action::Finish(Finish { outcome, reusable })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const QUICK: Duration = Duration::from_millis(5);
    const OK: Input = Input { result: Ok(()), took: QUICK };

    fn failing(fault: Fault) -> Input {
        Input { result: Err(fault), took: QUICK }
    }

    /// Feeds the inputs and returns every action, the first one included.
    fn run(inputs: impl IntoIterator<Item = Input>) -> Vec<Action> {
        let (mut transaction, first) = Transaction::start();
        let mut actions = vec![first];
        for input in inputs {
            let action = transaction.next(input);
            actions.push(action);
            if matches!(action, Action::Finish(_)) {
                break;
            }
        }
        actions
    }

    #[test]
    fn all_well_is_a_commit_and_the_producer_stays() {
        let done = finish(Outcome::Committed, true);
        assert_eq!(run([OK; 4]), [Action::Begin, Action::Send, Action::Drain, Action::Commit, done]);
    }

    #[test]
    fn a_slow_commit_counts_but_retires_its_producer() {
        let slow = Input { result: Ok(()), took: SURELY_SENT_ONCE + Duration::from_millis(1) };
        assert_eq!(run([OK, OK, OK, slow]).last(), Some(&finish(Outcome::Committed, false)));
    }

    #[test]
    fn a_failed_commit_is_unknown_whatever_the_error_says() {
        for fault in [Fault::Failed, Fault::Fatal] {
            assert_eq!(run([OK, OK, OK, failing(fault)]).last(), Some(&finish(Outcome::Unknown, false)));
        }
    }

    #[test]
    fn a_record_that_fails_aborts_after_the_others_were_waited_for() {
        let done = finish(Outcome::NotCommitted, true);
        let failed = failing(Fault::Failed);
        let actions = [Action::Begin, Action::Send, Action::Drain, Action::Abort, done];
        assert_eq!(run([OK, failed, OK, OK]), actions);
        assert_eq!(run([OK, OK, failed, OK]), actions);
    }

    #[test]
    fn a_slow_or_failed_abort_retires_its_producer() {
        let failed = failing(Fault::Failed);
        let slow = Input { result: Ok(()), took: SURELY_SENT_ONCE * 2 };
        for end in [failed, slow] {
            assert_eq!(run([OK, failed, OK, end]).last(), Some(&finish(Outcome::NotCommitted, false)));
        }
    }

    #[test]
    fn a_producer_that_can_do_no_more_ends_at_once() {
        let fatal = failing(Fault::Fatal);
        for inputs in [vec![fatal], vec![OK, fatal], vec![OK, OK, fatal], vec![OK, failing(Fault::Failed), OK, fatal]] {
            let actions = run(inputs.clone());
            assert_eq!(actions.last(), Some(&finish(Outcome::NotCommitted, false)));
            assert_eq!(actions.len(), inputs.len() + 1);
        }
    }

    fn any_input() -> impl Strategy<Value = Input> {
        let result = prop_oneof![
            6 => Just(Ok(())),
            1 => Just(Err(Fault::Failed)),
            1 => Just(Err(Fault::Fatal)),
        ];
        (result, 0..1000u64).prop_map(|(result, took)| Input { result, took: Duration::from_millis(took) })
    }

    proptest! {
        /// Whatever happens: it ends within five actions; a commit is asked for at most once, and only after
        /// every record was sent and acknowledged; and a producer is used again only after a quick, good end.
        #[test]
        fn the_rules_hold_on_every_path(inputs in prop::collection::vec(any_input(), 5)) {
            let actions = run(inputs.clone());
            let Some(Action::Finish(end)) = actions.last() else { panic!("it did not end: {actions:?}") };
            let before = |action| actions.iter().position(|a| *a == action).map(|at| &inputs[at]);
            let ending = before(Action::Commit).or(before(Action::Abort));
            if end.reusable {
                prop_assert!(ending.is_some_and(|input| input.result.is_ok() && input.took <= SURELY_SENT_ONCE));
            }
            if before(Action::Commit).is_some() {
                prop_assert!(before(Action::Send).is_some_and(|input| input.result.is_ok()));
                prop_assert!(before(Action::Drain).is_some_and(|input| input.result.is_ok()));
                prop_assert!(before(Action::Abort).is_none());
            } else {
                prop_assert_eq!(end.outcome, Outcome::NotCommitted);
            }
            prop_assert_eq!(
                end.outcome == Outcome::Committed,
                before(Action::Commit).is_some_and(|input| input.result.is_ok())
            );
        }
    }
}
