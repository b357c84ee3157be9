//! Creates and checks topics, and reads their metadata. The service that writes a topic creates it; its readers wait
//! for it.

use std::time::{Duration, Instant};

use rdkafka::{
    Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication},
    consumer::Consumer as _,
    error::{KafkaError, RDKafkaErrorCode},
    topic_partition_list::TopicPartitionListElem,
};

use crate::kafka::client::{self, ANSWER, Client, Consumer, LogToTracing, MAX_RECORD, QUESTION};

/// The longest wait for an open transaction to end. It is longer than the transaction's timeout plus the interval at
/// which the broker looks for timed-out transactions.
pub(crate) const DECIDED: Duration = Duration::from_secs(25);

/// A cluster that does not answer for this long is away.
const AWAY: Duration = Duration::from_secs(3);

/// The contract of a topic of events.
#[derive(Clone, Copy, Debug)]
pub struct TopicSpec {
    /// The name of the topic, such as `order-events`.
    pub name: &'static str,
    /// The full name of its one message type, such as `orders.events.v1.OrderEvent`.
    pub message: &'static str,
    /// The full names of all event types that this program can read.
    pub event_types: &'static [&'static str],
    /// An encoded `FileDescriptorSet` that describes the message.
    pub descriptors: &'static [u8],
}

/// The settings that a topic must have.
#[derive(Clone, Debug)]
pub struct Topic {
    /// The name of the topic.
    pub name: String,
    /// The number of partitions to create it with.
    pub partitions: i32,
    /// The replication factor to create it with; -1 uses the cluster's default.
    pub replication: i32,
    /// True to keep only the newest record of each key, false to keep every record for ever.
    pub compacted: bool,
}

/// Why a topic cannot be used now.
#[derive(Debug, thiserror::Error)]
pub enum TopicError {
    /// A request to Kafka failed.
    #[error("the topic {topic} cannot be {attempt}: {source}")]
    Kafka {
        /// The name of the topic.
        topic: String,
        /// The operation that failed: looked up, created, or checked.
        attempt: &'static str,
        /// The error of the request.
        source: KafkaError,
    },
    /// The topic does not exist yet.
    #[error("the topic {topic} does not exist yet")]
    Missing {
        /// The name of the topic.
        topic: String,
    },
    /// A transaction in the topic was never ended. No reader can read past it.
    #[error(
        "the topic {topic} has a transaction in partitions {partitions:?} that nothing ends; \
         find it with `kafka-transactions.sh find-hanging`, and end it with `kafka-transactions.sh abort`"
    )]
    OpenTransaction {
        /// The name of the topic.
        topic: String,
        /// The partitions.
        partitions: Vec<i32>,
    },
    /// Records near the end of the topic are damaged, so that it cannot be compared with the store.
    #[error("the topic {topic} is damaged near its end, and cannot be compared with the store: {source}")]
    Damaged {
        /// The name of the topic.
        topic: String,
        /// The error of the read.
        source: KafkaError,
    },
    /// The topic has a setting that would lose records. The service uses the topic as soon as the setting is corrected.
    #[error("the topic {topic} has {setting}={actual}, where {why}; {mend}")]
    Unfit {
        /// The name of the topic.
        topic: String,
        /// The name of the wrong setting.
        setting: &'static str,
        /// The value of the setting.
        actual: String,
        /// The consequence of the value.
        why: &'static str,
        /// The command or action that corrects it.
        mend: String,
    },
}

/// Creates the topic unless it exists, checks that its settings keep every record that is needed, and returns its
/// number of partitions.
pub async fn ensure(client: &Client, topic: &Topic) -> Result<i32, TopicError> {
    let partitions = match partitions(client, &topic.name).map_err(topic.cannot_be("looked up"))? {
        Some(partitions) => partitions,
        None => make(client, topic).await.map_err(topic.cannot_be("created"))?,
    };
    if topic.compacted && partitions != topic.partitions {
        return Err(TopicError::Unfit {
            topic: topic.name.clone(),
            setting: "partitions",
            actual: partitions.to_string(),
            why: "only the first partition would be used",
            mend: format!("delete it and create it with {} instead", topic.partitions),
        });
    }
    check(client, topic).await?;
    Ok(partitions)
}

