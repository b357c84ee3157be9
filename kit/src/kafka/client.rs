//! Every librdkafka setting, each with its reason.
//!
//! What a user may tune is set unless it was given; what a promise rests on is set last and always wins.

use std::{
    sync::{Arc, OnceLock},
    thread,
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, ClientContext, Message as _,
    admin::AdminClient,
    config::{FromClientConfigAndContext, RDKafkaLogLevel},
    consumer::{BaseConsumer, ConsumerContext},
    error::{KafkaError, RDKafkaErrorCode},
    message::BorrowedMessage,
};

/// How long librdkafka waits before it sends a request again. A commit that took nearly as long may have
/// been sent twice, and its late copy could end a later transaction of the same producer: see
/// [`transaction`](crate::relay::transaction). Well above the few milliseconds of a usual commit.
pub(crate) const RETRY_BACKOFF: Duration = Duration::from_millis(500);

/// How long a dead producer's open transaction can hold up readers, when no successor ends it sooner.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(10);

/// The largest record that topics made here take, in bytes: twice the broker's default.
pub(crate) const MAX_RECORD: &str = "2097152";

/// How long one question to the cluster may take before it counts as unanswered.
pub(crate) const ANSWER: Duration = Duration::from_secs(10);

/// How long one question about the cluster is waited for before the one who asks looks up. The connection goes on being
/// made meanwhile, and is there for the next question.
pub(crate) const QUESTION: Duration = Duration::from_secs(1);

/// Where the cluster is and how it is reached. Clones share the connection for questions.
#[derive(Clone)]
pub struct Client {
    name: Arc<str>,
    brokers: Arc<str>,
    properties: Arc<[(String, String)]>,
    embedded: bool,
    questions: Arc<OnceLock<Consumer>>,
}

impl Client {
    /// A client called `name` in the brokers' logs. `properties` are librdkafka's; none of them weakens a promise.
    pub fn new(name: &str, brokers: &str, properties: Vec<(String, String)>) -> Self {
        Self {
            name: name.into(),
            brokers: brokers.into(),
            properties: properties.into(),
            embedded: false,
            questions: Arc::default(),
        }
    }

    /// A client of the embedded broker, which answers an empty fetch only after the whole wait, also when a record comes
    /// meanwhile.
    pub fn embedded(name: &str, brokers: &str) -> Self {
        let properties = vec![("fetch.wait.max.ms".to_owned(), "5".to_owned())];
        Self { embedded: true, ..Self::new(name, brokers, properties) }
    }

    /// Whether the cluster is the embedded broker, which knows only part of the protocol.
    pub(crate) fn is_embedded(&self) -> bool {
        self.embedded
    }

    /// Where the cluster is, as given.
    pub fn brokers(&self) -> &str {
        &self.brokers
    }

    /// A producer whose transactions carry `transactional_id`; see [`writer`](crate::relay::writer).
    pub(crate) fn transactional_producer(&self, transactional_id: &str) -> ClientConfig {
        let mut config = self.producer();
        config.set("transactional.id", transactional_id);
        config.set("transaction.timeout.ms", millis(TRANSACTION_TIMEOUT));
        config
    }

    /// A producer that loses and doubles nothing while it lives.
    pub(crate) fn producer(&self) -> ClientConfig {
        let mut config = self.base();
        // What is set aside is a record of another producer, as large as a broker takes, and our headers.
        config.set("message.max.bytes", MAX_RECORD);
        // Batches come from what has piled up in the store; waiting here would only add to the latency.
        config.set("linger.ms", "0");
        config.set("enable.idempotence", "true");
        config.set("acks", "all");
        // The partition of a key is the one the Java client would choose.
        config.set("partitioner", "murmur2_random");
        config.set("retry.backoff.ms", millis(RETRY_BACKOFF));
        config.set("retry.backoff.max.ms", millis(RETRY_BACKOFF * 2)); // never below the first
        config
    }

    /// A consumer that goes by offsets of our own.
    pub(crate) fn consumer(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        // Bounds what a backlog costs in memory; the default would be 64 MB.
        config.set("queued.max.messages.kbytes", "8192");
        // After the local queue was full: the default sleeps a second.
        config.set("fetch.queue.backoff.ms", "5");
        let mut config = self.base_over(config);
        // One group for all that a service reads, so that one permission is enough. Nobody joins it.
        config.set("group.id", &*self.name);
        // A reader never makes the topic that it reads.
        config.set("allow.auto.create.topics", "false");
        // Records of aborted transactions are not there.
        config.set("isolation.level", "read_committed");
        // An offset that Kafka no longer has is an error for a person, never a silent jump.
        config.set("auto.offset.reset", "error");
        config.set("enable.auto.commit", "false");
        config.set("enable.auto.offset.store", "false");
        // Bytes that were damaged on the way or on the broker's disk are an error, not an event.
        config.set("check.crcs", "true");
        config
    }

