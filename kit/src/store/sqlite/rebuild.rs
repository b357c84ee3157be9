//! Makes the read tables anew from the log: after a change of what they hold, or when an operator asks for it.
//!
//! All of it is one transaction: interrupted at any point, the tables are as they were.

use std::time::{Duration, Instant};

use rusqlite::{Connection, OptionalExtension as _};

use super::{reads, schema, writer};
use crate::event::Position;
use crate::store::ReadTable;

/// The fact that tells of which version the tables are.
const VERSION_FACT: &str = "read_tables_version";

/// How many events are read at a time.
const BATCH: usize = 1000;

/// How often progress is told.
const TELL: Duration = Duration::from_secs(2);

/// Makes the read tables where they are missing, and anew where they are of another version, or where that is asked for.
pub(in crate::store) fn prepare<T: ReadTable>(
    connection: &mut Connection,
    table: &mut T,
    anew: bool,
) -> rusqlite::Result<()> {
    let version: Option<String> =
        connection.query_row("SELECT value FROM facts WHERE key = ?1", [VERSION_FACT], |row| row.get(0)).optional()?;
    let head = schema::head(connection)?;
    let current = version.as_deref() == Some(T::VERSION.to_string().as_str());
    let transaction = connection.transaction()?;
    if head == Position::START || (current && !anew) {
        transaction.execute_batch(T::SCHEMA)?;
    } else {
        transaction.execute_batch(T::SET_ASIDE)?;
        for name in T::TABLES {
            transaction.execute_batch(&format!("DROP TABLE IF EXISTS {name}"))?;
        }
        transaction.execute_batch(T::SCHEMA)?;
        fill(&transaction, table, head)?;
        transaction.execute_batch(T::PUT_BACK)?;
    }
    writer::keep_fact(&transaction, VERSION_FACT, &T::VERSION.to_string())?;
    transaction.commit()
}

fn fill<T: ReadTable>(connection: &Connection, table: &mut T, head: Position) -> rusqlite::Result<()> {
    tracing::info!(events = head.0, "making the read tables anew from the log");
    let began = Instant::now();
    let mut told = began;
    let mut done = Position::START;
    while done < head {
        for event in reads::all(connection, done, BATCH)? {
            table.apply(connection, &event)?;
            done = event.position;
        }
        if told.elapsed() > TELL {
            told = Instant::now();
            let share = done.0 as f64 / head.0 as f64;
            let left = began.elapsed().mul_f64((1.0 - share) / share);
            let percent = (100.0 * share).floor();
            tracing::info!(events = done.0, of = head.0, "{percent} % of the log read, {} s left", left.as_secs() + 1);
        }
    }
    tracing::info!(events = head.0, seconds = began.elapsed().as_secs_f32(), "the read tables are made anew");
    Ok(())
}