async fn make(client: &Client, topic: &Topic) -> Result<i32, KafkaError> {
    let new = NewTopic::new(&topic.name, topic.partitions, TopicReplication::Fixed(topic.replication));
    let mut new = new.set("max.message.bytes", MAX_RECORD);
    for Demand { setting, value, .. } in topic.demands() {
        new = new.set(setting, value);
    }
    let admin = client.admin()?;
    let copies = if topic.replication < 0 { default_replication(client, &admin).await? } else { topic.replication };
    if copies >= 3 {
        new = new.set(TWO_COPIES.setting, TWO_COPIES.value); // an acknowledged record survives the loss of any one broker
    }
    let made = admin.create_topics([&new], &options()).await;
    client::dispose(admin);
    for made in made? {
        match made {
            Ok(_) => tracing::info!(topic = topic.name, partitions = topic.partitions, "created the topic"),
            Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((_, code)) => return Err(KafkaError::AdminOp(code)),
        }
    }
    // The brokers may take a moment to learn of the new topic.
    partitions(client, &topic.name)?.ok_or(KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopicOrPartition))
}

/// Returns the replication factor that the cluster gives to new topics. 1 if it does not say.
async fn default_replication(client: &Client, admin: &AdminClient<LogToTracing>) -> Result<i32, KafkaError> {
    if client.is_embedded() {
        return Ok(1);
    }
    let metadata = client.ask(|consumer| consumer.fetch_metadata(None, ANSWER))?;
    let Some(broker) = metadata.brokers().first() else { return Ok(1) };
    let described = admin.describe_configs(&[ResourceSpecifier::Broker(broker.id())], &options()).await?;
    // Without the permission to describe the cluster, the default is not known.
    let replication = described
        .into_iter()
        .flatten()
        .find_map(|broker| broker.get("default.replication.factor")?.value.as_deref()?.parse().ok());
    Ok(replication.unwrap_or(1))
}

/// Checks the settings of an existing topic, and refuses those under which records would be lost.
async fn check(client: &Client, topic: &Topic) -> Result<(), TopicError> {
    if client.is_embedded() {
        return Ok(()); // its topics are created with it and end with it
    }
    let asked = [ResourceSpecifier::Topic(&topic.name)];
    let failed = topic.cannot_be("checked");
    let copies = copies(client, &topic.name).map_err(&failed)?;
    let admin = client.admin().map_err(&failed)?;
    let described = admin.describe_configs(&asked, &options()).await;
    client::dispose(admin);
    for described in described.map_err(&failed)? {
        let resource = described.map_err(|code| failed(KafkaError::AdminOp(code)))?;
        let setting = |name: &str| resource.get(name)?.value.clone();
        if let Some((demand, actual)) = topic.unmet(&setting, copies) {
            return Err(topic.unfit(client, demand, actual));
        }
    }
    Ok(())
}

/// A setting that a topic must have.
#[derive(Debug)]
struct Demand {
    setting: &'static str,
    value: &'static str,
    why: &'static str,
}

/// The largest batch that the relay produces is smaller. It is a little less than Kafka's default.
const LARGE_BATCHES: Demand =
    Demand { setting: "max.message.bytes", value: "1048576", why: "a batch of events would not fit" };

/// With one copy in sync, an acknowledged record is lost if that broker is lost.
const TWO_COPIES: Demand =
    Demand { setting: "min.insync.replicas", value: "2", why: "an acknowledged record could be lost with one broker" };

impl Topic {
    /// Returns the first demand that the topic does not meet, with the actual value. `copies` is its replication factor.
    fn unmet(&self, setting: &dyn Fn(&str) -> Option<String>, copies: usize) -> Option<(&'static Demand, String)> {
        let actual = |demand: &Demand| setting(demand.setting).unwrap_or_default();
        let is_less = |demand: &Demand| {
            let number = |text: &str| text.parse::<i64>().unwrap_or_default();
            number(&actual(demand)) < number(demand.value)
        };
        let exact = self.demands().iter().find(|demand| actual(demand) != demand.value);
        let large = Some(&LARGE_BATCHES).filter(|demand| is_less(demand));
        let safe = Some(&TWO_COPIES).filter(|demand| copies >= 3 && is_less(demand));
        exact.or(large).or(safe).map(|demand| (demand, actual(demand)))
    }

