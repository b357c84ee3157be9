//! The transaction of [`transaction`](crate::relay::transaction), run on librdkafka.

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
        client::{ANSWER, Client},
        producer::Producer,
        record::Record,
    },
    relay::transaction::{Action, Fault, Finish, Input, Outcome, Transaction},
    runtime::fault::{self, Step},
};

/// How long the records of one transaction may take to be acknowledged.
const DRAIN: Duration = Duration::from_secs(8);

/// Far longer than librdkafka takes to put an acknowledgement away.
const PUT_AWAY: Duration = Duration::from_millis(5);

/// Publishes records atomically, under one fixed `transactional.id`.
///
/// Two producers take turns, each beginning only after the other's commit has returned: one that begins again at once
/// meets its own last transaction's markers and backs off for 20 ms.
///
/// It is taken by value: a producer of unknown fate cannot be used again.
pub struct Writer {
    /// The first one is next.
    turns: [Producer; 2],
}

/// How a transaction ended, and who may begin the next one.
pub struct Finished {
    /// What became of the records.
    pub outcome: Outcome,
    /// The writer, unless it is to be replaced by a new one.
    pub writer: Option<Writer>,
    /// The first thing that went wrong, if anything did.
    pub error: Option<KafkaError>,
}

impl Writer {
    /// Opens a writer. Before it returns, every earlier holder of `transactional_id` is fenced in all its turns, and
    /// what it left open is aborted. A fixed id per store does that at once after a crash; a random one would hold up
    /// every `read_committed` reader until the transaction's timeout.
    pub fn open(client: &Client, transactional_id: &str) -> Result<Self, KafkaError> {
        let turn = |number: u8| open(client, &format!("{transactional_id}-{number}"));
        // One after the other, turn 0 first: the first commit is turn 0's, and claim.rs rests on it.
        step(Step::Open, || Ok(Self { turns: [turn(0)?, turn(1)?] }))
    }

    /// Publishes the records in one transaction. Blocks for some ten seconds at most.
    pub fn commit(self, records: &[Record]) -> Finished {
        let [producer, other] = self.turns;
        let librdkafka = producer.librdkafka();
        let (mut transaction, mut action) = Transaction::start();
        let mut error = None;
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
                    let writer = reusable.then_some(Self { turns: [other, producer] });
                    return Finished { outcome, writer, error };
                }
            };
            let took = began.elapsed();
            tracing::trace!(?action, ?took, records = records.len(), "transaction");
            let result = result.map_err(|failure| {
                let fault = kind(&failure);
                error.get_or_insert(failure);
                fault
            });
            action = transaction.next(Input { result, took });
        }
    }
}

fn open(client: &Client, transactional_id: &str) -> Result<Producer, KafkaError> {
    let producer = Producer::create(&client.transactional_producer(transactional_id))?;
    let librdkafka = producer.librdkafka();
    // librdkafka looks for a coordinator at once only over a connection to a broker that it knows by its number, and
    // else half a second later: the first question finds out the numbers, the second connects.
    for _ in 0..2 {
        librdkafka.client().fetch_metadata(None, ANSWER)?;
    }
    librdkafka.init_transactions(ANSWER)?;
    Ok(producer)
}

/// Waits for the acknowledgements, and then for the moment until librdkafka has put away the last of them: a commit
/// that finds one still there polls for a whole 100 ms.
fn drain(producer: &Producer) -> Result<(), KafkaError> {
    producer.wait(DRAIN)?;
    let began = Instant::now();
    while producer.librdkafka().in_flight_count() > 0 && began.elapsed() < PUT_AWAY {
        thread::yield_now();
    }
    Ok(())
}

/// Does a step, unless a test wants it otherwise.
fn step<T>(step: Step, action: impl FnMut() -> Result<T, KafkaError>) -> Result<T, KafkaError> {
    fault::around(step, || KafkaError::MessageProduction(RDKafkaErrorCode::OperationTimedOut), action)
}

/// What an error means for the producer.
fn kind(error: &KafkaError) -> Fault {
    if let KafkaError::Transaction(error) = error
        && error.is_fatal()
    {
        Fault::Fatal
    } else {
        Fault::Failed
    }
}
