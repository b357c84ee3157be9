use std::time::Duration;

use oncelog::{
    aggregate::{NoTable, Streams},
    embedded::{ApiKey, ErrorCode},
    event::{EventId, Position, StreamId},
    inbox::{InboxError, dead_letters},
    kafka::{
        record::{Received, Record},
        topics,
    },
    store::{Commit, ConsumedRecord, OffsetMove, SourceProgress, Store, TopicPartition},
    testing::{eventually, publish, read_until},
};

use crate::harness::{SERVICE, SOURCE, Words, client, new_store, open, say, start_broker, start_inbox};

fn record(stream: StreamId, id: EventId, word: &[u8]) -> Record {
    let header = |name: &str, value: String| (name.to_owned(), Some(value.into_bytes()));
    Record {
        topic: SOURCE.to_owned(),
        partition: None,
        key: Some(stream.to_string().into_bytes()),
        value: Some(word.to_vec()),
        headers: vec![
            header("ce_specversion", "1.0".to_owned()),
            header("ce_id", id.to_string()),
            header("ce_type", "source.Said".to_owned()),
            header("ce_subject", stream.to_string()),
            header("content-type", "application/protobuf".to_owned()),
        ],
    }
}

async fn words(store: &Store, stream: StreamId) -> Vec<String> {
    Streams::<NoTable<Words>>::new(store.clone()).load(stream).await.expect("reads").state.0
}

