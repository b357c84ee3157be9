//! The statement of the simulated gateway: the charges and refunds in its ledger up to a moment. It is read from the
//! file while the gateway may be running.

use std::{
    cell::Cell,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use oncelog::event::{StreamId, to_micros};
use rusqlite::{Connection, OpenFlags, Row, config::DbConfig, params};

/// A line of the statement: a charge or a refund.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) reference: String,
    /// In the currency's minor unit.
    pub(crate) amount: i64,
    pub(crate) currency_code: String,
}

/// The lines about one payment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lines {
    pub(crate) charges: Vec<Line>,
    pub(crate) refunds: Vec<Line>,
    /// The references of charges and refunds after the moment. The payment may already contain them, because two files
    /// cannot be read at exactly the same moment.
    pub(crate) later: Vec<String>,
}

/// Reads the statement.
pub(crate) struct Statement {
    ledger: Connection,
    until: i64,
    /// The number of payments that were looked up.
    asked: Cell<usize>,
}

/// The number of payments that are looked up in one transaction. One transaction each would check the file every time.
/// One transaction for all would keep the gateway from reusing its write-ahead log.
const TOGETHER: usize = 1000;

#[derive(Debug, thiserror::Error)]
#[error("cannot read the ledger {}", path.display())]
pub(crate) struct StatementError {
    path: PathBuf,
    source: rusqlite::Error,
}

impl Statement {
    /// Opens a ledger file for its statement at a moment.
    pub(crate) fn open(path: &Path, until: SystemTime) -> Result<Self, StatementError> {
        let open = || {
            let ledger = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
            ledger.busy_timeout(Duration::from_secs(5))?;
            ledger.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?; // as in the store
            Ok(Self { ledger, until: to_micros(until), asked: Cell::new(0) })
        };
        open().map_err(|source| StatementError { path: path.to_owned(), source })
    }

    /// Returns the lines about an order's payment.
    pub(crate) fn about(&self, order: StreamId) -> rusqlite::Result<Lines> {
        if self.asked.replace(self.asked.get() + 1).is_multiple_of(TOGETHER) {
            let ended = if self.ledger.is_autocommit() { "" } else { "COMMIT;" };
            self.ledger.execute_batch(&format!("{ended} BEGIN"))?;
        }
        let mut lines = Lines::default();
        for (table, of_table) in [("charges", &mut lines.charges), ("refunds", &mut lines.refunds)] {
            let sql = format!(
                "SELECT reference, amount, currency_code, time <= ?2 FROM {table}
                 WHERE key = ?1 AND reference IS NOT NULL ORDER BY time"
            );
            let line = |row: &Row<'_>| {
                let line = Line { reference: row.get(0)?, amount: row.get(1)?, currency_code: row.get(2)? };
                Ok((line, row.get::<_, bool>(3)?))
            };
            let mut query = self.ledger.prepare_cached(&sql)?;
            for line in query.query_map(params![order.to_string(), self.until], line)? {
                match line? {
                    (line, true) => of_table.push(line),
                    (Line { reference, .. }, false) => lines.later.push(reference),
                }
            }
        }
        Ok(lines)
    }

    /// Returns the first key after `after`, in the order of the keys, under which money was moved.
    pub(crate) fn next_key(&self, after: &str) -> rusqlite::Result<Option<String>> {
        self.ledger
            .prepare_cached(
                "SELECT min(key) FROM (
                     SELECT min(key) AS key FROM charges WHERE key > ?1 AND time <= ?2 AND reference IS NOT NULL
                     UNION ALL SELECT min(key) FROM refunds WHERE key > ?1 AND time <= ?2)",
            )?
            .query_row(params![after, self.until], |row| row.get(0))
    }
}
