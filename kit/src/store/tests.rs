use std::{collections::HashMap, fs, time::Duration};

use rusqlite::Connection;

use tempfile::TempDir;

use super::*;
use crate::{
    event::{EventId, NewEvent, Version, now},
    runtime::trace_context::TraceContext,
};

const IDENTITY: StoreIdentity = StoreIdentity { service: "test-service", event_types: &["test.Happened"] };

const EVENTS: Column = Column::integer("events");
const NOTE: Column = Column::text("note").optional().kept();

/// Counts the events of each stream.
const COUNTS: TableSource = TableSource {
    table: &Table { name: "counts", version: 1, key: "stream", columns: &[EVENTS], indexes: &[&[EVENTS]] },
    row: |events| Ok(Some(row(events.len()))),
};

fn row(events: usize) -> Row {
    Row::new([i64::try_from(events).expect("a small number").into()])
}

fn location(directory: &TempDir) -> Location {
    Location::sqlite(directory.path().join("test.db"))
}

fn open(directory: &TempDir) -> Result<Store, OpenError> {
    Store::open(&location(directory), IDENTITY, Some(COUNTS))
}

fn new_store() -> (TempDir, Store) {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(&directory).expect("opens");
    (directory, store)
}

fn events(count: usize) -> Vec<NewEvent> {
    let event = || NewEvent {
        id: EventId::generate(),
        event_type: "test.Happened",
        time: now(),
        causation: Some(EventId::generate()),
        trace: Some(TraceContext { traceparent: "t".to_owned(), tracestate: Some("s".to_owned()) }),
        payload: vec![7; 200],
    };
    std::iter::repeat_with(event).take(count).collect()
}

fn append(stream: StreamId, expected: u64, count: usize) -> Commit {
    Commit::append(appended(stream, expected, count))
}

fn appended(stream: StreamId, expected: u64, count: usize) -> Append {
    let row = Some(row(usize::try_from(expected).expect("a small number") + count));
    Append { stream, expected: Version(expected), events: events(count), row }
}

fn partition() -> TopicPartition {
    TopicPartition { cluster: "c".to_owned(), topic: "t".to_owned(), partition: 0 }
}

fn counted(store: &Store) -> u64 {
    let rows = store.rows_blocking(&Query::all()).expect("reads");
    rows.iter().filter_map(|row| row.integer(EVENTS)).sum::<i64>().unsigned_abs()
}

#[test]
fn what_is_appended_reads_back_and_outlives_the_process() {
    let (directory, store) = new_store();
    let (stream, new) = (StreamId::generate(), events(2));
    let commit = Commit::append(Append { stream, expected: Version::NONE, events: new.clone(), row: Some(row(2)) });
    assert_eq!(store.commit_blocking(commit).expect("stored"), Position(2));
    let id = store.id();
    drop(store);

    let store = open(&directory).expect("opens again");
    assert_eq!(store.id(), id);
    assert_eq!(*store.head().borrow(), Position(2));
    let read = store.read_stream_blocking(stream).expect("reads");
    for (number, (event, new)) in (1..).zip(read.iter().zip(&new)) {
        assert_eq!((event.position, event.version), (Position(number), Version(number)));
        assert_eq!((event.id, &event.payload, event.time), (new.id, &new.payload, new.time));
        assert_eq!((event.causation, &event.trace), (new.causation, &new.trace));
    }
    assert_eq!(read.len(), 2);
    assert_eq!(store.read_all_blocking(Position(1), 10).expect("reads"), read[1..]);
    assert_eq!(store.read_all_blocking(Position::START, 1).expect("reads"), read[..1]);
}

/// A copy of this one file, made while no process has the store open, is complete.
#[test]
fn a_closed_store_is_one_file() {
    let (directory, store) = new_store();
    let stream = StreamId::generate();
    store.commit_blocking(append(stream, 0, 3)).expect("stored");
    assert_eq!(store.read_stream_blocking(stream).expect("reads").len(), 3);
    drop(store);
    let files = std::fs::read_dir(directory.path()).expect("reads").map(|entry| entry.expect("reads").file_name());
    let mut names: Vec<_> = files.map(|name| name.into_string().expect("text")).collect();
    names.sort();
    assert_eq!(names, ["test.db", "test.db-lock"]);
}