fn head(store: &Store) -> Position {
    *store.head().borrow()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_record_has_its_effect_once_and_a_restart_goes_on_from_the_stored_offset() {
    let broker = start_broker();
    let (directory, store) = new_store();
    let streams: Vec<_> = std::iter::repeat_with(StreamId::generate).take(4).collect();
    let send = |from: usize, to: usize| {
        let records: Vec<_> = (from..to)
            .map(|number| record(streams[number % 4], EventId::generate(), number.to_string().as_bytes()))
            .collect();
        publish(&broker, &records);
    };
    send(0, 40);
    {
        let _inbox = start_inbox(&store, &broker);
        eventually("the records are read", || head(&store) == Position(40));
    }
    drop(store);
    let store = open(&directory);
    send(40, 80);
    let _inbox = start_inbox(&store, &broker);
    eventually("the records are read", || head(&store) == Position(80));
    for (index, stream) in streams.iter().enumerate() {
        let expected: Vec<_> = (index..80).step_by(4).map(|number| number.to_string()).collect();
        assert_eq!(words(&store, *stream).await, expected, "in order, each once");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_event_again_has_no_effect_in_the_same_batch_or_a_later_one() {
    let broker = start_broker();
    let (_directory, store) = new_store();
    let _inbox = start_inbox(&store, &broker);
    let (stream, id) = (StreamId::generate(), EventId::generate());
    publish(&broker, &[record(stream, id, b"one"), record(stream, id, b"one")]);
    publish(&broker, &[record(stream, id, b"one"), record(stream, EventId::generate(), b"two")]);
    eventually("the records are read", || head(&store) == Position(2));
    assert_eq!(words(&store, stream).await, ["one", "two"]);
    let events = store.read_stream(stream).await.expect("reads");
    assert_eq!(events[0].causation, Some(id), "the cause is recorded");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_dead_lettered_as_it_is_with_the_reason_and_the_rest_continues() {
    let broker = start_broker();
    let (_directory, store) = new_store();
    let _inbox = start_inbox(&store, &broker);
    let stream = StreamId::generate();
    let good = |word: &[u8]| record(stream, EventId::generate(), word);
    let bare = Record { headers: Vec::new(), ..good(b"bare") };
    let foreign_key = Record { key: Some(b"elsewhere".to_vec()), ..good(b"foreign") };
    let tombstone = Record { value: None, ..good(b"") };
    publish(
        &broker,
        &[good(b"one"), bare, foreign_key, tombstone, good(b"\xff\xfe"), good(b"forbidden"), good(b"two")],
    );
    eventually("the good ones are read", || head(&store) == Position(2));
    assert_eq!(words(&store, stream).await, ["one", "two"]);

    let letters = read_until(&broker, &dead_letters::topic_of(SERVICE), |letters| letters.len() >= 5);
    let reason = |value: Option<&[u8]>| {
        let letter = letters.iter().find(|letter| letter.value.as_deref() == value).expect("it was dead-lettered");
        assert_eq!(letter.header("dead_letter_topic"), Some(SOURCE));
        assert!(letter.header("dead_letter_partition").is_some() && letter.header("dead_letter_offset").is_some());
        letter.header("dead_letter_reason").expect("a reason").to_owned()
    };
    assert_eq!(reason(Some(b"bare")), "the header ce_specversion is missing");
    assert_eq!(reason(Some(b"foreign")), "the key is not the ce_subject");
    assert_eq!(reason(None), "there is no value");
    assert_eq!(reason(Some(b"\xff\xfe")), "field word: is no text");
    assert_eq!(reason(Some(b"forbidden")), "the word is forbidden");
    assert_eq!(letters.len(), 5);
    let foreign = letters.iter().find(|letter| letter.value.as_deref() == Some(b"foreign")).expect("it is there");
    assert_eq!(foreign.key.as_deref(), Some(b"elsewhere".as_slice()));
    assert_eq!(foreign.header("ce_subject"), Some(stream.to_string().as_str()), "its headers are kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_newer_or_of_no_interest_moves_the_offset_and_nothing_else() {
    let broker = start_broker();
    let (_directory, store) = new_store();
    let stream = StreamId::generate();
    publish(&broker, &[b"newer".as_slice(), b"nothing", b"word"].map(|word| record(stream, EventId::generate(), word)));
    let _inbox = start_inbox(&store, &broker);
    eventually("the records are read", || head(&store) == Position(1));
    assert_eq!(words(&store, stream).await, ["word"]);
    let letters = read_until(&broker, &dead_letters::topic_of(SERVICE), |_| true);
    assert_eq!(letters, []);
    let cluster = topics::cluster_id(&client(&broker)).expect("has one");
    let offsets = store.offsets_blocking(&cluster, SOURCE).expect("reads");
    assert!(offsets.iter().any(|(_, offset)| *offset >= 3), "{offsets:?}");
}

/// A caller appends to the same stream all the time, so that the inbox has to decide batches again.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_changes_in_between_loses_nothing() {
    let broker = start_broker();
    let (_directory, store) = new_store();
    let stream = StreamId::generate();
    let _inbox = start_inbox(&store, &broker);
    for batch in 0..10 {
        let records: Vec<_> =
            (0..20).map(|number| record(stream, EventId::generate(), format!("{batch} {number}").as_bytes())).collect();
        publish(&broker, &records);
        for _ in 0..10 {
            say(&store, stream, "own").await;
        }
    }
    eventually("everything is there", || head(&store) == Position(300));
    let words = words(&store, stream).await;
    let read: Vec<_> = words.iter().filter(|word| *word != "own").cloned().collect();
    let expected: Vec<_> = (0..200).map(|n| format!("{} {}", n / 20, n % 20)).collect();
    assert_eq!(read, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offset_that_kafka_does_not_have_is_an_error_that_names_it() {
    let broker = start_broker();
    let (_directory, store) = new_store();
    let cluster = topics::cluster_id(&client(&broker)).expect("has one");
    let partition = TopicPartition { cluster, topic: SOURCE.to_owned(), partition: 1 };
    let offsets = vec![OffsetMove { partition, from: None, to: 77 }];
    let mut commit = Commit::default();
    commit.offsets = offsets;
    store.commit(commit).await.expect("stored");
    let error = start_inbox(&store, &broker).ended().expect_err("refused");
    assert!(matches!(error, InboxError::OffsetLost { partition: 1, offset: Some(77), .. }), "another reason: {error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_too_large_to_be_copied_is_dead_lettered_by_reference_and_its_replay_reads_it() {
    let broker = start_broker();
    let (_directory, store) = new_store();
    let _inbox = start_inbox(&store, &broker);
    let stream = StreamId::generate();
    let mut large = record(stream, EventId::generate(), &vec![b'w'; 2_096_870]);
    large.headers[0].1 = Some(b"0.9".to_vec());
    publish(&broker, &[large, record(stream, EventId::generate(), b"next")]);
    eventually("the next record is read", || head(&store) == Position(1));
    let first = read_until(&broker, &dead_letters::topic_of(SERVICE), |letters| !letters.is_empty());
    assert_eq!(first[0].value, None);
    assert_eq!(first[0].header("dead_letter_reference"), Some("true"));
    assert_eq!(first[0].header("dead_letter_reason"), Some("the header ce_specversion is not what it should be"));

    // The reason is not gone: its reader sees the record, and it is the same letter.
    let origin = |letter: &Received| {
        ["topic", "partition", "offset"].map(|name| letter.header(&format!("dead_letter_{name}")).map(str::to_owned))
    };
    let replay = Record {
        topic: dead_letters::retries_of(SERVICE),
        partition: None,
        key: None,
        value: None,
        headers: first[0].headers.clone(),
    };
    let mut gone = replay.clone();
    gone.headers.push(("dead_letter_offset".to_owned(), Some(b"99999".to_vec())));
    publish(&broker, &[replay, gone]);
    let letters = read_until(&broker, &dead_letters::topic_of(SERVICE), |letters| letters.len() >= 3);
    let again = letters
        .iter()
        .find(|letter| letter.header("dead_letter_failures") == Some("2") && origin(letter) == origin(&first[0]));
    let again = again.expect("it failed again");
    assert_eq!(again.header("dead_letter_reason"), first[0].header("dead_letter_reason"));
    let letter = letters.iter().find(|letter| letter.header("dead_letter_offset") == Some("99999"));
    let reason = letter.and_then(|letter| letter.header("dead_letter_reason")).expect("a letter");
    assert!(reason.contains("which Kafka does not have any more"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_among_the_replays_blocks_nothing() {
    let broker = start_broker();
    let (_directory, store) = new_store();
    let _inbox = start_inbox(&store, &broker);
    let header = |name: &str, value: &str| (format!("dead_letter_{name}"), Some(value.as_bytes().to_vec()));
    let origin = |topic: &str, partition: &str, offset: &str| {
        vec![header("topic", topic), header("partition", partition), header("offset", offset)]
    };
    let garbage = [
        vec![],
        origin(SOURCE, "x", "y"),
        [origin(SOURCE, "0", "77"), vec![header("failures", "4294967295")]].concat(),
        [origin(SOURCE, "-1", "0"), vec![header("reference", "true")]].concat(),
        [origin(SOURCE, "99", "-5"), vec![header("reference", "true")]].concat(),
        [origin("elsewhere", "0", "0"), vec![header("reference", "true")]].concat(),
        [origin(SOURCE, "-1", "0"), vec![header("skip", "true")]].concat(), // the only one that is no replay
    ];
    let records: Vec<_> = garbage
        .iter()
        .flat_map(|headers| [None, Some(b"garbage".to_vec())].map(|value| (headers.clone(), value)))
        .map(|(headers, value)| Record {
            topic: dead_letters::retries_of(SERVICE),
            partition: Some(1),
            key: None,
            value,
            headers,
        })
        .collect();
    publish(&broker, &records);
    let stream = StreamId::generate();
    let mut good = record(stream, EventId::generate(), b"good");
    good.topic = dead_letters::retries_of(SERVICE);
    good.partition = Some(1);
    good.headers.extend(origin(SOURCE, "0", "3"));
    publish(&broker, &[good]);
    eventually("the replay after the garbage is read", || head(&store) == Position(1));
    let letters = read_until(&broker, &dead_letters::topic_of(SERVICE), |letters| letters.len() >= 12);
    assert_eq!(letters.len(), 12);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_with_another_record_at_the_offset_is_read_again_without_what_was_handled() {
    let broker = start_broker();
    let (_directory, store) = new_store();
    let stream = StreamId::generate();
    let records: Vec<_> = (1..=6_u64)
        .map(|sequence| {
            let mut record = record(stream, EventId::generate(), sequence.to_string().as_bytes());
            record.partition = Some(1);
            record.headers.push(("ce_source".to_owned(), Some(b"/source/1".to_vec())));
            record.headers.push(("ce_sequence".to_owned(), Some(format!("{sequence:020}").into_bytes())));
            record
        })
        .collect();
    publish(&broker, &records);

    // The store says that the records 1 to 3 were handled, and another one as the fourth.
    let cluster = topics::cluster_id(&client(&broker)).expect("has one");
    let partition = TopicPartition { cluster, topic: SOURCE.to_owned(), partition: 1 };
    let last =
        ConsumedRecord { source: "/source/1".to_owned(), offset: 4, sequence: Some(3), id: "another".to_owned() };
    let mut commit = Commit::default();
    commit.offsets = vec![OffsetMove { partition: partition.clone(), from: None, to: 5 }];
    commit.sources = vec![(partition, SourceProgress { last, pass_through: None })];
    store.commit(commit).await.expect("stored");

    let _inbox = start_inbox(&store, &broker);
    eventually("the records are read", || head(&store) == Position(3));
    assert_eq!(words(&store, stream).await, ["4", "5", "6"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_or_a_broker_that_fails_for_a_while_is_waited_for() {
    let broker = start_broker();
    let (_directory, store) = new_store();
    let stream = StreamId::generate();
    let _inbox = start_inbox(&store, &broker);
    store.commit(limit_pages(1)).await.expect("SQLite takes the current size instead");
    // More than fits into the free space of the last pages.
    let word = vec![b'w'; 3000];
    let records: Vec<_> = (0..20).map(|_| record(stream, EventId::generate(), &word)).collect();
    publish(&broker, &records);
    let mut writable = store.writable();
    writable.wait_for(|writable| !writable).await.expect("open");
    store.commit(limit_pages(100_000)).await.expect("there is room again");
    eventually("the records are read", || head(&store) == Position(20));

    broker.fail(ApiKey::Fetch, &[ErrorCode::RD_KAFKA_RESP_ERR__TRANSPORT; 3]);
    broker.down().expect("the broker goes down");
    tokio::time::sleep(Duration::from_millis(300)).await;
    broker.up().expect("the broker comes up");
    publish(&broker, &[record(stream, EventId::generate(), b"after")]);
    eventually("the record is read", || head(&store) == Position(21));
}

fn limit_pages(pages: u32) -> Commit {
    Commit::statement(move |table| table.pragma_update(None, "max_page_count", pages))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_fails_is_dead_lettered_again_with_its_origin_and_a_count() {
    let broker = start_broker();
    let (_directory, store) = new_store();
    let _inbox = start_inbox(&store, &broker);
    let stream = StreamId::generate();
    let retries = dead_letters::retries_of(SERVICE);
    let mut good = record(stream, EventId::generate(), b"again");
    good.topic.clone_from(&retries);
    let mut unknown = good.clone();
    for (name, value) in [("dead_letter_topic", SOURCE), ("dead_letter_partition", "0"), ("dead_letter_offset", "3")] {
        good.headers.push((name.to_owned(), Some(value.as_bytes().to_vec())));
    }
    let mut bad = record(stream, EventId::generate(), b"\xff");
    bad.topic = retries;
    for (name, value) in [
        ("dead_letter_topic", SOURCE),
        ("dead_letter_partition", "2"),
        ("dead_letter_offset", "17"),
        ("dead_letter_failures", "4"),
    ] {
        bad.headers.push((name.to_owned(), Some(value.as_bytes().to_vec())));
    }
    unknown.headers.push(("dead_letter_topic".to_owned(), Some(b"elsewhere".to_vec())));
    unknown.headers.push(("dead_letter_partition".to_owned(), Some(b"0".to_vec())));
    unknown.headers.push(("dead_letter_offset".to_owned(), Some(b"3".to_vec())));
    publish(&broker, &[bad, good.clone(), good, unknown]);
    let mut letters = read_until(&broker, &dead_letters::topic_of(SERVICE), |letters| letters.len() >= 2);
    letters.sort_by_key(|letter| letter.header("dead_letter_topic") != Some(SOURCE));
    let reason = letters[1].header("dead_letter_reason").expect("a reason");
    assert!(reason.contains("\"elsewhere\", which this service does not follow"), "{reason}");
    assert_eq!(letters[0].header("dead_letter_offset"), Some("17"));
    assert_eq!(letters[0].header("dead_letter_failures"), Some("5"));
    eventually("the other one is read", || head(&store) == Position(1));
    assert_eq!(words(&store, stream).await, ["again"]);
}
