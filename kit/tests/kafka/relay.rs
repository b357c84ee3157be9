use std::{collections::HashMap, time::Duration};

use oncelog::{
    embedded::{ApiKey, EmbeddedBroker, ErrorCode},
    event::{Event, EventId, Position, StreamId},
    kafka::{cluster::Cluster, record::Received},
    relay::{
        RelayError,
        checkpoint::{self, Checkpoint, Checkpoints, Publisher},
        writer::Writer,
    },
    store::Store,
    testing::{eventually, read_until},
};

use crate::harness::{
    SERVICE, TOPIC, client, new_store, open, say, start_broker, start_broker_with, start_relay, start_relay_beside,
    start_relay_on, unique,
};

/// Asserts that the topic holds exactly the store's events, in the order of the store for each key.
fn assert_published(store: &Store, records: &[&Received]) {
    let log = store.read_all_blocking(Position::START, 10_000).expect("reads");
    assert_eq!(records.len(), log.len());
    let by_position: HashMap<_, _> = records.iter().map(|record| (record.header("ce_sequence"), record)).collect();
    let mut last: HashMap<StreamId, i64> = HashMap::new();
    for event in &log {
        let record = by_position[&Some(format!("{:020}", event.position.0).as_str())];
        assert_eq!(record.header("ce_id"), Some(event.id.to_string().as_str()));
        assert_eq!(record.key.as_deref(), Some(event.stream.to_string().as_bytes()));
        assert_eq!(record.value.as_ref(), Some(&event.payload));
        assert_eq!(record.header("ce_source"), Some(format!("/test-service/{}", store.id()).as_str()));
        let before = last.insert(event.stream, record.offset);
        assert!(before.is_none_or(|before| before < record.offset), "out of order: {event:?}");
    }
}

fn published(broker: &EmbeddedBroker, count: usize) -> Vec<Received> {
    read_until(broker, TOPIC, |records| unique(records).len() >= count)
}

fn checkpoint_of(broker: &EmbeddedBroker, store: &Store) -> Option<Position> {
    let (client, topic) = (client(broker), checkpoint::topic_of(SERVICE));
    let read = Checkpoints::open(&client, &topic, store.id()).expect("opens").decided();
    read.expect("reads").map(|checkpoint| checkpoint.position)
}

