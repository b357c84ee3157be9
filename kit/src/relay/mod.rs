//! The relay: store → topic, every event once, in the order of the store.
//!
//! Events go out in Kafka transactions that also carry the new checkpoint, so that either both are there
//! or neither is. After any doubt the relay opens a new writer, which fences the old one, and reads the
//! checkpoint: what was published is looked up and never guessed.

pub mod checkpoint;
pub mod claim;
pub mod transaction;
pub mod writer;

use std::{
    collections::HashSet,
    convert::Infallible,
    sync::atomic::Ordering,
    time::{Duration, Instant, SystemTime},
};

use rdkafka::error::KafkaError;
use tokio::sync::watch;

use crate::{
    event::{Event, EventId, Position, StreamId},
    kafka::{
        client::Client,
        cluster::Cluster,
        record::{Record, Source},
        topics::{self, Topic, TopicError},
    },
    relay::{
        checkpoint::{Checkpoint, Checkpoints, Publisher},
        claim::{Claim, Disagreement},
        transaction::Outcome,
        writer::{Ended, Writer},
    },
    runtime::{
        backoff::Backoff,
        metrics::RelayMetrics,
        pace::Pace,
        spans::{Attribute, SpanKind, Spans},
        stop::Stop,
    },
    store::{CommitError, ReadError, Store, StoreId},
};

/// How many events share one transaction at most. A transaction costs the broker about the same
/// whether it holds one or five hundred.
const BATCH: usize = 500;

/// The average time between transactions while events keep coming, and how many may follow each other at once: each
/// one costs some fifty switches of threads here, and a marker in each partition for good.
const TRANSACTION: Duration = Duration::from_millis(10);
const BURST: u32 = 5;

/// How often the number of partitions is looked at. Until then nothing goes astray: every record names its partition.
const CHECK: Duration = Duration::from_secs(5);

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
    /// Becomes true once store and cluster are known to belong together, and this process is the store's publisher.
    /// Nothing else that acts on the store may begin before.
    pub agreed: watch::Sender<bool>,
    /// What is counted and measured.
    pub metrics: RelayMetrics,
    /// A span for each event that is sent.
    pub spans: Spans,
}

