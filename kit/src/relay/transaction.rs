//! Decides the next step of a Kafka transaction. Pure: the writer runs the steps on librdkafka, tests run them on
//! anything.
//!
//! It exists because of two problems that no error and no callback reports.
//!
//! * In Kafka's transaction protocol a delayed commit or abort can end a *later* transaction of the same producer
//!   (Jepsen on Bufstream 0.1.0, 2024). KIP-890 closes this, but librdkafka does not have it yet (librdkafka #5423).
//!   Only the duration shows it: librdkafka sends a request again only after `retry.backoff.ms` ± 20 %. So a producer
//!   whose commit or abort failed, or took longer than three quarters of that, is never used again. Its successor's
//!   `init_transactions` bumps the epoch, which fences every request that is still in flight.
//! * An abort before the first acknowledgement can overtake the registration of its partitions (librdkafka #4849). So
//!   an abort is sent only after waiting for the records.

use std::time::Duration;

/// Returns three quarters of `retry.backoff.ms`. A commit or abort that took no longer was sent only once.
pub const fn surely_sent_once(retry_backoff: Duration) -> Duration {
    Duration::from_millis(retry_backoff.as_millis() as u64 * 3 / 4)
}

/// The next thing that the caller must do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Begin a transaction.
    Begin,
    /// Put every record into the producer's queue.
    Send,
    /// Wait until every record is acknowledged or one has failed.
    Drain,
    /// Commit the transaction.
    Commit,
    /// Abort the transaction.
    Abort,
    /// Stop: the transaction has ended.
    Finish(Finish),
}

/// The result of an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Input {
    /// The success or the kind of failure.
    pub result: Result<(), Fault>,
    /// The duration of the action.
    pub took: Duration,
}

/// The kind of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The producer cannot be used again. Another producer has its `transactional.id`, or its transaction exceeded the
    /// timeout: the broker answers both in the same way.
    Fatal,
    /// Any other failure.
    Failed,
}

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Finish {
    /// The outcome for its records.
    pub outcome: Outcome,
    /// True if the producer may begin another transaction. Otherwise it must be dropped and replaced.
    pub reusable: bool,
}

/// The outcome of a transaction for its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// All records are visible to `read_committed` readers.
    Committed,
    /// No record will ever be visible to `read_committed` readers. If the producer is not reusable, this holds once its
    /// successor is initialized.
    NotCommitted,
    /// Either of the two. The checkpoint shows which one, if it is read after the successor is initialized.
    Unknown,
}

/// The state of one transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Transaction {
    doing: Action,
    /// True if a record failed, so that the transaction is aborted instead of committed.
    failed: bool,
    /// A commit or abort that took longer may have been sent twice.
    surely_sent_once: Duration,
}

impl Transaction {
    /// Returns a new transaction and its first action. For the argument, see [`surely_sent_once`].
    pub fn start(surely_sent_once: Duration) -> (Self, Action) {
        (Self { doing: Action::Begin, failed: false, surely_sent_once }, Action::Begin)
    }

    /// Returns a new transaction that is aborted once its records are acknowledged, and its first action.
    pub fn start_to_abort(surely_sent_once: Duration) -> (Self, Action) {
        (Self { failed: true, ..Self::start(surely_sent_once).0 }, Action::Begin)
    }

    /// Takes the result of the last action and returns the next one.
    pub fn next(&mut self, input: Input) -> Action {
        self.doing = match (self.doing, input.result) {
            (Action::Begin, Ok(())) => Action::Send,
            // No commit was requested, so none can happen.
            (Action::Begin, Err(_)) | (Action::Send | Action::Drain | Action::Abort, Err(Fault::Fatal)) => {
                finish(Outcome::NotCommitted, false)
            }
            (Action::Send, result) => {
                self.failed |= result.is_err();
                Action::Drain
            }
            (Action::Drain, Ok(())) if !self.failed => Action::Commit,
            (Action::Drain, _) => Action::Abort,
            (Action::Commit, Ok(())) => finish(Outcome::Committed, input.took <= self.surely_sent_once),
            // The error may be the answer to a second copy of a commit that succeeded. Only the checkpoint shows it.
            (Action::Commit, Err(Fault::Fatal | Fault::Failed)) => finish(Outcome::Unknown, false),
            (Action::Abort, result) => {
                finish(Outcome::NotCommitted, result.is_ok() && input.took <= self.surely_sent_once)
            }
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

    const SURELY_SENT_ONCE: Duration = Duration::from_millis(375);
    const QUICK: Duration = Duration::from_millis(5);
    const OK: Input = Input { result: Ok(()), took: QUICK };

    fn failing(fault: Fault) -> Input {
        Input { result: Err(fault), took: QUICK }
    }

    /// Feeds the inputs and returns every action, the first one included.
    fn run(inputs: impl IntoIterator<Item = Input>) -> Vec<Action> {
        let (mut transaction, first) = Transaction::start(SURELY_SENT_ONCE);
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
    fn a_transaction_that_is_started_to_be_aborted_never_commits() {
        let (mut transaction, mut action) = Transaction::start_to_abort(SURELY_SENT_ONCE);
        let mut actions = vec![action];
        for input in [OK; 4] {
            action = transaction.next(input);
            actions.push(action);
        }
        let done = finish(Outcome::NotCommitted, true);
        assert_eq!(actions, [Action::Begin, Action::Send, Action::Drain, Action::Abort, done]);
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
        /// On every path the transaction ends within five actions. A commit is requested at most once, and only after
        /// every record was sent and acknowledged. A producer is reused only after a fast and successful end.
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
