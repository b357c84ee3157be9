//! The inbox at work: connects, consumes batches, and commits their effects.

use std::{
    collections::HashMap,
    future,
    sync::Arc,
    time::{Duration, Instant},
};

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tokio::sync::watch;

use super::{
    Follow, InboxError, InboxMetrics,
    consumer::{Consumer, Lag},
    damage::{self, Damage},
    dead_letters::{self, DeadLetters, Origin},
    decisions::{Decisions, Verdict},
    error::{Session, SessionEnd},
    metrics::RecordOutcome,
    progress::{Offsets, Progress, Sources},
    verification::{self, LostTail},
};
use crate::{
    aggregate::ReadTable,
    event::Position,
    kafka::{
        client::Client,
        cluster::Cluster,
        probe::Probe,
        record::Received,
        topics::{self, Topic, TopicError},
    },
    runtime::{
        backoff::Backoff,
        fault::{self, Step},
        spans::Spans,
        stop::Stop,
    },
    store::{Commit, CommitError, ReadError, Store},
};

/// The cluster that offsets of the embedded broker are stored under. Its real id changes with each start.
pub(crate) const EPHEMERAL: &str = "embedded";

/// The interval at which an idle inbox verifies its places in the topics, besides after each failure.
const VERIFIED: Duration = Duration::from_secs(60);

/// The pause after Kafka did not have an offset, before the partitions are verified.
const DISPLACED: Duration = Duration::from_millis(100);

/// Consumes the topics of other services into the domain of this one.
pub struct Inbox<T: ReadTable> {
    /// The store of effects and offsets.
    pub store: Store,
    /// The client of the cluster.
    pub client: Client,
    /// The name of the service: its consumer group, and the prefix of its dead-letter and retries topics.
    pub service: &'static str,
    /// The topics, each with its reader. The inbox waits for them and never creates them.
    pub follows: Vec<Follow<T::Domain>>,
    /// The topic of dead letters. The inbox creates it, and the topic of replays with the same settings.
    pub dead_letters: Topic,
    /// The lifetime of the cluster.
    pub cluster: Cluster,
    /// The metrics.
    pub metrics: InboxMetrics,
    /// Creates a span for each record that leads to a command.
    pub spans: Spans,
    /// Becomes true once the relay has confirmed that the store belongs to this cluster. Nothing is consumed before.
    pub publisher_confirmed: watch::Receiver<bool>,
}

/// State that outlives a session with the cluster.
struct Memory {
    backoff: Backoff,
    dead_letters: DeadLetters,
    newer: NewerEvents,
    damage: Damage,
    /// True after the first connection, which is logged.
    has_connected: bool,
}

impl<T: ReadTable> Inbox<T> {
    /// Consumes until a shutdown is requested.
    pub fn run(self, stop: &Stop) -> Result<(), InboxError> {
        let mut confirmed = self.publisher_confirmed.clone();
        match stop.block_on(confirmed.wait_for(|confirmed| *confirmed)) {
            None => return Ok(()),
            Some(Ok(_)) => {}
            // The relay has ended and reports why. This part only waits to be stopped.
            Some(Err(_closed)) => {
                stop.block_on(future::pending::<()>());
                return Ok(());
            }
        }
        let mut memory = Memory {
            backoff: Backoff::new(format!("reading {}", self.topics().join(", ")), self.metrics.failure_counters()),
            dead_letters: DeadLetters::new(self.client.clone(), self.dead_letters.name.clone()),
            newer: NewerEvents::default(),
            damage: Damage::none(),
            has_connected: false,
        };
        loop {
            let Err(end) = self.session(stop, &mut memory);
            match end {
                SessionEnd::Stop => return Ok(()),
                SessionEnd::Refused(error) => {
                    if let InboxError::OffsetLost { .. } = error {
                        // If this fails, the next start is refused for the same reason.
                        let _ = self.store.refuse_blocking(&error.to_string());
                    }
                    return Err(error);
                }
                SessionEnd::Damaged => {}
                SessionEnd::Displaced => stop.sleep(DISPLACED),
                SessionEnd::Kafka(error) => memory.backoff.wait(stop, &error),
                SessionEnd::Topic(error) => memory.backoff.wait(stop, &error),
                SessionEnd::Read(error) => memory.backoff.wait(stop, &error),
            }
        }
    }

