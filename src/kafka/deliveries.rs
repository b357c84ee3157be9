//! Waiting for acknowledgements by being told, not by asking.
//!
//! `flush` and `commit_transaction` poll in slices of 100 ms while records are unacknowledged, and asking
//! `in_flight_count` in a loop burns a core: so the delivery callback counts, and wakes whoever waits.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rdkafka::{
    ClientContext, Message as _,
    config::RDKafkaLogLevel,
    error::{KafkaError, RDKafkaErrorCode},
    message::DeliveryResult,
    producer::{ProducerContext, ThreadedProducer},
};

use super::{client, record::Record};

pub(crate) type Producer = ThreadedProducer<Deliveries>;

/// Counts records on their way. Clones share the count.
#[derive(Clone, Default)]
pub(crate) struct Deliveries(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    outstanding: usize,
    /// The first failure since the last [`Deliveries::wait`].
    failure: Option<KafkaError>,
}

impl Deliveries {
    /// Puts a record into the producer's queue.
    pub(crate) fn send(&self, producer: &Producer, record: &Record) -> Result<(), KafkaError> {
        self.change(|state| state.outstanding += 1);
        producer.send(record.to_librdkafka()).map_err(|(error, _)| {
            self.change(|state| state.outstanding -= 1);
            error
        })
    }

    /// Waits until nothing is on its way any more and forgets how it went: before a new transaction, so that
    /// what an aborted one left behind is not taken for its own.
    pub(crate) fn settle(&self, limit: Duration) -> Result<(), KafkaError> {
        self.wait_until(limit, |state| state.outstanding == 0)?.failure = None;
        Ok(())
    }

    /// Waits until every record was acknowledged, or one was not.
    pub(crate) fn wait(&self, limit: Duration) -> Result<(), KafkaError> {
        let mut state = self.wait_until(limit, |state| state.outstanding == 0 || state.failure.is_some())?;
        state.failure.take().map_or(Ok(()), Err)
    }

    fn wait_until(&self, limit: Duration, done: impl Fn(&State) -> bool) -> Result<MutexGuard<'_, State>, KafkaError> {
        let state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (state, waited) = self
            .0
            .changed
            .wait_timeout_while(state, limit, |state| !done(state))
            .unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            return Err(KafkaError::MessageProduction(RDKafkaErrorCode::OperationTimedOut));
        }
        Ok(state)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.0.changed.notify_all();
    }
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        client::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        client::Quiet.error(error, reason);
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        self.change(|state| {
            state.outstanding -= 1;
            if let Err((error, record)) = result {
                tracing::debug!(topic = record.topic(), error = %error, "a record was not acknowledged");
                state.failure.get_or_insert_with(|| error.clone());
            }
        });
    }
}
