//! The inbox: topics → domain → store, every record's effect once.
//!
//! How far each partition was read is kept in the store and committed together with the effect. Offsets in
//! Kafka are written too, for its lag tools, and never read. A record that cannot be read is set aside.
//!
//! The partitions are assigned by hand, all of them to this process, and no consumer group decides: a
//! store has one process, and its offsets are in it, so a rebalance could only add ways to fail.

pub mod dead_letters;
mod effects;
mod lag;
mod progress;

use std::{
    collections::HashMap,
    convert::Infallible,
    future,
    sync::Arc,
    time::{Duration, Instant},
};

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{CommitMode, Consumer as _},
    error::{KafkaError, RDKafkaErrorCode},
};
use tokio::sync::watch;

use self::{
    effects::Effects,
    lag::{Consumer, Lag},
    progress::{Offsets, Progress},
};
use crate::{
    aggregate::{Aggregate, LoadError},
    event::{Position, StreamId},
    inbox::dead_letters::DeadLetters,
    kafka::{
        client::{self, Client},
        cluster::Cluster,
        record::{Incoming, Received},
        topics::{self, Topic, TopicError},
    },
    runtime::{
        backoff::Backoff,
        fault::{self, Step},
        metrics::InboxMetrics,
        spans::Spans,
        stop::Stop,
    },
    store::{Commit, CommitError, ReadError, Store},
};

/// How many records share one commit at most.
const BATCH: usize = 500;

/// How long the inbox sleeps at most before it looks whether it is to stop.
const POLL: Duration = Duration::from_millis(100);

/// What a record asks of this service.
#[derive(Debug)]
pub enum Asked<C> {
    /// To execute a command on a stream.
    Command(StreamId, C),
    /// Nothing: it is of no interest here.
    Nothing,
    /// It is of a kind that came after this program; skipped and counted.
    Newer,
}

/// Reads events of another service's topic into one's own domain.
pub struct Inbox<A: Aggregate> {
    /// Where effects and offsets go.
    pub store: Store,
    /// Where the topic is.
    pub client: Client,
    /// The name of the service: its consumer group, and the prefix of its dead-letter topic.
    pub service: &'static str,
    /// The topic that is read. The inbox waits for it and never makes it. What was set aside and put back is read
    /// beside it, from a topic of the service's own.
    pub topic: String,
    /// The topic for what cannot be read; made by the inbox.
    pub dead_letters: Topic,
    /// How the cluster came to be.
    pub cluster: Cluster,
    /// Says what a record asks for, or why it cannot be read.
    pub reader: Reader<A::Command>,
    /// What is counted and measured.
    pub metrics: InboxMetrics,
    /// A span for each record that asks for something.
    pub spans: Spans,
    /// The relay's word that the store belongs to this cluster. Nothing is read before.
    pub agreed: watch::Receiver<bool>,
}

/// Says what a record asks for, or why it cannot be read.
pub type Reader<C> = fn(&Incoming<'_>) -> Result<Asked<C>, String>;

/// Why the inbox cannot go on without a person.
#[derive(Debug, thiserror::Error)]
pub enum InboxError {
    /// Records that were never read are gone.
    #[error(
        "{topic}/{partition} was read up to offset {offset:?}, and Kafka no longer has it: \
         records were deleted before they were read, or the topic was made anew"
    )]
    OffsetLost {
        /// The topic.
        topic: String,
        /// The partition, where Kafka tells it.
        partition: i32,
        /// The next offset that was to be read.
        offset: Option<i64>,
    },
    /// The store could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The store holds what this program cannot read.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Another process reads for this store, or the store is closed.
    #[error(transparent)]
    Commit(CommitError),
}

/// Why a session with the cluster ended.
enum Ending {
    Error(InboxError),
    Kafka(KafkaError),
    Topic(TopicError),
    Stop,
}

impl<E: Into<InboxError>> From<E> for Ending {
    fn from(error: E) -> Self {
        Self::Error(error.into())
    }
}

impl<A: Aggregate> Inbox<A> {
    /// Reads until asked to stop.
    pub fn run(self, stop: &Stop) -> Result<(), InboxError> {
        let topic = &self.topic;
        let mut backoff = Backoff::new(format!("reading {topic}"), self.metrics.failures.clone());
        let mut dead_letters = DeadLetters::new(self.client.clone(), self.dead_letters.name.clone());
        let mut newer = Newer::new();
        let mut agreed = self.agreed.clone();
        match stop.block_on(agreed.wait_for(|agreed| *agreed)) {
            None => return Ok(()),
            Some(Ok(_)) => {}
            // The relay has ended, and says why: this part only waits to be stopped.
            Some(Err(_closed)) => {
                stop.block_on(future::pending::<()>());
                return Ok(());
            }
        }
        loop {
            let Err(ending) = self.read(stop, &mut backoff, &mut dead_letters, &mut newer);
            match ending {
                Ending::Stop => return Ok(()),
                Ending::Error(error) => return Err(error),
                Ending::Kafka(error) => backoff.wait(stop, &error),
                Ending::Topic(error) => backoff.wait(stop, &error),
            }
        }
    }

