//! The subcommand `audit`: whether store and topics say the same, record by record, beside the running service.
//!
//! * `published` compares the store with what a `read_committed` reader sees of its topic: every event once, in order,
//!   with identical bytes, and nothing that the store does not know.
//! * `followed` compares the topic that the service reads with the store: every record has had its effect once, and
//!   every effect has its record. The judge is the domain itself: it decides each record again.
//!
//! Both go up to the moment when the audit began, whatever happens meanwhile, in memory that does not grow with the log.

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

/// How often it looks whether everything is published by now, and how often it tells how far it is.
const LOOK: Duration = Duration::from_millis(200);
const TELL: Duration = Duration::from_secs(2);

/// How it is done.
#[derive(Args, Clone, Debug)]
pub struct AuditArgs {
    /// How long the running service may take to publish what is stored when the audit begins
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
    wait: u64,
}

/// What is audited.
pub struct Audit<A: Aggregate> {
    /// The store.
    pub log: Log,
    /// Where the topics are.
    pub client: Client,
    /// The service's name.
    pub service: &'static str,
    /// The contract of the topic that it publishes to.
    pub topic: TopicSpec,
    /// The topics that it follows.
    pub follows: Vec<Follow<A>>,
    /// The word for a stream, such as `order`.
    pub stream_word: &'static str,
}

/// Something that is not as it must be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Finding {
    /// Whom it is about.
    pub stream: Option<StreamId>,
    /// Where the event is in the store.
    pub position: Option<Position>,
    /// Where the record is: `topic/partition@offset`.
    pub place: Option<String>,
    /// What is wrong, as the end of a sentence that begins with these.
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

/// Takes findings, one by one.
pub type Findings<'a> = dyn FnMut(Finding) + 'a;

/// Why an audit could not be done.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// Kafka says why.
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    /// The store could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The records of the followed topic could not be sorted.
    #[error("cannot sort the records that were followed, in a file beside the store")]
    Scratch(#[from] rusqlite::Error),
    /// A thread that reads what is compared panicked.
    #[error("the reading of what is compared panicked; the panic was printed above")]
    Panicked,
    /// What the service itself is compared with could not be read.
    #[error("{0}")]
    Extra(String),
}

/// Checks that a service adds to its audit, such as the comparison of payments with the gateway's ledger.
pub trait ExtraChecks<A>: Sized + Send + 'static {
    /// The flags of the checks.
    type Args: clap::Args + Send + 'static;

    /// Prepares the checks, for the moment that the audit is of.
    fn open(args: Self::Args, moment: SystemTime) -> Result<Self, AuditError>;

    /// Checks one stream: its events, the records about it, and its state.
    fn compare(&mut self, case: &Case<'_>, state: &A, found: &mut Findings<'_>) -> Result<(), AuditError>;

    /// Checks what belongs to no stream, after the last one. Returns what was compared: a name and a number for each.
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

/// Audits, prints what was compared and each finding, and fails if there is one.
pub async fn run<A, X>(audit: Audit<A>, extra: X::Args, args: AuditArgs) -> Result<(), Failure>
where
    A: Aggregate<Event: PartialEq>,
    X: ExtraChecks<A>,
{
    let done = tokio::task::spawn_blocking(move || {
        let moment = audit.log.snapshot()?;
        let mut extra = X::open(extra, moment.time)?;
        audit.run(&moment, &mut extra, Duration::from_secs(args.wait), &mut |line| {
            // A reader of the lines that goes away does not change the verdict.
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
    /// Compares everything up to a moment, and returns how many findings there are. Each is told as it is found.
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

    /// The running service may be on its way with the newest events. What is not there after the wait is found missing.
    #[expect(clippy::disallowed_methods, reason = "a subcommand, on a thread that may block; Ctrl-C ends it")]
    fn wait_until_published(&self, head: Position, wait: Duration) -> Result<(), AuditError> {
        let topic = checkpoint::topic_of(self.service);
        let deadline = Instant::now() + wait;
        // Also a cluster that is slow to answer at first has that long.
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
        let mut progress = Progress::new("events published, and the rest is waited for", head.0);
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

/// Tells now and then how far something is.
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
