//! The subcommand `reconcile`: settles a disagreement between store and cluster, after which the relay refuses to
//! publish.
//!
//! It compares the store with its topic, event by event, and reports the change that is needed. With `--apply`, it
//! makes the change:
//!
//! * An older copy of the store was restored. The topic has the missing events. They are appended to the store.
//! * The checkpoint is lost, and the topic has the store's events. The checkpoint is written again, at the last one.
//! * The cluster has neither checkpoint nor events of the store. The service will publish the store from its beginning.
//! * Partitions have lost their newest records. The events are published again, unless later records of the partition
//!   are there: then the events of a stream would be out of order.
//! * The store was lost, and a new one is in its place. It is restored from the topic, under its old id.
//!
//! If store and topic contradict each other, nothing is changed.

use std::io::{self, Write};

use clap::Args;
use rdkafka::error::KafkaError;

use super::{lost_events::LostEvents, replay::Replay};
use crate::{
    aggregate::{LoadError, ReadTable},
    event::Position,
    kafka::{topic_end::TopicEnds, topics},
    relay::{
        Publication,
        checkpoint::{Checkpoint, Checkpoints, Publisher},
        writer::{Finished, Writer},
    },
    runtime::{
        failure::Failure,
        stop::{Shutdown, Stop},
    },
    store::{CommitError, ReadError},
};

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

/// Compares store and topic, prints the result, and settles what can be settled. The service must not have the store
/// open. `open` opens the store and describes its topic.
pub async fn run<T: ReadTable>(
    open: impl Fn() -> Result<Publication, Failure> + Send + 'static,
    args: ReconcileArgs,
) -> Result<(), Failure> {
    let failed = |error| Failure::subcommand("reconcile", error);
    let stop = Stop::new(Shutdown::new());
    let reconcile = move || {
        let mut publication = open()?;
        match restore_lost_store(&publication, args, &mut io::stdout()).map_err(failed)? {
            Lost::No => {}
            Lost::Reported => return Ok(()),
            Lost::Adopted => {
                drop(publication);
                publication = open()?;
            }
        }
        reconcile::<T>(&publication, args, &stop, &mut io::stdout()).map_err(failed)
    };
    tokio::task::spawn_blocking(reconcile).await.map_err(|error| Failure::subcommand("reconcile", error))?
}

/// The result of the search for a lost store that the new store can replace.
enum Lost {
    No,
    /// It was, and nothing was changed.
    Reported,
    /// The new store has its id, and must be opened again.
    Adopted,
}

/// If the store is new and the topic has events of another store of the service, that store was lost. With `--apply`,
/// gives its id to the new one. What is missing from it is then taken from the topic, as for an older copy.
fn restore_lost_store(
    publication: &Publication,
    args: ReconcileArgs,
    out: &mut impl Write,
) -> Result<Lost, ReconcileError> {
    let store = &publication.store;
    if *store.head().borrow() != Position::START || publication.published_to()?.is_some() {
        return Ok(Lost::No);
    }
    let ends = TopicEnds::open(&publication.client)?;
    if publication.is_in_topic(&ends)? {
        return Ok(Lost::No); // its id was adopted before
    }
    let Some(lost) = publication.other_store(&ends)? else { return Ok(Lost::No) };
    let topic = &publication.topic.name;
    writeln!(out, "the store is new, and {topic} has events of store {lost}, which was lost")?;
    writeln!(out, "events that were recorded there and never published cannot be restored")?;
    if !args.apply {
        writeln!(out, "nothing was changed; to restore that store from the topic, add --apply")?;
        return Ok(Lost::Reported);
    }
    store.adopt_blocking(lost)?;
    Ok(Lost::Adopted)
}

fn reconcile<T: ReadTable>(
    publication: &Publication,
    args: ReconcileArgs,
    stop: &Stop,
    out: &mut impl Write,
) -> Result<(), ReconcileError> {
    let Publication { store, client, topic, .. } = publication;
    // The first connection may take several times as long as the timeout of one request.
    let cluster =
        (1..10).find_map(|_| topics::cluster_id(client).ok()).map_or_else(|| topics::cluster_id(client), Ok)?;
    let mut situation = Situation::find::<T>(publication, &cluster)?;
    let mut writer = None;
    if args.apply && situation.needs_a_writer() {
        // Fence every other publisher of the store, so that its progress is final when it is read.
        match stop.block_on(topics::ensure(client, &publication.checkpoints())) {
            Some(partitions) => partitions?,
            None => return Ok(()),
        };
        writer = Some(Writer::open(client, &publication.transactional_id())?);
        situation = Situation::find::<T>(publication, &cluster)?;
    }
    let Situation { head, published, checkpoint, .. } = &situation;
    writeln!(out, "store       {} events, id {}", head.0, store.id())?;
    let shown = checkpoint.map_or_else(|| "none".to_owned(), |checkpoint| checkpoint.position.to_string());
    writeln!(out, "cluster     {cluster}: {} has {published} events of it; checkpoint: {shown}", topic.name)?;
    settle::<T>(publication, &situation, writer, args, out)
}

