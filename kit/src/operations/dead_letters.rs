//! The subcommand `dead-letters`: lists the records that a service could not read, and replays them once the reason is
//! gone.
//!
//! A replay goes to the service's own topic of retries. It never goes to the original topic, where every other reader
//! would see a second copy. The replay and its marker in the dead-letter topic are published in one transaction, under
//! one fixed `transactional.id`. So no letter is replayed twice, even if the command is interrupted, repeated, or run
//! twice at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    io::{self, Write as _},
};

use clap::{Args, Subcommand};
use prost_types::Timestamp;
use rdkafka::error::KafkaError;
use serde_json::json;

use crate::{
    inbox::dead_letters::{self, Letter, Origin},
    kafka::{
        args::KafkaArgs,
        client::{ANSWER, Client},
        partition_log::PartitionLog,
        producer::Producer,
        topics,
    },
    relay::{
        transaction::Outcome,
        writer::{Finished, Writer},
    },
    runtime::{
        failure::Failure,
        stop::{Shutdown, Stop},
    },
};

/// The number of letters that are replayed in one transaction.
const BATCH: usize = 100;

/// The commands of `dead-letters`.
#[derive(Debug, Subcommand)]
pub enum DeadLettersCommand {
    /// Lists the dead letters that are not replayed yet: id, number of failures, time, key, event type and reason
    List {
        /// Print one JSON object per line
        #[arg(long)]
        json: bool,

        /// Kafka
        #[command(flatten)]
        kafka: KafkaArgs,
    },
    /// Replays dead letters: the running service reads them again
    Replay {
        /// The letters to replay
        #[command(flatten)]
        which: Which,

        /// Kafka
        #[command(flatten)]
        kafka: KafkaArgs,
    },
    /// Gives up a damaged batch of a followed topic, at which the running service waits. It skips the batch
    Skip {
        /// The place of the batch, as the log of the service names it
        #[arg(value_name = "TOPIC/PARTITION@OFFSET")]
        batch: Origin,

        /// Kafka
        #[command(flatten)]
        kafka: KafkaArgs,
    },
}

/// Selects dead letters.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
pub struct Which {
    /// The ids of the letters, as `list` shows them
    #[arg(value_name = "ID")]
    ids: Vec<Origin>,

    /// Replay all letters that are listed now
    #[arg(long)]
    all: bool,
}