    fn topics(&self) -> Vec<&'static str> {
        self.follows.iter().map(|follow| follow.topic).collect()
    }

    fn session(&self, stop: &Stop, memory: &mut Memory) -> Session {
        if stop.is_requested() {
            return Err(SessionEnd::Stop);
        }
        let (mut consumer, mut progress) = self.connect(stop, memory)?;
        let mut verified_at = Instant::now();
        loop {
            if stop.is_requested() {
                return Err(SessionEnd::Stop);
            }
            consumer.report_offsets(progress.take_report());
            let batch = consumer.poll(&mut memory.backoff)?;
            let is_connected = !batch.is_empty() || !memory.backoff.is_waiting() || self.is_reachable();
            let is_idle = batch.is_empty() && verified_at.elapsed() > VERIFIED;
            if is_connected && (consumer.take_interruption() || is_idle) {
                // A log that has lost its tail may have grown again since.
                if !self.find_lost_tails(&progress, stop)?.is_empty() {
                    return Err(SessionEnd::Displaced);
                }
                verified_at = Instant::now();
            }
            if batch.is_empty() && is_connected {
                memory.backoff.reset(); // with a batch, only once it is handled
            }
            if !batch.is_empty() || !progress.is_stored() {
                self.take_in(batch, &mut progress, stop, memory)?;
            }
            if consumer.is_damaged {
                let is_known = memory.damage.find(&self.client, &progress)?;
                return Err(if is_known { SessionEnd::Damaged } else { SessionEnd::Displaced });
            }
            if memory.damage.is_repaired(&self.client, &progress)? {
                return Err(SessionEnd::Damaged);
            }
        }
    }

    /// Handles the records of a batch that were not handled before, and the decisions of operators.
    fn take_in(
        &self,
        batch: Vec<Received>,
        progress: &mut Progress,
        stop: &Stop,
        memory: &mut Memory,
    ) -> Result<(), SessionEnd> {
        let began = Instant::now();
        let mut batch = progress.add(batch);
        self.dereference(&mut batch, progress)?;
        let mut has_skipped = false;
        for given_up in damage::take_decisions(&mut batch) {
            has_skipped |=
                memory.damage.skip(&given_up, &self.client, &self.store, progress, &mut memory.dead_letters)?;
        }
        let topics = self.handle(&batch, progress, stop, memory)?;
        self.observe(&batch, &topics, began);
        memory.backoff.reset();
        if has_skipped { Err(SessionEnd::Damaged) } else { Ok(()) }
    }

    /// Opens a consumer of all partitions, from the stored offsets. Creates the inbox's own topics, and fails while a
    /// followed topic is missing.
    fn connect(&self, stop: &Stop, memory: &mut Memory) -> Result<(Consumer, Progress), SessionEnd> {
        let cluster = match self.cluster {
            Cluster::Durable => topics::cluster_id(&self.client).map_err(SessionEnd::Kafka)?,
            Cluster::Ephemeral { .. } => EPHEMERAL.to_owned(),
        };
        let mut consumed = Vec::new();
        for topic in self.topics() {
            let partitions = topics::partitions(&self.client, topic).map_err(SessionEnd::Kafka)?;
            let missing = || SessionEnd::Topic(TopicError::Missing { topic: topic.to_owned() });
            consumed.push((topic.to_owned(), partitions.ok_or_else(missing)?));
        }
        let retries = Topic { name: dead_letters::retries_of(self.service), ..self.dead_letters.clone() };
        let ensure = |topic| {
            let partitions = stop.block_on(topics::ensure(&self.client, topic)).ok_or(SessionEnd::Stop)?;
            partitions.map_err(SessionEnd::Topic)
        };
        ensure(&self.dead_letters)?;
        let partitions = ensure(&retries)?;
        consumed.push((retries.name.clone(), partitions));
        let mut progress = self.progress(cluster, &consumed)?;
        verification::go_back(&self.find_lost_tails(&progress, stop)?, &mut progress);
        let lag = Lag { metrics: self.metrics.clone(), topics: self.topics(), retries: retries.name };
        let from = |place| if matches!(self.cluster, Cluster::Durable) { progress.next_of(place) } else { 0 };
        let readable = progress.partitions().iter().filter(|place| !memory.damage.contains(place));
        let assigned = readable.map(|place| (place, from(place)));
        let consumer = Consumer::open(&self.client, assigned, lag).map_err(SessionEnd::Kafka)?;
        for (topic, partitions) in consumed.iter().take(self.follows.len()) {
            if !memory.has_connected {
                tracing::info!(topic, partitions, "reading");
            }
        }
        memory.has_connected = true;
        Ok((consumer, progress))
    }

    /// Reads from the store how far the topics are consumed, each with its number of partitions.
    fn progress(&self, cluster: String, topics: &[(String, i32)]) -> Result<Progress, ReadError> {
        let (mut places, mut offsets, mut sources) = (Vec::new(), Offsets::new(), Sources::new());
        for (topic, partitions) in topics {
            places.extend((0..*partitions).map(|partition| (topic.clone(), partition)));
            let stored = self.store.offsets_blocking(&cluster, topic)?;
            offsets.extend(stored.into_iter().map(|(partition, offset)| ((topic.clone(), partition), offset)));
            for (partition, source) in self.store.sources_blocking(&cluster, topic)? {
                sources.entry((topic.clone(), partition)).or_default().push(source);
            }
        }
        Ok(Progress::new(cluster, places, offsets, sources))
    }

    /// Verifies that the topics still hold the records that were consumed last. Does nothing on an ephemeral cluster, whose
    /// topics are empty after each start.
    fn find_lost_tails(&self, progress: &Progress, stop: &Stop) -> Result<Vec<LostTail>, SessionEnd> {
        match self.cluster {
            Cluster::Durable => verification::find_lost_tails(&self.client, progress, stop),
            Cluster::Ephemeral { .. } => Ok(Vec::new()),
        }
    }

    fn is_reachable(&self) -> bool {
        self.follows.first().is_some_and(|follow| topics::partitions(&self.client, follow.topic).is_ok())
    }

    /// Replaces the replays of records that are too large to be copied by those records. A replay stays as it is if
    /// Kafka does not have its record any more.
    fn dereference(&self, batch: &mut [Received], progress: &Progress) -> Result<(), SessionEnd> {
        for replay in batch {
            let origin = dead_letters::referenced(replay);
            let is_followed =
                |origin: &Origin| progress.partitions().contains(&(origin.topic.clone(), origin.partition));
            let Some(origin) = origin.filter(is_followed) else { continue };
            let record = Probe::open(&self.client)
                .and_then(|probe| probe.record_at(&origin.topic, origin.partition, origin.offset));
            if let Some(record) = record.map_err(SessionEnd::Kafka)? {
                *replay = dead_letters::dereferenced(replay, record);
            }
        }
        Ok(())
    }

    /// Decides on a batch, and commits its effects with the offsets. Returns the followed topic of each record.
    ///
    /// The batch is decided again if a stream was changed in between, or if the store could not write. Meanwhile the
    /// batch stays in memory, so that no record is dead-lettered twice.
    fn handle(
        &self,
        batch: &[Received],
        progress: &mut Progress,
        stop: &Stop,
        memory: &mut Memory,
    ) -> Result<Vec<&'static str>, SessionEnd> {
        let mut is_dead_lettered = vec![false; batch.len()];
        loop {
            if stop.is_requested() {
                return Err(SessionEnd::Stop);
            }
            let mut decisions = match Decisions::of(self, batch).map_err(SessionEnd::from) {
                Ok(decisions) => decisions,
                Err(SessionEnd::Read(error)) => {
                    memory.backoff.wait(stop, &error);
                    continue;
                }
                Err(end) => return Err(end),
            };
            let records = std::mem::take(&mut decisions.records);
            for ((record, decision), is_dead_lettered) in batch.iter().zip(&records).zip(&mut is_dead_lettered) {
                if let (Verdict::Rejected(reason), false) = (&decision.verdict, *is_dead_lettered) {
                    self.dead_letter(record, reason, &mut memory.dead_letters)?;
                    *is_dead_lettered = true;
                }
            }
            let has_dead_letters = is_dead_lettered.contains(&true);
            if !self.commit(decisions, has_dead_letters || batch.is_empty(), progress, stop, &mut memory.backoff)? {
                continue;
            }
            for (decision, is_dead_lettered) in records.iter().zip(is_dead_lettered) {
                let outcome = if is_dead_lettered { RecordOutcome::DeadLettered } else { decision.verdict.outcome() };
                self.metrics.count(decision.topic, outcome, 1);
                if let (RecordOutcome::Newer, Verdict::Newer(event_type)) = (outcome, &decision.verdict) {
                    memory.newer.count(event_type);
                }
            }
            return Ok(records.iter().map(|decision| decision.topic).collect());
        }
    }

    /// Sends a record to the dead letters. When this returns, the broker has it.
    fn dead_letter(&self, record: &Received, reason: &str, dead_letters: &mut DeadLetters) -> Result<(), SessionEnd> {
        let failed = || KafkaError::MessageProduction(RDKafkaErrorCode::OperationTimedOut);
        fault::around(Step::SetAside, failed, || dead_letters.send(record, reason)).map_err(SessionEnd::Kafka)?;
        match dead_letters.lines.admit(Instant::now()) {
            Some(left_out) => {
                tracing::warn!(record = %record.place(), reason, left_out, "sent a record to the dead letters");
            }
            None => tracing::debug!(record = %record.place(), reason, "sent a record to the dead letters"),
        }
        Ok(())
    }

    /// Commits decisions together with the offsets. Returns false if the batch must be decided again.
    fn commit(
        &self,
        mut decisions: Decisions<'_, T>,
        must_commit: bool,
        progress: &mut Progress,
        stop: &Stop,
        backoff: &mut Backoff,
    ) -> Result<bool, SessionEnd> {
        let mut spans = std::mem::take(&mut decisions.spans);
        let appends = decisions.into_appends();
        if appends.is_empty() && !must_commit && progress.may_wait() {
            return Ok(true);
        }
        let committed = self.store(Commit {
            appends,
            offsets: progress.moves(),
            sources: progress.changed_sources(),
            ..Commit::default()
        });
        if let Err(error) = &committed {
            spans.iter_mut().for_each(|span| span.fail(error)); // a later attempt has its own spans
        }
        drop(spans);
        match committed {
            Ok(_) => {}
            Err(CommitError::Conflict { .. }) => return Ok(false),
            Err(error @ (CommitError::Unavailable(_) | CommitError::Overloaded)) => {
                backoff.wait(stop, &error);
                // The commit may have been made all the same. A second attempt would then be refused.
                if !self.is_in_store(progress, stop, backoff)? {
                    return Ok(false);
                }
            }
            Err(error) => return Err(SessionEnd::Refused(InboxError::Commit(error))),
        }
        progress.committed();
        Ok(true)
    }

    /// Returns whether the store has everything that was consumed. Waits while it cannot be read.
    fn is_in_store(&self, progress: &Progress, stop: &Stop, backoff: &mut Backoff) -> Result<bool, SessionEnd> {
        loop {
            match progress.is_in(&self.store) {
                Err(error) if error.is_transient() => backoff.wait(stop, &error),
                result => return Ok(result?),
            }
            if stop.is_requested() {
                return Err(SessionEnd::Stop);
            }
        }
    }

    fn store(&self, commit: Commit) -> Result<Position, CommitError> {
        let mut commit = Some(commit);
        let failed = || CommitError::Unavailable(Arc::new(rusqlite::Error::InvalidQuery));
        fault::around(Step::InboxCommit, failed, || {
            self.store.commit_blocking(commit.take().expect("this step is not repeated"))
        })
    }

    fn observe(&self, batch: &[Received], topics: &[&'static str], began: Instant) {
        for follow in &self.follows {
            let last = batch.iter().zip(topics).rfind(|(_, topic)| **topic == follow.topic);
            if let Some(time) = last.and_then(|(record, _)| record.time) {
                self.metrics.observe_batch(follow.topic, began.elapsed());
                self.metrics.set_read_through(follow.topic, time);
            }
        }
    }
}

/// Counts the skipped events of each type that this program does not know.
#[derive(Default)]
struct NewerEvents(HashMap<String, u64>);

impl NewerEvents {
    fn count(&mut self, event_type: &str) {
        let count = self.0.entry(event_type.to_owned()).or_default();
        *count += 1;
        if *count == 1 {
            tracing::warn!(event_type, "skipping events of a type that is newer than this program");
        }
        tracing::debug!(event_type, count = *count, "skipped a newer event");
    }
}
