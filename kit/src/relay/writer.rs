//! Publishes records in Kafka transactions: runs the steps of [`transaction`](crate::relay::transaction) on librdkafka.

use std::{
    thread,
    time::{Duration, Instant},
};

use rdkafka::{
    error::{KafkaError, RDKafkaErrorCode},
    producer::Producer as _,
};

use crate::{
    kafka::{
        client::{ANSWER, Client, RETRY_BACKOFF},
        producer::{Acknowledged, Producer},
        record::Record,
    },
    relay::transaction::{self, Action, Fault, Finish, Input, Outcome, Transaction},
    runtime::fault::{self, Step},
};

/// The timeout for the acknowledgement of one transaction's records.
const DRAIN: Duration = Duration::from_secs(8);

/// The longest wait until librdkafka has removed an acknowledged record from its count. It takes far less than this.
const PUT_AWAY: Duration = Duration::from_millis(5);

/// The longest `retry.backoff.ms`. A link with a round trip of more than two seconds costs a producer with each commit.
const LONGEST_RETRY_BACKOFF: Duration = Duration::from_secs(10);

/// Publishes records atomically, under one fixed `transactional.id`.
///
/// Two producers take turns, and each begins only after the other's commit has returned. A producer that begins again
/// at once meets the markers of its own last transaction and backs off for 20 ms.
///
/// [`commit`](Self::commit) takes the writer by value, so that a producer whose last commit is uncertain cannot be used
/// again.
pub struct Writer {
    /// The first one commits next.
    turns: [Producer; 2],
    /// A commit or abort that took longer may have been sent twice.
    surely_sent_once: Duration,
}

/// The end of a transaction, and the writer for the next one.
pub struct Finished {
    /// The outcome for the records.
    pub outcome: Outcome,
    /// The writer, or `None` if a new one must be opened.
    pub writer: Option<Writer>,
    /// The first error, if there was one.
    pub error: Option<KafkaError>,
    /// The offsets of the acknowledged records.
    pub(crate) acknowledged: Vec<Acknowledged>,
}

impl Writer {
    /// The numbers of the producers, in the order in which they commit.
    pub(crate) const TURNS: [u8; 2] = [0, 1];

    /// Opens a writer. When it returns, both producers of every earlier writer with this `transactional_id` are fenced
    /// and their open transactions are aborted. With a fixed id per store this happens at once after a crash. With a
    /// random id, the open transaction would block every `read_committed` reader until its timeout.
    pub fn open(client: &Client, transactional_id: &str) -> Result<Self, KafkaError> {
        let backoff = retry_backoff(client.round_trip()?);
        let turn = |number: u8| open(client, &format!("{transactional_id}-{number}"), backoff);
        let surely_sent_once = transaction::surely_sent_once(backoff);
        // In this order, turn 0 first: the first commit is turn 0's, and claim.rs depends on it.
        step(Step::Open, || Ok(Self { turns: [turn(0)?, turn(1)?], surely_sent_once }))
    }

    /// Returns the writer with its second producer as the one that commits next.
    pub(crate) fn with_the_other_turn_first(self) -> Self {
        let Self { turns: [first, second], surely_sent_once } = self;
        Self { turns: [second, first], surely_sent_once }
    }

    /// Publishes the records in one transaction. Blocks for about ten seconds at most.
    pub fn commit(self, records: &[Record]) -> Finished {
        let start = Transaction::start(self.surely_sent_once);
        self.run(start, records, &|_| true)
    }

    /// Publishes the records in one transaction. If `accept` returns false for their offsets, aborts it; then the
    /// outcome is [`Outcome::NotCommitted`] without an error.
    pub(crate) fn commit_if(self, records: &[Record], accept: &dyn Fn(&Acknowledged) -> bool) -> Finished {
        let start = Transaction::start(self.surely_sent_once);
        self.run(start, records, accept)
    }

    /// Writes the records in one transaction, and aborts it. The records take offsets and are never visible.
    pub(crate) fn abort(self, records: &[Record]) -> Finished {
        let start = Transaction::start_to_abort(self.surely_sent_once);
        self.run(start, records, &|_| true)
    }

