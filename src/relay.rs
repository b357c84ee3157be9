//! The relay: store → topic, every event once, in the order of the store.
//!
//! Events go out in Kafka transactions that also carry the new checkpoint, so that either both are there
//! or neither is. After any doubt the relay opens a new writer, which fences the old one, and reads the
//! checkpoint: what was published is looked up and never guessed.

use std::{collections::HashSet, convert::Infallible};

use rdkafka::error::KafkaError;

use crate::{
    event::{Event, Position, StreamId},
    kafka::{
        checkpoint::{self, Checkpoint},
        client::Client,
        record::{Record, Source},
        topics::{self, Topic},
        transaction::Outcome,
        writer::{Ended, Writer},
    },
    service::{backoff::Backoff, stop::Stop},
    store::{CommitError, ReadError, Store},
};

/// How many events share one transaction at most. A transaction costs the broker about the same
/// whether it holds one or five hundred.
const BATCH: usize = 500;

/// How the cluster came to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cluster {
    /// It is there for good, and remembers what was published to it.
    Existing,
    /// It began with this process and ends with it: the embedded one.
    New {
        /// The streams that another service may still have to hear of, as of the opening of the store; they are
        /// published from their beginning, and everything that comes after.
        unfinished: HashSet<StreamId>,
    },
}

/// Publishes one store to one topic.
pub struct Relay {
    /// What is published.
    pub store: Store,
    /// Where to.
    pub client: Client,
    /// The name of the service, which its `transactional.id` and checkpoint topic begin with.
    pub service: &'static str,
    /// The topic of the events.
    pub topic: Topic,
    /// Its one message type, such as `orders.events.v1.OrderEvent`.
    pub message: &'static str,
    /// How the cluster came to be.
    pub cluster: Cluster,
}

/// Why the relay cannot go on without a person.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// Another process publishes for the same store.
    #[error("another process publishes for this store ({transactional_id}); only one may run")]
    Fenced {
        /// The name that it has taken over.
        transactional_id: String,
    },
    /// The store does not have what was published from it.
    #[error(
        "the store, which ends at {head}, does not have the event that was published from it at {checkpoint}: \
         an older copy of it was restored; restore the newest one"
    )]
    StoreBehind {
        /// The store's newest position.
        head: Position,
        /// What the cluster knows to be published.
        checkpoint: Position,
    },
    /// The store was published before, but the cluster knows nothing of it.
    #[error(
        "the store was published to cluster {published_to} before, but cluster {cluster} has no checkpoint of it \
         in {topic}: it is another cluster, or it has lost the topic"
    )]
    CheckpointMissing {
        /// The cluster that was published to.
        published_to: String,
        /// The cluster at hand.
        cluster: String,
        /// The topic of the checkpoints.
        topic: String,
    },
    /// The number of partitions was changed, which breaks the order of each stream's events.
    #[error(
        "the topic {topic} has {actual} partitions and had {expected}: the events of one stream would not stay in order"
    )]
    PartitionsChanged {
        /// The topic.
        topic: String,
        /// How many it had when the store was first published.
        expected: String,
        /// How many it has.
        actual: i32,
    },
    /// The store could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// Why a session with the cluster ended.
enum Ending {
    /// Nothing more can be done here.
    Error(RelayError),
    /// It may go better later.
    Kafka(KafkaError),
    /// The store cannot write just now.
    Store(CommitError),
    /// The writer is to be replaced, and all is well otherwise.
    Renew,
    /// The program is stopping.
    Stop,
}

impl From<KafkaError> for Ending {
    fn from(error: KafkaError) -> Self {
        Self::Kafka(error)
    }
}

impl From<ReadError> for Ending {
    fn from(error: ReadError) -> Self {
        Self::Error(error.into())
    }
}

impl Relay {
    /// Publishes until asked to stop. What is not published by then is published after the next start.
    pub fn run(self, stop: &Stop) -> Result<(), RelayError> {
        let topic = &self.topic.name;
        let mut backoff =
            Backoff::new(format!("waiting to publish to {topic}"), format!("publishing to {topic} again"));
        loop {
            let Err(ending) = self.publish(stop, &mut backoff);
            match ending {
                Ending::Stop => return Ok(()),
                Ending::Error(error) => return Err(error),
                Ending::Renew => {}
                Ending::Kafka(error) => backoff.wait(stop, &error),
                Ending::Store(error) => backoff.wait(stop, &error),
            }
        }
    }

    fn publish(&self, stop: &Stop, backoff: &mut Backoff) -> Result<Infallible, Ending> {
        if stop.is_requested() {
            return Err(Ending::Stop);
        }
        let partitions = stop.block_on(topics::ensure(&self.client, &self.topic)).ok_or(Ending::Stop)??;
        stop.block_on(topics::ensure(&self.client, &self.checkpoints())).ok_or(Ending::Stop)??;
        let mut writer = Writer::open(&self.client, &self.transactional_id())?;
        // Only now is the checkpoint final: the writer's opening has ended whatever its predecessor left open.
        let checkpoint = checkpoint::read(&self.client, &self.checkpoints().name, self.store.id())?;
        let mut position = match checkpoint {
            Some(checkpoint) => self.agree(checkpoint)?,
            None => {
                let position;
                (writer, position) = self.begin(writer)?;
                position
            }
        };
        self.check(partitions)?;
        backoff.reset();
        tracing::info!(topic = self.topic.name, position = position.0, "publishing");

        let mut head = self.store.head();
        loop {
            stop.block_on(head.wait_for(|head| *head > position))
                .ok_or(Ending::Stop)?
                .map_err(|_closed| Ending::Stop)?;
            let events = self.store.read_all_blocking(position, BATCH)?;
            let Some((last, last_id)) = events.last().map(|event| (event.position, event.id)) else { continue };
            let Ended { outcome, writer: next, error } =
                writer.commit(&self.records(&events, Checkpoint { position: last, event: Some(last_id) }));
            match outcome {
                Outcome::Committed => {
                    position = last;
                    backoff.reset();
                    tracing::debug!(topic = self.topic.name, position = position.0, events = events.len(), "published");
                }
                Outcome::Fenced => {
                    return Err(Ending::Error(RelayError::Fenced { transactional_id: self.transactional_id() }));
                }
                Outcome::NotCommitted | Outcome::Unknown => {}
            }
            writer = match (next, error) {
                (None, Some(error)) => return Err(Ending::Kafka(error)),
                (None, None) => return Err(Ending::Renew),
                (Some(writer), None) => writer,
                (Some(writer), Some(error)) => {
                    backoff.wait(stop, &error);
                    writer
                }
            };
            if stop.is_requested() {
                return Err(Ending::Stop);
            }
        }
    }

