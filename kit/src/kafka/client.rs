//! The settings of every librdkafka client, each with its reason.
//!
//! A setting that only tunes a client is set first, and the user's properties override it. A setting that a promise
//! depends on is set last, so that it always wins.

use std::{
    sync::{Arc, OnceLock},
    thread,
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, ClientContext, Message as _,
    admin::AdminClient,
    config::{FromClientConfigAndContext, RDKafkaLogLevel},
    consumer::{BaseConsumer, Consumer as _, ConsumerContext},
    error::{KafkaError, RDKafkaErrorCode},
    message::BorrowedMessage,
};

/// The time after which librdkafka sends an unanswered request again. A commit that took nearly as long may have been
/// sent twice, and its late copy could end a later transaction of the same producer: see
/// [`transaction`](crate::relay::transaction). It is far above the few milliseconds that a commit usually takes.
pub(crate) const RETRY_BACKOFF: Duration = Duration::from_millis(500);

/// The time after which the broker aborts the open transaction of a dead producer. Until then the transaction blocks
/// `read_committed` readers, unless a successor ends it sooner.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(10);

/// The largest record that the topics created here accept, in bytes: twice the broker's default.
pub(crate) const MAX_RECORD: &str = "2097152";

/// The timeout of a request to the cluster.
pub(crate) const ANSWER: Duration = Duration::from_secs(10);

/// The timeout of a metadata request, short enough that callers notice a shutdown. librdkafka continues to connect
/// after it, so that the next request finds the connection.
pub(crate) const QUESTION: Duration = Duration::from_secs(1);

/// The address of the cluster and the settings to connect to it. Clones share the connection for metadata requests.
#[derive(Clone)]
pub struct Client {
    name: Arc<str>,
    brokers: Arc<str>,
    properties: Arc<[(String, String)]>,
    embedded: bool,
    questions: Arc<OnceLock<Consumer>>,
}

impl Client {
    /// Returns a client that the brokers' logs show as `name`. `properties` are settings of librdkafka; none of them
    /// can weaken a promise.
    pub fn new(name: &str, brokers: &str, properties: Vec<(String, String)>) -> Self {
        Self {
            name: name.into(),
            brokers: brokers.into(),
            properties: properties.into(),
            embedded: false,
            questions: Arc::default(),
        }
    }

    /// Returns a client of the embedded broker. That broker answers an empty fetch only after the whole
    /// `fetch.wait.max.ms`, even if a record arrives meanwhile, so the wait is short.
    pub fn embedded(name: &str, brokers: &str) -> Self {
        let properties = vec![("fetch.wait.max.ms".to_owned(), "5".to_owned())];
        Self { embedded: true, ..Self::new(name, brokers, properties) }
    }

    /// Returns true for the embedded broker, which implements only a part of the protocol.
    pub(crate) fn is_embedded(&self) -> bool {
        self.embedded
    }

    /// The addresses of the brokers, as they were given.
    pub fn brokers(&self) -> &str {
        &self.brokers
    }

    /// The settings of a producer with a `transactional.id`; see [`writer`](crate::relay::writer).
    pub(crate) fn transactional_producer(&self, transactional_id: &str, retry_backoff: Duration) -> ClientConfig {
        let mut config = self.producer();
        config.set("retry.backoff.ms", millis(retry_backoff));
        config.set("retry.backoff.max.ms", millis(retry_backoff * 2)); // must not be below retry.backoff.ms
        config.set("transactional.id", transactional_id);
        config.set("transaction.timeout.ms", millis(TRANSACTION_TIMEOUT));
        config
    }

    /// The settings of an idempotent producer, which neither loses nor duplicates a record while it lives.
    pub(crate) fn producer(&self) -> ClientConfig {
        let mut config = self.base();
        // A dead letter is a record of another producer, which may be as large as the broker allows, plus our headers.
        config.set("message.max.bytes", MAX_RECORD);
        // Batches form from the backlog in the store. Waiting here would only add latency.
        config.set("linger.ms", "0");
        // Below every topic's max.message.bytes, which `topics::check` verifies.
        config.set("batch.size", "1000000");
        config.set("enable.idempotence", "true");
        config.set("acks", "all");
        // Chooses the same partition for a key as the Java client.
        config.set("partitioner", "murmur2_random");
        config.set("retry.backoff.ms", millis(RETRY_BACKOFF));
        config.set("retry.backoff.max.ms", millis(RETRY_BACKOFF * 2)); // must not be below retry.backoff.ms
        config
    }

    /// The settings of a consumer whose offsets are kept outside Kafka, in the service's own store.
    pub(crate) fn consumer(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        // Limits the memory that a backlog takes. The default is 64 MB.
        config.set("queued.max.messages.kbytes", "8192");
        // The pause after the local queue was full. The default is a second.
        config.set("fetch.queue.backoff.ms", "5");
        let mut config = self.base_over(config);
        // One group for everything that a service reads, so that one permission is enough. No consumer joins it.
        config.set("group.id", &*self.name);
        // A reader never creates the topic that it reads.
        config.set("allow.auto.create.topics", "false");
        // Hides the records of aborted transactions.
        config.set("isolation.level", "read_committed");
        // An offset that Kafka no longer has is an error that an operator must settle, never a silent jump.
        config.set("auto.offset.reset", "error");
        config.set("enable.auto.commit", "false");
        config.set("enable.auto.offset.store", "false");
        // Detects bytes that were damaged on the network or on the broker's disk.
        config.set("check.crcs", "true");
        config
    }

