//! The subcommand `audit`: compares the store with the topics, record by record, while the service runs.
//!
//! * `published` compares the store with its topic, as a `read_committed` reader sees it. Every event must be there
//!   once, in order and with identical bytes, and nothing else.
//! * `followed` compares the followed topics with the store. Every record must have had its effect once, and every
//!   effect must have its record. To check this, the domain decides each record again.
//!
//! Both cover everything up to the start of the audit. The memory that they need does not grow with the log.

mod followed;
mod published;
mod scratch;

use std::{
    io::{self, Write as _},
    thread,
    time::{Duration, Instant, SystemTime},
};

use clap::Args;
use rdkafka::error::KafkaError;

pub use self::{followed::Case, scratch::ConsumedRecord};
use self::{
    followed::{Collected, Followed},
    published::Published,
};
use crate::{
    aggregate::Aggregate,
    event::{Position, StreamId},
    inbox::Follow,
    kafka::{
        client::Client,
        topics::{self, TopicSpec},
    },
    relay::checkpoint::{self, Checkpoints},
    runtime::failure::Failure,
    store::{Log, ReadError, Snapshot},
};

/// The interval at which the checkpoint is read while the audit waits for the relay.
const LOOK: Duration = Duration::from_millis(200);
/// The interval of progress reports.
const TELL: Duration = Duration::from_secs(2);

/// The flags of `audit`.
#[derive(Args, Clone, Debug)]
pub struct AuditArgs {
    /// How long to wait until the running service has published all events stored when the audit begins
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
    wait: u64,
}

/// The store and topics to audit.
pub struct Audit<A: Aggregate> {
    /// The store.
    pub log: Log,
    /// The client of the cluster.
    pub client: Client,
    /// The name of the service.
    pub service: &'static str,
    /// The contract of the topic that the service publishes to.
    pub topic: TopicSpec,
    /// The topics that the service follows, each with its reader.
    pub follows: Vec<Follow<A>>,
    /// The word for a stream, such as `order`.
    pub stream_word: &'static str,
}

/// A difference between the store and the topics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Finding {
    /// The stream of the event or record.
    pub stream: Option<StreamId>,
    /// The position of the event in the store.
    pub position: Option<Position>,
    /// The place of the record: `topic/partition@offset`.
    pub place: Option<String>,
    /// The problem, phrased to follow the stream, the position and the place.
    pub what: String,
}

impl Finding {
    /// Describes the finding in one line.
    fn describe(&self, stream_word: &str) -> String {
        let stream = self.stream.map(|stream| format!("{stream_word} {stream}"));
        let position = self.position.map(|position| format!("position {position}"));
        let parts = [stream, position, self.place.clone(), Some(self.what.clone())];
        parts.into_iter().flatten().collect::<Vec<_>>().join("  ")
    }
}

/// Receives findings, one by one.
pub type Findings<'a> = dyn FnMut(Finding) + 'a;

/// An audit could not be completed.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// Kafka failed.
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    /// The store could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The records of the followed topics could not be sorted.
    #[error("cannot sort the records of the followed topics in a file beside the store")]
    Scratch(#[from] rusqlite::Error),
    /// A thread that reads the store or the topics panicked.
    #[error("a thread that reads the store or the topics panicked; the panic was printed above")]
    Panicked,
    /// An extra check of the service could not be made.
    #[error("{0}")]
    Extra(String),
}

/// Checks that a service adds to its audit, such as the comparison of payments with the gateway's ledger.
pub trait ExtraChecks<A>: Sized + Send + 'static {
    /// The flags of the checks.
    type Args: clap::Args + Send + 'static;

    /// Prepares the checks. `moment` is the time of the audit's snapshot.
    fn open(args: Self::Args, moment: SystemTime) -> Result<Self, AuditError>;

    /// Checks one stream: its events, its consumed records, and its state.
    fn compare(&mut self, case: &Case<'_>, state: &A, found: &mut Findings<'_>) -> Result<(), AuditError>;

    /// Checks what belongs to no stream, after the last stream. Returns the name and the number of everything compared.
    fn finish(&mut self, found: &mut Findings<'_>) -> Result<Vec<(&'static str, u64)>, AuditError>;
}

/// No flags.
#[derive(Args, Clone, Debug, Default)]
pub struct NoArgs {}

/// No extra checks.
impl<A> ExtraChecks<A> for () {
    type Args = NoArgs;

    fn open(_: NoArgs, _: SystemTime) -> Result<Self, AuditError> {
        Ok(())
    }