    /// The first publishing of this store to this cluster.
    fn begin(&self, writer: Writer) -> Result<(Writer, Position), Ending> {
        let (position, events) = match &self.cluster {
            Cluster::New { unfinished } => (self.store.opened_at(), self.history(unfinished)?),
            Cluster::Existing => {
                if let Some(published_to) = self.store.fact_blocking(&self.cluster_fact())? {
                    return Err(Ending::Error(RelayError::CheckpointMissing {
                        published_to,
                        cluster: topics::cluster_id(&self.client)?,
                        topic: self.checkpoints().name,
                    }));
                }
                (Position::START, Vec::new())
            }
        };
        let mut writer = writer;
        for batch in events.chunks(BATCH) {
            writer = self.commit(writer, &self.records_of(batch))?;
        }
        // The checkpoint comes before the first event of the log, so that a missing one always means that it was lost.
        let before = Position(position.0.saturating_sub(1));
        let event = match position {
            Position::START => None,
            _ => self.store.read_all_blocking(before, 1)?.first().map(|event| event.id),
        };
        let writer = self.commit(writer, &self.records(&[], Checkpoint { position, event }))?;
        Ok((writer, position))
    }

    /// Commits, or ends the session.
    fn commit(&self, writer: Writer, records: &[Record]) -> Result<Writer, Ending> {
        match writer.commit(records) {
            Ended { outcome: Outcome::Committed, writer: Some(writer), .. } => Ok(writer),
            Ended { outcome: Outcome::Fenced, .. } => {
                Err(Ending::Error(RelayError::Fenced { transactional_id: self.transactional_id() }))
            }
            Ended { error: Some(error), .. } => Err(Ending::Kafka(error)),
            Ended { error: None, .. } => Err(Ending::Renew),
        }
    }

    /// What earlier processes recorded of some streams, in the order of the store.
    fn history(&self, streams: &HashSet<StreamId>) -> Result<Vec<Event>, ReadError> {
        let mut events = Vec::new();
        for stream in streams {
            events.extend(self.store.read_stream_blocking(*stream)?);
        }
        events.retain(|event| event.position <= self.store.opened_at());
        events.sort_by_key(|event| event.position);
        Ok(events)
    }

    /// Refuses a store that does not have what was published from it: its head alone would not tell, for an older
    /// copy goes on from where it ends.
    fn agree(&self, checkpoint: Checkpoint) -> Result<Position, Ending> {
        let Checkpoint { position, event } = checkpoint;
        let before = Position(position.0.saturating_sub(1));
        let own = self.store.read_all_blocking(before, 1)?.first().map(|event| event.id);
        if position > Position::START && own != event {
            let head = *self.store.head().borrow();
            return Err(Ending::Error(RelayError::StoreBehind { head, checkpoint: position }));
        }
        Ok(position)
    }

    /// Refuses another number of partitions, and remembers what the next start is to be compared with.
    fn check(&self, partitions: i32) -> Result<(), Ending> {
        if matches!(self.cluster, Cluster::New { .. }) {
            return Ok(());
        }
        let partitions_fact = format!("partitions of {}", self.topic.name);
        match self.store.fact_blocking(&partitions_fact)? {
            Some(expected) if expected == partitions.to_string() => Ok(()),
            Some(expected) => Err(Ending::Error(RelayError::PartitionsChanged {
                topic: self.topic.name.clone(),
                expected,
                actual: partitions,
            })),
            None => {
                let cluster = topics::cluster_id(&self.client)?;
                self.store.keep_fact_blocking(&self.cluster_fact(), &cluster).map_err(Ending::Store)?;
                self.store.keep_fact_blocking(&partitions_fact, &partitions.to_string()).map_err(Ending::Store)
            }
        }
    }

    fn records(&self, events: &[Event], checkpoint: Checkpoint) -> Vec<Record> {
        let mut records = self.records_of(events);
        records.push(checkpoint::record(&self.checkpoints().name, self.store.id(), checkpoint));
        records
    }

    fn records_of(&self, events: &[Event]) -> Vec<Record> {
        let source = Source {
            topic: self.topic.name.clone(),
            uri: format!("/{}/{}", self.service, self.store.id()),
            message: self.message,
        };
        events.iter().map(|event| Record::of(event, &source)).collect()
    }

    fn checkpoints(&self) -> Topic {
        Topic { name: checkpoint::topic_of(self.service), partitions: 1, compacted: true, ..self.topic.clone() }
    }

    fn transactional_id(&self) -> String {
        format!("{}-{}", self.service, self.store.id())
    }

    fn cluster_fact(&self) -> String {
        format!("cluster of {}", self.topic.name)
    }
}
