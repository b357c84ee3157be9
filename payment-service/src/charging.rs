//! Charging: calls the gateway for the payments that are due, many at a time, and records its answers. Refunds are due
//! in the same way as charges.
//!
//! The payments table has the due time of each payment. It is written together with the intent to charge, so a restart
//! forgets nothing. After a crash between the gateway's answer and its record, the call is repeated under the same key.
//! A payment has one call at a time: a charge that is in flight when the order is cancelled ends before the refund
//! begins.

use std::{
    collections::HashSet,
    convert::Infallible,
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use contracts::money::Money;
use futures_util::FutureExt as _;
use oncelog::{
    aggregate::{Cause, ExecuteError, Loaded, Streams},
    event::StreamId,
    runtime::{Attribute, Outcome, Silence, SpanKind, Spans, Stop, chain, durations, fault, outcomes},
    store::{CommitError, ReadError},
};
use prometheus_client::{
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::{Registry, Unit},
};
use tokio::{sync::watch, task::JoinSet};

use crate::{
    due::{Answer, Due, age, due},
    fault::Step,
    gateway::{Found, Gateway, NoAnswer},
    payment::{Command, Payment, Receipt, Refund, State},
    payments_table::{self, PaymentsTable, Waiting},
};

/// The maximum number of calls to the gateway in flight.
const CONCURRENCY: usize = 256;

/// While there is a backlog, more calls are started only when the calls in flight drop to this number: each query for
/// due payments costs as much as some calls.
const REFILLED: usize = CONCURRENCY / 2;

/// The maximum time between two queries for due payments.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The timeout of one call. After it, the outcome is unknown, and the call is retried later.
const CALL: Duration = Duration::from_secs(30);

/// The pause after the first call without an answer. Each further pause is twice as long, up to the longest.
const SHORTEST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// After this number of attempts without an answer, a payment is logged, once.
const MENTIONED: u32 = 5;

/// The time for which a stopping service waits for the calls in flight. The others are repeated after the next start.
const DRAIN: Duration = Duration::from_millis(300);

/// The metrics of the calls to the gateway.
#[derive(Clone, Debug)]
pub(crate) struct Calls {
    made: Family<Outcome, Counter>,
    duration: Histogram,
    /// Measures how long no call was answered.
    pub(crate) silence: Silence,
}

impl Calls {
    pub(crate) fn new() -> Self {
        Self {
            made: outcomes(&["charged", "declined", "refunded", "voided", "refund_refused", "unknown", "no_answer"]),
            duration: durations(),
            silence: Silence::default(),
        }
    }

    pub(crate) fn register(&self, registry: &mut Registry) {
        let help = "Calls to the payment gateway, by its answer; calls with no_answer are retried";
        registry.register("gateway_calls", help, self.made.clone());
        registry.register_with_unit("gateway_call_duration", "Call duration", Unit::Seconds, self.duration.clone());
    }

    fn note(&self, began: Instant, answer: Option<&Answer>) {
        match answer {
            Some(_) => self.silence.answered(),
            None => self.silence.unanswered(),
        }
        let outcome = match answer {
            Some(Answer::Charge(Receipt::Charged { .. })) => "charged",
            Some(Answer::Charge(Receipt::Declined(_))) => "declined",
            Some(Answer::Refund(Refund::Refunded { .. })) => "refunded",
            Some(Answer::Refund(Refund::NothingCharged)) => "voided",
            Some(Answer::Refund(Refund::Refused(_))) => "refund_refused",
            Some(Answer::Unknown) => "unknown",
            None => "no_answer",
        };
        self.made.get_or_create(&Outcome { outcome }).inc();
        self.duration.observe(began.elapsed().as_secs_f64());
    }
}

/// Charges payments through a gateway.
pub(crate) struct Charging<G> {
    pub(crate) streams: Streams<PaymentsTable>,
    pub(crate) gateway: Arc<G>,
    pub(crate) calls: Calls,
    pub(crate) spans: Spans,
    /// Turns true once the relay has confirmed that the store is the newest copy. Nothing is charged before: in an
    /// older copy, payments may be due that have been settled since.
    pub(crate) publisher_confirmed: watch::Receiver<bool>,
}

impl<G: Gateway> Charging<G> {
    /// Calls the gateway for what is due, until it has to stop.
    pub(crate) async fn run(mut self, stop: Stop) -> Result<(), Infallible> {
        tokio::select! {
            () = stop.requested() => return Ok(()),
            Ok(_) = self.publisher_confirmed.wait_for(|confirmed| *confirmed) => {}
        }
        let mut head = self.streams.store().head();
        let mut under_way = HashSet::new();
        let mut calls: JoinSet<Ended> = JoinSet::new();
        let (mut look_at, mut is_backlog) = (tokio::time::Instant::now(), false);
        let mut parked_at = Instant::now();
        loop {
            tokio::select! {
                biased; // The stop comes first, so that a stopping service begins no more calls.
                () = stop.requested() => break,
                Some(ended) = calls.join_next() => {
                    let is_settled = is_settled(&mut under_way, ended); // a settled payment makes nothing due
                    let can_wait = if is_backlog { calls.len() > REFILLED } else { is_settled };
                    if can_wait {
                        continue;
                    }
                }
                changed = head.changed(), if !is_backlog => {
                    if changed.is_err() {
                        break; // the store is closed
                    }
                }
                () = tokio::time::sleep_until(look_at) => {}
            }
            head.mark_unchanged();
            let next;
            let look_for_parked = parked_at.elapsed() > LOOK_AGAIN;
            (next, is_backlog) = self.start_due(&mut calls, &mut under_way, look_for_parked).await;
            if look_for_parked {
                parked_at = Instant::now();
            }
            look_at = tokio::time::Instant::now() + next;
        }
        let _ = tokio::time::timeout(DRAIN, async { while calls.join_next().await.is_some() {} }).await;
        Ok(())
    }

    /// Starts the calls that are due. Returns the time until the next query, and true if there is a backlog.
    async fn start_due(
        &self,
        calls: &mut JoinSet<Ended>,
        under_way: &mut HashSet<StreamId>,
        look_for_parked: bool,
    ) -> (Duration, bool) {
        let now = SystemTime::now();
        let waiting = match self.waiting(now, limit(under_way), look_for_parked).await {
            Ok(waiting) => waiting,
            Err(error) => {
                tracing::error!(error = chain(&error), "cannot query the payments that are due");
                return (LOOK_AGAIN, false);
            }
        };
        let next = next(&waiting, now, under_way, CONCURRENCY.saturating_sub(calls.len()));
        for payment in next.start {
            under_way.insert(payment.order);
            let (streams, gateway) = (self.streams.clone(), Arc::clone(&self.gateway));
            let call = Call { streams, gateway, calls: self.calls.clone(), spans: self.spans.clone(), payment };
            calls.spawn(async move {
                let settled = AssertUnwindSafe(call.run()).catch_unwind().await;
                if settled.is_err() {
                    tracing::error!(order = %payment.order, "a payment's call panicked and will be repeated");
                    tokio::time::sleep(LONGEST_PAUSE).await; // the payment counts as in flight until then
                }
                Ended { order: payment.order, settled: settled.unwrap_or(false) }
            });
        }
        (next.look_again, next.is_backlog)
    }

    /// Returns the payments that are due, and the next one. A payment that waits longer than the longest pause was
    /// parked by a clock that was ahead, and is due now.
    async fn waiting(&self, now: SystemTime, limit: usize, look_for_parked: bool) -> Result<Vec<Waiting>, ReadError> {
        let mut rows = self.streams.rows(payments_table::waiting(now, limit)).await?;
        if look_for_parked {
            let parked = self.streams.rows(payments_table::waiting_from(now + PARKED, limit)).await?;
            rows.retain(|row| parked.iter().all(|parked| parked.stream != row.stream)); // the last one may be in both
            rows.extend(parked);
        }
        let waiting = rows.iter().filter_map(Waiting::of);
        Ok(waiting.map(|payment| Waiting { due: unparked(payment.due, now), ..payment }).collect())
    }
}

/// The time after which no payment waits, unless the clock was set back.
const PARKED: Duration = Duration::from_secs(2 * LONGEST_PAUSE.as_secs());

/// Returns the number of payments to query: enough to find every call that can be started, and one more, which shows a
/// backlog.
fn limit(under_way: &HashSet<StreamId>) -> usize {
    // The payments with a call in flight may come first: they are due until their outcome is recorded.
    CONCURRENCY + under_way.len() + 1
}

/// The calls to start, and the time until the next query.
#[derive(Debug, PartialEq, Eq)]
struct Next {
    start: Vec<Waiting>,
    look_again: Duration,
    /// True if more payments are due than could be started.
    is_backlog: bool,
}

/// Returns the time at which a payment is due.
fn unparked(due: SystemTime, now: SystemTime) -> SystemTime {
    if due > now + PARKED { now } else { due }
}

fn next(waiting: &[Waiting], now: SystemTime, under_way: &HashSet<StreamId>, places: usize) -> Next {
    let due = waiting.iter().filter(|payment| payment.due <= now && !under_way.contains(&payment.order));
    let is_backlog = due.clone().count() > places;
    let later = waiting.iter().filter_map(|payment| payment.due.duration_since(now).ok()).find(|wait| !wait.is_zero());
    Next {
        start: due.take(places).copied().collect(),
        look_again: later.unwrap_or(LOOK_AGAIN).min(LOOK_AGAIN),
        is_backlog,
    }
}

/// Waits for the gateway's answer. A call that panics has no answer, and is retried like any other.
async fn answer(call: impl Future<Output = Result<Answer, NoAnswer>>) -> Result<Answer, NoAnswer> {
    match tokio::time::timeout(CALL, AssertUnwindSafe(call).catch_unwind()).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_panic)) => Err(NoAnswer("the call panicked; the panic was printed above".to_owned())),
        Err(_elapsed) => Err(NoAnswer(format!("no answer within {} s", CALL.as_secs()))),
    }
}

