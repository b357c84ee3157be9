//! Reading events and offsets.

use std::time::SystemTime;

use rusqlite::{Connection, OptionalExtension as _, Row, params};
use uuid::Uuid;

use crate::{
    event::{Event, EventId, Position, StreamId, Version, from_micros},
    runtime::trace_context::TraceContext,
    store::commit::TopicPartition,
};

const COLUMNS: &str = "position, stream, version, id, type, time, causation, traceparent, tracestate, payload";

/// Returns one stream's events, in order.
pub(in crate::store) fn stream(connection: &Connection, stream: StreamId) -> rusqlite::Result<Vec<Event>> {
    let sql = format!("SELECT {COLUMNS} FROM events WHERE stream = ?1 ORDER BY version");
    connection.prepare_cached(&sql)?.query_map([stream.0], event)?.collect()
}

pub(in crate::store) fn all(connection: &Connection, after: Position, limit: usize) -> rusqlite::Result<Vec<Event>> {
    let sql = format!("SELECT {COLUMNS} FROM events WHERE position > ?1 ORDER BY position LIMIT ?2");
    connection.prepare_cached(&sql)?.query_map(params![after.0, limit], event)?.collect()
}

pub(in crate::store) fn streams(
    connection: &Connection,
    after: Option<StreamId>,
    through: Position,
    limit: usize,
) -> rusqlite::Result<Vec<Vec<Event>>> {
    // The empty id stands for no id, because no stream has it. `?1 IS NULL OR stream > ?1` would use no index.
    let sql =
        format!("SELECT {COLUMNS} FROM events WHERE stream > ?1 AND position <= ?2 ORDER BY stream, version LIMIT ?3");
    let after = after.map(|stream| stream.0.as_bytes().to_vec()).unwrap_or_default();
    let events: Vec<Event> = connection
        .prepare_cached(&sql)?
        .query_map(params![after, through.0, limit], event)?
        .collect::<Result<_, _>>()?;
    let full = events.len() == limit;
    let mut streams: Vec<Vec<Event>> = Vec::new();
    for event in events {
        match streams.last_mut().filter(|stream| stream.last().is_some_and(|last| last.stream == event.stream)) {
            Some(stream) => stream.push(event),
            None => streams.push(vec![event]),
        }
    }
    // The last stream may be incomplete. If it is the only one, it has as many events as the limit or more.
    if full
        && let Some(last) = streams.pop()
        && streams.is_empty()
    {
        let whole = last.first().map_or(Ok(Vec::new()), |first| stream(connection, first.stream))?;
        streams.push(whole.into_iter().filter(|event| event.position <= through).collect());
    }
    Ok(streams)
}

pub(in crate::store) fn time_of(connection: &Connection, position: Position) -> rusqlite::Result<Option<SystemTime>> {
    let time = connection.query_row("SELECT time FROM events WHERE position = ?1", [position.0], |row| row.get(0));
    Ok(time.optional()?.map(from_micros))
}

pub(in crate::store) fn offsets(
    connection: &Connection,
    cluster: &str,
    topic: &str,
) -> rusqlite::Result<Vec<(i32, i64)>> {
    connection
        .prepare_cached("SELECT partition, next_offset FROM inbox_offsets WHERE cluster = ?1 AND topic = ?2")?
        .query_map([cluster, topic], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect()
}

pub(in crate::store) fn all_offsets(connection: &Connection) -> rusqlite::Result<Vec<(TopicPartition, i64)>> {
    let row = |row: &Row<'_>| {
        let at = TopicPartition { cluster: row.get(0)?, topic: row.get(1)?, partition: row.get(2)? };
        Ok((at, row.get(3)?))
    };
    connection
        .prepare_cached("SELECT cluster, topic, partition, next_offset FROM inbox_offsets")?
        .query_map([], row)?
        .collect()
}

fn event(row: &Row<'_>) -> rusqlite::Result<Event> {
    Ok(Event {
        position: Position(row.get(0)?),
        stream: StreamId(row.get(1)?),
        version: Version(row.get(2)?),
        id: EventId(row.get(3)?),
        event_type: row.get(4)?,
        time: from_micros(row.get(5)?),
        causation: row.get::<_, Option<Uuid>>(6)?.map(EventId),
        trace: trace(row.get(7)?, row.get(8)?),
        payload: row.get(9)?,
    })
}

fn trace(traceparent: Option<String>, tracestate: Option<String>) -> Option<TraceContext> {
    traceparent.map(|traceparent| TraceContext { traceparent, tracestate })
}