/// The reason for which a replay did nothing, or not everything.
#[derive(Debug, thiserror::Error)]
enum ReplayError {
    #[error("there is no dead letter {0}; nothing was replayed")]
    Unknown(Origin),
    #[error("the topic {0} does not exist yet: the service creates it when it starts")]
    NoRetries(String),
    #[error("{done} of {wanted} were replayed; the rest is still listed: run the command again")]
    Interrupted {
        done: usize,
        wanted: usize,
        #[source]
        source: Option<KafkaError>,
    },
    #[error(transparent)]
    Kafka(#[from] KafkaError),
}

/// Runs the subcommand for a service, until it is done or a shutdown is requested.
pub async fn run(service: &'static str, command: DeadLettersCommand, shutdown: Shutdown) -> Result<(), Failure> {
    let (DeadLettersCommand::List { kafka, .. }
    | DeadLettersCommand::Replay { kafka, .. }
    | DeadLettersCommand::Skip { kafka, .. }) = &command;
    let client = kafka.client(service)?;
    let stop = Stop::new(shutdown);
    let done = tokio::task::spawn_blocking(move || match command {
        DeadLettersCommand::List { json, .. } => {
            let letters = open_letters(&client, service).map_err(|error| Failure::subcommand("dead-letters", error))?;
            list(&letters, json).map_err(|error| Failure::subcommand("dead-letters", error))
        }
        DeadLettersCommand::Replay { which, .. } => {
            replay(&client, service, &which, &stop).map_err(|error| Failure::subcommand("dead-letters", error))
        }
        DeadLettersCommand::Skip { batch, .. } => {
            skip(&client, service, &batch).map_err(|error| Failure::subcommand("dead-letters", error))
        }
    });
    done.await.map_err(|error| Failure::subcommand("dead-letters", error))?
}

/// Returns the letters that are not replayed yet, by their ids. A topic that does not exist has none.
fn open_letters(client: &Client, service: &str) -> Result<BTreeMap<Origin, Letter>, KafkaError> {
    let topic = dead_letters::topic_of(service);
    let mut letters: BTreeMap<Origin, Letter> = BTreeMap::new();
    let mut put_back = BTreeSet::new();
    for partition in 0..topics::partitions(client, &topic)?.unwrap_or_default() {
        let mut log = PartitionLog::open(client, &topic, partition)?;
        while let Some(record) = log.read()? {
            if let Some(mark) = dead_letters::mark(&record) {
                put_back.insert(mark);
            } else if let Some(letter) = Letter::of(record)
                && letters.get(&letter.origin).is_none_or(|known| known.failures <= letter.failures)
            {
                letters.insert(letter.origin.clone(), letter);
            }
        }
    }
    letters.retain(|origin, letter| !put_back.contains(&(origin.clone(), letter.failures)));
    Ok(letters)
}

fn list(letters: &BTreeMap<Origin, Letter>, json: bool) -> io::Result<()> {
    let mut text = String::new();
    for (origin, letter) in letters {
        let time = letter.record.time.map(|time| Timestamp::from(time).to_string());
        let key = letter.record.key.as_deref().map(|key| String::from_utf8_lossy(key).into_owned());
        let event_type = letter.record.header("ce_type");
        let Letter { failures, reason, .. } = letter;
        let _ = if json {
            let line = json!({
                "id": origin.to_string(),
                "failures": failures,
                "time": time,
                "key": key,
                "type": event_type,
                "reason": reason,
            });
            writeln!(text, "{line}")
        } else {
            let (time, key) = (time.as_deref().unwrap_or("-"), key.as_deref().unwrap_or("-"));
            writeln!(text, "{origin:<24} {failures:>3}  {time}  {key}  {}  {reason}", event_type.unwrap_or("-"))
        };
    }
    if letters.is_empty() {
        writeln!(io::stderr(), "there are no dead letters")?;
    }
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

fn replay(client: &Client, service: &str, which: &Which, stop: &Stop) -> Result<(), ReplayError> {
    let retries = dead_letters::retries_of(service);
    if topics::partitions(client, &retries)?.is_none() {
        return Err(ReplayError::NoRetries(retries));
    }
    // Opened before anything is read: it aborts the open transaction of an earlier replay, and fences a replay that
    // still runs.
    let transactional_id = format!("{service}-dead-letters");
    let mut writer = Writer::open(client, &transactional_id)?;
    let mut letters = open_letters(client, service)?;
    if let Some(unknown) = which.ids.iter().find(|id| !letters.contains_key(id)) {
        return Err(ReplayError::Unknown(unknown.clone()));
    }
    letters.retain(|origin, _| which.all || which.ids.contains(origin));
    let letters: Vec<_> = letters.into_values().collect();
    let (topic, wanted) = (dead_letters::topic_of(service), letters.len());
    let mut done = 0;
    for batch in letters.chunks(BATCH) {
        let interrupted = |source| ReplayError::Interrupted { done, wanted, source };
        if stop.is_requested() {
            return Err(interrupted(None));
        }
        let records: Vec<_> = batch.iter().flat_map(|letter| [letter.retry(&retries), letter.mark(&topic)]).collect();
        let next = match writer.commit(&records) {
            Finished { outcome: Outcome::Committed, writer, .. } => writer,
            // If it was committed nevertheless, its letters are not listed any more.
            Finished { error, .. } => return Err(interrupted(error)),
        };
        done += batch.len();
        writer = match next {
            Some(writer) => writer,
            None => Writer::open(client, &transactional_id)?,
        };
    }
    let _ = writeln!(io::stdout(), "{done} replayed");
    Ok(())
}

/// Publishes the decision to skip a damaged batch. The service carries it out if it waits there.
fn skip(client: &Client, service: &str, batch: &Origin) -> Result<(), ReplayError> {
    let retries = dead_letters::retries_of(service);
    let partitions = topics::partitions(client, &retries)?.ok_or_else(|| ReplayError::NoRetries(retries.clone()))?;
    // Another partition than the damaged one, which may be of the same topic.
    let partition = batch.partition.saturating_add(1).rem_euclid(partitions);
    let producer = Producer::create(&client.producer())?;
    producer.send(&dead_letters::give_up(batch, &retries, partition))?;
    producer.wait(ANSWER)?;
    let _ = writeln!(io::stdout(), "asked the service to skip {batch}; its log shows whether the batch was skipped");
    Ok(())
}