/// Checks the settings of SQLite. A test of the disk itself would need a power cut.
#[test]
fn a_commit_waits_for_the_disk() {
    let (_directory, store) = new_store();
    let (send, receive) = mpsc::channel();
    let ask = Commit::write(move |table| {
        let asked = |pragma| table.pragma_query_value(None, pragma, |row| row.get::<_, rusqlite::types::Value>(0));
        let _ = send.send((asked("synchronous")?, asked("journal_mode")?));
        Ok(())
    });
    store.commit_blocking(ask).expect("committed");
    let full = 2;
    assert_eq!(receive.recv().expect("an answer"), (full.into(), "wal".to_owned().into()));
}

#[test]
fn a_stream_at_another_version_is_a_conflict_and_nothing_is_stored() {
    let (_directory, store) = new_store();
    let (one, other) = (StreamId::generate(), StreamId::generate());
    store.commit_blocking(append(one, 0, 1)).expect("stored");
    for expected in [0, 2] {
        let commit = Commit {
            appends: vec![appended(other, 0, 1), appended(one, expected, 1)],
            offsets: vec![OffsetMove { partition: partition(), from: None, to: 5 }],
            ..Commit::default()
        };
        let error = store.commit_blocking(commit).expect_err("a conflict");
        assert!(matches!(error, CommitError::Conflict { stream, actual: Version(1), .. } if stream == one));
    }
    assert_eq!(*store.head().borrow(), Position(1));
    assert_eq!(store.read_stream_blocking(other).expect("reads"), []);
    assert_eq!(store.offsets_blocking("c", "t").expect("reads"), []);
    assert_eq!(counted(&store), 1);
}

#[test]
fn an_offset_moves_only_from_the_value_it_was_read_at_and_with_its_effect() {
    let (_directory, store) = new_store();
    let moving = |from, to, stream| Commit {
        offsets: vec![OffsetMove { partition: partition(), from, to }],
        ..append(stream, 0, 1)
    };
    store.commit_blocking(moving(None, 5, StreamId::generate())).expect("stored");
    for from in [None, Some(4), Some(6)] {
        let stream = StreamId::generate();
        let error = store.commit_blocking(moving(from, 9, stream)).expect_err("refused");
        assert!(matches!(error, CommitError::OffsetMoved { actual: Some(5), .. }));
        assert_eq!(store.read_stream_blocking(stream).expect("reads"), []);
    }
    store.commit_blocking(moving(Some(5), 9, StreamId::generate())).expect("stored");
    assert_eq!(store.offsets_blocking("c", "t").expect("reads"), [(0, 9)]);
    assert_eq!(store.offsets_blocking("another cluster", "t").expect("reads"), []);
}

/// Callers race for a few streams and retry on a conflict, as `Streams` does.
#[test]
fn positions_and_versions_have_no_gap_under_concurrent_callers() {
    const CALLERS: usize = 8;
    const APPENDS: usize = 100;
    let (_directory, store) = new_store();
    let streams: Vec<_> = std::iter::repeat_with(StreamId::generate).take(3).collect();
    thread::scope(|scope| {
        for caller in 0..CALLERS {
            let (store, streams) = (&store, &streams);
            scope.spawn(move || {
                for number in 0..APPENDS {
                    let stream = streams[(caller + number) % streams.len()];
                    loop {
                        let version = store.read_stream_blocking(stream).expect("reads").len() as u64;
                        match store.commit_blocking(append(stream, version, 1)) {
                            Ok(_) => break,
                            Err(CommitError::Conflict { .. }) => {}
                            Err(other) => panic!("{other}"),
                        }
                    }
                }
            });
        }
    });
    let log = store.read_all_blocking(Position::START, usize::MAX >> 1).expect("reads");
    assert_eq!(log.len(), CALLERS * APPENDS);
    let mut versions = HashMap::new();
    for (position, event) in (1..).zip(&log) {
        assert_eq!(event.position, Position(position));
        let version = versions.entry(event.stream).or_insert(Version::NONE);
        *version = version.plus(1);
        assert_eq!(event.version, *version);
    }
    assert_eq!(counted(&store), log.len() as u64);
}

