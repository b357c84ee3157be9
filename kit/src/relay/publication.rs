//! The description of a store, its topic and all names on the cluster. The relay and `reconcile` share it.

use crate::{
    event::{Event, EventId, Position},
    kafka::{
        client::Client,
        partition::partition_of,
        record::{Record, Source},
        topics::{self, Topic, TopicSpec},
    },
    relay::{
        checkpoint::{self, Checkpoint},
        published::Published,
    },
    store::{CommitError, ReadError, Store},
};

/// A store and the topic that it is published to.
#[derive(Clone)]
pub struct Publication {
    /// The store.
    pub store: Store,
    /// The client of the cluster.
    pub client: Client,
    /// The name of the service. Its `transactional.id` and its checkpoint topic begin with it.
    pub service: &'static str,
    /// The contract of the topic.
    pub spec: TopicSpec,
    /// The topic, with the settings that it is created with.
    pub topic: Topic,
}

impl Publication {
    /// Returns the topic of the checkpoint.
    pub(crate) fn checkpoints(&self) -> Topic {
        Topic { name: checkpoint::topic_of(self.service), partitions: 1, compacted: true, ..self.topic.clone() }
    }

    /// Returns the prefix of the `transactional.id`s. It is fixed, so that a successor ends open transactions at once.
    pub(crate) fn transactional_id(&self) -> String {
        format!("{}-{}", self.service, self.store.id())
    }

    /// Returns the value of `ce_source`.
    pub(crate) fn source(&self) -> String {
        self.store.id().source(self.service)
    }

    /// Creates the records of events. Stored bytes are published as they are.
    pub(crate) fn records(&self, events: &[Event], partitions: i32) -> Vec<Record> {
        let source =
            Source { topic: self.topic.name.clone(), uri: self.source(), message: self.spec.message, partitions };
        events.iter().map(|event| Record::of(event, &source)).collect()
    }

    /// Returns the position and the partition of each event.
    pub(crate) fn partitions_of(events: &[Event], partitions: i32) -> impl Iterator<Item = (Position, usize)> {
        let partition = move |event: &Event| partition_of(event.stream.to_string().as_bytes(), partitions) as usize;
        events.iter().map(move |event| (event.position, partition(event)))
    }

    /// Creates the record of a checkpoint.
    pub(crate) fn checkpoint_record(&self, checkpoint: Checkpoint) -> Record {
        checkpoint::record(&self.checkpoints().name, self.store.id(), checkpoint)
    }

    /// Returns the id of the event at a position, if there is one.
    pub(crate) fn event_at(&self, position: Position) -> Result<Option<EventId>, ReadError> {
        let Some(before) = position.0.checked_sub(1) else { return Ok(None) };
        Ok(self.store.read_all_blocking(Position(before), 1)?.first().map(|event| event.id))
    }

    /// Returns the cluster to which the store was published, if it ever was.
    pub(crate) fn published_to(&self) -> Result<Option<String>, ReadError> {
        self.store.fact_blocking(&self.cluster_fact())
    }

    /// Returns the number of partitions that the topic had when the store was first published.
    pub(crate) fn first_partitions(&self) -> Result<Option<String>, ReadError> {
        self.store.fact_blocking(&topics::partitions_fact(&self.topic.name))
    }

    /// Stores the id of the cluster and the number of partitions of the topic.
    pub(crate) fn remember_cluster(&self, cluster: &str, partitions: i32) -> Result<(), CommitError> {
        self.store.set_fact_blocking(&self.cluster_fact(), cluster)?;
        self.store.set_fact_blocking(&topics::partitions_fact(&self.topic.name), &partitions.to_string())
    }

    /// Returns what the topic is known to hold, as it was stored last. It may be some seconds old.
    pub(crate) fn published(&self) -> Result<Option<Published>, ReadError> {
        Ok(self.store.fact_blocking(&self.published_fact())?.and_then(|text| Published::parse(&text)))
    }

    /// Stores what the topic is known to hold.
    pub(crate) fn remember_published(&self, published: &Published) -> Result<(), CommitError> {
        self.store.set_fact_blocking(&self.published_fact(), &published.to_text())
    }

    /// Removes what the topic is known to hold. The next session compares the whole end of the topic.
    pub(crate) fn forget_published(&self) -> Result<(), CommitError> {
        self.store.remove_fact_blocking(&self.published_fact())
    }

    /// Removes everything that is stored about the cluster and the topic.
    pub(crate) fn forget_cluster(&self) -> Result<(), CommitError> {
        self.store.remove_fact_blocking(&self.cluster_fact())?;
        self.forget_published()?;
        self.store.remove_fact_blocking(&topics::partitions_fact(&self.topic.name))
    }

    fn published_fact(&self) -> String {
        format!("published to {}", self.topic.name)
    }

    fn cluster_fact(&self) -> String {
        format!("cluster of {}", self.topic.name)
    }
}
