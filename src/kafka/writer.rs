//! The transaction of [`transaction`](super::transaction), run on librdkafka.

use std::time::{Duration, Instant};

use rdkafka::{error::KafkaError, producer::Producer as _};

use super::{
    client::{self, ANSWER, Client},
    deliveries::{Deliveries, Producer},
    record::Record,
    transaction::{Action, Fault, Finish, Input, Outcome, Transaction},
};

/// How long the records of one transaction may take to be acknowledged.
const DRAIN: Duration = Duration::from_secs(8);

/// Publishes records atomically, under one fixed `transactional.id`.
///
/// It is taken by value: a producer of unknown fate cannot be used again.
pub struct Writer {
    producer: Producer,
    deliveries: Deliveries,
}

/// How a transaction ended, and who may begin the next one.
pub struct Ended {
    /// What became of the records.
    pub outcome: Outcome,
    /// The writer, unless it is to be replaced by a new one.
    pub writer: Option<Writer>,
    /// The first thing that went wrong, if anything did.
    pub error: Option<KafkaError>,
}

impl Writer {
    /// Opens a writer. Before it returns, every earlier holder of `transactional_id` is fenced, and what
    /// it left open is aborted. A fixed id per store does that at once after a crash; a random one would
    /// hold up every `read_committed` reader until the transaction's timeout.
    pub fn open(client: &Client, transactional_id: &str) -> Result<Self, KafkaError> {
        let deliveries = Deliveries::default();
        let config = client.transactional_producer(transactional_id);
        let producer: Producer = config.create_with_context(deliveries.clone())?;
        producer.init_transactions(ANSWER)?;
        Ok(Self { producer, deliveries })
    }

    /// Publishes the records in one transaction. Blocks for some ten seconds at most.
    pub fn commit(self, records: &[Record]) -> Ended {
        let (mut transaction, mut action) = Transaction::start();
        let mut error = None;
        loop {
            let began = Instant::now();
            let result = match action {
                Action::Begin => self.deliveries.settle(DRAIN).and_then(|()| self.producer.begin_transaction()),
                Action::Send => records.iter().try_for_each(|record| self.deliveries.send(&self.producer, record)),
                Action::Drain => self.deliveries.wait(DRAIN),
                Action::Commit => self.producer.commit_transaction(ANSWER),
                Action::Abort => self.producer.abort_transaction(ANSWER),
                Action::Finish(Finish { outcome, reusable }) => {
                    return Ended { outcome, writer: reusable.then_some(self), error };
                }
            };
            let took = began.elapsed();
            let result = result.map_err(|failure| {
                let fault = fault(&failure);
                error.get_or_insert(failure);
                fault
            });
            action = transaction.next(Input { result, took });
        }
    }
}

fn fault(error: &KafkaError) -> Fault {
    if client::is_fenced(error) {
        Fault::Fenced
    } else if let KafkaError::Transaction(error) = error
        && error.is_fatal()
    {
        Fault::Fatal
    } else {
        Fault::Failed
    }
}