/// The end of a call.
struct Ended {
    order: StreamId,
    /// True if no further call is needed.
    settled: bool,
}

fn is_settled(under_way: &mut HashSet<StreamId>, ended: Result<Ended, tokio::task::JoinError>) -> bool {
    match ended {
        Ok(Ended { order, settled }) => {
            under_way.remove(&order);
            settled
        }
        // The task catches panics. Its payment counts as in flight, so it is not called for again before the next start.
        Err(error) => {
            tracing::error!(error = %error, "the task of a payment was cut off");
            true
        }
    }
}

/// One call for one payment.
struct Call<G> {
    streams: Streams<PaymentsTable>,
    gateway: Arc<G>,
    calls: Calls,
    spans: Spans,
    payment: Waiting,
}

impl<G: Gateway> Call<G> {
    /// Calls the gateway, and records the answer or the time of the next attempt. Returns true if no further call is
    /// needed.
    ///
    /// # Cancellation
    /// The gateway may have been called. The payment is still due, and the call is repeated under the same key.
    async fn run(&self) -> bool {
        let order = self.payment.order;
        let payment = match self.streams.load(order).await {
            Ok(payment) => payment,
            Err(error) => {
                tracing::error!(%order, error = chain(&error), "cannot read a payment that is due");
                tokio::time::sleep(SHORTEST_PAUSE).await;
                return false;
            }
        };
        let before = payment.trace().cloned();
        let Payment::Known { money, order_time, state } = payment.state else { return true };
        let remembers = self.gateway.remembers();
        let age = age(order_time, payment.create_time, SystemTime::now(), remembers);
        let Some(due) = due(&state, age, remembers) else { return true }; // settled meanwhile
        let attributes = || vec![Attribute::new("order.id", order.to_string())];
        let name = match due {
            Due::Charge | Due::FindOrCharge => "charge",
            Due::Refund => "refund",
        };
        let mut span = self.spans.start(SpanKind::Client, name, before.as_ref(), attributes);
        let cause = Cause { event: None, trace: span.trace(before.as_ref()) };
        let began = Instant::now();
        let answer = answer(self.ask(due, money)).await;
        self.calls.note(began, answer.as_ref().ok());
        match answer {
            Ok(answer) => {
                drop(span);
                self.record(answer, &cause).await
            }
            Err(no_answer) => {
                span.fail(&no_answer);
                drop(span);
                if self.payment.failed_attempts == MENTIONED {
                    tracing::warn!(%order, attempts = MENTIONED, error = %no_answer, "the gateway does not answer");
                }
                tracing::debug!(%order, error = %no_answer, "the call to the gateway will be retried");
                self.postpone().await;
                false
            }
        }
    }

