//! The embedded broker: librdkafka's mock cluster, which runs in this process and speaks the real wire protocol.
//!
//! It is for a first look and for tests. It has these limits:
//!
//! * It accepts transactions but does not isolate them: readers see aborted records, and no producer is fenced.
//! * Clients cannot create topics.
//! * It keeps only the newest 5 MiB of each partition, and forgets everything when it is dropped.
//!
//! So exactly-once can be tested on real Kafka only.

#![expect(unsafe_code, reason = "librdkafka's mock cluster has functions that rdkafka does not wrap")]

use std::{ffi::CString, io, net::SocketAddr, time::Duration};

use rdkafka::{
    bindings, config::ClientConfig, consumer::Consumer as _, error::KafkaError, mocking::MockCluster,
    types::RDKafkaRespErr,
};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::{
    inbox::dead_letters,
    kafka::client::{self, Consumer, LogToTracing},
    relay::checkpoint,
};

pub use crate::kafka::{client::Client, cluster::Cluster, record::Received, tail::Tail};
pub use crate::runtime::supervisor::Supervisor;
pub use rdkafka::types::RDKafkaApiKey as ApiKey;
pub use rdkafka::types::RDKafkaRespErr as ErrorCode;

/// The id of the cluster's only broker.
const BROKER: i32 = 1;

/// A cluster of one broker. Dropping it ends the cluster.
pub struct EmbeddedBroker {
    /// The client that librdkafka needs to run a mock cluster. It does nothing else.
    host: Consumer,
    address: SocketAddr,
    partitions: i32,
}

/// The reason for which the embedded broker cannot start.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// librdkafka could not start it, or could not create a topic.
    #[error("the embedded broker cannot start")]
    Kafka(#[from] KafkaError),
    /// It started, but librdkafka gives no address for it.
    #[error("the embedded broker has no address")]
    Address,
}

impl EmbeddedBroker {
    /// Starts a broker on a free loopback port. It has the given topics of events, and for each service the topics of
    /// its checkpoints, dead letters and retries.
    pub fn start(services: &[&str], topics: &[&str], partitions: i32) -> Result<Self, EmbeddedError> {
        let mut config = ClientConfig::new();
        config.set("test.mock.num.brokers", "1");
        let host: Consumer = client::create(&config)?;
        let address = {
            let cluster = host.client().mock_cluster().ok_or(EmbeddedError::Address)?;
            for topic in topics {
                cluster.create_topic(topic, partitions, 1)?;
            }
            for service in services {
                cluster.create_topic(&checkpoint::topic_of(service), 1, 1)?;
                cluster.create_topic(&dead_letters::topic_of(service), partitions, 1)?;
                cluster.create_topic(&dead_letters::retries_of(service), partitions, 1)?;
            }
            cluster.bootstrap_servers().parse().map_err(|_not_one_address| EmbeddedError::Address)?
        };
        Ok(Self { host, address, partitions })
    }

    /// Returns a client of this broker.
    pub fn client(&self, name: &str) -> Client {
        Client::embedded(name, &self.address.to_string())
    }

    /// The address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The number of partitions of its topics of events.
    pub fn partitions(&self) -> i32 {
        self.partitions
    }

    /// Makes the broker advertise another address to its clients. [`forward`] forwards their connections to the broker.
    ///
    /// This is needed because the mock cluster can choose neither its port nor its interface.
    pub fn advertise(&self, address: SocketAddr) {
        let host = CString::new(address.ip().to_string()).expect("an IP address has no zero byte");
        // SAFETY: the handle lives as long as `host`, and librdkafka copies the string.
        unsafe {
            let cluster = bindings::rd_kafka_handle_mock_cluster(self.host.client().native_ptr());
            bindings::rd_kafka_mock_broker_set_host_port(cluster, BROKER, host.as_ptr(), address.port().into());
        }
    }

    /// Fails the next requests of a kind, each with one of the errors.
    pub fn fail(&self, request: ApiKey, errors: &[RDKafkaRespErr]) {
        self.cluster().request_errors(request, errors);
    }

    /// Cancels the failures that have not happened yet.
    pub fn heal(&self, request: ApiKey) {
        self.cluster().clear_request_errors(request);
    }

    /// Delays the next `answers` answers to requests of a kind. The requests succeed.
    pub fn delay(&self, request: ApiKey, by: Duration, answers: usize) {
        let by = i32::try_from(by.as_millis()).unwrap_or(i32::MAX);
        for _ in 0..answers {
            // SAFETY: the handle lives as long as `host`; one pair of error and delay follows the count of one.
            unsafe {
                let cluster = bindings::rd_kafka_handle_mock_cluster(self.host.client().native_ptr());
                bindings::rd_kafka_mock_broker_push_request_error_rtts(
                    cluster,
                    BROKER,
                    i16::from(request),
                    1,
                    RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR,
                    by,
                );
            }
        }
    }

    /// Records every request from now on, so that [`requests`](Self::requests) can count them.
    pub fn track_requests(&self) {
        // SAFETY: the handle lives as long as `host`.
        unsafe {
            let cluster = bindings::rd_kafka_handle_mock_cluster(self.host.client().native_ptr());
            bindings::rd_kafka_mock_start_request_tracking(cluster);
        }
    }

    /// Returns the number of recorded requests of a kind.
    pub fn requests(&self, kind: ApiKey) -> usize {
        // SAFETY: the handle lives as long as `host`; the array that librdkafka returns is destroyed with its count.
        unsafe {
            let cluster = bindings::rd_kafka_handle_mock_cluster(self.host.client().native_ptr());
            let mut count = 0;
            let requests = bindings::rd_kafka_mock_get_requests(cluster, &raw mut count);
            let matching = (0..count)
                .filter(|index| bindings::rd_kafka_mock_request_api_key(*requests.add(*index)) == i16::from(kind))
                .count();
            bindings::rd_kafka_mock_request_destroy_array(requests, count);
            matching
        }
    }

    /// Cuts every connection and accepts no new ones, until [`up`](Self::up).
    pub fn down(&self) -> Result<(), KafkaError> {
        self.cluster().broker_down(BROKER)
    }

    /// Accepts connections again.
    pub fn up(&self) -> Result<(), KafkaError> {
        self.cluster().broker_up(BROKER)
    }

    fn cluster(&self) -> MockCluster<'_, LogToTracing> {
        self.host.client().mock_cluster().expect("the mock cluster started with the broker")
    }
}

/// Forwards every connection of `listener` to `target`, until the future is dropped.
///
/// # Cancellation
/// Dropping the future cuts every connection.
pub async fn forward(listener: TcpListener, target: SocketAddr) -> io::Result<()> {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (client, _) = accepted?;
                connections.spawn(carry(client, target));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn carry(mut client: TcpStream, target: SocketAddr) -> io::Result<()> {
    let mut broker = TcpStream::connect(target).await?;
    client.set_nodelay(true)?;
    broker.set_nodelay(true)?;
    copy_bidirectional(&mut client, &mut broker).await?;
    Ok(())
}
