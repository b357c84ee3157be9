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
pub mod transaction;
mod verify;
pub mod writer;

use std::{
    collections::HashSet,
    sync::atomic::Ordering,
    time::{Duration, Instant, SystemTime},
};

use tokio::{sync::watch, time};

use self::{
    checkpoint::{Checkpoint, Checkpoints, Publisher},
    claim::{Claim, Disagreement},
    error::{OffsetReused, Session, SessionEnd},
    published::Published,
    transaction::Outcome,
    writer::{Finished, Writer},
};
pub use self::{error::RelayError, metrics::RelayMetrics, publication::Publication};
use crate::{
    event::{Event, Position, StreamId},
    kafka::{
        client,
        cluster::Cluster,
        producer::Acknowledged,
        topic_end::TopicEnds,
        topics::{self, TopicError},
    },
    runtime::{
        backoff::Backoff,
        pace::Pace,
        spans::{Attribute, SpanKind, Spans},
        stop::Stop,
    },
    store::{ReadError, StoreId},
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

/// The number of times that a cluster is asked for a topic that it had, before the topic counts as lost.
const LOOKS: u32 = 6;

/// The pause between two of them.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

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

    /// Creates the topics that do not exist yet, and returns the number of partitions of the topic of events.
    fn ensure_topics(&self, stop: &Stop) -> Result<i32, SessionEnd> {
        let Publication { client, topic, .. } = &self.publication;
        self.refuse_a_durable_cluster()?;
        self.refuse_a_lost_topic(stop)?;
        let partitions = stop.block_on(topics::ensure(client, topic)).ok_or(SessionEnd::Stop)??;
        stop.block_on(topics::ensure(client, &self.publication.checkpoints())).ok_or(SessionEnd::Stop)??;
        Ok(partitions)
    }

    /// Refuses a durable cluster if the embedded mock broker was expected.
    fn refuse_a_durable_cluster(&self) -> Result<(), SessionEnd> {
        if let Cluster::Ephemeral { .. } = self.cluster {
            let cluster = topics::cluster_id(&self.publication.client)?;
            if !cluster.starts_with(topics::EMBEDDED_CLUSTER) {
                return Err(RelayError::NotEmbedded { cluster }.into());
            }
        }
        Ok(())
    }

    /// Refuses to create a topic again that existed before. A broker that has just started may not know its topics yet, so
    /// it is asked more than once.
    fn refuse_a_lost_topic(&self, stop: &Stop) -> Result<(), SessionEnd> {
        let Publication { client, topic, .. } = &self.publication;
        let Some(published_to) = self.publication.published_to()? else { return Ok(()) };
        for _ in 0..LOOKS {
            if topics::partitions(client, &topic.name)?.is_some() || topics::cluster_id(client)? != published_to {
                return Ok(());
            }
            stop.sleep(LOOK_AGAIN);
        }
        if stop.is_requested() {
            return Err(SessionEnd::Stop);
        }
        Err(RelayError::TopicLost { topic: topic.name.clone() }.into())
    }

    /// Becomes the store's only publisher, and finds the position to publish from.
    fn take_over(&self, claim: &mut Claim, partitions: i32) -> Result<Connected, SessionEnd> {
        let Publication { client, store, .. } = &self.publication;
        let topic = self.publication.checkpoints().name;
        let checkpoints = Checkpoints::open(client, &topic, store.id())?;
        // Checked before the writer opens, because that fences the publisher. An older copy must not fence anyone.
        if let Some(checkpoint) = checkpoints.committed()? {
            self.check_claim(checkpoint, claim)?;
        }
        let writer = Writer::open(client, &self.publication.transactional_id())?;
        // The checkpoint is final now, because opening the writer has ended the open transactions of its predecessor.
        let ends = TopicEnds::open(client)?;
        let writer = self.publication.end_hanging_transactions(&ends, writer, partitions)?;
        let checkpoint = checkpoints.decided()?;
        let (writer, published) = match checkpoint {
            Some(checkpoint) => {
                let position = self.check_claim(checkpoint, claim)?;
                (writer, self.verify(&ends, position, partitions)?)
            }
            None => self.publish_first(&ends, writer, partitions)?,
        };
        let position = published.through;
        let is_current =
            |checkpoint: Checkpoint| checkpoint.position == position && !claim.must_be_rewritten(&checkpoint);
        if checkpoint.is_some_and(is_current) {
            return Ok(Connected { writer, partitions, published, is_new: true });
        }
        // The checkpoint is written before the first event of the log. So a missing checkpoint was always lost.
        let writer = self.write_claim(writer, position, claim)?;
        Ok(Connected { writer, partitions, published, is_new: true })
    }

    /// Returns what the topic holds. The embedded broker has no isolation of transactions, and loses the beginning of a
    /// long topic, so that there the checkpoint is trusted.
    fn verify(&self, ends: &TopicEnds<'_>, checkpoint: Position, partitions: i32) -> Result<Published, SessionEnd> {
        self.check_partitions(partitions)?;
        match self.cluster {
            Cluster::Durable => self.publication.verify(ends, checkpoint, partitions),
            Cluster::Ephemeral { .. } => Ok(unverified(checkpoint, partitions)),
        }
    }

    /// Begins to publish a store that the cluster has no checkpoint of.
    fn publish_first(
        &self,
        ends: &TopicEnds<'_>,
        mut writer: Writer,
        partitions: i32,
    ) -> Result<(Writer, Published), SessionEnd> {
        let Cluster::Ephemeral { unfinished } = &self.cluster else {
            self.refuse_a_missing_checkpoint()?;
            let published = self.verify(ends, Position::START, partitions)?;
            if published.through == Position::START {
                self.refuse_beside_another_store(ends)?;
            }
            return Ok((writer, published));
        };
        for batch in self.history(unfinished)?.chunks(BATCH) {
            writer = expect_committed(writer.commit(&self.publication.records(batch, partitions)))?;
        }
        Ok((writer, unverified(self.publication.store.opened_at(), partitions)))
    }

    /// Refuses to begin a store whose topic has events of another one. An empty volume, mounted by mistake, would make a
    /// new store without a word.
    fn refuse_beside_another_store(&self, ends: &TopicEnds<'_>) -> Result<(), SessionEnd> {
        match self.publication.other_store(ends)? {
            Some(other) if Some(other) != self.replaces && self.publication.first_partitions()?.is_none() => {
                let topic = self.publication.topic.name.clone();
                Err(RelayError::OtherStore { topic, other, service: self.publication.service }.into())
            }
            Some(_) | None => Ok(()),
        }
    }

    fn refuse_a_missing_checkpoint(&self) -> Result<(), SessionEnd> {
        let Some(published_to) = self.publication.published_to()? else { return Ok(()) };
        Err(SessionEnd::Refused(RelayError::CheckpointMissing {
            published_to,
            cluster: topics::cluster_id(&self.publication.client)?,
            topic: self.publication.checkpoints().name,
            service: self.publication.service,
        }))
    }

    /// Returns the events that earlier processes recorded of some streams, in the order of the store.
    fn history(&self, streams: &HashSet<StreamId>) -> Result<Vec<Event>, ReadError> {
        let store = &self.publication.store;
        let mut events = Vec::new();
        for stream in streams {
            events.extend(store.read_stream_blocking(*stream)?);
        }
        events.retain(|event| event.position <= store.opened_at());
        events.sort_by_key(|event| event.position);
        Ok(events)
    }

    /// Writes a checkpoint that names this process as the publisher.
    fn write_claim(&self, writer: Writer, position: Position, claim: &mut Claim) -> Result<Writer, SessionEnd> {
        let event = self.publication.event_at(position)?;
        let finished = writer.commit(&[self.publication.checkpoint_record(claim.checkpoint(position, event))]);
        claim.note(finished.outcome);
        expect_committed(finished)
    }

    /// Returns the position after which to publish, or refuses.
    fn check_claim(&self, checkpoint: Checkpoint, claim: &mut Claim) -> Result<Position, SessionEnd> {
        let Publication { store, service, .. } = &self.publication;
        let stored = self.publication.event_at(checkpoint.position)?;
        claim.check(&checkpoint, stored).map_err(|disagreement| {
            SessionEnd::Refused(match disagreement {
                Disagreement::TakenOver => RelayError::TakenOver { store: store.id() },
                Disagreement::StoreBehind => {
                    RelayError::StoreBehind { head: *store.head().borrow(), checkpoint: checkpoint.position, service }
                }
            })
        })
    }

    /// Refuses another number of partitions than the topic had at first.
    fn check_partitions(&self, partitions: i32) -> Result<(), SessionEnd> {
        if matches!(self.cluster, Cluster::Ephemeral { .. }) {
            return Ok(());
        }
        match self.publication.first_partitions()? {
            Some(expected) if expected != partitions.to_string() => {
                let topic = self.publication.topic.name.clone();
                Err(RelayError::PartitionsChanged { topic, expected, actual: partitions }.into())
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Stores the cluster and the number of partitions that the store is first published with.
    fn remember_cluster(&self, partitions: i32) -> Result<(), SessionEnd> {
        if matches!(self.cluster, Cluster::Durable) && self.publication.first_partitions()?.is_none() {
            self.publication.remember_cluster(&topics::cluster_id(&self.publication.client)?, partitions)?;
            self.publication.store.lift_refusal_blocking()?; // of a store that was new
        }
        Ok(())
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

fn unverified(through: Position, partitions: i32) -> Published {
    Published { through, ..Published::nothing(usize::try_from(partitions).unwrap_or_default()) }
}

/// Returns the writer for the next transaction, or the reason why the session ends.
fn expect_committed(finished: Finished) -> Result<Writer, SessionEnd> {
    match finished {
        Finished { outcome: Outcome::Committed, writer: Some(writer), .. } => Ok(writer),
        Finished { error: Some(error), .. } => Err(SessionEnd::Kafka(error)),
        Finished { error: None, .. } => Err(SessionEnd::WriterRetired),
    }
}
