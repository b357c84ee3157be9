//! Models two processes that publish one store, or a store and its copy, to a topic with a `read_committed` reader.
//!
//! The rules are the relay's production code: [`Transaction`](oncelog::relay::transaction::Transaction) and
//! [`Claim`](oncelog::relay::claim::Claim). At any step a process may crash, pause for any time (a zombie), or lose an
//! answer. A request that timed out, or was sent twice, may arrive at any later time.
//!
//! The log may lose its newest checkpoint or its newest event, as after a power loss. How the relay compares the topic with
//! the store is also its production code: [`Published`](oncelog::relay::published::Published).
//!
//! The model leaves out lost topics, and topics with more than one partition.

mod broker;
mod model;
mod process;
pub mod properties;

pub use self::{
    broker::{Broker, End, Entry, Producer, Value},
    process::{Doing, Process, Step, Writing},
};

/// The rules that the promise depends on. Each can be disabled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Defence {
    /// A transaction is aborted if one of its records was not acknowledged.
    AbortWhereARecordFailed,
    /// A producer whose request may have been sent twice is never used again.
    RetireASlowProducer,
    /// A producer whose commit or abort failed is never used again.
    RetireAFailedProducer,
    /// After a commit without an answer, the outcome is read from the checkpoint.
    LookUpWhatIsUnknown,
    /// The checkpoint is read only after all other publishers are fenced.
    FenceBeforeReadingTheCheckpoint,
    /// A new writer fences all producers of the other processes, and not only the first.
    FenceEveryTurn,
    /// A writer opens its producers one after the other, starting with the one that commits first.
    OpenTheFirstTurnFirst,
    /// All processes on a store use the same `transactional.id`s.
    FixedTransactionalId,
    /// Events and their checkpoint are published in one transaction.
    CheckpointInTheSameTransaction,
    /// A checkpoint contains the id of the last published event, and not only its position.
    CheckpointNamesItsEvent,
    /// A process ends when it reads the checkpoint of another process after its own.
    GiveWayToTheSuccessor,
    /// A process resumes after the newest event of the topic, and refuses a topic that lacks an event.
    VerifyTheTopic,
    /// During a session, a record must come behind all records that were published before.
    CheckTheOffsets,
    /// A checkpoint of an earlier term is not that of a successor.
    TermsAreOrdered,
}

impl Defence {
    /// All defences.
    pub const ALL: [Self; 14] = [
        Self::AbortWhereARecordFailed,
        Self::RetireASlowProducer,
        Self::RetireAFailedProducer,
        Self::LookUpWhatIsUnknown,
        Self::FenceBeforeReadingTheCheckpoint,
        Self::FenceEveryTurn,
        Self::OpenTheFirstTurnFirst,
        Self::FixedTransactionalId,
        Self::CheckpointInTheSameTransaction,
        Self::CheckpointNamesItsEvent,
        Self::GiveWayToTheSuccessor,
        Self::VerifyTheTopic,
        Self::CheckTheOffsets,
        Self::TermsAreOrdered,
    ];

    /// Returns true if [`VerifyTheTopic`](Self::VerifyTheTopic) alone keeps the guarded property. Then both are disabled
    /// together. These defences are from before the topic was verified, and still keep a session from failing.
    pub fn is_backed_up(self) -> bool {
        matches!(
            self,
            Self::OpenTheFirstTurnFirst | Self::CheckpointInTheSameTransaction | Self::CheckpointNamesItsEvent
        )
    }

    /// Returns true if the defence is one against a log that loses records.
    pub fn is_against_losses(self) -> bool {
        matches!(self, Self::VerifyTheTopic | Self::CheckTheOffsets | Self::TermsAreOrdered)
    }

    /// Returns a property that fails without this defence. Others may fail, too.
    pub fn guards(self) -> &'static str {
        match self {
            Self::AbortWhereARecordFailed
            | Self::RetireAFailedProducer
            | Self::LookUpWhatIsUnknown
            | Self::FenceBeforeReadingTheCheckpoint
            | Self::FenceEveryTurn
            | Self::OpenTheFirstTurnFirst
            | Self::FixedTransactionalId
            | Self::CheckpointInTheSameTransaction
            | Self::VerifyTheTopic
            | Self::CheckTheOffsets => properties::EACH_ONCE,
            Self::RetireASlowProducer => properties::MEANT,
            Self::CheckpointNamesItsEvent => properties::ONE_HISTORY,
            Self::GiveWayToTheSuccessor => properties::ONE_PUBLISHER,
            Self::TermsAreOrdered => properties::COMPLETE,
        }
    }
}

/// The model and its limits.
#[derive(Clone, Debug)]
pub struct Publishing {
    /// The disabled defence, if any.
    pub off: Option<Defence>,
    /// The maximum number of events in each store.
    pub events: usize,
    /// True if every commit and abort is so slow that its producer must be replaced.
    pub slow: bool,
    /// The number of faults at the start.
    pub faults: Faults,
}

impl Publishing {
    /// Allows just enough faults that every defence is needed.
    pub fn new(off: Option<Defence>) -> Self {
        Self { off, events: 2, slow: false, faults: Faults { crashes: 1, network: 2, time_outs: 1, losses: 0 } }
    }

    /// A broker whose log loses its newest records.
    pub fn on_a_log_that_loses_records(off: Option<Defence>) -> Self {
        Self { faults: Faults { crashes: 1, network: 0, time_outs: 1, losses: 2 }, ..Self::new(off) }
    }

    /// A broker without faults on which every commit and abort is slow.
    pub fn on_a_slow_broker() -> Self {
        Self { slow: true, faults: Faults { crashes: 0, network: 0, time_outs: 0, losses: 0 }, ..Self::new(None) }
    }
}

/// The number of faults that may still happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Faults {
    /// Crashes of processes.
    pub crashes: u8,
    /// Requests, answers and records that are lost, late or sent twice.
    pub network: u8,
    /// Open transactions of a running process that the broker aborts after a timeout.
    pub time_outs: u8,
    /// Losses of the newest record of the log.
    pub losses: u8,
}

/// A state of the whole system.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// The broker.
    pub broker: Broker,
    /// The first process, and a second one on a copy of its store.
    pub processes: Vec<Process>,
    /// The faults that may still happen.
    pub faults: Faults,
}

/// A step of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Happens {
    /// A process starts or restarts.
    Start(usize),
    /// A process records an event.
    Append(usize),
    /// The store is copied for a second process.
    Copy,
    /// A process opens one of its producers.
    Opens {
        /// The process.
        process: usize,
        /// The producer.
        turn: usize,
        /// True if the answer arrives.
        answered: bool,
    },
    /// A process takes its next step.
    Step(usize, Step),
    /// A process crashes.
    Crash(usize),
    /// The log loses its newest checkpoint.
    LoseCheckpoint,
    /// The log loses its newest event.
    LoseEvent,
    /// A late request arrives.
    Arrives(End),
    /// The broker aborts a transaction that exceeded the transaction timeout.
    TimeOut(Producer),
}
