//! As much of a broker as the relay's promise rests on: one log, transactions by epoch, and requests that arrive late.

use oncelog::{event::EventId, relay::checkpoint::Checkpoint};

/// How many producers of one process take turns.
pub(super) const TURNS: usize = 2;

/// How many processes there may be.
pub(super) const PROCESSES: usize = 2;

/// One producer of one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Producer {
    /// The process.
    pub process: usize,
    /// Which of its turns; part of the `transactional.id`, which is otherwise the same for all processes.
    pub turn: usize,
}

/// A record in the log. Those of aborted transactions are left out, for nobody ever reads them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    /// What was written.
    pub value: Value,
    /// Who has its transaction open; nobody, once it is committed.
    pub open: Option<Producer>,
    /// Whether its publisher ever asked for the commit: what only the checker knows.
    pub meant: bool,
}

/// What a record holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Value {
    /// An event of a store.
    Event(EventId),
    /// How far a store is published.
    Checkpoint {
        /// The checkpoint.
        checkpoint: Checkpoint,
        /// Whether its publisher knew that it was one before: what only the checker knows.
        known: bool,
    },
}

/// A request to end a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct End {
    /// Whose.
    pub by: Producer,
    /// Commit, or abort.
    pub commit: bool,
}

/// The broker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Broker {
    /// What was written, in order.
    pub log: Vec<Entry>,
    /// Who has the newest epoch of its `transactional.id`, by process and turn.
    pub newest: [[bool; TURNS]; PROCESSES],
    /// Copies of requests that are still on their way. Those of older epochs are left out: nothing comes of them.
    pub under_way: Vec<End>,
    /// Whether a publisher has written after its successor did, though it knew of itself.
    pub came_back: bool,
}

impl Broker {
    /// `init_transactions`: ends what was open under the id, and fences its holders by a new epoch.
    pub fn initialize(&mut self, by: Producer, same_id: impl Fn(Producer) -> bool) {
        self.log.retain(|entry| !entry.open.is_some_and(&same_id));
        self.under_way.retain(|end| !same_id(end.by));
        for process in 0..PROCESSES {
            let other = Producer { process, turn: by.turn };
            self.newest[process][by.turn] &= !same_id(other);
        }
        self.newest[by.process][by.turn] = true;
    }

    /// Whether a producer's requests are taken.
    pub fn takes(&self, by: Producer) -> bool {
        self.newest[by.process][by.turn]
    }

    /// Produce.
    pub fn write(&mut self, by: Producer, value: Value) {
        self.log.push(Entry { value, open: Some(by), meant: false });
    }

    /// `EndTxn`. It knows no transactions by name: it ends whatever its producer has open by now.
    pub fn end(&mut self, End { by, commit }: End) {
        if !commit {
            self.log.retain(|entry| entry.open != Some(by));
        }
        self.open(by).for_each(|entry| entry.open = None);
        self.compact();
    }

    /// A transaction that stayed open for too long is aborted, and its producer fenced.
    pub fn time_out(&mut self, by: Producer) {
        self.end(End { by, commit: false });
        self.under_way.retain(|end| end.by != by);
        self.newest[by.process][by.turn] = false;
    }

    /// What a producer has open.
    pub fn open(&mut self, by: Producer) -> impl Iterator<Item = &mut Entry> {
        self.log.iter_mut().filter(move |entry| entry.open == Some(by))
    }

    /// The events that a `read_committed` reader has seen: everything before the first open transaction.
    pub fn events(&self) -> impl Iterator<Item = (&Entry, EventId)> {
        let events = self.log.iter().filter_map(|entry| match entry.value {
            Value::Event(event) => Some((entry, event)),
            Value::Checkpoint { .. } => None,
        });
        events.take_while(|(entry, _)| entry.open.is_none())
    }

    /// The newest checkpoint that such a reader has seen.
    pub fn checkpoint(&self) -> Option<Checkpoint> {
        self.decided().last().map(|(_, checkpoint, _)| checkpoint)
    }

    /// Whether no checkpoint is in an open transaction.
    pub fn is_decided(&self) -> bool {
        self.checkpoints().all(|(entry, ..)| self.log[entry].open.is_none())
    }

    /// Leaves only the newest checkpoint, after a look at who followed whom.
    fn compact(&mut self) {
        let decided: Vec<_> = self.decided().collect();
        let follow =
            |(one, next): (&(_, Checkpoint, _), &(_, Checkpoint, bool))| next.2 && one.1.publisher != next.1.publisher;
        self.came_back |= decided.iter().zip(decided.iter().skip(1)).any(follow);
        for (superseded, ..) in decided.iter().rev().skip(1) {
            self.log.remove(*superseded);
        }
    }

    fn decided(&self) -> impl Iterator<Item = (usize, Checkpoint, bool)> {
        self.checkpoints().take_while(|(entry, ..)| self.log[*entry].open.is_none())
    }

    fn checkpoints(&self) -> impl Iterator<Item = (usize, Checkpoint, bool)> {
        self.log.iter().enumerate().filter_map(|(entry, Entry { value, .. })| match value {
            Value::Checkpoint { checkpoint, known } => Some((entry, *checkpoint, *known)),
            Value::Event(_) => None,
        })
    }
}
