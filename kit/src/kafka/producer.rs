//! A producer that waits for acknowledgements through its delivery callback.
//!
//! `flush` and `commit_transaction` poll in slices of 100 ms while records are unacknowledged, and polling
//! `in_flight_count` in a loop burns a core. So the delivery callback counts the records in flight and wakes the
//! waiting thread.

use std::{
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use rdkafka::{
    ClientConfig, ClientContext, Message as _,
    config::RDKafkaLogLevel,
    error::{KafkaError, RDKafkaErrorCode},
    message::DeliveryResult,
    producer::{BaseProducer, ProducerContext},
};

use crate::kafka::{client, record::Record};

/// The interval at which the polling thread checks whether the producer was dropped. Each check costs a millisecond of
/// a core, because rust-rdkafka polls without a pause at the end of every wait.
const LOOK: Duration = Duration::from_secs(1);

/// A producer with a thread that polls it. Dropping the producer ends the thread within a second.
pub(crate) struct Producer {
    producer: Arc<BaseProducer<Deliveries>>,
    deliveries: Deliveries,
    dropped: Arc<AtomicBool>,
}

impl Producer {
    pub(crate) fn create(config: &ClientConfig) -> Result<Self, KafkaError> {
        let deliveries = Deliveries::default();
        let producer: Arc<BaseProducer<Deliveries>> = Arc::new(config.create_with_context(deliveries.clone())?);
        let dropped = Arc::new(AtomicBool::new(false));
        let (polled, ended) = (Arc::clone(&producer), Arc::clone(&dropped));
        thread::Builder::new()
            .name("acknowledgements".to_owned())
            .spawn(move || {
                while !ended.load(Ordering::Relaxed) {
                    polled.poll(LOOK);
                }
            })
            .map_err(|error| KafkaError::ClientCreation(error.to_string()))?;
        Ok(Self { producer, deliveries, dropped })
    }

    /// Puts a record into the producer's queue.
    pub(crate) fn send(&self, record: &Record) -> Result<(), KafkaError> {
        self.deliveries.change(|state| state.outstanding += 1);
        self.producer.send(record.to_librdkafka()).map_err(|(error, _)| {
            self.deliveries.change(|state| state.outstanding -= 1);
            error
        })
    }

    /// Waits until no record is in flight and discards their results. It is called before a new transaction, so that
    /// the failure of a record of an aborted transaction does not count against the new one.
    pub(crate) fn settle(&self, limit: Duration) -> Result<(), KafkaError> {
        let mut state = self.deliveries.wait_until(limit, |state| state.outstanding == 0)?;
        state.failure = None;
        state.acknowledged.clear();
        Ok(())
    }

    /// Returns the offsets of the records that were acknowledged since [`settle`](Self::settle).
    pub(crate) fn acknowledged(&self) -> Vec<Acknowledged> {
        self.deliveries.0.state.lock().unwrap_or_else(PoisonError::into_inner).acknowledged.clone()
    }

    /// Waits until every record is acknowledged or one has failed.
    pub(crate) fn wait(&self, limit: Duration) -> Result<(), KafkaError> {
        let mut state = self.deliveries.wait_until(limit, |state| state.outstanding == 0 || state.failure.is_some())?;
        state.failure.take().map_or(Ok(()), Err)
    }

    pub(crate) fn librdkafka(&self) -> &BaseProducer<Deliveries> {
        &self.producer
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.dropped.store(true, Ordering::Relaxed);
    }
}

/// Counts the records in flight. Clones share the count.
#[derive(Clone, Default)]
pub(crate) struct Deliveries(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// The offsets of acknowledged records in one partition.
#[derive(Clone, Debug)]
pub(crate) struct Acknowledged {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    /// The smallest offset.
    pub(crate) first: i64,
    /// The largest offset.
    pub(crate) last: i64,
}

#[derive(Default)]
struct State {
    outstanding: usize,
    /// By partition. A transaction reaches few partitions, and records of one partition come in a row.
    acknowledged: Vec<Acknowledged>,
    /// The first failure since the last [`Producer::wait`].
    failure: Option<KafkaError>,
}

impl Deliveries {
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

impl State {
    fn acknowledge(&mut self, topic: &str, partition: i32, offset: i64) {
        if offset < 0 {
            return; // the broker does not know the offset of a duplicate
        }
        let known = |known: &&mut Acknowledged| known.partition == partition && known.topic == topic;
        if let Some(known) = self.acknowledged.iter_mut().rev().find(known) {
            known.first = known.first.min(offset);
            known.last = known.last.max(offset);
        } else {
            let topic = topic.to_owned();
            self.acknowledged.push(Acknowledged { topic, partition, first: offset, last: offset });
        }
    }
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        client::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        client::LogToTracing.error(error, reason);
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        self.change(|state| {
            state.outstanding -= 1;
            match result {
                Ok(record) => state.acknowledge(record.topic(), record.partition(), record.offset()),
                Err((error, record)) => {
                    tracing::debug!(topic = record.topic(), error = %error, "a record was not acknowledged");
                    state.failure.get_or_insert_with(|| error.clone());
                }
            }
        });
    }
}
