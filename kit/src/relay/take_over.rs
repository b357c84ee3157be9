//! Takes over the publishing of a store at the beginning of a session: prepares the topics, claims the store, and finds
//! the position to publish from.

use std::{collections::HashSet, time::Duration};

use super::{
    BATCH, Connected, Publication, Relay, RelayError,
    checkpoint::{Checkpoint, Checkpoints},
    claim::{Claim, Disagreement},
    error::SessionEnd,
    published::Published,
    transaction::Outcome,
    writer::{Finished, Writer},
};
use crate::{
    event::{Event, Position, StreamId},
    kafka::{cluster::Cluster, topic_end::TopicEnds, topics},
    runtime::stop::Stop,
    store::ReadError,
};

/// The number of times that a cluster is asked for a topic that it had, before the topic counts as lost.
const LOOKS: u32 = 6;

/// The pause between two of them.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

impl Relay {
    /// Creates the topics that do not exist yet, and returns the number of partitions of the topic of events.
    pub(super) fn ensure_topics(&self, stop: &Stop) -> Result<i32, SessionEnd> {
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
    pub(super) fn take_over(&self, claim: &mut Claim, partitions: i32) -> Result<Connected, SessionEnd> {
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
        // The checkpoint is written before the first event of the log. So a missing checkpoint was always lost.
        let writer =
            if checkpoint.is_some_and(is_current) { writer } else { self.write_claim(writer, position, claim)? };
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
    pub(super) fn check_partitions(&self, partitions: i32) -> Result<(), SessionEnd> {
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
    pub(super) fn remember_cluster(&self, partitions: i32) -> Result<(), SessionEnd> {
        if matches!(self.cluster, Cluster::Durable) && self.publication.first_partitions()?.is_none() {
            self.publication.remember_cluster(&topics::cluster_id(&self.publication.client)?, partitions)?;
            self.publication.store.lift_refusal_blocking()?; // of a store that was new
        }
        Ok(())
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
