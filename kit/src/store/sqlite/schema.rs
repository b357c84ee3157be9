//! The tables, and everything that is checked before a store is used.

use std::{
    collections::HashSet,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension as _, config::DbConfig};
use uuid::Uuid;

use super::{
    lock::{self, Lock, Locked},
    rebuild,
};
use crate::{
    event::Position,
    store::{Owner, ReadTable, StoreId},
};

/// Marks the file as one of ours: "evst".
const APPLICATION_ID: i32 = 0x6576_7374;

/// Counts up with every change of the tables below that an older program could not work with.
const SCHEMA_VERSION: i32 = 1;

const TABLES: &str = "
CREATE TABLE events (
    position    INTEGER PRIMARY KEY,      -- 1, 2, 3 … with no gap
    stream      BLOB NOT NULL,            -- UUID, 16 bytes
    version     INTEGER NOT NULL,         -- 1, 2, 3 … in the stream
    id          BLOB NOT NULL,            -- UUID, 16 bytes
    type        TEXT NOT NULL,
    time        INTEGER NOT NULL,         -- microseconds since 1970
    causation   BLOB,                     -- the id of the event that led to it
    traceparent TEXT,
    payload     BLOB NOT NULL,            -- as published
    UNIQUE (stream, version)
) STRICT;
CREATE TABLE event_types (type TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;
CREATE TABLE inbox_offsets (
    cluster     TEXT NOT NULL,
    topic       TEXT NOT NULL,
    partition   INTEGER NOT NULL,
    next_offset INTEGER NOT NULL,         -- of the next record to be read
    PRIMARY KEY (cluster, topic, partition)
) STRICT, WITHOUT ROWID;
CREATE TABLE facts (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
";

/// Why a store could not be opened. Each is one line that says what to change.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("the store {} is in use by {}; stop it, or give this one another path", path.display(), holder(*process))]
    InUse {
        /// The store's file.
        path: PathBuf,
        /// The other process, if known.
        process: Option<u32>,
    },
    /// There is no file.
    #[error("there is no store {}; give the path of one", path.display())]
    Missing {
        /// The path.
        path: PathBuf,
    },
    /// The file is something else.
    #[error("{} is not an event store; give another path", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The file is another service's.
    #[error("the store {} belongs to {service}; give another path", path.display())]
    OtherService {
        /// The store's file.
        path: PathBuf,
        /// Whose it is.
        service: String,
    },
    /// The store was written by a newer program.
    #[error("the store {} was written by a newer version ({what}); run that version or a later one", path.display())]
    Newer {
        /// The store's file.
        path: PathBuf,
        /// What this program doesn't know.
        what: String,
    },
    /// The file could not be opened or locked.
    #[error("cannot open the store {}: {source}", path.display())]
    Io {
        /// The store's file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// SQLite could not open or read it.
    #[error("cannot open the store {}: {source}", path.display())]
    Sqlite {
        /// The store's file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
}

fn holder(process: Option<u32>) -> String {
    process.map_or_else(|| "another process".to_owned(), |id| format!("process {id}"))
}

pub(in crate::store) struct Opened {
    pub(in crate::store) connection: Connection,
    pub(in crate::store) id: StoreId,
    pub(in crate::store) head: Position,
    /// The event types that the store has had so far.
    pub(in crate::store) event_types: HashSet<String>,
    /// Dropped last, after the connection has folded its log into the file.
    pub(in crate::store) lock: Lock,
}

/// Opens a store; `anew` asks for the read tables to be made anew.
pub(in crate::store) fn open<T: ReadTable>(
    path: &Path,
    owner: Owner,
    table: &mut T,
    anew: bool,
) -> Result<Opened, OpenError> {
    let lock = match lock::acquire(path).map_err(|source| OpenError::Io { path: path.to_owned(), source })? {
        Locked::Ours(lock) => lock,
        Locked::Theirs(process) => return Err(OpenError::InUse { path: path.to_owned(), process }),
    };
    check_and_prepare(path, owner, table, anew, lock).map_err(|refusal| refusal.into_error(path))
}

enum Refusal {
    Stated(OpenError),
    Sqlite(rusqlite::Error),
}

impl Refusal {
    fn into_error(self, path: &Path) -> OpenError {
        match self {
            Self::Stated(error) => error,
            Self::Sqlite(source) if source.sqlite_error_code() == Some(ErrorCode::NotADatabase) => {
                OpenError::Foreign { path: path.to_owned() }
            }
            Self::Sqlite(source) => OpenError::Sqlite { path: path.to_owned(), source },
        }
    }
}

impl From<rusqlite::Error> for Refusal {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

/// Checks a store that is there, for reading only, and returns its id.
pub(in crate::store) fn inspect(path: &Path, owner: Owner) -> Result<StoreId, OpenError> {
    let look = || {
        let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        connection.busy_timeout(Duration::from_secs(5))?;
        let application: i32 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
        if application != APPLICATION_ID {
            return Err(Refusal::Stated(OpenError::Foreign { path: path.to_owned() }));
        }
        check(&connection, path, owner)?;
        id(&connection, path)
    };
    look().map_err(|refusal| refusal.into_error(path))
}

fn check_and_prepare<T: ReadTable>(
    path: &Path,
    owner: Owner,
    table: &mut T,
    anew: bool,
    lock: Lock,
) -> Result<Opened, Refusal> {
    let mut connection = Connection::open(path)?;
    connection.busy_timeout(Duration::from_secs(5))?; // another program may be reading, or writing by mistake
    let application: i32 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    let new = application == 0 && tables == 0;
    if !new && application != APPLICATION_ID {
        return Err(Refusal::Stated(OpenError::Foreign { path: path.to_owned() }));
    }
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?; // a commit is on disk when it returns
    if new {
        create(&mut connection, owner)?;
    }
    check(&connection, path, owner)?;
    rebuild::prepare(&mut connection, table, anew)?;
    connection.set_prepared_statement_cache_capacity(64);
    // A statement is planned once. Otherwise SQLite plans some of them, such as those with `LIMIT ?1`, for each use anew.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;

    let id = id(&connection, path)?;
    Ok(Opened { id, head: head(&connection)?, event_types: event_types(&connection)?, connection, lock })
}

fn id(connection: &Connection, path: &Path) -> Result<StoreId, Refusal> {
    let id: String = connection.query_row("SELECT value FROM facts WHERE key = 'store_id'", [], |row| row.get(0))?;
    let id = Uuid::try_parse(&id).map_err(|_damaged| Refusal::Stated(OpenError::Foreign { path: path.to_owned() }))?;
    Ok(StoreId(id))
}

fn create(connection: &mut Connection, owner: Owner) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    transaction.execute_batch(TABLES)?;
    let mut keep = transaction.prepare("INSERT INTO facts (key, value) VALUES (?1, ?2)")?;
    keep.execute(["store_id", &Uuid::now_v7().to_string()])?;
    keep.execute(["service", owner.service])?;
    drop(keep);
    transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.commit()
}

fn check(connection: &Connection, path: &Path, owner: Owner) -> Result<(), Refusal> {
    let newer = |what: String| Refusal::Stated(OpenError::Newer { path: path.to_owned(), what });
    let version: i32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if version > SCHEMA_VERSION {
        return Err(newer(format!("its tables are version {version}, this program knows {SCHEMA_VERSION}")));
    }
    let service: Option<String> =
        connection.query_row("SELECT value FROM facts WHERE key = 'service'", [], |row| row.get(0)).optional()?;
    match service {
        Some(service) if service == owner.service => {}
        Some(service) => return Err(Refusal::Stated(OpenError::OtherService { path: path.to_owned(), service })),
        None => return Err(Refusal::Stated(OpenError::Foreign { path: path.to_owned() })),
    }
    match event_types(connection)?.iter().find(|known| !owner.event_types.contains(&known.as_str())) {
        Some(unknown) => Err(newer(format!("it holds events of type {unknown}"))),
        None => Ok(()),
    }
}

fn event_types(connection: &Connection) -> rusqlite::Result<HashSet<String>> {
    connection.prepare("SELECT type FROM event_types")?.query_map([], |row| row.get(0))?.collect()
}

pub(in crate::store) fn head(connection: &Connection) -> rusqlite::Result<Position> {
    let head: Option<i64> =
        connection.prepare_cached("SELECT max(position) FROM events")?.query_row([], |row| row.get(0))?;
    Ok(Position(head.unwrap_or(0).unsigned_abs()))
}