    /// Asks a question about the cluster. The error of one that is not answered is the most telling one there is.
    pub(crate) fn ask<T>(&self, question: impl FnOnce(&Consumer) -> Result<T, KafkaError>) -> Result<T, KafkaError> {
        let consumer = self.questions()?;
        let answer = question(consumer);
        // Nothing is read here: all that comes is what went wrong since the last question, and librdkafka's log.
        let causes = (0..100).filter_map(|_| consumer.poll(Duration::ZERO)?.err());
        let telling = causes.filter(is_telling).reduce(|_, later| later);
        answer.map_err(|error| telling.unwrap_or(error))
    }

    /// A consumer, because a producer's question about a topic makes it on clusters that allow that; and without a
    /// group, which would take 100 ms to leave.
    pub(super) fn questions(&self) -> Result<&Consumer, KafkaError> {
        if let Some(consumer) = self.questions.get() {
            return Ok(consumer);
        }
        let mut config = self.base();
        // Where a topic ends is asked with whatever is still undecided.
        config.set("isolation.level", "read_uncommitted");
        let consumer = create(&config)?;
        Ok(self.questions.get_or_init(|| consumer))
    }

    /// For making topics.
    pub(crate) fn admin(&self) -> Result<AdminClient<LogToTracing>, KafkaError> {
        create(&self.base())
    }

    fn base(&self) -> ClientConfig {
        self.base_over(ClientConfig::new())
    }

    fn base_over(&self, mut config: ClientConfig) -> ClientConfig {
        // A broker that is back is found within a second; the default backs off to ten.
        config.set("reconnect.backoff.max.ms", "1000");
        // A connection without an answer is given up before a caller wonders; the default is a minute.
        config.set("socket.timeout.ms", millis(ANSWER));
        for (key, value) in self.properties.iter() {
            config.set(key, value);
        }
        config.set("bootstrap.servers", &*self.brokers);
        config.set("client.id", &*self.name);
        config.set_log_level(RDKafkaLogLevel::Info);
        config
    }
}

/// Creates a librdkafka client whose own log goes where ours goes.
pub(crate) fn create<T: FromClientConfigAndContext<LogToTracing>>(config: &ClientConfig) -> Result<T, KafkaError> {
    config.create_with_context(LogToTracing)
}

/// The next record of the one partition that a consumer was assigned; `None` at its end, or when it is not before
/// `end`: where others write all the time, there is no end to wait for. The consumer has `enable.partition.eof`.
pub(crate) fn next_before(consumer: &Consumer, end: i64) -> Result<Option<BorrowedMessage<'_>>, KafkaError> {
    let deadline = Instant::now() + ANSWER;
    loop {
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(record)) => return Ok(Some(record).filter(|record| record.offset() < end)),
            Some(Err(KafkaError::PartitionEOF(_))) => return Ok(None),
            Some(Err(KafkaError::MessageConsumption(
                RDKafkaErrorCode::AllBrokersDown | RDKafkaErrorCode::BrokerTransportFailure,
            )))
            | None
                if Instant::now() < deadline => {}
            Some(Err(error)) => return Err(error),
            None => return Err(KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut)),
        }
    }
}

/// Drops a client aside: that waits for up to 100 ms for a thread of its own, and nobody needs to wait for that.
pub(crate) fn dispose(client: impl Send + 'static) {
    let _ = thread::Builder::new().name("disposing".to_owned()).spawn(move || drop(client));
}

/// A consumer with [`LogToTracing`] logs.
pub(crate) type Consumer = BaseConsumer<LogToTracing>;

/// librdkafka tells of each lost connection, many times over, and of each error that it also returns. Whoever
/// handles it says so once; the details are there at debug level.
#[derive(Clone, Copy, Debug)]
pub struct LogToTracing;

impl ClientContext for LogToTracing {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "librdkafka", error = %error, reason, "client error");
    }
}

impl ConsumerContext for LogToTracing {}

pub(crate) fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    tracing::debug!(target: "librdkafka", ?level, facility, "{message}");
}

/// Whether an error says more than that a connection was lost.
fn is_telling(error: &KafkaError) -> bool {
    !matches!(
        error.rdkafka_error_code(),
        None | Some(
            RDKafkaErrorCode::AllBrokersDown
                | RDKafkaErrorCode::BrokerTransportFailure
                | RDKafkaErrorCode::OperationTimedOut
        )
    )
}

fn millis(duration: Duration) -> String {
    duration.as_millis().to_string()
}
