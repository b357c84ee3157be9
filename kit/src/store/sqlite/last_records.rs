//! The last consumed record of each source in each partition, with which the inbox recognizes its place in the log.

use rusqlite::{Connection, params};

use crate::store::commit::{ConsumedRecord, SourceProgress, TopicPartition};

/// Creates the table that stores of version 0.1.0 do not have. Programs of that version can still use the
/// store.
pub(in crate::store) fn create(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(
        "CREATE TABLE IF NOT EXISTS inbox_sources (
            cluster       TEXT NOT NULL,
            topic         TEXT NOT NULL,
            partition     INTEGER NOT NULL,
            source        TEXT NOT NULL,      -- ce_source; empty if a record has none
            last_offset   INTEGER NOT NULL,   -- of its last consumed record
            last_sequence INTEGER,            -- the ce_sequence of that record
            last_id       TEXT NOT NULL,      -- the ce_id of that record
            pass_through  INTEGER,            -- records up to this ce_sequence were handled before a tail was lost
            PRIMARY KEY (cluster, topic, partition, source)
        ) STRICT, WITHOUT ROWID;",
    )
}

pub(in crate::store) fn put(
    connection: &Connection,
    at: &TopicPartition,
    progress: &SourceProgress,
) -> rusqlite::Result<()> {
    let SourceProgress { last: ConsumedRecord { source, offset, sequence, id }, pass_through } = progress;
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO inbox_sources
                (cluster, topic, partition, source, last_offset, last_sequence, last_id, pass_through)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?
        .execute(params![at.cluster, at.topic, at.partition, source, offset, sequence, id, pass_through])?;
    Ok(())
}

/// Returns the sources of a topic, each with its partition.
pub(in crate::store) fn of_topic(
    connection: &Connection,
    cluster: &str,
    topic: &str,
) -> rusqlite::Result<Vec<(i32, SourceProgress)>> {
    connection
        .prepare_cached(
            "SELECT partition, source, last_offset, last_sequence, last_id, pass_through FROM inbox_sources
             WHERE cluster = ?1 AND topic = ?2",
        )?
        .query_map([cluster, topic], |row| {
            let last =
                ConsumedRecord { source: row.get(1)?, offset: row.get(2)?, sequence: row.get(3)?, id: row.get(4)? };
            Ok((row.get(0)?, SourceProgress { last, pass_through: row.get(5)? }))
        })?
        .collect()
}
