//! Publishing: two processes on one store, or on a store and a copy of it, and what a `read_committed` reader sees.
//!
//! The rules that are run are the relay's own: [`Transaction`](oncelog::relay::transaction::Transaction) and
//! [`Claim`](oncelog::relay::claim::Claim). At any step a process may die, stand still for as long as it
//! likes (a zombie), or lose an answer; a request that it has given up, or sent twice, may arrive at any later time.
//!
//! Left out: that a topic or its checkpoints are lost, and more than one partition.

mod broker;
mod model;
mod process;
pub mod properties;

pub use self::{
    broker::{Broker, End, Entry, Producer, Value},
    process::{Doing, Process, Step, Writing},
};

/// What the promise rests on. Each can be switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Defence {
    /// A transaction one of whose records was not acknowledged is aborted.
    AbortWhereARecordFailed,
    /// A producer whose request may have been sent twice is never used again.
    RetireASlowProducer,
    /// Neither is one whose commit or abort failed.
    RetireAFailedProducer,
    /// After a commit without an answer, the checkpoint says what became of it.
    LookUpWhatIsUnknown,
    /// The checkpoint is read once nobody else can publish any more.
    FenceBeforeReadingTheCheckpoint,
    /// A new writer fences every producer of the others, and not only the one it begins with.
    FenceEveryTurn,
    /// A writer opens its producers one after the other, first the one that commits first.
    OpenTheFirstTurnFirst,
    /// All processes on a store have the same `transactional.id`s.
    FixedTransactionalId,
    /// Events are published together with the checkpoint that says so.
    CheckpointInTheSameTransaction,
    /// A checkpoint names the event that was published last, and not only its position.
    CheckpointNamesItsEvent,
    /// A process that finds another's checkpoint after its own ends.
    GiveWayToTheSuccessor,
}

impl Defence {
    /// All of them.
    pub const ALL: [Self; 11] = [
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
    ];

    /// The property that fails without it. There may be others.
    pub fn guards(self) -> &'static str {
        match self {
            Self::AbortWhereARecordFailed
            | Self::RetireAFailedProducer
            | Self::LookUpWhatIsUnknown
            | Self::FenceBeforeReadingTheCheckpoint
            | Self::FenceEveryTurn
            | Self::OpenTheFirstTurnFirst
            | Self::FixedTransactionalId
            | Self::CheckpointInTheSameTransaction => properties::EACH_ONCE,
            Self::RetireASlowProducer => properties::MEANT,
            Self::CheckpointNamesItsEvent => properties::ONE_HISTORY,
            Self::GiveWayToTheSuccessor => properties::ONE_PUBLISHER,
        }
    }
}

/// The model, and how much may happen in it.
#[derive(Clone, Debug)]
pub struct Publishing {
    /// The defence that is switched off, if any.
    pub off: Option<Defence>,
    /// How many events each store has at most.
    pub events: usize,
    /// Whether every commit and abort takes so long that it costs its producer.
    pub slow: bool,
    /// What may go wrong.
    pub faults: Faults,
}

impl Publishing {
    /// Enough for each defence to be needed.
    pub fn new(off: Option<Defence>) -> Self {
        Self { off, events: 2, slow: false, faults: Faults { crashes: 1, network: 2, time_outs: 1 } }
    }

    /// Nothing goes wrong, but everything takes long.
    pub fn on_a_slow_broker() -> Self {
        Self { slow: true, faults: Faults { crashes: 0, network: 0, time_outs: 0 }, ..Self::new(None) }
    }
}

/// How much may go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Faults {
    /// Processes that die.
    pub crashes: u8,
    /// Requests, answers and records that are lost, late or sent twice.
    pub network: u8,
    /// Open transactions of a running process that the broker ends.
    pub time_outs: u8,
}

/// Everything there is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// What the broker has.
    pub broker: Broker,
    /// The process that was there first; and one that was started on a copy of its store.
    pub processes: Vec<Process>,
    /// What may still go wrong.
    pub faults: Faults,
}

/// What may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Happens {
    /// A process is started, or started again.
    Start(usize),
    /// A process records an event.
    Append(usize),
    /// The store is copied, for a second process.
    Copy,
    /// A process opens one of its producers.
    Opens {
        /// The process.
        process: usize,
        /// The producer.
        turn: usize,
        /// Whether the answer arrives.
        answered: bool,
    },
    /// A process does what else is next.
    Step(usize, Step),
    /// A process dies.
    Crash(usize),
    /// A late request arrives.
    Arrives(End),
    /// The broker ends a transaction that was open for too long.
    TimeOut(Producer),
}