/// Why the relay cannot go on without a person.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// Another process publishes for the same store.
    #[error("another process has taken over the publishing of this store ({store}): it runs on a copy of it")]
    TakenOver {
        /// The store that both have.
        store: StoreId,
    },
    /// The store does not have what was published from it.
    #[error(
        "the store, which ends at {head}, does not have the event that was published from it at {checkpoint}: \
         an older copy of it was restored; restore the newest one, or see what `{service} reconcile` says"
    )]
    StoreBehind {
        /// The store's newest position.
        head: Position,
        /// What the cluster knows to be published.
        checkpoint: Position,
        /// Whose store it is.
        service: &'static str,
    },
    /// The store was published before, but the cluster knows nothing of it.
    #[error(
        "the store was published to cluster {published_to} before, but cluster {cluster} has no checkpoint of it \
         in {topic}: it is another cluster, or it has lost the topic; see what `{service} reconcile` says"
    )]
    CheckpointMissing {
        /// The cluster that was published to.
        published_to: String,
        /// The cluster at hand.
        cluster: String,
        /// The topic of the checkpoints.
        topic: String,
        /// Whose store it is.
        service: &'static str,
    },
    /// The topic is gone, and with it what was published.
    #[error(
        "the topic {topic} is gone, though events were published to it on this cluster; it is not made again, for they \
         would be missing from it"
    )]
    TopicLost {
        /// The topic.
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
    /// The same of a topic.
    Topic(TopicError),
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

impl From<TopicError> for Ending {
    fn from(error: TopicError) -> Self {
        Self::Topic(error)
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
        let mut backoff = Backoff::new(format!("publishing to {topic}"), self.metrics.failures.clone());
        let mut own = Claim::new(Publisher::generate());
        loop {
            let Err(ending) = self.publish(stop, &mut backoff, &mut own);
            match ending {
                Ending::Stop => return Ok(()),
                Ending::Error(error) => return Err(error),
                Ending::Renew => {}
                Ending::Kafka(error) => backoff.wait(stop, &error),
                Ending::Topic(error) => backoff.wait(stop, &error),
                Ending::Store(error) => backoff.wait(stop, &error),
            }
        }
    }

    fn publish(&self, stop: &Stop, backoff: &mut Backoff, own: &mut Claim) -> Result<Infallible, Ending> {
        if stop.is_requested() {
            return Err(Ending::Stop);
        }
        self.refuse_a_lost_topic()?;
        let partitions = stop.block_on(topics::ensure(&self.client, &self.topic)).ok_or(Ending::Stop)??;
        let topic = self.checkpoints();
        stop.block_on(topics::ensure(&self.client, &topic)).ok_or(Ending::Stop)??;
        let checkpoints = Checkpoints::open(&self.client, &topic.name, self.store.id())?;
        // Before anyone is fenced: a process that must not publish must not end the one that does.
        if let Some(checkpoint) = checkpoints.committed()? {
            self.agree(checkpoint, own)?;
        }
        let mut writer = Writer::open(&self.client, &self.transactional_id())?;
        // Only now is the checkpoint final: the writer's opening has ended whatever its predecessor left open.
        let mut position;
        match checkpoints.decided()? {
            Some(checkpoint) => {
                position = self.agree(checkpoint, own)?;
                if own.is_news_after(&checkpoint) {
                    writer = self.claim(writer, checkpoint, own)?;
                }
            }
            None => (writer, position) = self.begin(writer, own, partitions)?,
        }
        self.metrics.published.store(position.0, Ordering::Relaxed);
        self.check(partitions)?;
        self.agreed.send_replace(true);
        backoff.reset();
        tracing::info!(topic = self.topic.name, position = position.0, "publishing");

        let mut head = self.store.head();
        let mut checked = Instant::now();
        let mut pace = Pace::new(TRANSACTION, BURST);
        loop {
            stop.block_on(head.wait_for(|head| *head > position))
                .ok_or(Ending::Stop)?
                .map_err(|_closed| Ending::Stop)?;
            if checked.elapsed() > CHECK {
                self.check(topics::partitions(&self.client, &self.topic.name)?.unwrap_or(partitions))?;
                checked = Instant::now();
            }
            if head.borrow().0 - position.0 < BATCH as u64 {
                stop.sleep(pace.next(Instant::now()));
            }
            let events = self.store.read_all_blocking(position, BATCH)?;
            let Some((last, last_id)) = events.last().map(|event| (event.position, event.id)) else { continue };
            let checkpoint = Checkpoint { position: last, event: Some(last_id), publisher: own.publisher };
            let (began, began_at) = (Instant::now(), SystemTime::now());
            let Ended { outcome, writer: next, error } = writer.commit(&self.records(&events, checkpoint, partitions));
            if next.is_none() {
                self.metrics.retired.inc();
            }
            if outcome == Outcome::Committed {
                self.metrics.publish_duration.observe(began.elapsed().as_secs_f64());
                events.iter().for_each(|event| self.add_span(event, began_at));
                self.metrics.sent.inc_by(events.len() as u64);
                self.metrics.published.store(last.0, Ordering::Relaxed);
                position = last;
                backoff.reset();
                tracing::debug!(topic = self.topic.name, position = position.0, events = events.len(), "published");
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
    fn begin(&self, writer: Writer, own: &mut Claim, partitions: i32) -> Result<(Writer, Position), Ending> {
        let (position, events) = match &self.cluster {
            Cluster::New { unfinished } => (self.store.opened_at(), self.history(unfinished)?),
            Cluster::Existing => {
                if let Some(published_to) = self.store.fact_blocking(&self.cluster_fact())? {
                    return Err(Ending::Error(RelayError::CheckpointMissing {
                        published_to,
                        cluster: topics::cluster_id(&self.client)?,
                        topic: self.checkpoints().name,
                        service: self.service,
                    }));
                }
                (Position::START, Vec::new())
            }
        };
        let mut writer = writer;
        for batch in events.chunks(BATCH) {
            writer = go_on(writer.commit(&self.records_of(batch, partitions)))?;
        }
        // The checkpoint comes before the first event of the log, so that a missing one always means that it was lost.
        let event = self.event_at(position)?;
        let checkpoint = Checkpoint { position, event, publisher: own.publisher };
        Ok((self.claim(writer, checkpoint, own)?, position))
    }

    /// Writes a checkpoint as this process's own.
    fn claim(&self, writer: Writer, checkpoint: Checkpoint, own: &mut Claim) -> Result<Writer, Ending> {
        let claim = Checkpoint { publisher: own.publisher, ..checkpoint };
        let ended = writer.commit(&[self.record_of(claim)]);
        own.note(ended.outcome);
        go_on(ended)
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

    fn agree(&self, checkpoint: Checkpoint, own: &mut Claim) -> Result<Position, Ending> {
        let stored = self.event_at(checkpoint.position)?;
        own.agree(&checkpoint, stored).map_err(|disagreement| {
            Ending::Error(match disagreement {
                Disagreement::TakenOver => RelayError::TakenOver { store: self.store.id() },
                Disagreement::StoreBehind => RelayError::StoreBehind {
                    head: *self.store.head().borrow(),
                    checkpoint: checkpoint.position,
                    service: self.service,
                },
            })
        })
    }

    pub(crate) fn event_at(&self, position: Position) -> Result<Option<EventId>, ReadError> {
        let Some(before) = position.0.checked_sub(1) else { return Ok(None) };
        Ok(self.store.read_all_blocking(Position(before), 1)?.first().map(|event| event.id))
    }

    /// Refuses to make a topic again that was there before.
    fn refuse_a_lost_topic(&self) -> Result<(), Ending> {
        let Some(published_to) = self.store.fact_blocking(&self.cluster_fact())? else { return Ok(()) };
        let lost = topics::partitions(&self.client, &self.topic.name)?.is_none();
        if lost && topics::cluster_id(&self.client)? == published_to {
            return Err(Ending::Error(RelayError::TopicLost { topic: self.topic.name.clone() }));
        }
        Ok(())
    }

    /// Refuses another number of partitions, and remembers what the next start is to be compared with.
    fn check(&self, partitions: i32) -> Result<(), Ending> {
        if matches!(self.cluster, Cluster::New { .. }) {
            return Ok(());
        }
        match self.store.fact_blocking(&self.partitions_fact())? {
            Some(expected) if expected == partitions.to_string() => Ok(()),
            Some(expected) => Err(Ending::Error(RelayError::PartitionsChanged {
                topic: self.topic.name.clone(),
                expected,
                actual: partitions,
            })),
            None => {
                let cluster = topics::cluster_id(&self.client)?;
                self.store.keep_fact_blocking(&self.cluster_fact(), &cluster).map_err(Ending::Store)?;
                self.store.keep_fact_blocking(&self.partitions_fact(), &partitions.to_string()).map_err(Ending::Store)
            }
        }
    }

    fn add_span(&self, event: &Event, began: SystemTime) {
        let topic = &self.topic.name;
        let attributes = || {
            vec![
                Attribute::new("messaging.system", "kafka"),
                Attribute::new("messaging.operation.name", "send"),
                Attribute::new("messaging.operation.type", "send"),
                Attribute::new("messaging.destination.name", topic.clone()),
                Attribute::new("messaging.message.id", event.id.to_string()),
                Attribute::new("messaging.kafka.message.key", event.stream.to_string()),
            ]
        };
        let parent = event.traceparent.as_deref();
        self.spans.add(SpanKind::Producer, || format!("send {topic}"), parent, began, attributes);
    }

    fn records(&self, events: &[Event], checkpoint: Checkpoint, partitions: i32) -> Vec<Record> {
        let mut records = self.records_of(events, partitions);
        records.push(self.record_of(checkpoint));
        records
    }

    fn records_of(&self, events: &[Event], partitions: i32) -> Vec<Record> {
        let source = Source {
            topic: self.topic.name.clone(),
            uri: self.store.id().source(self.service),
            message: self.message,
            partitions,
        };
        events.iter().map(|event| Record::of(event, &source)).collect()
    }

    fn record_of(&self, checkpoint: Checkpoint) -> Record {
        checkpoint::record(&self.checkpoints().name, self.store.id(), checkpoint)
    }

    /// Forgets to which cluster the store was published, and all that was known of its topic there.
    pub(crate) fn forget_cluster(&self) -> Result<(), CommitError> {
        self.store.forget_fact_blocking(&self.cluster_fact())?;
        self.store.forget_fact_blocking(&self.partitions_fact())
    }

    pub(crate) fn checkpoints(&self) -> Topic {
        Topic { name: checkpoint::topic_of(self.service), partitions: 1, compacted: true, ..self.topic.clone() }
    }

    pub(crate) fn transactional_id(&self) -> String {
        format!("{}-{}", self.service, self.store.id())
    }

    fn partitions_fact(&self) -> String {
        topics::partitions_fact(&self.topic.name)
    }

    fn cluster_fact(&self) -> String {
        format!("cluster of {}", self.topic.name)
    }
}

/// The writer for the next transaction, or why the session ends.
fn go_on(ended: Ended) -> Result<Writer, Ending> {
    match ended {
        Ended { outcome: Outcome::Committed, writer: Some(writer), .. } => Ok(writer),
        Ended { error: Some(error), .. } => Err(Ending::Kafka(error)),
        Ended { error: None, .. } => Err(Ending::Renew),
    }
}