async fn say_many(store: &Store, count: usize) -> Vec<Event> {
    let streams: Vec<_> = std::iter::repeat_with(StreamId::generate).take(5).collect();
    for number in 0..count {
        say(store, streams[number % streams.len()], &format!("word {number}")).await;
    }
    store.read_all_blocking(Position::START, 10_000).expect("reads")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_event_is_published_once_in_order_and_a_restart_goes_on_from_the_checkpoint() {
    let broker = start_broker();
    let (directory, store) = new_store();
    say_many(&store, 20).await;
    {
        let _relay = start_relay(&store, &broker);
        published(&broker, 20);
        say_many(&store, 10).await;
        published(&broker, 30);
    }
    drop(store);
    let store = open(&directory);
    say_many(&store, 10).await;
    let _relay = start_relay(&store, &broker);
    let records = published(&broker, 40);
    assert_published(&store, &records.iter().collect::<Vec<_>>());
    eventually("the checkpoint is the head", || checkpoint_of(&broker, &store) == Some(Position(40)));
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_request_fails_every_event_is_published() {
    use ErrorCode::{
        RD_KAFKA_RESP_ERR__TRANSPORT as CUT, RD_KAFKA_RESP_ERR_CONCURRENT_TRANSACTIONS as BUSY,
        RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE as NO_COORDINATOR,
        RD_KAFKA_RESP_ERR_INVALID_TXN_STATE as INVALID_STATE, RD_KAFKA_RESP_ERR_NOT_COORDINATOR as MOVED,
        RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION as NOT_LEADER, RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT as TIMED_OUT,
        RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED as FORBIDDEN,
    };
    let cases: [(ApiKey, &[ErrorCode]); 13] = [
        (ApiKey::FindCoordinator, &[NO_COORDINATOR, CUT]),
        (ApiKey::InitProducerId, &[NO_COORDINATOR]),
        (ApiKey::InitProducerId, &[CUT, CUT]),
        (ApiKey::AddPartitionsToTxn, &[BUSY, MOVED]),
        (ApiKey::AddPartitionsToTxn, &[FORBIDDEN]),
        (ApiKey::Produce, &[NOT_LEADER, CUT]),
        (ApiKey::Produce, &[TIMED_OUT, TIMED_OUT]),
        (ApiKey::Produce, &[FORBIDDEN]),
        (ApiKey::EndTxn, &[NO_COORDINATOR]),
        (ApiKey::EndTxn, &[CUT, CUT]),
        (ApiKey::EndTxn, &[INVALID_STATE]),
        (ApiKey::Metadata, &[CUT]),
        (ApiKey::Fetch, &[CUT, CUT]),
    ];
    let broker = start_broker();
    let (_directory, store) = new_store();
    let mut stored = 0;
    for (request, errors) in cases {
        // Once while a relay starts, and once while it publishes.
        broker.fail(request, errors);
        let _relay = start_relay(&store, &broker);
        stored = say_many(&store, 7).await.len();
        published(&broker, stored);
        broker.fail(request, errors);
        stored = say_many(&store, 7).await.len();
        published(&broker, stored);
        broker.heal(request);
    }
    let records = published(&broker, stored);
    assert_published(&store, &unique(&records));
    let _relay = start_relay(&store, &broker);
    eventually("the checkpoint is the head", || checkpoint_of(&broker, &store) == Some(Position(stored as u64)));
}

/// The answer comes so late that librdkafka may have sent the commit twice. The producer is replaced, and nothing else
/// happens.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_commit_changes_nothing_but_the_producer() {
    let broker = start_broker();
    let (_directory, store) = new_store();
    let _relay = start_relay(&store, &broker);
    say_many(&store, 5).await;
    published(&broker, 5);
    broker.track_requests();
    broker.delay(ApiKey::EndTxn, Duration::from_millis(450), 1);
    say_many(&store, 5).await;
    eventually("the producer is replaced", || broker.requests(ApiKey::InitProducerId) > 0);
    say_many(&store, 5).await;
    let records = published(&broker, 15);
    assert_published(&store, &unique(&records));
}

/// The claim is not written again with each new producer: that commit would be slow each time, too, and the relay would
/// never publish an event.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_costs_a_producer_with_every_commit_is_published_to_all_the_same() {
    let broker = start_broker();
    let (_directory, store) = new_store();
    say_many(&store, 5).await;
    broker.delay(ApiKey::EndTxn, Duration::from_millis(450), 1000);
    let _relay = start_relay(&store, &broker);
    published(&broker, 5);
    say_many(&store, 5).await;
    let records = published(&broker, 10);
    assert_published(&store, &unique(&records));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_away_is_waited_for() {
    let broker = start_broker();
    let (_directory, store) = new_store();
    broker.down().expect("the broker goes down");
    let _relay = start_relay(&store, &broker);
    say_many(&store, 5).await;
    broker.up().expect("the broker comes up");
    published(&broker, 5);
    broker.down().expect("the broker goes down");
    say_many(&store, 5).await;
    broker.up().expect("the broker comes up");
    let records = published(&broker, 10);
    assert_published(&store, &unique(&records));
}

/// The broker's answer is the same if a transaction exceeded its timeout and if another process has taken over.
#[tokio::test(flavor = "multi_thread")]
async fn a_fenced_publisher_goes_on_unless_another_has_claimed_the_store() {
    let broker = start_broker();
    let (_directory, store) = new_store();
    let last = say_many(&store, 3).await[2].id;
    publish_all(&store, &broker, 3);
    let relay = start_relay(&store, &broker);
    say_many(&store, 3).await;
    published(&broker, 6);
    broker.fail(ApiKey::AddPartitionsToTxn, &[ErrorCode::RD_KAFKA_RESP_ERR_PRODUCER_FENCED]);
    say_many(&store, 3).await;
    published(&broker, 9);
    eventually("its checkpoint is written", || checkpoint_of(&broker, &store) == Some(Position(9)));

    // The topic of checkpoints has gone back to an earlier publisher. That is not a successor.
    publish_checkpoint(&broker, &store, Position(3), last, 1);
    broker.fail(ApiKey::AddPartitionsToTxn, &[ErrorCode::RD_KAFKA_RESP_ERR_PRODUCER_FENCED]);
    let last = say_many(&store, 3).await[11].id;
    published(&broker, 12);
    eventually("its checkpoint is written", || checkpoint_of(&broker, &store) == Some(Position(12)));

    publish_checkpoint(&broker, &store, Position(12), last, 9);
    broker.fail(ApiKey::AddPartitionsToTxn, &[ErrorCode::RD_KAFKA_RESP_ERR_PRODUCER_FENCED]);
    say_many(&store, 3).await;
    let error = relay.ended().expect_err("refused");
    assert!(matches!(error, RelayError::TakenOver { .. }), "another reason: {error}");
    assert_eq!(published(&broker, 12).len(), 12);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_that_went_back_publishes_nothing_twice() {
    let broker = start_broker();
    let (_directory, store) = new_store();
    let third = say_many(&store, 6).await[2].id;
    publish_all(&store, &broker, 6);
    publish_checkpoint(&broker, &store, Position(3), third, 1);
    let _relay = start_relay(&store, &broker);
    say_many(&store, 2).await;
    let records = published(&broker, 8);
    assert_published(&store, &records.iter().collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_lacks_what_was_published_is_refused() {
    let broker = start_broker();
    let (_directory, store) = new_store();
    say_many(&store, 3).await;
    publish_all(&store, &broker, 3);
    let last = say_many(&store, 3).await[5].id;
    publish_checkpoint(&broker, &store, Position(6), last, 1);
    let error = start_relay(&store, &broker).ended().expect_err("refused");
    assert!(matches!(error, RelayError::TailLost { .. }), "another reason: {error}");
    assert_eq!(published(&broker, 3).len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_copy_of_the_store_is_refused_before_it_fences_anyone() {
    let broker = start_broker();
    let (_directory, store) = new_store();
    say_many(&store, 3).await;
    publish_checkpoint(&broker, &store, Position(4), EventId::generate(), 1);
    broker.track_requests();
    let refused = || start_relay(&store, &broker).ended().expect_err("refused");
    let error = refused();
    assert!(
        matches!(error, RelayError::StoreBehind { head: Position(3), checkpoint: Position(4), .. }),
        "another reason: {error}"
    );
    // The copy has continued with other events, so its head is beyond the checkpoint now. It is still recognized,
    // because it has another event at the position of the checkpoint.
    say_many(&store, 3).await;
    let error = refused();
    assert!(
        matches!(error, RelayError::StoreBehind { head: Position(6), checkpoint: Position(4), .. }),
        "another reason: {error}"
    );
    assert_eq!(broker.requests(ApiKey::InitProducerId), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_store_beside_another_is_refused_unless_it_names_that_one() {
    let broker = start_broker();
    let (_directory, lost) = new_store();
    say_many(&lost, 3).await;
    publish_all(&lost, &broker, 3);
    let (_other_directory, store) = new_store();
    say_many(&store, 2).await;
    let error = start_relay(&store, &broker).ended().expect_err("refused");
    assert!(matches!(error, RelayError::OtherStore { other, .. } if other == lost.id()), "another reason: {error}");
    assert_eq!(published(&broker, 3).len(), 3);
    let _relay = start_relay_beside(&store, &broker, lost.id());
    published(&broker, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_has_forgotten_the_store_is_refused() {
    let (_directory, store) = new_store();
    say_many(&store, 3).await;
    {
        let broker = start_broker();
        let _relay = start_relay(&store, &broker);
        published(&broker, 3);
        eventually("the facts are kept", || store.fact_blocking("partitions of test-events").expect("reads").is_some());
    }
    let broker = start_broker();
    let error = start_relay(&store, &broker).ended().expect_err("refused");
    assert!(matches!(error, RelayError::CheckpointMissing { .. }), "another reason: {error}");
    let records = read_until(&broker, TOPIC, |_| true);
    assert_eq!(records, [], "nothing is published twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_number_of_partitions_is_refused() {
    let (_directory, store) = new_store();
    say_many(&store, 3).await;
    {
        let broker = start_broker();
        let _relay = start_relay(&store, &broker);
        published(&broker, 3);
        eventually("the facts are kept", || store.fact_blocking("partitions of test-events").expect("reads").is_some());
    }
    let broker = start_broker_with(4);
    let last = store.read_all_blocking(Position(2), 1).expect("reads")[0].id;
    publish_checkpoint(&broker, &store, Position(3), last, 1);
    let error = start_relay(&store, &broker).ended().expect_err("refused");
    assert!(matches!(error, RelayError::PartitionsChanged { actual: 4, .. }), "another reason: {error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_cluster_gets_the_unfinished_streams_from_their_beginning_and_all_that_comes_after() {
    let (directory, mut store) = new_store();
    let (finished, unfinished) = (StreamId::generate(), StreamId::generate());
    for stream in [finished, unfinished, finished, unfinished] {
        say(&store, stream, "before").await;
    }
    for start in 0..2 {
        drop(store);
        store = open(&directory);
        let broker = start_broker();
        say(&store, finished, "before the relay").await;
        let cluster = Cluster::Ephemeral { unfinished: [unfinished].into() };
        let _relay = start_relay_on(&store, &broker, cluster);
        say(&store, finished, "beside the relay").await;
        let records = published(&broker, 4 + start);
        let count = |stream: StreamId| {
            records.iter().filter(|record| record.key == Some(stream.to_string().into_bytes())).count()
        };
        assert_eq!((count(unfinished), count(finished)), (2 + start, 2));
        say(&store, unfinished, "at the end").await;
        published(&broker, 5 + start);
    }
}

/// Publishes the events of the store, and ends.
fn publish_all(store: &Store, broker: &EmbeddedBroker, count: usize) {
    let _relay = start_relay(store, broker);
    published(broker, count);
    eventually("its checkpoint is written", || checkpoint_of(broker, store) == Some(Position(count as u64)));
}

fn publish_checkpoint(broker: &EmbeddedBroker, store: &Store, position: Position, event: EventId, term: u64) {
    let writer = Writer::open(&client(broker), "test").expect("opens");
    let checkpoint = Checkpoint { position, event: Some(event), publisher: Publisher::generate(), term };
    let record = checkpoint::record(&checkpoint::topic_of(SERVICE), store.id(), checkpoint);
    assert!(writer.commit(&[record]).error.is_none());
}
