//! The subcommand `reconcile`: settles a disagreement between store and cluster, after which the relay refuses to
//! publish.
//!
//! It compares the store with its topic, event by event, and reports the change that is needed. With `--apply`, it
//! makes the change:
//!
//! * An older copy of the store was restored. The topic has the missing events. They are appended to the store.
//! * The checkpoint is lost, and the topic has the store's events. The checkpoint is written again, at the last one.
//! * The cluster has neither checkpoint nor events of the store. The service will publish the store from its beginning.
//!
//! If store and topic contradict each other, nothing is changed.

use std::{
    collections::HashMap,
    io::{self, Write},
    time::SystemTime,
};

use clap::Args;
use prost_types::Timestamp;
use rdkafka::error::KafkaError;

use crate::{
    aggregate::{LoadError, Loaded, ReadTable, Streams},
    event::{Event, NewEvent, Position, StreamId, Version},
    kafka::{record::Received, topic_log::TopicLog, topics},
    relay::{
        Publication,
        checkpoint::{Checkpoint, Checkpoints, Publisher},
        writer::{Finished, Writer},
    },
    runtime::{
        failure::Failure,
        stop::{Shutdown, Stop},
    },
    store::{Append, Commit, CommitError, ReadError},
};

/// The number of events that are compared at a time, and of aggregates that are kept in memory.
const BATCH: usize = 1000;

/// The flags of `reconcile`.
#[derive(Args, Clone, Copy, Debug)]
pub struct ReconcileArgs {
    /// Make the change, instead of only reporting it
    #[arg(long)]
    apply: bool,
}

/// The store and the cluster were not reconciled.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// Store and topic contradict each other.
    #[error("{0}; settling this needs a person who knows what happened to the store and the topic")]
    Contradiction(String),
    /// The topic holds an event that this program does not know.
    #[error("the event at position {0} of the topic is newer than this program; use the version that wrote it")]
    Newer(u64),
    /// Kafka failed.
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    /// A topic cannot be used.
    #[error(transparent)]
    Topic(#[from] topics::TopicError),
    /// The store could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The store could not be written.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The store holds an event that this program cannot read.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The result could not be printed.
    #[error("cannot write")]
    Io(#[from] io::Error),
}

/// Compares store and topic, prints the result, and settles what can be settled. The service must not be running.
pub async fn run<T: ReadTable>(publication: Publication, args: ReconcileArgs) -> Result<(), Failure> {
    let stop = Stop::new(Shutdown::new());
    let reconcile = move || reconcile::<T>(&publication, args, &stop, &mut io::stdout());
    let done = tokio::task::spawn_blocking(reconcile).await.map_err(|error| Failure::subcommand("reconcile", error))?;
    done.map_err(|error| Failure::subcommand("reconcile", error))
}

fn reconcile<T: ReadTable>(
    publication: &Publication,
    args: ReconcileArgs,
    stop: &Stop,
    out: &mut impl Write,
) -> Result<(), ReconcileError> {
    let Publication { store, client, topic, .. } = publication;
    let head = *store.head().borrow();
    // The first connection may take several times as long as the timeout of one request.
    let cluster =
        (1..10).find_map(|_| topics::cluster_id(client).ok()).map_or_else(|| topics::cluster_id(client), Ok)?;
    let mut known = checkpoint(publication)?;
    let mut writer = None;
    if known.is_none() && args.apply {
        // Fence every other publisher of the store, so that its progress is final when it is read.
        match stop.block_on(topics::ensure(client, &publication.checkpoints())) {
            Some(partitions) => partitions?,
            None => return Ok(()),
        };
        writer = Some(Writer::open(client, &publication.transactional_id())?);
        known = checkpoint(publication)?;
    }
    writeln!(out, "store       {} events, id {}", head.0, store.id())?;
    let published = Replay::<T>::new(publication, head).compare()?;
    let shown = known.map_or_else(|| "none".to_owned(), |position| position.to_string());
    writeln!(out, "cluster     {cluster}: {} has {published} events of it; checkpoint: {shown}", topic.name)?;
    if let Some(known) = known.filter(|known| *known != published) {
        let what = format!("the checkpoint is at {known}, and the topic ends at {published}");
        return Err(ReconcileError::Contradiction(what));
    }
    settle::<T>(publication, &Situation { head, published, known }, writer, args, out)
}

/// Returns the position of the checkpoint, if there is one.
fn checkpoint(publication: &Publication) -> Result<Option<Position>, KafkaError> {
    let (client, topic) = (&publication.client, publication.checkpoints().name);
    if topics::partitions(client, &topic)?.is_none() {
        return Ok(None);
    }
    let checkpoint = Checkpoints::open(client, &topic, publication.store.id())?.decided()?;
    Ok(checkpoint.map(|checkpoint| checkpoint.position))
}

/// The newest position of the store, the topic and the checkpoint.
struct Situation {
    head: Position,
    published: Position,
    /// The checkpoint.
    known: Option<Position>,
}

fn settle<T: ReadTable>(
    publication: &Publication,
    situation: &Situation,
    writer: Option<Writer>,
    args: ReconcileArgs,
    out: &mut impl Write,
) -> Result<(), ReconcileError> {
    let &Situation { head, published, known } = situation;
    if published > head {
        if args.apply {
            Replay::<T>::new(publication, head).apply()?;
        }
        let count = published.0 - head.0;
        let done = if args.apply { "taken into the store" } else { "to be taken into the store" };
        writeln!(out, "the store was an older copy: {count} events from the topic are {done}")?;
    }
    if known.is_none() {
        let what = match published {
            Position::START => "the cluster does not know the store: it is published from its beginning".to_owned(),
            _ => format!("the checkpoint is lost: it is written again, at {published}"),
        };
        writeln!(out, "{what}")?;
        match writer {
            // The relay then starts as on any new cluster.
            Some(_) if published == Position::START => publication.forget_cluster()?,
            Some(writer) => write_checkpoint(publication, writer, published)?,
            None => {}
        }
    }
    if known == Some(published) && published <= head {
        writeln!(out, "store and cluster agree; {} events are yet to be published", head.0 - published.0)?;
    } else if args.apply {
        writeln!(out, "done; the service can be started")?;
    } else {
        writeln!(out, "nothing was changed; to make the change, stop the service and add --apply")?;
    }
    Ok(())
}

fn write_checkpoint(publication: &Publication, writer: Writer, position: Position) -> Result<(), ReconcileError> {
    let event = publication.event_at(position)?;
    let checkpoint = Checkpoint { position, event, publisher: Publisher::generate() };
    match writer.commit(&[publication.checkpoint_record(checkpoint)]) {
        Finished { error: Some(error), .. } => Err(error.into()),
        Finished { .. } => Ok(()),
    }
}

/// Reads the topic from the first event of the store to the last, and compares each event with the store.
struct Replay<'a, T: ReadTable> {
    publication: &'a Publication,
    head: Position,
    /// The streams to which events were appended.
    streams: HashMap<StreamId, Loaded<T::Domain>>,
}