    /// Sends a request about the cluster. If it fails, the error is the most informative one that librdkafka reported,
    /// such as a failed login instead of a timeout.
    pub(crate) fn ask<T>(&self, question: impl FnOnce(&Consumer) -> Result<T, KafkaError>) -> Result<T, KafkaError> {
        let consumer = self.questions()?;
        let answer = question(consumer);
        // This consumer has no partitions, so that a poll returns only the errors since the last request.
        let causes = (0..100).filter_map(|_| consumer.poll(Duration::ZERO)?.err());
        let telling = causes.filter(is_telling).reduce(|_, later| later);
        answer.map_err(|error| telling.unwrap_or(error))
    }

    /// Measures the round trip to a broker.
    pub(crate) fn round_trip(&self) -> Result<Duration, KafkaError> {
        let measure = |_| {
            let began = Instant::now();
            self.ask(|consumer| consumer.fetch_metadata(None, ANSWER))?;
            Ok(began.elapsed())
        };
        // The first request may include the time to connect.
        let measured: Vec<_> = (0..2).map(measure).collect::<Result<_, KafkaError>>()?;
        Ok(measured.into_iter().min().unwrap_or_default())
    }

    /// Returns the client for metadata requests. It is a consumer, because a producer's metadata request creates a
    /// missing topic on clusters that allow that. It has no group, because leaving one takes 100 ms.
    pub(super) fn questions(&self) -> Result<&Consumer, KafkaError> {
        if let Some(consumer) = self.questions.get() {
            return Ok(consumer);
        }
        let mut config = self.base();
        // The end of a topic includes the records of transactions that are still open.
        config.set("isolation.level", "read_uncommitted");
        let consumer = create(&config)?;
        Ok(self.questions.get_or_init(|| consumer))
    }

    /// Creates the client that creates and checks topics.
    pub(crate) fn admin(&self) -> Result<AdminClient<LogToTracing>, KafkaError> {
        create(&self.base())
    }

    fn base(&self) -> ClientConfig {
        self.base_over(ClientConfig::new())
    }

    fn base_over(&self, mut config: ClientConfig) -> ClientConfig {
        // Reconnects within a second of a broker's return. The default backs off to ten seconds.
        config.set("reconnect.backoff.max.ms", "1000");
        // Drops a connection that does not answer. The default of a minute is longer than callers wait.
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

/// Creates a librdkafka client whose log goes to `tracing`.
pub(crate) fn create<T: FromClientConfigAndContext<LogToTracing>>(config: &ClientConfig) -> Result<T, KafkaError> {
    config.create_with_context(LogToTracing)
}

/// Returns the next record of the one partition that the consumer is assigned, or `None` at the end of the partition or
/// at the offset `end`. `end` is needed because a partition that others write to all the time has no end to reach.
/// The consumer must have `enable.partition.eof`.
pub(crate) fn next_before(consumer: &Consumer, end: i64) -> Result<Option<BorrowedMessage<'_>>, KafkaError> {
    Ok(match next(consumer)? {
        Next::Record(record) => Some(record).filter(|record| record.offset() < end),
        Next::End(_) => None,
    })
}

/// The next thing that a consumer reads.
pub(crate) enum Next<'a> {
    /// A record.
    Record(BorrowedMessage<'a>),
    /// The end of a partition.
    End(i32),
}

/// Waits for the next record, or the end of an assigned partition. The consumer must have `enable.partition.eof`.
pub(crate) fn next(consumer: &Consumer) -> Result<Next<'_>, KafkaError> {
    let deadline = Instant::now() + ANSWER;
    loop {
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(record)) => return Ok(Next::Record(record)),
            Some(Err(KafkaError::PartitionEOF(partition))) => return Ok(Next::End(partition)),
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

/// Drops a client on another thread, because the drop waits up to 100 ms for a thread of librdkafka.
pub(crate) fn dispose(client: impl Send + 'static) {
    let _ = thread::Builder::new().name("disposing".to_owned()).spawn(move || drop(client));
}

/// A consumer that logs to `tracing`.
pub(crate) type Consumer = BaseConsumer<LogToTracing>;

/// Sends the log of librdkafka to `tracing`, at debug level. librdkafka logs each lost connection many times, and each
/// error that it also returns. The code that handles an error logs it once.
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

/// Returns true if the cluster has denied a request. An operator has to grant a permission, or to correct a password.
pub(crate) fn is_denied(error: &KafkaError) -> bool {
    let code = if let KafkaError::AdminOp(code) = error { Some(*code) } else { error.rdkafka_error_code() };
    matches!(
        code,
        Some(
            RDKafkaErrorCode::Authentication
                | RDKafkaErrorCode::SaslAuthenticationFailed
                | RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::GroupAuthorizationFailed
                | RDKafkaErrorCode::ClusterAuthorizationFailed
                | RDKafkaErrorCode::TransactionalIdAuthorizationFailed
        )
    )
}

/// Returns true if an error says more than that a connection was lost.
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