#[test]
#[expect(clippy::disallowed_methods, reason = "that nothing changes can only be checked by waiting")]
fn a_full_disk_fails_every_call_of_the_moment_stores_nothing_of_them_and_heals() {
    let (_directory, store) = new_store();
    let stream = StreamId::generate();
    store.commit_blocking(append(stream, 0, 1)).expect("stored");
    let limit = |pages: u32| Commit::write(move |table| table.pragma_update(None, "max_page_count", pages));
    store.commit_blocking(limit(1)).expect("SQLite uses the current size instead");

    let mut stored = 1;
    let error = loop {
        match store.commit_blocking(append(stream, stored, 1)) {
            Ok(_) => stored += 1, // the last pages still have free space
            Err(error) => break error,
        }
    };
    assert!(matches!(error, CommitError::Unavailable(_)), "{error:?}");
    let mut writable = store.writable();
    assert!(!*writable.borrow_and_update());
    thread::sleep(Duration::from_millis(1500)); // longer than the interval of test writes
    assert!(!writable.has_changed().expect("open"), "it still cannot write");
    let failed = Commit {
        offsets: vec![OffsetMove { partition: partition(), from: None, to: 5 }],
        ..append(stream, stored, 50)
    };
    assert!(matches!(store.commit_blocking(failed), Err(CommitError::Unavailable(_))));
    assert_eq!(*store.head().borrow(), Position(stored));
    assert_eq!(store.offsets_blocking("c", "t").expect("reads"), []);
    assert_eq!(counted(&store), stored);

    store.commit_blocking(limit(100_000)).expect("there is room again");
    assert!(*store.writable().borrow());
    assert_eq!(store.commit_blocking(append(stream, stored, 1)).expect("stored"), Position(stored + 1));
}

#[tokio::test]
async fn a_store_that_cannot_write_finds_out_by_itself_when_it_can() {
    let (_directory, store) = new_store();
    let broken = Commit::write(|_| Err(rusqlite::Error::InvalidQuery));
    assert!(matches!(store.commit(broken).await, Err(CommitError::Unavailable(_))));
    let mut writable = store.writable();
    assert!(!*writable.borrow());
    writable.wait_for(|writable| *writable).await.expect("the store is open");
}

#[test]
fn a_second_process_is_refused_by_the_first_ones_id() {
    let (directory, _store) = new_store();
    let error = open(&directory).err().expect("refused").to_string();
    assert!(error.contains(&format!("in use by process {}", std::process::id())), "{error}");
}

#[test]
fn a_file_that_is_something_else_is_refused_and_left_as_it_was() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = location(&directory).path().to_owned();
    fs::write(
        &path,
        "just some notes, longer than the header of a database would be: 0123456789 0123456789 0123456789",
    )
    .expect("writes");
    let before = fs::read(&path).expect("reads");
    assert!(matches!(open(&directory), Err(OpenError::Foreign { .. })));
    assert_eq!(fs::read(&path).expect("reads"), before);

    fs::remove_file(&path).expect("removes");
    Connection::open(&path).and_then(|file| file.execute_batch("CREATE TABLE t (x)")).expect("another database");
    assert!(matches!(open(&directory), Err(OpenError::Foreign { .. })));
}

#[test]
fn another_services_store_is_refused_by_its_name() {
    let (directory, store) = new_store();
    drop(store);
    let other = StoreIdentity { service: "other-service", ..IDENTITY };
    let error = Store::open(&location(&directory), other, Some(COUNTS)).err().expect("refused").to_string();
    assert!(error.contains("belongs to test-service"), "{error}");
}