impl<'a, T: ReadTable> Replay<'a, T> {
    fn new(publication: &'a Publication, head: Position) -> Self {
        Self { publication, head, streams: HashMap::new() }
    }

    /// Compares without a change. Returns the last position in the topic.
    fn compare(self) -> Result<Position, ReconcileError> {
        self.run(|_, _, _| Ok(()))
    }

    /// Appends the events that the store lacks.
    fn apply(self) -> Result<Position, ReconcileError> {
        self.run(Self::take_in)
    }

    fn run(
        mut self,
        mut missing: impl FnMut(&mut Self, &Received, u64) -> Result<(), ReconcileError>,
    ) -> Result<Position, ReconcileError> {
        let Publication { client, topic, store, .. } = self.publication;
        let mut log = TopicLog::open(client, &topic.name, &self.publication.source())?;
        let mut stored = Vec::new().into_iter();
        let mut last = Position::START;
        while let Some((position, record)) = log.read()? {
            let contradiction =
                |what: String| Err(ReconcileError::Contradiction(format!("{}: {what}", record.place())));
            if position != last.0 + 1 {
                return contradiction(format!("position {position} comes after {last}"));
            }
            last = Position(position);
            if last > self.head {
                missing(&mut self, &record, position)?;
                continue;
            }
            if stored.len() == 0 {
                stored = store.read_all_blocking(Position(position - 1), BATCH)?.into_iter();
            }
            let Some(event) = stored.next() else {
                return contradiction("the store has no event there".to_owned());
            };
            if record.header("ce_id") != Some(event.id.to_string().as_str())
                || record.value.as_ref() != Some(&event.payload)
            {
                return contradiction(format!("the store has another event at position {position}, {}", event.id));
            }
        }
        Ok(last)
    }

    /// Appends one event to the store. Each event has its own commit, so that its position is verified before the next
    /// one, because a wrong position can never be corrected.
    fn take_in(&mut self, record: &Received, position: u64) -> Result<(), ReconcileError> {
        let (stream, new) = self.event(record, position)?;
        if self.streams.len() > BATCH {
            self.streams.clear(); // they are loaded again when they are needed
        }
        if !self.streams.contains_key(&stream) {
            let events = self.publication.store.read_stream_blocking(stream)?;
            self.streams.insert(stream, Loaded::fold(&events)?);
        }
        let loaded = self.streams.entry(stream).or_default();
        let expected: Version = loaded.version;
        loaded.apply(&Event::stored(new.clone(), Position(position), stream, expected.plus(1)))?;
        let append = Append { stream, expected, events: vec![new], row: Streams::<T>::row(loaded) };
        let taken = self.publication.store.commit_blocking(Commit::append(append))?;
        if taken.0 != position {
            return Err(ReconcileError::Contradiction(format!(
                "the event of position {position} was stored at {taken}"
            )));
        }
        Ok(())
    }

    fn event(&self, record: &Received, position: u64) -> Result<(StreamId, NewEvent), ReconcileError> {
        let unreadable = |what: &str| ReconcileError::Contradiction(format!("{}: {what}", record.place()));
        let incoming = record.open().map_err(|error| unreadable(&error.to_string()))?;
        let event_type = self.publication.spec.event_types.iter().find(|known| **known == incoming.event_type);
        let time: Option<Timestamp> = record.header("ce_time").and_then(|text| text.parse().ok());
        let time = time.and_then(|time| SystemTime::try_from(time).ok());
        let event = NewEvent {
            id: incoming.id,
            event_type: event_type.ok_or(ReconcileError::Newer(position))?,
            time: time.ok_or_else(|| unreadable("the header ce_time is not a valid time"))?,
            causation: incoming.causation,
            trace: incoming.trace(),
            payload: incoming.payload.to_vec(),
        };
        Ok((incoming.stream, event))
    }
}