    fn run(
        self,
        (mut transaction, mut action): (Transaction, Action),
        records: &[Record],
        accept: &dyn Fn(&Acknowledged) -> bool,
    ) -> Finished {
        let Self { turns: [producer, other], surely_sent_once } = self;
        let librdkafka = producer.librdkafka();
        let (mut error, mut acknowledged) = (None, Vec::new());
        loop {
            let began = Instant::now();
            let result = match action {
                Action::Begin => {
                    step(Step::Begin, || producer.settle(DRAIN).and_then(|()| librdkafka.begin_transaction()))
                }
                Action::Send => step(Step::Send, || records.iter().try_for_each(|record| producer.send(record))),
                Action::Drain => step(Step::Drain, || drain(&producer)),
                Action::Commit => step(Step::Commit, || librdkafka.commit_transaction(ANSWER)),
                Action::Abort => step(Step::Abort, || librdkafka.abort_transaction(ANSWER)),
                Action::Finish(Finish { outcome, reusable }) => {
                    let writer = reusable.then_some(Self { turns: [other, producer], surely_sent_once });
                    return Finished { outcome, writer, error, acknowledged };
                }
            };
            let took = began.elapsed();
            tracing::trace!(?action, ?took, records = records.len(), "transaction");
            let mut result = result.map_err(|failure| {
                let fault = kind(&failure);
                error.get_or_insert(failure);
                fault
            });
            if action == Action::Drain && result.is_ok() {
                acknowledged = producer.acknowledged();
                if !acknowledged.iter().all(accept) {
                    result = Err(Fault::Failed);
                }
            }
            action = transaction.next(Input { result, took });
        }
    }
}

/// Returns the `retry.backoff.ms` for a link. A commit takes one round trip and the time of the broker. It must be well
/// below the backoff: otherwise each commit costs its producer.
fn retry_backoff(round_trip: Duration) -> Duration {
    (round_trip * 5).clamp(RETRY_BACKOFF, LONGEST_RETRY_BACKOFF)
}

fn open(client: &Client, transactional_id: &str, retry_backoff: Duration) -> Result<Producer, KafkaError> {
    let producer = Producer::create(&client.transactional_producer(transactional_id, retry_backoff))?;
    let librdkafka = producer.librdkafka();
    // librdkafka looks for the transaction coordinator at once only if it is connected to a broker whose id it knows;
    // otherwise it waits half a second. The first request learns the ids, the second one connects.
    for _ in 0..2 {
        librdkafka.client().fetch_metadata(None, ANSWER)?;
    }
    librdkafka.init_transactions(ANSWER)?;
    Ok(producer)
}

/// Waits for the acknowledgements, and then until librdkafka counts no record in flight any more. A commit that still
/// finds one polls for a whole 100 ms.
fn drain(producer: &Producer) -> Result<(), KafkaError> {
    producer.wait(DRAIN)?;
    let began = Instant::now();
    while producer.librdkafka().in_flight_count() > 0 && began.elapsed() < PUT_AWAY {
        thread::yield_now();
    }
    Ok(())
}

/// Runs a step. A test may disturb it; see [`fault`].
fn step<T>(step: Step, action: impl FnMut() -> Result<T, KafkaError>) -> Result<T, KafkaError> {
    fault::around(step, || KafkaError::MessageProduction(RDKafkaErrorCode::OperationTimedOut), action)
}

/// Tells a fatal error of the producer from any other failure.
fn kind(error: &KafkaError) -> Fault {
    if let KafkaError::Transaction(error) = error
        && error.is_fatal()
    {
        Fault::Fatal
    } else {
        Fault::Failed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_link_has_a_long_retry_backoff() {
        let backoff = |millis| retry_backoff(Duration::from_millis(millis)).as_millis();
        assert_eq!([1, 100, 400, 60_000].map(backoff), [500, 500, 2000, 10_000]);
    }
}