    fn unfit(&self, client: &Client, demand: &Demand, actual: String) -> TopicError {
        let Demand { setting, value, why } = *demand;
        let (brokers, name) = (client.brokers(), &self.name);
        let mend = format!(
            "kafka-configs.sh --bootstrap-server {brokers} --alter --entity-type topics --entity-name {name} \
             --add-config {setting}={value}"
        );
        TopicError::Unfit { topic: self.name.clone(), setting, actual, why, mend }
    }

    fn cannot_be(&self, attempt: &'static str) -> impl Fn(KafkaError) -> TopicError {
        move |source| TopicError::Kafka { topic: self.name.clone(), attempt, source }
    }

    fn demands(&self) -> &'static [Demand] {
        const COMPACTED: &[Demand] =
            &[Demand { setting: "cleanup.policy", value: "compact", why: "the newest checkpoint would be deleted" }];
        // A topic of events is a log, not a queue: every event is kept.
        const EVENTS: &[Demand] = &[
            Demand {
                setting: "cleanup.policy",
                value: "delete",
                why: "all but the newest event of a key would be lost",
            },
            Demand { setting: "retention.ms", value: "-1", why: "old events would be lost" },
            Demand { setting: "retention.bytes", value: "-1", why: "old events would be lost" },
        ];
        if self.compacted { COMPACTED } else { EVENTS }
    }
}

/// Returns the smallest number of copies that a partition of the topic has.
fn copies(client: &Client, topic: &str) -> Result<usize, KafkaError> {
    let metadata = client.ask(|consumer| consumer.fetch_metadata(Some(topic), QUESTION))?;
    let partitions = metadata.topics().iter().flat_map(|topic| topic.partitions());
    Ok(partitions.map(|partition| partition.replicas().len()).min().unwrap_or_default())
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(ANSWER)).operation_timeout(Some(ANSWER))
}

/// Returns the number of partitions of a topic, or `None` if it does not exist. The request does not create it.
pub fn partitions(client: &Client, topic: &str) -> Result<Option<i32>, KafkaError> {
    let metadata = client.ask(|consumer| consumer.fetch_metadata(Some(topic), QUESTION))?;
    let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else { return Ok(None) };
    match found.error().map(RDKafkaErrorCode::from) {
        None if found.partitions().is_empty() => Ok(None),
        None => Ok(Some(i32::try_from(found.partitions().len()).unwrap_or(i32::MAX))),
        Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => Ok(None),
        Some(code) => Err(KafkaError::MetadataFetch(code)),
    }
}

/// Returns true if the cluster does not answer, however slow the link is.
pub(crate) fn is_away(client: &Client, topic: &str) -> bool {
    client.ask(|consumer| consumer.fetch_metadata(Some(topic), AWAY)).is_err()
}

/// The key of the store's fact about a topic: the number of partitions that it had when it was first published to.
pub(crate) fn partitions_fact(topic: &str) -> String {
    format!("partitions of {topic}")
}

/// Returns the first offset of a partition and the one after its last. A new leader needs a moment to know them
/// (KIP-207), and librdkafka asks only three times, so this function retries for longer.
pub(crate) fn watermarks(reader: &Consumer, topic: &str, partition: i32) -> Result<(i64, i64), KafkaError> {
    let deadline = Instant::now() + ANSWER;
    loop {
        match reader.fetch_watermarks(topic, partition, ANSWER) {
            Err(error) if is_of_a_new_leader(&error) && Instant::now() < deadline => {
                reader.poll(Duration::from_millis(20)); // only waits: the caller assigns its partitions later
            }
            answer => return answer,
        }
    }
}

