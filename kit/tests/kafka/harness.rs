//! A small domain, a store for it, a broker, and parts that run until they are dropped.

use std::{
    collections::HashSet,
    thread::{self, JoinHandle},
};

use oncelog::{
    aggregate::{Aggregate, Cause, Decoded, Envelope, NoTable, Payload, PayloadError, Streams},
    embedded::EmbeddedBroker,
    event::StreamId,
    inbox::{Follow, Inbox, InboxError, InboxMetrics, Instruction, dead_letters},
    kafka::{
        client::Client,
        cluster::Cluster,
        record::{Incoming, Received, Unreadable},
        topics::{Topic, TopicSpec},
    },
    relay::{Publication, Relay, RelayError, RelayMetrics},
    runtime::{Shutdown, Spans, Stop},
    store::{Location, Store, StoreId, StoreIdentity},
    testing::eventually,
};
use tempfile::TempDir;
use tokio::sync::watch;

pub(crate) const SERVICE: &str = "test-service";
pub(crate) const TOPIC: &str = "test-events";
pub(crate) const SOURCE: &str = "source-events";
pub(crate) const PARTITIONS: i32 = 3;

/// Remembers words, each once.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Words(pub(crate) Vec<String>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Said(pub(crate) String);

impl Aggregate for Words {
    type Event = Said;
    type Command = String;
    type Rejection = String;

    fn decide(&self, word: &String) -> Result<Vec<Said>, String> {
        if word == "forbidden" { Err("the word is forbidden".to_owned()) } else { Ok(vec![Said(word.clone())]) }
    }

    fn apply(&mut self, Said(word): &Said) {
        self.0.push(word.clone());
    }
}

impl Payload for Said {
    fn event_type(&self) -> &'static str {
        "test.Said"
    }

    fn encode(&self, _: &Envelope) -> Vec<u8> {
        self.0.clone().into_bytes()
    }

    fn decode(payload: &[u8]) -> Result<Decoded<Self>, PayloadError> {
        let text = String::from_utf8(payload.to_vec());
        text.map(|word| Self(word).into()).map_err(|_error| PayloadError::field("word", "is no text"))
    }
}

pub(crate) const SPEC: TopicSpec =
    TopicSpec { name: TOPIC, message: "test.Word", event_types: &["test.Said"], descriptors: &[] };
pub(crate) const IDENTITY: StoreIdentity = StoreIdentity { service: SERVICE, event_types: SPEC.event_types };

pub(crate) fn location(directory: &TempDir) -> Location {
    Location::sqlite(directory.path().join("test.db"))
}

pub(crate) fn open(directory: &TempDir) -> Store {
    Store::open(&location(directory), IDENTITY, None).expect("the store opens")
}

pub(crate) fn new_store() -> (TempDir, Store) {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(&directory);
    (directory, store)
}

pub(crate) fn start_broker() -> EmbeddedBroker {
    start_broker_with(PARTITIONS)
}

pub(crate) fn start_broker_with(partitions: i32) -> EmbeddedBroker {
    EmbeddedBroker::start(&[SERVICE], &[TOPIC, SOURCE], partitions).expect("the broker starts")
}

pub(crate) fn client(broker: &EmbeddedBroker) -> Client {
    broker.client(SERVICE)
}

fn topic(name: &str) -> Topic {
    Topic { name: name.to_owned(), partitions: PARTITIONS, replication: 1, compacted: false }
}

/// A part that runs on a thread of its own. Dropping it stops the part and waits for its end.
pub(crate) struct Running<E> {
    shutdown: Shutdown,
    thread: Option<JoinHandle<Result<(), E>>>,
}

impl<E> Running<E> {
    #[expect(clippy::disallowed_methods, reason = "a test has no supervisor")]
    fn start(part: impl FnOnce(&Stop) -> Result<(), E> + Send + 'static) -> Self
    where
        E: Send + 'static,
    {
        let shutdown = Shutdown::new();
        let stop = Stop::new(shutdown.clone());
        Self { shutdown, thread: Some(thread::spawn(move || part(&stop))) }
    }

    /// Waits until the part ends without a request to stop, and returns its result.
    pub(crate) fn ended(mut self) -> Result<(), E> {
        let thread = self.thread.take().expect("it was started");
        eventually("the part ends", || thread.is_finished());
        thread.join().expect("no panic")
    }
}

impl<E> Drop for Running<E> {
    fn drop(&mut self) {
        self.shutdown.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

pub(crate) fn start_relay(store: &Store, broker: &EmbeddedBroker) -> Running<RelayError> {
    start_relay_on(store, broker, Cluster::Durable)
}

pub(crate) fn start_relay_on(store: &Store, broker: &EmbeddedBroker, cluster: Cluster) -> Running<RelayError> {
    start(Relay { cluster, ..relay(store, broker) })
}

/// Starts the relay of a new store, beside another store.
pub(crate) fn start_relay_beside(store: &Store, broker: &EmbeddedBroker, other: StoreId) -> Running<RelayError> {
    start(Relay { replaces: Some(other), ..relay(store, broker) })
}

fn start(relay: Relay) -> Running<RelayError> {
    Running::start(move |stop| relay.run(stop))
}

fn relay(store: &Store, broker: &EmbeddedBroker) -> Relay {
    Relay {
        publication: publication(store, broker),
        cluster: Cluster::Durable,
        publisher_confirmed: watch::Sender::new(false),
        calls_allowed: watch::Sender::new(false),
        replaces: None,
        metrics: RelayMetrics::default(),
        spans: Spans::default(),
    }
}

fn publication(store: &Store, broker: &EmbeddedBroker) -> Publication {
    let (store, client) = (store.clone(), client(broker));
    Publication { store, client, service: SERVICE, spec: SPEC, topic: topic(TOPIC) }
}

pub(crate) fn start_inbox(store: &Store, broker: &EmbeddedBroker) -> Running<InboxError> {
    let inbox = Inbox::<NoTable<Words>> {
        store: store.clone(),
        client: client(broker),
        service: SERVICE,
        follows: vec![Follow::new(SOURCE, read)],
        dead_letters: topic(&dead_letters::topic_of(SERVICE)),
        cluster: Cluster::Durable,
        metrics: InboxMetrics::new([SOURCE]),
        spans: Spans::default(),
        publisher_confirmed: watch::Sender::new(true).subscribe(),
    };
    Running::start(move |stop| inbox.run(stop))
}

pub(crate) fn read(record: &Incoming<'_>) -> Result<Instruction<String>, Unreadable> {
    let Some(Decoded { event: Said(word), .. }) = record.event::<Said>()? else { return Ok(Instruction::Skip) };
    Ok(match word.as_str() {
        "nothing" => Instruction::Ignore,
        "newer" => Instruction::Skip,
        _ => Instruction::Execute(word),
    })
}

pub(crate) async fn say(store: &Store, stream: StreamId, word: &str) {
    let streams = Streams::<NoTable<Words>>::new(store.clone());
    streams.execute(stream, &word.to_owned(), &Cause::default()).await.expect("stored");
}

/// Returns the first record of each `ce_id`.
pub(crate) fn unique(records: &[Received]) -> Vec<&Received> {
    let mut seen = HashSet::new();
    records.iter().filter(|record| seen.insert(record.header("ce_id").map(str::to_owned))).collect()
}
