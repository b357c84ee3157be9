//! The relay: publishes the store to its topic, every event once, in the order of the store.
//!
//! Events are published in Kafka transactions that also carry the new checkpoint, so that either both are visible or
//! neither is. After any error the relay opens a new writer, which fences the old one, and reads the checkpoint and the
//! end of the topic. So it never guesses what was published, and it notices if the topic has lost records.

pub mod checkpoint;
pub mod claim;
mod error;
mod metrics;
mod publication;
pub mod published;
mod take_over;
pub mod transaction;
mod verify;
pub mod writer;

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant, SystemTime},
};

use tokio::{sync::watch, time};

use self::{
    checkpoint::Publisher,
    claim::Claim,
    error::{OffsetReused, Session, SessionEnd},
    published::Published,
    transaction::Outcome,
    writer::Writer,
};
pub use self::{error::RelayError, metrics::RelayMetrics, publication::Publication};
use crate::{
    event::Event,
    kafka::{
        client,
        cluster::Cluster,
        producer::Acknowledged,
        topics::{self, TopicError},
    },
    runtime::{
        backoff::Backoff,
        pace::Pace,
        spans::{Attribute, SpanKind, Spans},
        stop::Stop,
    },
    store::StoreId,
};

/// The number of events that share one transaction at most. A transaction costs the broker about the same whether it
/// holds one record or five hundred.
const BATCH: usize = 500;

/// The average time between transactions while events keep coming. Each transaction costs some fifty thread switches
/// here, and a marker in each partition that stays in the log.
const TRANSACTION: Duration = Duration::from_millis(10);

/// The number of transactions that may follow each other at once after a pause.
const BURST: u32 = 5;

/// The interval at which the number of partitions is checked. A change does no harm before it is noticed, because every
/// record names its partition.
const CHECK: Duration = Duration::from_secs(5);

/// The interval at which the relay stores what it has published, unless nothing is left to publish. An older state only
/// makes the next start read more of the topic.
const REMEMBER: Duration = Duration::from_secs(5);

/// The time without a new event after which the relay stores what it has published.
const IDLE: Duration = Duration::from_secs(1);

/// Publishes one store to one topic.
pub struct Relay {
    /// The store and the topic.
    pub publication: Publication,
    /// The lifetime of the cluster.
    pub cluster: Cluster,
    /// Becomes true once store and cluster are known to belong together and this process is the store's publisher.
    /// The inbox and everything that acts on the outside wait for this.
    pub publisher_confirmed: watch::Sender<bool>,
    /// Becomes true once calls may be answered: the store agrees with the cluster, or the cluster cannot be asked. An
    /// older copy of the store must not take calls, because its new events would contradict the published ones.
    pub calls_allowed: watch::Sender<bool>,
    /// Another store of the service, beside which a new store may begin.
    pub replaces: Option<StoreId>,
    /// The metrics.
    pub metrics: RelayMetrics,
    /// Creates a span for each published event.
    pub spans: Spans,
}

/// A session that may publish. Its writer is the only one, and checkpoint and topic were read after the writer opened.
struct Connected {
    writer: Writer,
    partitions: i32,
    published: Published,
    /// True if `published` has changed since it was stored.
    is_new: bool,
}

impl Relay {
    /// Publishes until a shutdown is requested. Events that are not published by then are published after the next
    /// start.
    pub fn run(self, stop: &Stop) -> Result<(), RelayError> {
        let topic = &self.publication.topic.name;
        let mut backoff = Backoff::new(format!("publishing to {topic}"), vec![self.metrics.failures.clone()]);
        let mut claim = Claim::new(Publisher::generate());
        loop {
            let Err(end) = self.session(stop, &mut backoff, &mut claim);
            self.allow_calls_if_the_cluster_is_away(&end);
            match end {
                SessionEnd::Stop => return Ok(()),
                SessionEnd::Refused(error) => {
                    self.calls_allowed.send_replace(false);
                    if error.is_about_the_store() {
                        // If this fails, the next start is refused for the same reason.
                        let _ = self.publication.store.refuse_blocking(&error.to_string());
                    }
                    return Err(error);
                }
                SessionEnd::WriterRetired => {}
                SessionEnd::Kafka(error) => backoff.wait(stop, &error),
                SessionEnd::Topic(error) => backoff.wait(stop, &error),
                SessionEnd::OffsetReused(error) => backoff.wait(stop, &error),
                SessionEnd::Store(error) => backoff.wait(stop, &error),
                SessionEnd::Read(error) => backoff.wait(stop, &error),
            }
        }
    }

    /// Allows calls if a session could not compare the store with the cluster, and will not be able to soon.
    fn allow_calls_if_the_cluster_is_away(&self, end: &SessionEnd) {
        let is_away = || topics::is_away(&self.publication.client, &self.publication.topic.name);
        let is_allowed = *self.calls_allowed.borrow()
            || match end {
                // An operator has to correct the topic.
                SessionEnd::Topic(
                    TopicError::Unfit { .. }
                    | TopicError::Missing { .. }
                    | TopicError::OpenTransaction { .. }
                    | TopicError::Damaged { .. },
                ) => self.has_met_a_cluster(),
                SessionEnd::Kafka(error) | SessionEnd::Topic(TopicError::Kafka { source: error, .. }) => {
                    self.has_met_a_cluster() && (client::is_denied(error) || is_away())
                }
                SessionEnd::Refused(_)
                | SessionEnd::OffsetReused(_)
                | SessionEnd::Store(_)
                | SessionEnd::Read(_)
                | SessionEnd::WriterRetired
                | SessionEnd::Stop => false,
            };
        if is_allowed && !self.calls_allowed.send_replace(true) {
            tracing::warn!("answering calls although the store was not compared with the cluster");
        }
    }