/// Returns the first or the last offset of all partitions of a topic with one request to each broker. `which` is
/// [`Offset::Beginning`] or [`Offset::End`]. For a `read_committed` reader, the end is before the first open
/// transaction.
pub(crate) fn offsets(reader: &Consumer, topic: &str, partitions: i32, which: Offset) -> Result<Vec<i64>, KafkaError> {
    let deadline = Instant::now() + ANSWER;
    loop {
        let mut wanted = TopicPartitionList::new();
        for partition in 0..partitions {
            wanted.add_partition_offset(topic, partition, which)?;
        }
        if partitions == 0 {
            return Ok(Vec::new());
        }
        let offsets = reader.offsets_for_times(wanted, ANSWER).and_then(|found| {
            let offset = |element: TopicPartitionListElem<'_>| {
                element.error()?;
                element.offset().to_raw().filter(|offset| *offset >= 0).ok_or(NO_OFFSET)
            };
            found.elements().into_iter().map(offset).collect()
        });
        match offsets {
            Err(error) if is_of_a_new_leader(&error) && Instant::now() < deadline => {
                reader.poll(Duration::from_millis(20)); // only waits: the caller assigns its partitions later
            }
            offsets => return offsets,
        }
    }
}

const NO_OFFSET: KafkaError = KafkaError::MetadataFetch(RDKafkaErrorCode::OffsetNotAvailable);

fn is_of_a_new_leader(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{LeaderNotAvailable, NotLeaderForPartition, OffsetNotAvailable};
    matches!(error.rdkafka_error_code(), Some(OffsetNotAvailable | LeaderNotAvailable | NotLeaderForPartition))
}

/// Waits until every transaction in a partition is committed or aborted, up to the end of the partition at the time of
/// the call. Returns the first offset and that end.
///
/// A `read_committed` reader cannot read past the beginning of the first open transaction. Such a transaction can stay
/// open until its timeout.
pub(crate) fn wait_until_decided(
    client: &Client,
    reader: &Consumer,
    topic: &str,
    partition: i32,
) -> Result<(i64, i64), KafkaError> {
    let (_, end) = client.ask(|consumer| watermarks(consumer, topic, partition))?;
    let deadline = Instant::now() + DECIDED;
    loop {
        let (low, decided) = watermarks(reader, topic, partition)?;
        if decided >= end {
            return Ok((low, end));
        }
        if Instant::now() > deadline {
            return Err(KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut));
        }
        reader.poll(Duration::from_millis(20)); // only waits: the caller assigns its partitions later
    }
}

/// The prefix of the cluster id of the embedded mock broker.
pub(crate) const EMBEDDED_CLUSTER: &str = "mockCluster";

/// Returns the id of the cluster. Offsets of one cluster mean nothing on another.
pub fn cluster_id(client: &Client) -> Result<String, KafkaError> {
    let missing = KafkaError::MetadataFetch(RDKafkaErrorCode::AllBrokersDown);
    client.ask(|consumer| consumer.client().fetch_cluster_id(QUESTION).ok_or(missing))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unmet(settings: &[(&str, &str)], copies: usize) -> Option<&'static str> {
        let good = [
            ("cleanup.policy", "delete"),
            ("retention.ms", "-1"),
            ("retention.bytes", "-1"),
            ("max.message.bytes", "1048588"),
            ("min.insync.replicas", "1"),
        ];
        let topic = Topic { name: "t".to_owned(), partitions: 1, replication: -1, compacted: false };
        let setting = |name: &str| {
            let (_, value) = settings.iter().chain(&good).find(|(known, _)| *known == name)?;
            Some((*value).to_owned())
        };
        topic.unmet(&setting, copies).map(|(demand, _)| demand.setting)
    }

    #[test]
    fn a_topic_that_would_lose_or_refuse_records_is_unfit() {
        assert_eq!(unmet(&[], 1), None);
        assert_eq!(unmet(&[("retention.ms", "604800000")], 1), Some("retention.ms"));
        assert_eq!(unmet(&[("max.message.bytes", "100000")], 1), Some("max.message.bytes"));
        assert_eq!(unmet(&[], 3), Some("min.insync.replicas"));
        assert_eq!(unmet(&[("min.insync.replicas", "2")], 3), None);
    }
}
