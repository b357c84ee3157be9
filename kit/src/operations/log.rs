//! The subcommand `log`: prints the events of a store as text or JSON, while the service runs.

use std::{
    io::{self, Write},
    thread,
    time::Duration,
};

use clap::Args;
use serde_json::{Value, json};

use crate::{
    edge::message_json::MessageJson,
    event::{Event, Position, StreamId},
    kafka::topics::TopicSpec,
    runtime::failure::Failure,
    store::Log,
};

/// The number of events that are read at a time.
const BATCH: usize = 1000;

/// The interval at which `--follow` reads new events.
const LOOK: Duration = Duration::from_millis(100);

/// The flags of `log`.
#[derive(Args, Clone, Debug)]
pub struct LogArgs {
    /// Keep printing new events as they are stored
    #[arg(long, short)]
    follow: bool,

    /// Start at this position
    #[arg(long, default_value_t = 1, value_name = "POSITION", value_parser = clap::value_parser!(u64).range(1..))]
    from: u64,

    /// Print one JSON object for each event, with the whole message as consumers of the topic receive it
    #[arg(long)]
    json: bool,
}

/// Parses the id of a stream.
pub(crate) fn stream(text: &str) -> Result<StreamId, String> {
    StreamId::parse(&text.to_ascii_lowercase())
        .ok_or_else(|| "must be an id of 36 characters, as in answers and records".to_owned())
}

/// Prints the log to stdout. Ends without an error if the pipe is closed.
pub fn show(log: &Log, topic: TopicSpec, stream: Option<StreamId>, args: &LogArgs) -> Result<(), Failure> {
    let shape = MessageJson::of(topic.message, topic.descriptors);
    match write(log, &shape, stream, args, &mut io::stdout().lock()) {
        Err(WriteError::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.map_err(|error| Failure::subcommand("log", error)),
    }
}

#[derive(Debug, thiserror::Error)]
enum WriteError {
    #[error(transparent)]
    Read(#[from] crate::store::ReadError),
    #[error("cannot write")]
    Io(#[from] io::Error),
}

#[expect(
    clippy::disallowed_methods,
    reason = "a subcommand is one thread, and another process cannot notify it of new events"
)]
fn write(
    log: &Log,
    shape: &MessageJson,
    stream: Option<StreamId>,
    args: &LogArgs,
    out: &mut impl Write,
) -> Result<(), WriteError> {
    let mut after = Position(args.from - 1);
    loop {
        let events = match stream {
            None => log.read_all(after, BATCH)?,
            Some(stream) => log.read_stream(stream, after)?,
        };
        for event in &events {
            writeln!(out, "{}", if args.json { json(event, shape) } else { text(event, shape) })?;
            after = event.position;
        }
        out.flush()?;
        match (stream, events.len()) {
            (None, BATCH) => {}
            _ if args.follow => thread::sleep(LOOK),
            _ => return Ok(()),
        }
    }
}

fn json(event: &Event, shape: &MessageJson) -> String {
    let cause = event.causation.map(|cause| cause.to_string());
    let mut line = json!({
        "position": event.position.0,
        "type": event.event_type,
        "causationId": cause,
        "traceparent": event.trace.as_ref().map(|trace| &trace.traceparent),
        "tracestate": event.trace.as_ref().and_then(|trace| trace.tracestate.as_ref()),
    });
    line["message"] = shape.show(&event.payload).unwrap_or(Value::Null);
    line.to_string()
}

fn text(event: &Event, shape: &MessageJson) -> String {
    let time = prost_types::Timestamp::from(event.time);
    let name = event.event_type.rsplit('.').next().unwrap_or_default();
    let happened = shape.show_what_happened(&event.payload).map(|happened| happened.to_string());
    let happened = happened.unwrap_or_else(|| "(not readable)".to_owned());
    let Event { position, stream, version, .. } = event;
    format!("{:>8}  {time}  {stream}  {version}  {name} {happened}", position.0)
}