    fn read(
        &self,
        stop: &Stop,
        backoff: &mut Backoff,
        dead_letters: &mut DeadLetters,
        newer: &mut Newer,
    ) -> Result<Infallible, Ending> {
        if stop.is_requested() {
            return Err(Ending::Stop);
        }
        let kafka = Ending::Kafka;
        let cluster = match self.cluster {
            Cluster::Existing => topics::cluster_id(&self.client).map_err(kafka)?,
            Cluster::New { .. } => "embedded".to_owned(),
        };
        let missing = || kafka(KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopicOrPartition));
        let partitions = topics::partitions(&self.client, &self.topic).map_err(kafka)?.ok_or_else(missing)?;
        let retries = Topic { name: dead_letters::retries_of(self.service), ..self.dead_letters.clone() };
        let ensure = |topic| stop.block_on(topics::ensure(&self.client, topic)).ok_or(Ending::Stop);
        ensure(&self.dead_letters)?.map_err(Ending::Topic)?;
        let retried = ensure(&retries)?.map_err(Ending::Topic)?;
        let read = [(&self.topic, partitions), (&retries.name, retried)];
        let mut offsets = Offsets::new();
        for (topic, _) in read {
            let stored = self.store.offsets_blocking(&cluster, topic)?;
            offsets.extend(stored.into_iter().map(|(partition, offset)| ((topic.clone(), partition), offset)));
        }
        let mut config = self.client.consumer();
        config.set("statistics.interval.ms", "2000"); // tells how much is unread
        let consumer: Consumer = config.create_with_context(Lag(self.metrics.clone())).map_err(kafka)?;
        consumer.assign(&self.assignment(read, &offsets).map_err(kafka)?).map_err(kafka)?;
        backoff.reset();
        tracing::info!(topic = self.topic, partitions, "reading");