    /// Returns false for a new store. It may be there by mistake, so it takes no calls before it has met a cluster.
    fn has_met_a_cluster(&self) -> bool {
        let has_met = || self.publication.first_partitions().is_ok_and(|partitions| partitions.is_some());
        matches!(self.cluster, Cluster::Ephemeral { .. }) || has_met()
    }

    fn session(&self, stop: &Stop, backoff: &mut Backoff, claim: &mut Claim) -> Session {
        if stop.is_requested() {
            return Err(SessionEnd::Stop);
        }
        let partitions = self.ensure_topics(stop)?;
        let connected = self.take_over(claim, partitions)?;
        let position = connected.published.through;
        self.metrics.published.store(position.0, Ordering::Relaxed);
        self.remember_cluster(partitions)?;
        self.publisher_confirmed.send_replace(true);
        self.calls_allowed.send_replace(true);
        backoff.reset();
        tracing::info!(topic = self.publication.topic.name, position = position.0, "publishing");
        self.publish_batches(connected, claim, stop, backoff)
    }

    fn publish_batches(&self, mut connected: Connected, claim: &Claim, stop: &Stop, backoff: &mut Backoff) -> Session {
        let Publication { store, client, topic, .. } = &self.publication;
        let mut head = store.head();
        let (mut checked, mut remembered) = (Instant::now(), Instant::now());
        let mut pace = Pace::new(TRANSACTION, BURST);
        loop {
            let position = connected.published.through;
            let limit = if connected.is_new { IDLE } else { Duration::MAX };
            let next =
                async { time::timeout(limit, head.wait_for(|head| *head > position)).await.map(|it| it.is_ok()) };
            match stop.block_on(next) {
                Some(Ok(true)) => {}
                Some(Err(_elapsed)) => {
                    self.remember(&mut connected);
                    continue;
                }
                Some(Ok(false)) | None => {
                    self.remember(&mut connected);
                    return Err(SessionEnd::Stop);
                }
            }
            if checked.elapsed() > CHECK {
                self.check_partitions(topics::partitions(client, &topic.name)?.unwrap_or(connected.partitions))?;
                checked = Instant::now();
            }
            if remembered.elapsed() > REMEMBER {
                self.remember(&mut connected);
                remembered = Instant::now();
            }
            if head.borrow().0 - position.0 < BATCH as u64 {
                stop.sleep(pace.next(Instant::now()));
            }
            let events = store.read_all_blocking(position, BATCH)?;
            if !events.is_empty() {
                connected = self.publish_batch(connected, &events, claim, stop, backoff)?;
            }
            if stop.is_requested() {
                self.remember(&mut connected);
                return Err(SessionEnd::Stop);
            }
        }
    }

    /// Stores what was published. If the store cannot write now, a later call succeeds.
    fn remember(&self, connected: &mut Connected) {
        if connected.is_new && matches!(self.cluster, Cluster::Durable) {
            connected.is_new = self.publication.remember_published(&connected.published).is_err();
        }
    }

    /// Publishes events and their checkpoint in one transaction.
    fn publish_batch(
        &self,
        connected: Connected,
        events: &[Event],
        claim: &Claim,
        stop: &Stop,
        backoff: &mut Backoff,
    ) -> Result<Connected, SessionEnd> {
        let Connected { writer, mut published, partitions, .. } = connected;
        let (began, began_at) = (Instant::now(), SystemTime::now());
        let mut records = self.publication.records(events, partitions);
        let checkpoint = events.last().map(|event| claim.checkpoint(event.position, Some(event.id)));
        records.extend(checkpoint.map(|checkpoint| self.publication.checkpoint_record(checkpoint)));
        let topic = &self.publication.topic.name;
        let is_event = |sent: &Acknowledged| sent.topic == *topic;
        let finished = writer
            .commit_if(&records, &|sent| !is_event(sent) || !published.has_passed(sent.partition as usize, sent.first));
        if finished.outcome == Outcome::Committed {
            published.note_events(Publication::partitions_of(events, partitions));
            for sent in finished.acknowledged.iter().filter(|sent| is_event(sent)) {
                published.note_offset(sent.partition as usize, sent.last);
            }
            self.observe(events, began, began_at);
            backoff.reset();
        }
        if finished.writer.is_none() {
            self.metrics.retired.inc();
        }
        let writer = match (finished.writer, finished.error) {
            (None, Some(error)) => return Err(SessionEnd::Kafka(error)),
            (None, None) => return Err(SessionEnd::WriterRetired),
            (Some(_), None) if finished.outcome == Outcome::NotCommitted => {
                return Err(SessionEnd::OffsetReused(OffsetReused { topic: topic.clone() }));
            }
            (Some(writer), None) => writer,
            (Some(writer), Some(error)) => {
                backoff.wait(stop, &error);
                writer
            }
        };
        Ok(Connected { writer, published, partitions, is_new: true })
    }

    /// Counts and logs the events of a committed transaction.
    fn observe(&self, events: &[Event], began: Instant, began_at: SystemTime) {
        let Some(last) = events.last() else { return };
        self.metrics.publish_duration.observe(began.elapsed().as_secs_f64());
        events.iter().for_each(|event| self.add_span(event, began_at));
        self.metrics.sent.inc_by(events.len() as u64);
        self.metrics.published.store(last.position.0, Ordering::Relaxed);
        let topic = &self.publication.topic.name;
        tracing::debug!(topic, position = last.position.0, events = events.len(), "published");
    }

    fn add_span(&self, event: &Event, began: SystemTime) {
        let topic = &self.publication.topic.name;
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
        let parent = event.trace.as_ref();
        self.spans.add(SpanKind::Producer, || format!("send {topic}"), parent, began, attributes);
    }
}