#[test]
fn a_newer_store_is_refused_whether_its_tables_or_its_events_are_newer() {
    let (directory, store) = new_store();
    store.commit_blocking(append(StreamId::generate(), 0, 1)).expect("stored");
    drop(store);
    let older = StoreIdentity { event_types: &[], ..IDENTITY };
    let error = Store::open(&location(&directory), older, Some(COUNTS)).err().expect("refused").to_string();
    assert!(error.contains("newer version") && error.contains("test.Happened"), "{error}");

    Connection::open(location(&directory).path())
        .and_then(|file| file.pragma_update(None, "user_version", 99))
        .expect("writes");
    assert!(matches!(open(&directory), Err(OpenError::Newer { .. })));
}

#[test]
fn a_directory_that_is_not_there_is_named() {
    let error = Store::open(&Location::sqlite("/nowhere/at/all.db"), IDENTITY, Some(COUNTS)).err().expect("refused");
    assert!(error.to_string().contains("/nowhere/at/all.db"));
}

/// The same table in a later version of the program, with a kept column.
const LATER: TableSource = TableSource {
    table: &Table { name: "counts", version: 2, key: "stream", columns: &[EVENTS, NOTE], indexes: &[] },
    row: |events| {
        if events.iter().any(|event| event.payload.is_empty()) {
            return Err("a simulated interruption".into());
        }
        let count = i64::try_from(2 * events.len())?;
        Ok(Some(Row::new([count.into(), "none".into()])))
    },
};

/// [`LATER`], changed again.
const LATEST: TableSource = TableSource {
    table: &Table { name: "counts", version: 3, key: "stream", columns: &[NOTE, EVENTS], indexes: &[&[NOTE]] },
    row: |events| Ok(Some(Row::new(["none".into(), i64::try_from(events.len())?.into()]))),
};

#[test]
fn tables_of_another_version_are_made_anew_from_the_log() {
    let (directory, store) = new_store();
    store.commit_blocking(append(StreamId::generate(), 0, 1100)).expect("stored");
    store.commit_blocking(append(StreamId::generate(), 0, 400)).expect("stored");
    drop(store);
    let store = Store::open(&location(&directory), IDENTITY, Some(LATER)).expect("opens");
    assert_eq!(counted(&store), 3000);

    let [first, second] = &store.rows_blocking(&Query::all()).expect("reads")[..] else { panic!("two rows") };
    let update = RowUpdate::new(first.stream).set(NOTE, "kept".to_owned()).only_where_set(NOTE);
    store.commit_blocking(Commit::update(update)).expect("stored");
    drop(store);
    let store = Store::open(&location(&directory), IDENTITY, Some(LATEST)).expect("opens");

    assert_eq!(counted(&store), 1500);
    let kept = store.rows_blocking(&Query::all().equal(NOTE, "kept")).expect("reads");
    assert_eq!(kept.iter().map(|row| row.stream).collect::<Vec<_>>(), [first.stream]);
    let rebuilt = store.rows_blocking(&Query::all().equal(NOTE, "none")).expect("reads");
    assert_eq!(rebuilt.iter().map(|row| row.stream).collect::<Vec<_>>(), [second.stream]);
}

#[test]
fn a_rebuild_that_is_interrupted_leaves_the_old_tables() {
    let (directory, store) = new_store();
    let stream = StreamId::generate();
    store.commit_blocking(append(stream, 0, 10)).expect("stored");
    let unreadable = NewEvent { payload: Vec::new(), ..events(1).remove(0) };
    store
        .commit_blocking(Commit::append(Append {
            stream,
            expected: Version(10),
            events: vec![unreadable],
            row: Some(row(11)),
        }))
        .expect("stored");
    drop(store);
    assert!(Store::rebuild(&location(&directory), IDENTITY, Some(LATER)).is_err());
    let store = open(&directory).expect("opens");
    assert_eq!(counted(&store), 11);
    drop(store);
    Store::rebuild(&location(&directory), IDENTITY, Some(COUNTS)).expect("rebuilt");
    assert_eq!(counted(&open(&directory).expect("opens")), 11);
}

