//! The ledger of the simulated gateway: a SQLite file of every charge and refund, so that anyone can check that each
//! order is charged once.
//!
//! One thread writes it. All calls that wait at the same time share one sync to disk.

use std::{
    path::Path,
    sync::mpsc,
    thread,
    time::{Duration, SystemTime},
};

use contracts::money::Money;
use oncelog::{
    event::{StreamId, to_micros},
    runtime::fault,
};
use rusqlite::{Connection, OptionalExtension as _, Row, config::DbConfig, params};
use tokio::sync::oneshot;
use uuid::Uuid;

use super::NoAnswer;
use crate::{
    fault::Step,
    payment::{Decline, Receipt, Refund},
};

const TABLES: &str = "
CREATE TABLE IF NOT EXISTS charges (
    id            INTEGER PRIMARY KEY,
    key           TEXT NOT NULL,        -- the idempotency key: the order's id
    amount        INTEGER NOT NULL,     -- in the currency's minor unit
    currency_code TEXT NOT NULL,
    reference     TEXT,                 -- set if it was charged
    decline_code  TEXT,                 -- set if it was declined
    message       TEXT,
    time          INTEGER NOT NULL      -- microseconds since 1970
) STRICT;
CREATE INDEX IF NOT EXISTS charges_by_key ON charges (key);
CREATE TABLE IF NOT EXISTS refunds (
    key           TEXT PRIMARY KEY,     -- as of the charge
    amount        INTEGER NOT NULL,     -- in the currency's minor unit
    currency_code TEXT NOT NULL,
    reference     TEXT NOT NULL,
    time          INTEGER NOT NULL      -- microseconds since 1970
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS calls (key TEXT PRIMARY KEY, count INTEGER NOT NULL) STRICT, WITHOUT ROWID;
";

/// Marks the file as a ledger: "ledg".
const APPLICATION_ID: i32 = 0x6c65_6467;

/// The largest number of calls that share one sync.
const GROUP: usize = 256;

type Question = Box<dyn FnOnce(&Connection) -> rusqlite::Result<Box<dyn FnOnce() + Send>> + Send>;

/// A handle to the ledger. Dropping it closes the file.
pub(super) struct Ledger {
    calls: mpsc::SyncSender<Question>,
}

impl Ledger {
    pub(super) fn open(path: &Path) -> rusqlite::Result<Self> {
        let connection = Connection::open(path)?;
        connection.busy_timeout(Duration::from_secs(5))?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?; // as in the store
        let application: i32 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
        let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
        if application != APPLICATION_ID && (application != 0 || tables != 0) {
            return Err(rusqlite::Error::InvalidPath(path.to_owned())); // the file is not a ledger
        }
        connection.pragma_update(None, "application_id", APPLICATION_ID)?;
        let mode: String = connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
        if mode != "wal" {
            return Err(rusqlite::Error::InvalidPath(path.to_owned())); // the file system does not support it
        }
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.execute_batch(TABLES)?;
        let (calls, queue) = mpsc::sync_channel(GROUP);
        thread::Builder::new()
            .name("ledger".to_owned())
            .spawn(move || run(&connection, &queue))
            .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
        Ok(Self { calls })
    }

    /// Counts a call and returns its number: 1 for the first call of this kind under the key.
    pub(super) async fn count(&self, kind: &'static str, key: StreamId) -> Result<u32, NoAnswer> {
        self.ask(move |ledger| {
            ledger
                .prepare_cached(
                    "INSERT INTO calls (key, count) VALUES (?1, 1)
                     ON CONFLICT DO UPDATE SET count = count + 1 RETURNING count",
                )?
                .query_row([format!("{kind} {key}")], |row| row.get(0))
        })
        .await
    }

    /// Records a receipt, unless the key has one since the time `remembered`. Returns the receipt of the key.
    pub(super) async fn charge(
        &self,
        key: StreamId,
        money: Money,
        decline: Option<Decline>,
        remembered: SystemTime,
    ) -> Result<Receipt, NoAnswer> {
        self.ask(move |ledger| {
            if let Some((receipt, _)) = newest(ledger, key, remembered)? {
                return Ok(receipt);
            }
            let receipt = decline.map_or_else(
                || Receipt::Charged { reference: format!("ch_{}", Uuid::now_v7().simple()) },
                Receipt::Declined,
            );
            record(ledger, key, money, &receipt)?;
            Ok(receipt)
        })
        .await
    }

    /// Refunds the charge of a key, once. If there is none, bars the key: records a decline, which every later charge
    /// under the key gets as its answer.
    pub(super) async fn refund(&self, key: StreamId, money: Money) -> Result<Refund, NoAnswer> {
        self.ask(move |ledger| {
            match newest(ledger, key, SystemTime::UNIX_EPOCH)? {
                Some((Receipt::Charged { .. }, _)) => {}
                Some((Receipt::Declined(_), _)) => return Ok(Refund::NothingCharged),
                None => {
                    let message = "cancelled before it was charged".to_owned();
                    let barred = Receipt::Declined(Decline { code: "CANCELLED".to_owned(), message });
                    record(ledger, key, money, &barred)?;
                    return Ok(Refund::NothingCharged);
                }
            }
            ledger
                .prepare_cached(
                    "INSERT OR IGNORE INTO refunds (key, amount, currency_code, reference, time)
                     VALUES (?1, ?2, ?3, ?4, ?5)",
                )?
                .execute(params![
                    key.to_string(),
                    money.amount(),
                    money.currency_code(),
                    format!("re_{}", Uuid::now_v7().simple()),
                    to_micros(SystemTime::now())
                ])?;
            let reference = ledger
                .prepare_cached("SELECT reference FROM refunds WHERE key = ?1")?
                .query_row([key.to_string()], |row| row.get(0))?;
            Ok(Refund::Refunded { reference })
        })
        .await
    }

    /// Returns the newest receipt of a key and its amount, however old it is.
    pub(super) async fn find(&self, key: StreamId) -> Result<Option<(Receipt, i64)>, NoAnswer> {
        self.ask(move |ledger| newest(ledger, key, SystemTime::UNIX_EPOCH)).await
    }

    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, NoAnswer> {
        let closed = || NoAnswer("the ledger cannot be written".to_owned());
        let (answer, answered) = oneshot::channel();
        let question: Question = Box::new(move |ledger| {
            let found = question(ledger)?;
            Ok(Box::new(move || {
                let _ = answer.send(found);
            }))
        });
        self.calls.try_send(question).map_err(|_full| NoAnswer("too many calls at once".to_owned()))?;
        answered.await.map_err(|_dropped| closed())
    }
}

/// Runs the calls. A call is answered only after the sync, and gets no answer if the sync failed.
fn run(ledger: &Connection, queue: &mpsc::Receiver<Question>) {
    while let Ok(first) = queue.recv() {
        let questions = [first].into_iter().chain(queue.try_iter().take(GROUP - 1));
        match together(ledger, questions) {
            Ok(answers) => answers.into_iter().for_each(|answer| answer()),
            Err(error) => {
                tracing::warn!(error = %error, "the simulated gateway cannot write its ledger");
                if !ledger.is_autocommit() {
                    let _ = ledger.execute_batch("ROLLBACK");
                }
            }
        }
    }
}

fn together(
    ledger: &Connection,
    questions: impl Iterator<Item = Question>,
) -> rusqlite::Result<Vec<Box<dyn FnOnce() + Send>>> {
    ledger.execute_batch("BEGIN IMMEDIATE")?;
    let answers = questions.map(|question| question(ledger)).collect::<rusqlite::Result<Vec<_>>>()?;
    let failed = || rusqlite::Error::InvalidQuery;
    fault::around(Step::Ledger, failed, || ledger.execute_batch("COMMIT"))?;
    Ok(answers)
}

fn record(ledger: &Connection, key: StreamId, money: Money, receipt: &Receipt) -> rusqlite::Result<()> {
    let (reference, code, message) = match receipt {
        Receipt::Charged { reference } => (Some(reference), None, None),
        Receipt::Declined(Decline { code, message }) => (None, Some(code), Some(message)),
    };
    ledger
        .prepare_cached(
            "INSERT INTO charges (key, amount, currency_code, reference, decline_code, message, time)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute(params![
            key.to_string(),
            money.amount(),
            money.currency_code(),
            reference,
            code,
            message,
            to_micros(SystemTime::now())
        ])?;
    Ok(())
}

fn newest(ledger: &Connection, key: StreamId, since: SystemTime) -> rusqlite::Result<Option<(Receipt, i64)>> {
    ledger
        .prepare_cached(
            "SELECT reference, decline_code, message, amount FROM charges
             WHERE key = ?1 AND time >= ?2 ORDER BY id DESC LIMIT 1",
        )?
        .query_row(params![key.to_string(), to_micros(since)], receipt)
        .optional()
}

fn receipt(row: &Row<'_>) -> rusqlite::Result<(Receipt, i64)> {
    let receipt = match row.get(0)? {
        Some(reference) => Receipt::Charged { reference },
        None => Receipt::Declined(Decline { code: row.get(1)?, message: row.get(2)? }),
    };
    Ok((receipt, row.get(3)?))
}
