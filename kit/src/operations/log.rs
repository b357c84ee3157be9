//! The subcommand `log`: a store's log as a person or `jq` wants it, beside the running service.

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

/// How many events are read at a time.
const BATCH: usize = 1000;

/// How often `--follow` looks for new events.
const LOOK: Duration = Duration::from_millis(100);

/// What is shown, and how.
#[derive(Args, Clone, Debug)]
pub struct LogArgs {
    /// Go on with new events as they come
    #[arg(long, short)]
    follow: bool,

    /// Begin at this position
    #[arg(long, default_value_t = 1, value_name = "POSITION", value_parser = clap::value_parser!(u64).range(1..))]
    from: u64,

    /// One JSON object for each event, with the whole message as readers of the topic get it
    #[arg(long)]
    json: bool,
}

/// Parses the id of a stream.
pub(crate) fn stream(text: &str) -> Result<StreamId, String> {
    StreamId::parse(text).ok_or_else(|| "must be an id of 36 characters, as answers and records have it".to_owned())
}

/// Prints the log to stdout. A reader that closes the pipe ends it.
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
    reason = "a subcommand is one thread, and nothing tells of another process's events"
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