    async fn ask(&self, due: Due, money: Money) -> Result<Answer, NoAnswer> {
        let order = self.payment.order;
        let lost = || NoAnswer("dropped by a test".to_owned());
        match due {
            Due::Refund => {
                let refund = fault::around_async(Step::Refund, lost, move || self.gateway.refund(order, money));
                return refund.await.map(Answer::Refund);
            }
            Due::FindOrCharge => {
                if let Some(answer) = Answer::found(self.find(order).await?) {
                    return Ok(answer);
                }
            }
            Due::Charge => {}
        }
        let receipt = fault::around_async(Step::Charge, lost, move || self.gateway.charge(order, money)).await?;
        if let Receipt::Charged { .. } = receipt {
            return Ok(Answer::Charge(receipt));
        }
        Ok(Answer::confirmed(receipt, self.find(order).await?))
    }

    async fn find(&self, order: StreamId) -> Result<Found, NoAnswer> {
        let lost = || NoAnswer("dropped by a test".to_owned());
        fault::around_async(Step::Find, lost, move || self.gateway.find(order)).await
    }

    /// Records the gateway's answer. Retries until the store takes it, because money has moved. Returns true if the
    /// payment needs no further call. A payment that was cancelled in the meantime does: it has to be refunded.
    async fn record(&self, answer: Answer, cause: &Cause) -> bool {
        let order = self.payment.order;
        let command = Command::from(answer);
        let mut pause = SHORTEST_PAUSE;
        loop {
            let (streams, command) = (&self.streams, &command);
            let lost = || ExecuteError::Commit(CommitError::Overloaded);
            let recorded = fault::around_async(Step::Outcome, lost, move || streams.execute(order, command, cause));
            match recorded.await {
                Ok(Loaded { state: Payment::Known { state: State::NeedsReview { review, .. }, .. }, .. }) => {
                    tracing::warn!(%order, review = review.code(), "a payment needs a person: call SettlePayment");
                    return true;
                }
                Ok(Loaded { state: Payment::Known { state: State::Cancelling { .. }, .. }, .. }) => return false,
                Ok(_) => {
                    tracing::debug!(%order, "the answer of the gateway is recorded");
                    return true;
                }
                Err(ExecuteError::Rejected(rejection)) => {
                    tracing::error!(%order, error = %rejection, ?command, "the gateway contradicts itself");
                    return true;
                }
                Err(error) => {
                    tracing::debug!(%order, error = chain(&error), "cannot record the answer of the gateway yet");
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Sets the time of the next attempt. If the store cannot write it, the payment stays due, which is safe.
    async fn postpone(&self) {
        let Waiting { failed_attempts, .. } = self.payment;
        let pause = LONGEST_PAUSE.min(SHORTEST_PAUSE * 2_u32.pow(failed_attempts.min(16)));
        let due = SystemTime::now() + pause;
        let postpone = || self.streams.update(self.payment.postponed(due));
        let postponed = fault::around_async(Step::Postpone, || CommitError::Overloaded, postpone).await;
        if postponed.is_err() {
            tokio::time::sleep(pause).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(count: usize, due: SystemTime) -> Vec<Waiting> {
        (0..count).map(|_| Waiting { order: StreamId::generate(), failed_attempts: 0, due }).collect()
    }

    #[test]
    fn as_many_are_started_as_there_are_places_and_a_backlog_is_known() {
        let now = SystemTime::now();
        let under_way = HashSet::new();
        let due = waiting(limit(&under_way), now);
        let next_of = |waiting| next(waiting, now, &under_way, CONCURRENCY);
        let full = next_of(&due);
        assert_eq!((full.start.len(), full.is_backlog), (CONCURRENCY, true));
        let all = next_of(&due[1..]);
        assert_eq!((all.start.len(), all.is_backlog), (CONCURRENCY, false));
        assert_eq!(next(&due, now, &under_way, 0), Next { start: vec![], look_again: LOOK_AGAIN, is_backlog: true });
    }

    #[test]
    fn a_payment_that_a_wrong_clock_has_parked_is_due_now() {
        let now = SystemTime::now();
        assert_eq!(unparked(now + LONGEST_PAUSE, now), now + LONGEST_PAUSE);
        assert_eq!(unparked(now + Duration::from_secs(24 * 60 * 60), now), now);
    }

    #[tokio::test]
    async fn a_call_that_panics_has_no_answer() {
        let answer = answer(async { panic!("as the test wants it") }).await;
        assert!(answer.expect_err("none").to_string().contains("panicked"));
    }

    #[test]
    fn those_under_way_take_nobodys_place_and_what_is_due_later_is_looked_for_then() {
        let now = SystemTime::now();
        let mut payments = waiting(3, now);
        payments.extend(waiting(1, now + Duration::from_millis(300)));
        let under_way = HashSet::from([payments[0].order, payments[2].order]);
        let look_again = Duration::from_millis(300);
        let expected = Next { start: vec![payments[1]], look_again, is_backlog: false };
        assert_eq!(next(&payments, now, &under_way, 1), expected);
        let far = waiting(1, now + Duration::from_secs(40));
        assert_eq!(next(&far, now, &under_way, 1).look_again, LOOK_AGAIN);
    }
}
