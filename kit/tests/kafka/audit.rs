use std::time::Duration;

use oncelog::{
    aggregate::Payload as _,
    embedded::{ApiKey, EmbeddedBroker, ErrorCode},
    event::{Event, EventId, NewEvent, Position, StreamId, Version, now},
    inbox::Follow,
    inbox::dead_letters,
    kafka::{
        record::{Record, Source},
        topics,
    },
    operations::audit::Audit,
    store::{Append, Commit, Log, OffsetMove, Store, TopicPartition},
    testing::{eventually, publish},
};
use tempfile::TempDir;

use crate::harness::{
    self, PARTITIONS, SERVICE, SOURCE, Said, TOPIC, Words, client, new_store, say, start_broker, start_inbox,
    start_relay,
};

/// Audits a store that does not change meanwhile, and returns the findings.
fn audit(directory: &TempDir, broker: &EmbeddedBroker) -> Vec<String> {
    let audit = Audit::<Words> {
        log: Log::open(&harness::location(directory), harness::IDENTITY).expect("the log opens"),
        client: client(broker),
        service: SERVICE,
        topic: harness::SPEC,
        follows: vec![Follow::new(SOURCE, harness::read)],
        stream_word: "word",
    };
    let moment = audit.log.snapshot().expect("reads");
    let mut lines = Vec::new();
    let findings = audit.run(&moment, &mut (), Duration::ZERO, &mut |line| lines.push(line)).expect("audits");
    let summary = lines.split_off(findings as usize);
    assert!(summary.last().is_some_and(|line| line.starts_with("findings")), "{summary:?}");
    lines
}

fn assert_found(findings: &[String], what: &[&str]) {
    assert_eq!(findings.len(), what.len(), "{findings:?}");
    for (finding, what) in findings.iter().zip(what) {
        assert!(finding.contains(what), "{finding} is not {what}");
    }
}

fn source(store: &Store) -> Source {
    let uri = store.id().source(SERVICE);
    Source { topic: TOPIC.to_owned(), uri, message: harness::SPEC.message, partitions: PARTITIONS }
}

/// Returns a record of the followed topic, and the id of its event.
fn word(stream: StreamId, word: &str) -> (EventId, Record) {
    let event = Event {
        position: Position(1),
        stream,
        version: Version(1),
        id: EventId::generate(),
        event_type: "test.Said".to_owned(),
        time: now(),
        causation: None,
        trace: None,
        payload: word.as_bytes().to_vec(),
    };
    let source =
        Source { topic: SOURCE.to_owned(), uri: "/other/x".to_owned(), message: "test.Word", partitions: PARTITIONS };
    let record = Record { partition: Some(0), ..Record::of(&event, &source) };
    (event.id, record)
}

fn said(word: &str, causation: Option<EventId>) -> NewEvent {
    let event = Said(word.to_owned());
    NewEvent {
        id: EventId::generate(),
        event_type: event.event_type(),
        time: now(),
        causation,
        trace: None,
        payload: word.as_bytes().to_vec(),
    }
}

/// Stores what the inbox would store after reading the first `records` records: the offset and the events.
async fn have_read(store: &Store, broker: &EmbeddedBroker, records: i64, stream: StreamId, events: Vec<NewEvent>) {
    let cluster = topics::cluster_id(&client(broker)).expect("an id");
    let partition = TopicPartition { cluster, topic: SOURCE.to_owned(), partition: 0 };
    let appends = vec![Append { stream, expected: Version::NONE, events, row: None }];
    let offsets = vec![OffsetMove { partition, from: None, to: records }];
    let mut commit = Commit::default();
    (commit.appends, commit.offsets) = (appends, offsets);
    store.commit(commit).await.expect("stored");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_found_where_all_is_well() {
    let broker = start_broker();
    let (directory, store) = new_store();
    let streams: Vec<_> = std::iter::repeat_with(StreamId::generate).take(20).collect();
    let records: Vec<_> = streams.iter().flat_map(|stream| [word(*stream, "one").1, word(*stream, "two").1]).collect();
    publish(&broker, &records);
    publish(&broker, &[word(streams[0], "nothing").1, word(streams[0], "newer").1, word(streams[0], "forbidden").1]);
    {
        let (_relay, _inbox) = (start_relay(&store, &broker), start_inbox(&store, &broker));
        say(&store, StreamId::generate(), "by a caller").await;
        let read = || -> i64 { audit_offsets(&directory).iter().sum() };
        eventually("all is read", || read() == 43);
        eventually("all is published", || audit(&directory, &broker).is_empty());
    }
}

/// An audit does not fail because a partition has just elected a leader.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_new_is_waited_for() {
    let broker = start_broker();
    let (directory, store) = new_store();
    let _relay = start_relay(&store, &broker);
    say(&store, StreamId::generate(), "by a caller").await;
    eventually("all is published", || audit(&directory, &broker).is_empty());
    broker.fail(ApiKey::ListOffsets, &[ErrorCode::RD_KAFKA_RESP_ERR_OFFSET_NOT_AVAILABLE; 12]);
    assert_found(&audit(&directory, &broker), &[]);
}

