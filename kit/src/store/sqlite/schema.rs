//! The tables of a store, and the checks before it is used.

use std::{collections::HashSet, path::Path, time::Duration};

use rusqlite::{Connection, OpenFlags};
use uuid::Uuid;

use super::facts;
use crate::{
    event::Position,
    store::{
        error::OpenError,
        location::{StoreId, StoreIdentity},
    },
};

/// Marks the file as an event store: "evst".
const APPLICATION_ID: i32 = 0x6576_7374;

/// The version of the tables below. Increment it with every change that an older program could not work with.
const SCHEMA_VERSION: i32 = 1;

const TABLES: &str = "
CREATE TABLE events (
    position    INTEGER PRIMARY KEY,      -- 1, 2, 3 … with no gap
    stream      BLOB NOT NULL,            -- UUID, 16 bytes
    version     INTEGER NOT NULL,         -- 1, 2, 3 … in the stream
    id          BLOB NOT NULL,            -- UUID, 16 bytes
    type        TEXT NOT NULL,
    time        INTEGER NOT NULL,         -- microseconds since 1970
    causation   BLOB,                     -- the id of the event that caused this one
    traceparent TEXT,
    tracestate  TEXT,
    payload     BLOB NOT NULL,            -- as published
    UNIQUE (stream, version)
) STRICT;
CREATE TABLE event_types (type TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;
CREATE TABLE inbox_offsets (
    cluster     TEXT NOT NULL,
    topic       TEXT NOT NULL,
    partition   INTEGER NOT NULL,
    next_offset INTEGER NOT NULL,         -- of the next record to be consumed
    PRIMARY KEY (cluster, topic, partition)
) STRICT, WITHOUT ROWID;
CREATE TABLE facts (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
";

/// Checks an existing store for reading only, and returns its id.
pub(in crate::store) fn inspect(path: &Path, identity: StoreIdentity) -> Result<StoreId, OpenError> {
    let open = || {
        let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        connection.busy_timeout(Duration::from_secs(5))?;
        application_id(&connection).map(|id| (connection, id))
    };
    let (connection, application) = open().map_err(|error| OpenError::sqlite(path, error))?;
    if application != APPLICATION_ID {
        return Err(OpenError::Foreign { path: path.to_owned() });
    }
    check(&connection, path, identity)?;
    id(&connection, path)
}

/// Adds the column that version 0.1.0 did not have. Programs of that version can still use the store.
pub(in crate::store) fn add_tracestate(connection: &Connection) -> rusqlite::Result<()> {
    if has_tracestate(connection)? {
        return Ok(());
    }
    connection.execute_batch("ALTER TABLE events ADD COLUMN tracestate TEXT")
}

/// Gives a read-only connection a `tracestate` column that is always NULL, if the store lacks the column.
pub(in crate::store) fn show_tracestate(connection: &Connection) -> rusqlite::Result<()> {
    if has_tracestate(connection)? {
        return Ok(());
    }
    connection.execute_batch("CREATE TEMP VIEW events AS SELECT *, NULL AS tracestate FROM main.events")
}

fn has_tracestate(connection: &Connection) -> rusqlite::Result<bool> {
    connection.prepare("SELECT 1 FROM pragma_table_info('events') WHERE name = 'tracestate'")?.exists([])
}

/// Returns whether the file is empty, or refuses one that is not a store.
pub(in crate::store) fn is_new(connection: &Connection, path: &Path) -> Result<bool, OpenError> {
    let failed = |error| OpenError::sqlite(path, error);
    let application = application_id(connection).map_err(failed)?;
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(failed)?;
    let is_new = application == 0 && tables == 0;
    if !is_new && application != APPLICATION_ID {
        return Err(OpenError::Foreign { path: path.to_owned() });
    }
    Ok(is_new)
}

fn application_id(connection: &Connection) -> rusqlite::Result<i32> {
    connection.pragma_query_value(None, "application_id", |row| row.get(0))
}

/// Returns the id of a store.
pub(in crate::store) fn id(connection: &Connection, path: &Path) -> Result<StoreId, OpenError> {
    let id: String = connection
        .query_row("SELECT value FROM facts WHERE key = 'store_id'", [], |row| row.get(0))
        .map_err(|error| OpenError::sqlite(path, error))?;
    let id = Uuid::try_parse(&id).map_err(|_damaged| OpenError::Foreign { path: path.to_owned() })?;
    Ok(StoreId(id))
}

/// Creates the tables of a new store.
pub(in crate::store) fn create(connection: &mut Connection, service: &str) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    transaction.execute_batch(TABLES)?;
    let mut keep = transaction.prepare("INSERT INTO facts (key, value) VALUES (?1, ?2)")?;
    keep.execute(["store_id", &Uuid::now_v7().to_string()])?;
    keep.execute(["service", service])?;
    drop(keep);
    transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.commit()
}

/// Refuses a store of another service, and one that a newer program has written.
pub(in crate::store) fn check(connection: &Connection, path: &Path, identity: StoreIdentity) -> Result<(), OpenError> {
    let failed = |error| OpenError::sqlite(path, error);
    let newer = |what: String| Err(OpenError::Newer { path: path.to_owned(), what });
    let version: i32 = connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(failed)?;
    if version > SCHEMA_VERSION {
        return newer(format!("its tables are version {version}, this program knows {SCHEMA_VERSION}"));
    }
    match facts::get(connection, "service").map_err(failed)? {
        Some(service) if service == identity.service => {}
        Some(service) => return Err(OpenError::OtherService { path: path.to_owned(), service }),
        None => return Err(OpenError::Foreign { path: path.to_owned() }),
    }
    let known = event_types(connection).map_err(failed)?;
    match known.iter().find(|known| !identity.event_types.contains(&known.as_str())) {
        Some(unknown) => newer(format!("it holds events of type {unknown}")),
        None => Ok(()),
    }
}

/// Returns the event types that the store has ever held.
pub(in crate::store) fn event_types(connection: &Connection) -> rusqlite::Result<HashSet<String>> {
    connection.prepare("SELECT type FROM event_types")?.query_map([], |row| row.get(0))?.collect()
}

/// Returns the newest position.
pub(in crate::store) fn head(connection: &Connection) -> rusqlite::Result<Position> {
    let head: Option<i64> =
        connection.prepare_cached("SELECT max(position) FROM events")?.query_row([], |row| row.get(0))?;
    Ok(Position(head.unwrap_or(0).unsigned_abs()))
}
