//! Opens a store for writing: takes the lock, checks the file, and prepares the read table.

use std::{collections::HashSet, path::Path, time::Duration};

use rusqlite::{Connection, config::DbConfig, ffi};

use super::{
    last_records,
    lock::{self, Lock, Locked},
    rebuild::{self, Rebuild},
    schema,
};
use crate::{
    event::Position,
    store::{
        error::OpenError,
        location::{StoreId, StoreIdentity},
        table::TableSource,
    },
};

/// A store that is open for writing.
pub(in crate::store) struct Opened {
    pub(in crate::store) connection: Connection,
    pub(in crate::store) id: StoreId,
    pub(in crate::store) head: Position,
    /// The event types that the store has held so far.
    pub(in crate::store) event_types: HashSet<String>,
    /// Dropped last, after the connection has folded its write-ahead log into the file.
    pub(in crate::store) lock: Lock,
}

/// Opens a store, or creates it if there is none.
pub(in crate::store) fn open(
    path: &Path,
    identity: StoreIdentity,
    table: Option<TableSource>,
    rebuild: Rebuild,
) -> Result<Opened, OpenError> {
    let lock = match lock::acquire(path).map_err(|source| OpenError::Io { path: path.to_owned(), source })? {
        Locked::Ours(lock) => lock,
        Locked::Theirs(process) => return Err(OpenError::InUse { path: path.to_owned(), process }),
    };
    let failed = |error| OpenError::sqlite(path, error);
    let mut connection = Connection::open(path).map_err(failed)?;
    // Another process may read the file, or write it by mistake.
    connection.busy_timeout(Duration::from_secs(5)).map_err(failed)?;
    let is_new = schema::is_new(&connection, path)?;
    configure(&connection).map_err(failed)?;
    if is_new {
        schema::create(&mut connection, identity.service).map_err(failed)?;
    }
    schema::check(&connection, path, identity)?;
    schema::add_tracestate(&connection).map_err(failed)?;
    last_records::create(&connection).map_err(failed)?;
    match table {
        Some(table) => rebuild::prepare(&mut connection, path, table, rebuild)?,
        None => rebuild::forget(&connection).map_err(failed)?,
    }
    Ok(Opened {
        id: schema::id(&connection, path)?,
        head: schema::head(&connection).map_err(failed)?,
        event_types: schema::event_types(&connection).map_err(failed)?,
        connection,
        lock,
    })
}

fn configure(connection: &Connection) -> rusqlite::Result<()> {
    let mode: String = connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    if mode != "wal" {
        let problem = format!("the file system does not support a write-ahead log (journal_mode is {mode})");
        return Err(rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_CANTOPEN), Some(problem)));
    }
    connection.pragma_update(None, "synchronous", "FULL")?; // a commit is on disk when it returns
    connection.set_prepared_statement_cache_capacity(64);
    // Plans each statement once. By default SQLite plans some of them, such as those with `LIMIT ?1`, at each use.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_a_write_ahead_log_is_refused() {
        let memory = Connection::open_in_memory().expect("opens");
        let error = configure(&memory).expect_err("memory has no log");
        assert!(error.to_string().contains("journal_mode is memory"), "{error}");
    }
}
