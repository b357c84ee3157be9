//! Rebuilds the read table from the log, after a change of the table or on an operator's command.
//!
//! A rebuild is one transaction. If it is interrupted at any point, the old table is still there.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use rusqlite::Connection;

use super::{events, facts, schema, tables};
use crate::{
    event::Position,
    store::{
        error::{BoxError, OpenError},
        table::TableSource,
    },
};

/// The fact that holds the version of the read table.
const VERSION_FACT: &str = "read_tables_version";

/// The number of events that are read at a time.
const BATCH: usize = 1000;

/// The interval of progress reports.
const REPORT: Duration = Duration::from_secs(2);

/// The condition for a rebuild of the read table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Rebuild {
    /// Rebuild if the stored table has another version.
    IfOutdated,
    /// Rebuild in any case.
    Always,
}

/// Creates the read table of an empty store, or rebuilds it if necessary.
pub(super) fn prepare(
    connection: &mut Connection,
    path: &Path,
    source: TableSource,
    rebuild: Rebuild,
) -> Result<(), OpenError> {
    let failed = |error| OpenError::sqlite(path, error);
    let version = facts::get(connection, VERSION_FACT).map_err(failed)?;
    let head = schema::head(connection).map_err(failed)?;
    let is_current = version.as_deref() == Some(source.table.version.to_string().as_str())
        && tables::has_its_columns(connection, source.table).map_err(failed)?;
    let transaction = connection.transaction().map_err(failed)?;
    if !is_current || rebuild == Rebuild::Always {
        replace(&transaction, source, head).map_err(|source| match source.downcast::<rusqlite::Error>() {
            Ok(error) => failed(*error),
            Err(source) => OpenError::Rebuild { path: path.to_owned(), source },
        })?;
    }
    facts::set(&transaction, VERSION_FACT, &source.table.version.to_string()).map_err(failed)?;
    transaction.commit().map_err(failed)
}

/// Removes the stored version of the read table, because a program without a read table writes no rows. The next
/// program with a read table then rebuilds it.
pub(super) fn forget(connection: &Connection) -> rusqlite::Result<()> {
    facts::remove(connection, VERSION_FACT)
}

fn replace(connection: &Connection, source: TableSource, head: Position) -> Result<(), BoxError> {
    let kept = tables::save_kept(connection, source.table)?;
    connection.execute_batch(&format!("DROP TABLE IF EXISTS {}", source.table.name))?;
    tables::create(connection, source.table)?;
    fill(connection, source, head)?;
    tables::restore_kept(connection, source.table, &kept)?;
    Ok(())
}

/// Reads the log stream by stream, so that it needs no more memory for a long log than for a short one.
fn fill(connection: &Connection, source: TableSource, head: Position) -> Result<(), BoxError> {
    if head == Position::START {
        return Ok(());
    }
    tracing::info!(events = head.0, "rebuilding the read table from the log");
    let began = Instant::now();
    let mut reported = began;
    let mut done = 0;
    let mut after = None;
    loop {
        let streams = events::streams(connection, after, head, BATCH)?;
        let Some(last) = streams.last().and_then(|stream| stream.first()) else { break };
        after = Some(last.stream);
        for stream in &streams {
            done += stream.len() as u64;
            if let (Some(row), Some(first)) = ((source.row)(stream)?, stream.first()) {
                row.assert_fits(source.table);
                tables::put(connection, source.table, first.stream, &row)?;
            }
        }
        if reported.elapsed() > REPORT {
            reported = Instant::now();
            let share = done as f64 / head.0 as f64;
            let left = began.elapsed().mul_f64((1.0 - share) / share);
            let percent = (100.0 * share).floor();
            tracing::info!(events = done, of = head.0, "{percent} % of the log read, {} s left", left.as_secs() + 1);
        }
    }
    tracing::info!(events = head.0, seconds = began.elapsed().as_secs_f32(), "rebuilt the read table");
    Ok(())
}
