//! Topics: made by the service that writes them, waited for by the ones that read.

use rdkafka::{
    admin::{AdminOptions, NewTopic, TopicReplication},
    consumer::Consumer as _,
    error::{KafkaError, RDKafkaErrorCode},
};

use super::client::{ANSWER, Client, MAX_RECORD, QUESTION};

/// A topic as it should be.
#[derive(Clone, Debug)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// How many partitions it is made with.
    pub partitions: i32,
    /// In how many copies; -1: what the cluster's own default is.
    pub replication: i32,
    /// Whether only the newest record of each key is kept, or every record for ever.
    pub compacted: bool,
}

/// Makes the topic unless it is there, and returns how many partitions it has.
pub async fn ensure(client: &Client, topic: &Topic) -> Result<i32, KafkaError> {
    if let Some(partitions) = partitions(client, &topic.name)? {
        return Ok(partitions);
    }
    let new = NewTopic::new(&topic.name, topic.partitions, TopicReplication::Fixed(topic.replication));
    let new = new.set("max.message.bytes", MAX_RECORD);
    let new = if topic.compacted {
        new.set("cleanup.policy", "compact")
    } else {
        // The log of events, not a queue.
        new.set("cleanup.policy", "delete").set("retention.ms", "-1")
    };
    let options = AdminOptions::new().request_timeout(Some(ANSWER)).operation_timeout(Some(ANSWER));
    for made in client.admin()?.create_topics([&new], &options).await? {
        match made {
            Ok(_) => tracing::info!(topic = topic.name, partitions = topic.partitions, "made the topic"),
            Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((_, code)) => return Err(KafkaError::AdminOp(code)),
        }
    }
    // The cluster may take a moment to agree that it is there.
    partitions(client, &topic.name)?.ok_or(KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopicOrPartition))
}

/// How many partitions the topic has; `None` when there is no such topic. Asking does not make it.
pub fn partitions(client: &Client, topic: &str) -> Result<Option<i32>, KafkaError> {
    let metadata = client.questions()?.fetch_metadata(Some(topic), QUESTION)?;
    let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else { return Ok(None) };
    match found.error().map(RDKafkaErrorCode::from) {
        None if found.partitions().is_empty() => Ok(None),
        None => Ok(Some(i32::try_from(found.partitions().len()).unwrap_or(i32::MAX))),
        Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => Ok(None),
        Some(code) => Err(KafkaError::MetadataFetch(code)),
    }
}

/// The id of the cluster: offsets of one mean nothing on another.
pub fn cluster_id(client: &Client) -> Result<String, KafkaError> {
    client
        .questions()?
        .client()
        .fetch_cluster_id(QUESTION)
        .ok_or(KafkaError::MetadataFetch(RDKafkaErrorCode::AllBrokersDown))
}