#[test]
fn a_symbolic_link_to_an_open_store_has_the_same_lock() {
    let directory = tempfile::tempdir().expect("a directory");
    let link = directory.path().join("link.db");
    std::os::unix::fs::symlink("test.db", &link).expect("linked before the file exists");
    let store = Store::open(&Location::sqlite(&link), IDENTITY, Some(COUNTS)).expect("opens");
    assert!(matches!(open(&directory), Err(OpenError::InUse { .. })));
    drop(store);
    let _store = open(&directory).expect("opens");
    let again = Store::open(&Location::sqlite(&link), IDENTITY, Some(COUNTS));
    assert!(matches!(again, Err(OpenError::InUse { .. })));
}

#[test]
fn a_store_that_is_open_or_missing_is_not_rebuilt() {
    let (directory, _store) = new_store();
    assert!(matches!(Store::rebuild(&location(&directory), IDENTITY, Some(COUNTS)), Err(OpenError::InUse { .. })));
    let nowhere = Location::sqlite(directory.path().join("nowhere.db"));
    assert!(matches!(Store::rebuild(&nowhere, IDENTITY, Some(COUNTS)), Err(OpenError::Missing { .. })));
}

#[test]
fn a_store_without_the_column_for_tracestate_is_read_as_it_is_and_gets_it_when_it_is_opened() {
    let (directory, store) = new_store();
    let stream = StreamId::generate();
    store.commit_blocking(append(stream, 0, 2)).expect("stored");
    drop(store);
    Connection::open(location(&directory).path())
        .and_then(|file| file.execute_batch("ALTER TABLE events DROP COLUMN tracestate"))
        .expect("as version 0.1.0 left it");
    let states = |events: Vec<Event>| -> Vec<_> {
        events.into_iter().map(|event| event.trace.expect("it has one").tracestate).collect()
    };

    let log = Log::open(&location(&directory), IDENTITY).expect("opens");
    assert_eq!(states(log.read_all(Position::START, 9).expect("reads")), [None, None]);
    drop(log);

    let store = open(&directory).expect("opens");
    store.commit_blocking(append(stream, 2, 1)).expect("stored");
    let read = states(store.read_stream_blocking(stream).expect("reads"));
    assert_eq!(read, [None, None, Some("s".to_owned())]);
}

#[test]
fn the_last_record_of_each_source_is_stored_with_the_offset_also_in_a_store_of_the_first_version() {
    let (directory, store) = new_store();
    drop(store);
    Connection::open(location(&directory).path())
        .and_then(|file| file.execute_batch("DROP TABLE inbox_sources"))
        .expect("as version 0.1.0 left it");
    let store = open(&directory).expect("opens");
    assert_eq!(store.sources_blocking("c", "t").expect("reads"), []);
    let source = |name: &str, offset, sequence, pass_through| SourceProgress {
        last: ConsumedRecord { source: name.to_owned(), offset, sequence, id: format!("id-{offset}") },
        pass_through,
    };
    let moving = |from, to, sources: &[SourceProgress]| Commit {
        offsets: vec![OffsetMove { partition: partition(), from, to }],
        sources: sources.iter().map(|source| (partition(), source.clone())).collect(),
        ..Commit::default()
    };

    let (old, bare) = (source("/a", 3, Some(9), None), source("", 4, None, None));
    store.commit_blocking(moving(None, 5, &[old, bare.clone()])).expect("stored");
    let new = source("/a", 6, Some(7), Some(9));
    store.commit_blocking(moving(Some(5), 7, std::slice::from_ref(&new))).expect("stored");
    store.commit_blocking(moving(Some(5), 8, &[source("/a", 7, None, None)])).expect_err("from another offset");
    drop(store);

    let store = open(&directory).expect("opens");
    assert_eq!(store.sources_blocking("c", "t").expect("reads"), [(0, bare), (0, new)]);
    assert_eq!(store.sources_blocking("another cluster", "t").expect("reads"), []);
}