/// The state of the store, the topic and the checkpoint.
struct Situation {
    /// The newest position of the store.
    head: Position,
    /// The newest position in the topic.
    published: Position,
    checkpoint: Option<Checkpoint>,
    /// The events that were published and are not in the topic.
    lost: LostEvents,
    /// The id of the cluster.
    cluster: String,
    /// True if the store was published to this cluster before.
    is_this_cluster: bool,
}

impl Situation {
    fn find<T: ReadTable>(publication: &Publication, cluster: &str) -> Result<Self, ReconcileError> {
        let head = *publication.store.head().borrow();
        let checkpoint = checkpoint(publication)?;
        let is_this_cluster = publication.published_to()?.is_some_and(|published_to| published_to == cluster);
        let noted = publication.published()?.filter(|_| is_this_cluster).unwrap_or_default();
        let through = checkpoint.map_or(Position::START, |checkpoint| checkpoint.position).max(noted.through);
        let (published, lost) = Replay::<T>::new(publication, head).compare(through)?;
        let expected = publication.first_partitions()?.filter(|_| is_this_cluster);
        if let Some(expected) = expected.filter(|expected| *expected != lost.partitions.to_string()) {
            let (topic, actual) = (&publication.topic.name, lost.partitions);
            return Err(ReconcileError::Contradiction(format!("{topic} has {actual} partitions and had {expected}")));
        }
        if published > head && !lost.events.is_empty() {
            return Err(ReconcileError::Contradiction(format!(
                "the store ends at {head}, the topic at {published}, and the topic has lost events before that"
            )));
        }
        Ok(Self { head, published, checkpoint, lost, cluster: cluster.to_owned(), is_this_cluster })
    }

    fn needs_a_writer(&self) -> bool {
        self.checkpoint.is_none() || !self.lost.events.is_empty()
    }
}

/// Returns the checkpoint, if there is one.
fn checkpoint(publication: &Publication) -> Result<Option<Checkpoint>, KafkaError> {
    let (client, topic) = (&publication.client, publication.checkpoints().name);
    if topics::partitions(client, &topic)?.is_none() {
        return Ok(None);
    }
    Checkpoints::open(client, &topic, publication.store.id())?.decided()
}

fn settle<T: ReadTable>(
    publication: &Publication,
    situation: &Situation,
    writer: Option<Writer>,
    args: ReconcileArgs,
    out: &mut impl Write,
) -> Result<(), ReconcileError> {
    let &Situation { head, published, checkpoint, ref lost, .. } = situation;
    if published > head {
        if args.apply {
            Replay::<T>::new(publication, head).apply()?;
        }
        let count = published.0 - head.0;
        let done = if args.apply { "taken into the store" } else { "to be taken into the store" };
        writeln!(out, "the store was an older copy: {count} events from the topic are {done}")?;
    }
    if !lost.events.is_empty() {
        let done = if args.apply { "published again" } else { "to be published again" };
        writeln!(
            out,
            "the topic has lost {} events at the end of {}: they are {done}",
            lost.events.len(),
            lost.place()
        )?;
        if let Some(writer) = writer {
            let noted = publication.published()?.filter(|_| situation.is_this_cluster).unwrap_or_default();
            lost.publish(publication, writer, checkpoint, &noted)?;
        }
    } else if checkpoint.is_none() {
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
    if checkpoint.is_some_and(|checkpoint| checkpoint.position < published) {
        writeln!(out, "the checkpoint is behind the topic; the service corrects it when it starts")?;
    }
    let refusal = publication.store.refusal_blocking()?;
    if args.apply {
        if checkpoint.is_some() && !situation.is_this_cluster {
            publication.remember_cluster(&situation.cluster, lost.partitions)?;
        }
        publication.forget_published()?;
        publication.store.lift_refusal_blocking()?;
    }
    let agree = checkpoint.is_some() && published <= head && lost.events.is_empty();
    if agree {
        writeln!(out, "store and cluster agree; {} events are yet to be published", head.0 - published.0)?;
        match refusal {
            Some(reason) if args.apply => writeln!(out, "the refusal is lifted: {reason}")?,
            Some(reason) => writeln!(out, "the store is refused; to lift the refusal, add --apply: {reason}")?,
            None => {}
        }
    } else if args.apply {
        writeln!(out, "done; the service continues, or can be started")?;
    } else {
        writeln!(out, "nothing was changed; to make the change, add --apply")?;
    }
    Ok(())
}

fn write_checkpoint(publication: &Publication, writer: Writer, position: Position) -> Result<(), ReconcileError> {
    let event = publication.event_at(position)?;
    let checkpoint = Checkpoint { position, event, publisher: Publisher::generate(), term: 1 };
    match writer.commit(&[publication.checkpoint_record(checkpoint)]) {
        Finished { error: Some(error), .. } => Err(error.into()),
        Finished { .. } => Ok(()),
    }
}
