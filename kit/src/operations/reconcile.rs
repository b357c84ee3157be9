//! The subcommand `reconcile`: what a person does when store and cluster do not fit together, and the relay refuses to
//! go on.
//!
//! It compares the store with its topic, event by event, and says what would settle the matter:
//!
//! * an older copy of the store was restored: the topic has what is missing, and it is taken into the store;
//! * the checkpoint is lost, and the topic has the store's events: it is written anew, after the last of them;
//! * the cluster knows nothing of the store: it is to be published from its beginning.
//!
//! Where they contradict each other, nothing is changed.

use std::{
    collections::HashMap,
    io::{self, Write},
    time::SystemTime,
};

use clap::Args;
use prost_types::Timestamp;
use rdkafka::error::KafkaError;

use crate::{
    event::{NewEvent, Position, StreamId, Version},
    kafka::{record::Received, topic_log::TopicLog, topics},
    relay::{
        Relay,
        checkpoint::{self, Checkpoint, Checkpoints, Publisher},
        writer::{Ended, Writer},
    },
    runtime::{
        failure::Failure,
        stop::{Shutdown, Stop},
    },
    store::{Append, Commit, CommitError, ReadError},
};

/// How many events are compared, or taken in, at a time.
const BATCH: usize = 1000;

/// What may be done.
#[derive(Args, Clone, Copy, Debug)]
pub struct ReconcileArgs {
    /// Do it, instead of just saying what would be done
    #[arg(long)]
    apply: bool,
}

/// Why nothing was settled.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// Store and topic contradict each other.
    #[error("{0}; this takes a person who knows what happened to the store and the topic")]
    Contradiction(String),
    /// The topic holds an event that this program does not know.
    #[error("the event at position {0} of the topic is newer than this program; use the version that wrote it")]
    Newer(u64),
    /// Kafka says why.
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    /// The topic is not as it must be.
    #[error(transparent)]
    Topic(#[from] topics::TopicError),
    /// The store could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The store could not be written.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The result could not be told.
    #[error("cannot write")]
    Io(#[from] io::Error),
}

/// Compares, says on stdout what it finds, and settles what can be settled. The service must not be running.
pub async fn run(relay: Relay, event_types: &'static [&'static str], args: ReconcileArgs) -> Result<(), Failure> {
    let stop = Stop::new(Shutdown::new());
    let reconcile = move || reconcile(&relay, event_types, args, &stop, &mut io::stdout());
    let done = tokio::task::spawn_blocking(reconcile).await.map_err(|error| Failure::subcommand("reconcile", error))?;
    done.map_err(|error| Failure::subcommand("reconcile", error))
}

fn reconcile(
    relay: &Relay,
    event_types: &'static [&'static str],
    args: ReconcileArgs,
    stop: &Stop,
    out: &mut impl Write,
) -> Result<(), ReconcileError> {
    let (store, client, topic) = (&relay.store, &relay.client, &relay.topic.name);
    let head = *store.head().borrow();
    // The first connection may take several times what one question may.
    let cluster =
        (1..10).find_map(|_| topics::cluster_id(client).ok()).map_or_else(|| topics::cluster_id(client), Ok)?;
    let checkpoints = relay.checkpoints().name;
    let checkpoint = || match topics::partitions(client, &checkpoints)? {
        None => Ok(None),
        Some(_) => Checkpoints::open(client, &checkpoints, store.id())?.decided(),
    };
    let mut known = checkpoint()?.map(|known| known.position);
    let mut writer = None;
    if known.is_none() && args.apply {
        // Fences whoever else might publish for the store, before it is read how far that went.
        match stop.block_on(topics::ensure(client, &relay.checkpoints())) {
            Some(made) => made?,
            None => return Ok(()),
        };
        writer = Some(Writer::open(client, &relay.transactional_id())?);
        known = checkpoint()?.map(|known| known.position);
    }
    writeln!(out, "store       {} events, id {}", head.0, store.id())?;
    let published = Comparison { relay, event_types, apply: false, head }.run()?;
    let shown = known.map_or_else(|| "none".to_owned(), |position| position.to_string());
    writeln!(out, "cluster     {cluster}: {topic} has {published} events of it; checkpoint: {shown}")?;

    if let Some(known) = known
        && known != published
    {
        let what = format!("the checkpoint says {known}, and the topic ends at {published}");
        return Err(ReconcileError::Contradiction(what));
    }
    if published > head {
        if args.apply {
            Comparison { relay, event_types, apply: true, head }.run()?;
        }
        let count = published.0 - head.0;
        let done = if args.apply { "taken into the store" } else { "to be taken into the store" };
        writeln!(out, "the store was an older copy: {count} events from the topic are {done}")?;
    }
    if known.is_none() {
        let what = match published {
            Position::START => "the cluster does not know the store: it is published from its beginning".to_owned(),
            _ => format!("the checkpoint is lost: it is written anew, at {published}"),
        };
        writeln!(out, "{what}")?;
        match writer {
            // The relay then begins as with any new cluster.
            Some(_) if published == Position::START => relay.forget_cluster()?,
            Some(writer) => write_checkpoint(relay, writer, published)?,
            None => {}
        }
    }
    if known == Some(published) && published <= head {
        writeln!(out, "store and cluster agree; {} events are yet to be published", head.0 - published.0)?;
    } else if args.apply {
        writeln!(out, "done; the service can be started")?;
    } else {
        writeln!(out, "nothing was changed; to do it, stop the service and add --apply")?;
    }
    Ok(())
}

