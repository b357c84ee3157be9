//! A pool of read-only connections. Each sees whole commits only.

use std::{
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use rusqlite::{Connection, OpenFlags, config::DbConfig, ffi};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::schema;
use crate::{
    runtime::fault::{self, Step},
    store::error::ReadError,
};

/// The largest number of connections. More of them would not read faster from one disk.
const CONNECTIONS: usize = 4;

/// The cache of a connection that reads a whole log: 32 MiB, as SQLite's `cache_size` counts it.
const LOG_CACHE: i32 = -32_768;

pub(in crate::store) struct Readers {
    pub(in crate::store) path: PathBuf,
    /// SQLite's `cache_size` of each connection; `None` for the default.
    cache_size: Option<i32>,
    idle: Mutex<Vec<Connection>>,
    permits: Semaphore,
}

impl Readers {
    pub(in crate::store) fn new(path: PathBuf) -> Self {
        Self { path, cache_size: None, idle: Mutex::new(Vec::new()), permits: Semaphore::new(CONNECTIONS) }
    }

    /// Creates readers of a whole log, and of streams in the order of their ids.
    pub(in crate::store) fn of_log(path: PathBuf) -> Self {
        Self { cache_size: Some(LOG_CACHE), ..Self::new(path) }
    }

    pub(in crate::store) async fn permit(&self) -> Result<SemaphorePermit<'_>, ReadError> {
        self.permits.acquire().await.map_err(|_closed| ReadError::Closed)
    }

    pub(in crate::store) fn read<T>(
        &self,
        question: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, ReadError> {
        fault::before(Step::Read);
        if fault::fails(Step::Read) {
            return Err(rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_IOERR_READ), None).into());
        }
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let connection = match idle {
            Some(connection) => connection,
            None => self.connect()?,
        };
        let answer = question(&connection)?; // a connection that failed is not used again
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < CONNECTIONS {
            idle.push(connection);
        }
        Ok(answer)
    }

    /// Closes the idle connections.
    pub(in crate::store) fn close(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn connect(&self) -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags)?;
        connection.busy_timeout(Duration::from_secs(5))?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?; // as for the writer, in open.rs
        if let Some(size) = self.cache_size {
            connection.pragma_update(None, "cache_size", size)?;
            schema::show_tracestate(&connection)?; // version 0.1.0 may have the store open
        }
        Ok(connection)
    }
}