fn audit_offsets(directory: &TempDir) -> Vec<i64> {
    let log = Log::open(&harness::location(directory), harness::IDENTITY).expect("the log opens");
    log.snapshot().expect("reads").offsets.into_iter().map(|(_, offset)| offset).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_of_the_topic_is_found_by_its_place() {
    type Plant = fn(&mut Vec<Record>);
    let plants: [(Plant, &[&str]); 10] = [
        (|_| {}, &[]),
        (|records| drop(records.remove(1)), &["position 2  is not in test-events"]),
        (|records| records.truncate(1), &["position 2  and all up to 4 are not in test-events"]),
        (|records| records.push(records[1].clone()), &["is there twice"]),
        (|records| records.swap(1, 2), &["comes after position 3: out of order"]),
        (|records| records[1].value = Some(b"other".to_vec()), &["its value is not the one that is stored"]),
        (
            |records| records[1].partition = records[1].partition.map(|partition| (partition + 1) % PARTITIONS),
            &["its key belongs to partition"],
        ),
        (|records| records[1].key = Some(b"other".to_vec()), &["its key is another stream's"]),
        (
            |records| records[1].headers.retain(|(name, _)| name != "ce_type"),
            &["its header ce_type is not the one that it must have"],
        ),
        (
            |records| {
                let mut unknown = records[3].clone();
                unknown.headers.retain(|(name, _)| name != "ce_sequence");
                unknown.headers.push(("ce_sequence".to_owned(), Some(b"00000000000000000009".to_vec())));
                records.push(unknown);
                let mut other = records[3].clone();
                other.headers.retain(|(name, _)| name != "ce_source");
                records.push(other); // without a source it is not a record of the store
            },
            &["position 9"],
        ),
    ];
    let broker = start_broker();
    for (number, (plant, what)) in plants.iter().enumerate() {
        let (directory, store) = new_store();
        let stream = StreamId::generate();
        for word in ["one", "two", "three", "four"] {
            say(&store, stream, word).await;
        }
        let source = source(&store);
        let events = store.read_all(Position::START, 10).await.expect("reads");
        let mut records: Vec<_> = events.iter().map(|event| Record::of(event, &source)).collect();
        plant(&mut records);
        publish(&broker, &records);
        let found = audit(&directory, &broker);
        assert_found(&found, what);
        assert!(found.iter().all(|finding| finding.contains("position ")), "plant {number}: {found:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_the_store_has_lost_is_found_and_nothing_else() {
    let broker = start_broker();
    let (directory, store) = new_store();
    let stream = StreamId::generate();
    for word in ["one", "two", "three", "four"] {
        say(&store, stream, word).await;
    }
    let source = source(&store);
    let events = store.read_all(Position::START, 10).await.expect("reads");
    publish(&broker, &events.iter().map(|event| Record::of(event, &source)).collect::<Vec<_>>());
    drop(store);
    let file = rusqlite::Connection::open(harness::location(&directory).path()).expect("opens");
    file.execute("DELETE FROM events WHERE position = 2", []).expect("deleted");
    assert_found(&audit(&directory, &broker), &["position 2  test-events/"]);
    file.execute("UPDATE events SET payload = x'ff' WHERE position = 3", []).expect("damaged");
    let found = audit(&directory, &broker);
    assert_found(
        &found,
        &[
            "an event that the store does not know",
            "its value is not the one that is stored",
            "position 3  cannot be read",
        ],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_between_what_was_read_and_what_came_of_it_is_found() {
    /// Returns the records of the topic, the number of them that were read, and the events that are stored for them.
    type Plant = fn(StreamId) -> (Vec<Record>, i64, Vec<NewEvent>);
    let plants: [(Plant, &str); 8] = [
        (
            |stream| (vec![word(stream, "one").1], 1, Vec::new()),
            "source-events/0@0  has had no effect: test.Said is missing",
        ),
        (
            |stream| {
                let (cause, record) = word(stream, "one");
                (vec![record], 1, vec![said("one", Some(cause)), said("one", Some(cause))])
            },
            "source-events/0@0  has had a second effect",
        ),
        (
            |stream| {
                let (cause, record) = word(stream, "one");
                (vec![record], 1, vec![said("two", Some(cause))])
            },
            "does not lead to test.Said, which was recorded for it",
        ),
        (|_| (Vec::new(), 0, vec![said("one", Some(EventId::generate()))]), "which source-events does not have"),
        (
            |stream| (vec![word(stream, "forbidden").1], 1, Vec::new()),
            "the word is forbidden, and it is not in the dead letters",
        ),
        (
            |stream| (vec![Record { headers: Vec::new(), ..word(stream, "one").1 }], 1, Vec::new()),
            "source-events/0@0  the header ce_specversion is missing, and it is not in the dead letters",
        ),
        (
            |stream| {
                let (_, record) = word(stream, "one");
                let origin = [("topic", SOURCE), ("partition", "0"), ("offset", "0"), ("failures", "1")];
                let origin =
                    origin.map(|(name, value)| (format!("dead_letter_{name}"), Some(value.as_bytes().to_vec())));
                let topic = dead_letters::topic_of(SERVICE);
                let headers = [record.headers.clone(), origin.to_vec()].concat();
                let letter = Record { topic, partition: None, headers, ..record.clone() };
                (vec![record, letter], 1, Vec::new())
            },
            "source-events/0@0  is in the dead letters, and could be handled by now: replay it",
        ),
        (|_| (Vec::new(), 7, Vec::new()), "is gone, and was read: the topic has 0 to 0, the service read up to 7"),
    ];
    for (plant, what) in plants {
        let broker = start_broker();
        let (directory, store) = new_store();
        let stream = StreamId::generate();
        let (records, read, events) = plant(stream);
        publish(&broker, &records);
        have_read(&store, &broker, read, stream, events).await;
        let (stored, source) = (store.read_all(Position::START, 10).await.expect("reads"), source(&store));
        publish(&broker, &stored.iter().map(|event| Record::of(event, &source)).collect::<Vec<_>>());
        assert_found(&audit(&directory, &broker), &[what]);
    }
}