fn write_checkpoint(relay: &Relay, writer: Writer, position: Position) -> Result<(), ReconcileError> {
    let event = relay.event_at(position)?;
    let checkpoint = Checkpoint { position, event, publisher: Publisher::generate() };
    match writer.commit(&[checkpoint::record(&relay.checkpoints().name, relay.store.id(), checkpoint)]) {
        Ended { error: Some(error), .. } => Err(error.into()),
        Ended { .. } => Ok(()),
    }
}

/// The topic beside the store, from the first event to the last.
struct Comparison<'a> {
    relay: &'a Relay,
    event_types: &'static [&'static str],
    apply: bool,
    head: Position,
}

impl Comparison<'_> {
    /// Returns how many of the store's events the topic has. What the store lacks is taken in, where that is asked for.
    fn run(&self) -> Result<Position, ReconcileError> {
        let mut topic = TopicLog::open(
            &self.relay.client,
            &self.relay.topic.name,
            &self.relay.store.id().source(self.relay.service),
        )?;
        let mut stored = Vec::new().into_iter();
        let mut missing = Vec::new();
        let mut last = Position::START;
        while let Some((position, record)) = topic.read()? {
            let place = record.place().to_string();
            let contradiction = |what: String| Err(ReconcileError::Contradiction(format!("{place}: {what}")));
            if position != last.0 + 1 {
                return contradiction(format!("position {position} comes after {last}"));
            }
            last = Position(position);
            if last > self.head {
                missing.push(record);
                if missing.len() == BATCH {
                    self.take_in(&mut missing, last)?;
                }
                continue;
            }
            if stored.len() == 0 {
                stored = self.relay.store.read_all_blocking(Position(position - 1), BATCH)?.into_iter();
            }
            let Some(event) = stored.next() else { return contradiction("the store cannot be read there".to_owned()) };
            if record.header("ce_id") != Some(event.id.to_string().as_str()) || record.value != Some(event.payload) {
                return contradiction(format!("the store has another event at position {position}, {}", event.id));
            }
        }
        self.take_in(&mut missing, last)?;
        Ok(last)
    }

    fn take_in(&self, records: &mut Vec<Received>, last: Position) -> Result<(), ReconcileError> {
        let records = std::mem::take(records);
        if !self.apply {
            return Ok(());
        }
        let first = last.0 + 1 - records.len() as u64;
        let mut versions: HashMap<StreamId, Version> = HashMap::new();
        for (record, position) in records.iter().zip(first..) {
            let (stream, event) = self.event(record, position)?;
            let known = match versions.get(&stream) {
                Some(version) => *version,
                None => {
                    self.relay.store.read_stream_blocking(stream)?.last().map(|event| event.version).unwrap_or_default()
                }
            };
            versions.insert(stream, known.plus(1));
            // One by one: a position that is taken by another event can never be put right.
            let taken = self.relay.store.commit_blocking(Commit::append(Append {
                stream,
                expected: known,
                events: vec![event],
            }))?;
            if taken.0 != position {
                return Err(ReconcileError::Contradiction(format!("the event of position {position} is at {taken}")));
            }
        }
        Ok(())
    }

    fn event(&self, record: &Received, position: u64) -> Result<(StreamId, NewEvent), ReconcileError> {
        let unreadable = |what: &str| ReconcileError::Contradiction(format!("{}: {what}", record.place()));
        let incoming = record.open().map_err(|error| unreadable(&error.to_string()))?;
        let event_type = self.event_types.iter().find(|known| **known == incoming.event_type);
        let time: Option<Timestamp> = record.header("ce_time").and_then(|text| text.parse().ok());
        let time = time.and_then(|time| SystemTime::try_from(time).ok());
        let event = NewEvent {
            id: incoming.id,
            event_type: event_type.ok_or(ReconcileError::Newer(position))?,
            time: time.ok_or_else(|| unreadable("the header ce_time is not what it should be"))?,
            causation: incoming.causation,
            traceparent: incoming.traceparent.map(str::to_owned),
            payload: incoming.payload.to_vec(),
        };
        Ok((incoming.stream, event))
    }
}
