//! Facts that the store keeps, such as the number of partitions of a topic.

use rusqlite::{Connection, OptionalExtension as _};

pub(in crate::store) fn get(connection: &Connection, key: &str) -> rusqlite::Result<Option<String>> {
    connection.query_row("SELECT value FROM facts WHERE key = ?1", [key], |row| row.get(0)).optional()
}

pub(in crate::store) fn set(connection: &Connection, key: &str, value: &str) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO facts (key, value) VALUES (?1, ?2) ON CONFLICT DO UPDATE SET value = excluded.value",
        )?
        .execute([key, value])?;
    Ok(())
}

pub(in crate::store) fn remove(connection: &Connection, key: &str) -> rusqlite::Result<()> {
    connection.prepare_cached("DELETE FROM facts WHERE key = ?1")?.execute([key])?;
    Ok(())
}