    fn compare(&mut self, _: &Case<'_>, _: &A, _: &mut Findings<'_>) -> Result<(), AuditError> {
        Ok(())
    }

    fn finish(&mut self, _: &mut Findings<'_>) -> Result<Vec<(&'static str, u64)>, AuditError> {
        Ok(Vec::new())
    }
}

/// Runs the audit, prints each finding and a summary, and fails if there is a finding.
pub async fn run<A, X>(audit: Audit<A>, extra: X::Args, args: AuditArgs) -> Result<(), Failure>
where
    A: Aggregate<Event: PartialEq>,
    X: ExtraChecks<A>,
{
    let done = tokio::task::spawn_blocking(move || {
        let moment = audit.log.snapshot()?;
        let mut extra = X::open(extra, moment.time)?;
        audit.run(&moment, &mut extra, Duration::from_secs(args.wait), &mut |line| {
            // A closed pipe does not change the result.
            let _ = writeln!(io::stdout(), "{line}");
        })
    });
    let failed = |error: AuditError| Failure::subcommand("audit", error);
    match done.await.map_err(|error| Failure::subcommand("audit", error))?.map_err(failed)? {
        0 => Ok(()),
        findings => Err(Failure::Findings(findings)),
    }
}

impl<A: Aggregate<Event: PartialEq>> Audit<A> {
    /// Compares everything up to a snapshot, and returns the number of findings. Each is passed to `tell` at once.
    pub fn run(
        &self,
        moment: &Snapshot,
        extra: &mut impl ExtraChecks<A>,
        wait: Duration,
        tell: &mut dyn FnMut(String),
    ) -> Result<u64, AuditError> {
        let mut findings = 0;
        let mut found = |finding: Finding| {
            findings += 1;
            tell(finding.describe(self.stream_word));
        };
        self.wait_until_published(moment.head, wait)?;
        let (published, collected) = thread::scope(|scope| {
            let collecting = scope.spawn(|| Collected::collect(self, moment));
            (Published::compare(self, moment.head, &mut found), collecting.join())
        });
        let (published, collected) = (published?, collected.map_err(|_panic| AuditError::Panicked)??);
        let followed = followed::compare(self, moment, collected, extra, &mut found)?;
        let compared = extra.finish(&mut found)?;

        tell(format!(
            "{:<16} {:>10}  up to position {}, store {}",
            "stored events",
            moment.head.0,
            moment.head,
            self.log.id()
        ));
        tell(format!(
            "{:<16} {:>10}  records compared; {} of other sources",
            self.topic.name, published.compared, published.others
        ));
        for (follow, Followed { records, effects, dead_letters }) in self.follows.iter().zip(followed) {
            tell(format!(
                "{:<16} {records:>10}  records followed; {effects} effects, {dead_letters} dead letters",
                follow.topic
            ));
        }
        for (what, count) in compared {
            tell(format!("{what:<16} {count:>10}  compared"));
        }
        tell(format!("{:<16} {findings:>10}", "findings"));
        Ok(findings)
    }

    /// Waits until the running service has published the newest events. Events that are not published after the wait
    /// are findings.
    #[expect(clippy::disallowed_methods, reason = "a subcommand, on a thread that may block; Ctrl-C ends it")]
    fn wait_until_published(&self, head: Position, wait: Duration) -> Result<(), AuditError> {
        let topic = checkpoint::topic_of(self.service);
        let deadline = Instant::now() + wait;
        // A cluster that is slow to answer the first request has the same time.
        let partitions = loop {
            match topics::partitions(&self.client, &topic) {
                Err(_) if Instant::now() < deadline => {}
                partitions => break partitions?,
            }
        };
        if partitions.is_none() {
            return Ok(());
        }
        let checkpoints = Checkpoints::open(&self.client, &topic, self.log.id())?;
        let mut progress = Progress::new("events published; waiting for the rest", head.0);
        loop {
            let published = checkpoints.committed()?.map_or(Position::START, |checkpoint| checkpoint.position);
            if published >= head || Instant::now() > deadline {
                return Ok(());
            }
            progress.at(published.0);
            thread::sleep(LOOK);
        }
    }
}

/// Logs the progress of a comparison every two seconds.
struct Progress {
    what: &'static str,
    of: u64,
    told: Instant,
}

impl Progress {
    fn new(what: &'static str, of: u64) -> Self {
        Self { what, of, told: Instant::now() }
    }

    fn at(&mut self, done: u64) {
        if self.told.elapsed() > TELL {
            self.told = Instant::now();
            tracing::info!(of = self.of, "{done} {}", self.what);
        }
    }
}