        let mut progress = Progress::new(cluster, offsets);
        loop {
            if stop.is_requested() {
                return Err(Ending::Stop);
            }
            tell_kafka(&consumer, progress.news());
            let batch = self.poll(&consumer, &progress.read, backoff)?;
            if batch.is_empty() && backoff.is_waiting() && topics::partitions(&self.client, &self.topic).is_ok() {
                backoff.reset();
            }
            if batch.is_empty() && progress.is_stored() {
                continue;
            }
            let began = Instant::now();
            progress.add(&batch);
            let skipped = self.handle(&batch, &mut progress, dead_letters, stop, backoff)?;
            if let Some(time) = batch.last().and_then(|last| last.time) {
                self.metrics.batch_duration.observe(began.elapsed().as_secs_f64());
                self.metrics.read_through(time);
            }
            count(newer, skipped);
            backoff.reset();
        }
    }

    fn assignment(&self, topics: [(&String, i32); 2], offsets: &Offsets) -> Result<TopicPartitionList, KafkaError> {
        let new = matches!(self.cluster, Cluster::New { .. });
        let mut list = TopicPartitionList::new();
        for (topic, partitions) in topics {
            for partition in 0..partitions {
                let offset = match offsets.get(&(topic.clone(), partition)) {
                    Some(offset) if !new => Offset::Offset(*offset),
                    // Not the beginning of what is left: what was deleted before it was read is an error too.
                    _ => Offset::Offset(0),
                };
                list.add_partition_offset(topic, partition, offset)?;
            }
        }
        Ok(list)
    }

    /// Waits for a record and takes what else is there by then.
    fn poll(&self, consumer: &Consumer, offsets: &Offsets, backoff: &mut Backoff) -> Result<Vec<Received>, Ending> {
        let mut batch = Vec::new();
        let mut patience = POLL;
        while batch.len() < BATCH {
            match consumer.poll(patience) {
                Some(Ok(message)) => batch.push(Received::from_librdkafka(&message)),
                Some(Err(KafkaError::MessageConsumption(code))) if is_passing(code) => {
                    backoff.say(&KafkaError::MessageConsumption(code));
                }
                Some(Err(KafkaError::MessageConsumption(
                    RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange,
                ))) => return Err(self.offset_lost(consumer, offsets)),
                Some(Err(error)) => return Err(Ending::Kafka(error)),
                None => break,
            }
            patience = Duration::ZERO;
        }
        Ok(batch)
    }

    /// librdkafka does not say which partition it was: it is one whose offset is outside of what Kafka has.
    fn offset_lost(&self, consumer: &Consumer, offsets: &Offsets) -> Ending {
        let assigned = consumer.assignment().map(|list| list.to_topic_map()).unwrap_or_default();
        let next = |place: &(String, i32)| offsets.get(place).copied().unwrap_or(0);
        let lost = assigned.into_keys().find(|place| {
            consumer
                .fetch_watermarks(&place.0, place.1, client::ANSWER)
                .is_ok_and(|(low, high)| !(low..=high).contains(&next(place)))
        });
        let offset = lost.as_ref().map(next);
        let (topic, partition) = lost.unwrap_or_else(|| (self.topic.clone(), -1));
        Ending::Error(InboxError::OffsetLost { topic, partition, offset })
    }

    /// Gives the batch its effect and commits it with the offsets; again when a stream was changed in between, or when
    /// the store could not write. Returns the types of the events that were skipped for being newer.
    fn handle(
        &self,
        batch: &[Received],
        progress: &mut Progress,
        dead_letters: &mut DeadLetters,
        stop: &Stop,
        backoff: &mut Backoff,
    ) -> Result<Vec<String>, Ending> {
        let mut set_aside = vec![false; batch.len()];
        loop {
            if stop.is_requested() {
                return Err(Ending::Stop);
            }
            let mut effects = Effects::<A>::new(self);
            for (record, set_aside) in batch.iter().zip(&mut set_aside) {
                let Err(reason) = effects.add(record)? else { continue };
                if !std::mem::replace(set_aside, true) {
                    let failed = || KafkaError::MessageProduction(RDKafkaErrorCode::OperationTimedOut);
                    fault::around(Step::SetAside, failed, || dead_letters.set_aside(record, &reason))
                        .map_err(Ending::Kafka)?;
                    tracing::warn!(record = %record.place(), reason, "set aside a record that cannot be read");
                }
            }
            let (newer, ignored) = (std::mem::take(&mut effects.newer), effects.ignored);
            let mut spans = std::mem::take(&mut effects.spans);
            let appends = effects.into_appends();
            let led_to_nothing = appends.is_empty() && !set_aside.contains(&true);
            let committed = if led_to_nothing && !batch.is_empty() && progress.may_wait() {
                Ok(())
            } else {
                let commit = Commit { appends, offsets: progress.moves(), table: None };
                self.commit(commit).map(|_| progress.committed())
            };
            if let Err(error) = &committed {
                spans.iter_mut().for_each(|span| span.fail(error)); // decided again, in spans of their own
            }
            drop(spans);
            let committed = match committed {
                // The batch stays in hand, so that nothing of it is set aside twice.
                Err(error @ (CommitError::Unavailable(_) | CommitError::Overloaded)) => {
                    backoff.wait(stop, &error);
                    // It may have been made all the same, and could not be made a second time.
                    if !progress.is_in(&self.store)? {
                        continue;
                    }
                    progress.committed();
                    Ok(())
                }
                answered => answered,
            };
            match committed {
                Ok(()) => {
                    let set_aside = set_aside.iter().filter(|set_aside| **set_aside).count();
                    self.metrics.count("dead_lettered", set_aside);
                    self.metrics.count("newer", newer.len());
                    self.metrics.count("ignored", ignored);
                    self.metrics.count("handled", batch.len().saturating_sub(set_aside + newer.len() + ignored));
                    return Ok(newer);
                }
                Err(CommitError::Conflict { .. }) => {}
                Err(error) => return Err(Ending::Error(InboxError::Commit(error))),
            }
        }
    }

    fn commit(&self, commit: Commit) -> Result<Position, CommitError> {
        let mut commit = Some(commit);
        let failed = || CommitError::Unavailable(Arc::new(rusqlite::Error::InvalidQuery));
        fault::around(Step::InboxCommit, failed, || self.store.commit_blocking(commit.take().unwrap_or_default()))
    }
}

/// How many events of each type were skipped because they came after this program.
type Newer = HashMap<String, u64>;

fn count(newer: &mut Newer, skipped: Vec<String>) {
    for event_type in skipped {
        let count = newer.entry(event_type.clone()).or_default();
        *count += 1;
        if *count == 1 {
            tracing::warn!(event_type, "skipping events of a type that came after this program");
        }
        tracing::debug!(event_type, count = *count, "skipped a newer event");
    }
}

/// For Kafka's lag tools alone: a failure costs nothing, and nothing here reads it.
fn tell_kafka(consumer: &Consumer, news: Option<Offsets>) {
    let Some(news) = news else { return };
    let mut list = TopicPartitionList::new();
    for ((topic, partition), offset) in news {
        let _ = list.add_partition_offset(&topic, partition, Offset::Offset(offset));
    }
    let _ = consumer.commit(&list, CommitMode::Async);
}

/// What librdkafka mends by itself.
fn is_passing(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::AllBrokersDown
            | RDKafkaErrorCode::BrokerTransportFailure
            | RDKafkaErrorCode::Resolve
            | RDKafkaErrorCode::OperationTimedOut
            | RDKafkaErrorCode::RequestTimedOut
            | RDKafkaErrorCode::NotLeaderForPartition
            | RDKafkaErrorCode::LeaderNotAvailable
            | RDKafkaErrorCode::NetworkException
    )
}
