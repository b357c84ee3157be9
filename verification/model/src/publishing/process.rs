//! A process that publishes its store: the steps of `relay/mod.rs` and `relay/writer.rs`.

use std::time::Duration;

use oncelog::{
    event::{EventId, Position},
    relay::{
        checkpoint::{Checkpoint, Publisher},
        claim::{Claim, Disagreement},
        published::{Found, Published},
        transaction::{self, Action, Fault, Finish, Input, Outcome, Transaction},
    },
};
use uuid::Uuid;

use super::{
    Defence, Publishing,
    broker::{Broker, End, Producer, TURNS, Value},
};

/// A process and its store.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Process {
    /// The index of the process in the state.
    pub number: usize,
    /// The recorded events, in order.
    pub store: Vec<EventId>,
    /// Its claim to publish the store. It is new after each start.
    pub claim: Claim,
    /// True if it has learned since its start that it is the publisher. Only the checker reads this.
    pub told: bool,
    /// The number of starts.
    pub starts: u8,
    /// Its current activity.
    pub doing: Doing,
    /// The position up to which it knows its store to be published.
    pub position: Position,
    /// The producer that publishes next.
    pub turn: usize,
}

/// The activity of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Doing {
    /// Not running.
    Down,
    /// Reads the checkpoint to find out whether it may publish.
    Looking,
    /// Opens a writer, which fences all other writers.
    Opening {
        /// The producers that are open.
        opened: [bool; TURNS],
    },
    /// Reads the checkpoint to resume from.
    Deciding,
    /// Publishes a transaction.
    Writing(Writing),
    /// Waits for new events.
    Waiting,
    /// Has ended for good.
    Refused(Refusal),
}

/// Why a process has ended for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// It disagrees with the checkpoint.
    Checkpoint(Disagreement),
    /// The topic has an event that the store does not have.
    StoreBehind,
    /// The topic lacks an event that was published.
    TailLost,
}

/// A transaction in progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Writing {
    transaction: Transaction,
    /// The action whose result it waits for.
    pub action: Action,
    /// The position of the next event to send.
    next: Position,
    /// The position of the last event.
    last: Position,
    checkpoint: Option<Checkpoint>,
    /// True if it publishes no events, only a checkpoint with this process as publisher.
    claims: bool,
}

/// The result of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Success.
    Well,
    /// A record was not acknowledged in time.
    RecordLost,
    /// The request had its effect, and was sent a second time before the answer came.
    SentTwice,
    /// The request had its effect, and the answer was lost.
    AnswerLost,
    /// The request is still in flight at the producer's timeout, and has its effect later.
    HeldBack,
}

const QUICK: Duration = Duration::ZERO;
const SURELY_SENT_ONCE: Duration = transaction::surely_sent_once(Duration::from_millis(500));
const SLOW: Duration = SURELY_SENT_ONCE.saturating_add(Duration::from_millis(1));

impl Process {
    /// Returns a process on the given store that is not started yet.
    pub fn new(number: usize, store: Vec<EventId>) -> Self {
        let claim = Claim::new(Publisher(Uuid::nil()));
        Self { number, store, claim, told: false, starts: 0, doing: Doing::Down, position: Position::START, turn: 0 }
    }

    /// Starts or restarts. The process knows only its store.
    pub fn start(&mut self) {
        self.starts += 1;
        self.claim = Claim::new(Publisher(Uuid::from_u128(self.number as u128 * 16 + u128::from(self.starts))));
        self.doing = Doing::Looking;
    }

    /// Crashes. Only the store is left.
    pub fn crash(&mut self) {
        *self = Self { starts: self.starts, ..Self::new(self.number, std::mem::take(&mut self.store)) };
    }

    /// Returns true if the process is started and has not ended for good.
    pub fn is_running(&self) -> bool {
        !matches!(self.doing, Doing::Down | Doing::Refused(_))
    }

    /// Returns true if the process has a next step.
    pub fn is_busy(&self, broker: &Broker) -> bool {
        match self.doing {
            Doing::Down | Doing::Opening { .. } | Doing::Refused(_) => false,
            Doing::Looking | Doing::Writing(_) => true,
            Doing::Deciding => broker.is_decided(),
            Doing::Waiting => self.store.len() as u64 > self.position.0,
        }
    }

    /// Records an event. Its id encodes the position and the process.
    pub fn append(&mut self) {
        let position = self.store.len() as u128 + 1;
        self.store.push(EventId(Uuid::from_u128(position * 16 + self.number as u128)));
    }

    fn event_at(&self, position: Position) -> Option<EventId> {
        let before = usize::try_from(position.0).ok()?.checked_sub(1)?;
        self.store.get(before).copied()
    }

    /// Takes the next step.
    pub fn step(&mut self, step: Step, broker: &mut Broker, model: &Publishing) {
        let off = model.off;
        match self.doing {
            Doing::Down | Doing::Opening { .. } | Doing::Refused(_) => {}
            Doing::Looking => match self.agree(broker, off) {
                Ok(position) => {
                    if off == Some(Defence::FenceBeforeReadingTheCheckpoint) {
                        self.position = position;
                    }
                    self.doing = Doing::Opening { opened: [false; TURNS] };
                }
                Err(disagreement) => self.doing = Doing::Refused(Refusal::Checkpoint(disagreement)),
            },
            Doing::Deciding => {
                let agreed = self.agree(broker, off).map_err(Refusal::Checkpoint);
                match agreed.and_then(|position| self.verify(position, broker, off)) {
                    Ok(position) => self.go_on(position, broker),
                    Err(refusal) => self.doing = Doing::Refused(refusal),
                }
            }
            Doing::Waiting => {
                let last = Position(self.store.len() as u64);
                let checkpoint = self.claim.checkpoint(last, self.event_at(last));
                let together = off != Some(Defence::CheckpointInTheSameTransaction);
                self.begin(last, together.then_some(checkpoint), false);
            }
            Doing::Writing(writing) => self.write(writing, step, broker, model),
        }
    }

    /// Returns the producers that the process may open now.
    pub fn to_open(&self, off: Option<Defence>) -> impl Iterator<Item = usize> + use<> {
        let opened = if let Doing::Opening { opened } = self.doing { opened } else { [true; TURNS] };
        let at_most = if off == Some(Defence::OpenTheFirstTurnFirst) { TURNS } else { 1 };
        (0..TURNS).filter(move |turn| !opened[*turn]).take(at_most)
    }

    /// Opens a producer. If the answer is lost, it starts over with all producers.
    pub fn opens(&mut self, turn: usize, answered: bool, broker: &mut Broker, off: Option<Defence>) {
        let Doing::Opening { mut opened } = self.doing else { return };
        self.initialize(turn, broker, off);
        opened[turn] = true;
        let known = match off {
            Some(Defence::FenceBeforeReadingTheCheckpoint) => true,
            Some(Defence::LookUpWhatIsUnknown) => self.claim.held,
            _ => false,
        };
        if !answered {
            self.doing = Doing::Looking;
        } else if opened.contains(&false) {
            self.doing = Doing::Opening { opened };
        } else if known {
            self.go_on(self.position, broker);
        } else {
            self.doing = Doing::Deciding;
        }
    }

    /// Compares the end of the topic with the store as the relay does, and returns the position to publish from.
    fn verify(&self, checkpoint: Position, broker: &Broker, off: Option<Defence>) -> Result<Position, Refusal> {
        if off.is_some_and(|off| off == Defence::VerifyTheTopic || off.is_backed_up()) {
            return Ok(checkpoint);
        }
        let newest = broker.events().zip(0..).last();
        let found = newest.map_or(Found::Nothing { end: 0 }, |((_, event), offset)| {
            let position = Position(u64::try_from(event.0.as_u128() / 16).unwrap_or_default());
            Found::Record { position, event, offset }
        });
        let mut published = Published::nothing(1);
        let through = published.known_through(checkpoint, &[found]);
        if through.0 > self.store.len() as u64 {
            return Err(Refusal::StoreBehind);
        }
        if let Found::Record { position, event, .. } = found
            && self.event_at(position) != Some(event)
        {
            return Err(Refusal::StoreBehind);
        }
        published.note_events((1..=through.0).map(|position| (Position(position), 0)));
        published.verify(&[found]).map(|published| published.through).map_err(|_lost| Refusal::TailLost)
    }

    /// Checks the newest checkpoint as the relay does, and returns the position to publish from.
    fn agree(&mut self, broker: &Broker, off: Option<Defence>) -> Result<Position, Disagreement> {
        let Some(mut checkpoint) = broker.checkpoint() else { return Ok(Position::START) };
        if off == Some(Defence::TermsAreOrdered) {
            checkpoint.term = checkpoint.term.max(self.claim.term);
        }
        let mut stored = self.event_at(checkpoint.position);
        if off == Some(Defence::CheckpointNamesItsEvent) {
            stored = stored.and(checkpoint.event); // any event at the position is accepted
        }
        self.told |= checkpoint.publisher == self.claim.publisher;
        if off == Some(Defence::GiveWayToTheSuccessor) {
            let term = self.claim.term;
            self.claim.held = false;
            let checked = self.claim.check(&checkpoint, stored);
            self.claim.term = term;
            return checked;
        }
        self.claim.check(&checkpoint, stored)
    }

    fn initialize(&self, turn: usize, broker: &mut Broker, off: Option<Defence>) {
        let by = Producer { process: self.number, turn };
        let alone = match off {
            Some(Defence::FixedTransactionalId) => true,
            Some(Defence::FenceEveryTurn) => turn > 0,
            _ => false,
        };
        broker.initialize(by, |other| other.turn == turn && (!alone || other == by));
    }

    fn own(&self) -> Checkpoint {
        self.claim.checkpoint(self.position, self.event_at(self.position))
    }

    /// Publishes from a position. If the newest checkpoint names another publisher, publishes its own checkpoint first.
    fn go_on(&mut self, position: Position, broker: &Broker) {
        self.position = position;
        self.doing = Doing::Waiting;
        if broker.checkpoint().is_none_or(|checkpoint| self.claim.must_be_rewritten(&checkpoint)) {
            self.begin(position, Some(self.own()), true);
        }
    }

    fn begin(&mut self, last: Position, checkpoint: Option<Checkpoint>, claims: bool) {
        let (mut transaction, mut action) = Transaction::start(SURELY_SENT_ONCE);
        while matches!(action, Action::Begin | Action::Send) {
            action = transaction.next(Input { result: Ok(()), took: QUICK });
        }
        let next = Position(self.position.0 + 1);
        self.doing = Doing::Writing(Writing { transaction, action, next, last, checkpoint, claims });
    }

    fn write(&mut self, mut writing: Writing, step: Step, broker: &mut Broker, model: &Publishing) {
        let off = model.off;
        let by = Producer { process: self.number, turn: self.turn };
        let input = match writing.action {
            _ if !broker.takes(by) => Input { result: Err(Fault::Fatal), took: QUICK },
            Action::Drain if step == Step::RecordLost && off != Some(Defence::AbortWhereARecordFailed) => {
                Input { result: Err(Fault::Failed), took: QUICK }
            }
            Action::Drain if off != Some(Defence::CheckTheOffsets) && broker.ends_before(self.position, by) => {
                Input { result: Err(Fault::Failed), took: QUICK }
            }
            Action::Drain => {
                let checkpoint = writing.checkpoint.filter(|_| writing.next > writing.last);
                let checkpoint = checkpoint.map(|checkpoint| Value::Checkpoint { checkpoint, known: self.told });
                let event = self.event_at(writing.next).filter(|_| writing.next <= writing.last).map(Value::Event);
                if let Some(value) = event.or(checkpoint).filter(|_| step != Step::RecordLost) {
                    broker.write(by, value);
                }
                writing.next.0 += 1;
                if writing.next.0 <= writing.last.0 + u64::from(writing.checkpoint.is_some()) {
                    self.doing = Doing::Writing(writing);
                    return;
                }
                Input { result: Ok(()), took: QUICK }
            }
            Action::Commit => {
                broker.open(by).for_each(|entry| entry.meant = true);
                end(End { by, commit: true }, step, broker)
            }
            Action::Abort => end(End { by, commit: false }, step, broker),
            Action::Begin | Action::Send | Action::Finish(_) => return, // not reached: `begin` has passed the first two
        };
        let took = match off {
            Some(Defence::RetireASlowProducer) => QUICK, // the time is ignored
            _ if model.slow => SLOW,
            _ => input.took,
        };
        writing.action = writing.transaction.next(Input { took, ..input });
        self.doing = Doing::Writing(writing);
        if let Action::Finish(Finish { outcome, reusable }) = writing.action {
            let kept = off == Some(Defence::RetireAFailedProducer) && input.result == Err(Fault::Failed);
            self.finish(writing, outcome, reusable || kept);
        }
    }

    /// Handles the end of a transaction as the relay does.
    fn finish(&mut self, writing: Writing, outcome: Outcome, reusable: bool) {
        let committed = outcome == Outcome::Committed;
        if writing.checkpoint.is_some() {
            self.claim.note(outcome);
            self.told |= committed;
        }
        if committed && !writing.claims {
            self.position = writing.last;
        }
        self.turn = 1 - self.turn;
        self.doing = Doing::Waiting;
        if !reusable || (writing.claims && !committed) {
            self.turn = 0;
            self.doing = Doing::Looking;
        }
        if committed && reusable && writing.checkpoint.is_none() {
            self.begin(self.position, Some(self.own()), false); // the checkpoint in a second transaction
        }
    }
}

/// Ends a transaction, and returns the answer that its producer gets.
fn end(end: End, step: Step, broker: &mut Broker) -> transaction::Input {
    if step != Step::HeldBack {
        broker.end(end);
    }
    if matches!(step, Step::SentTwice | Step::HeldBack) {
        broker.under_way.push(end);
        broker.under_way.sort_unstable();
    }
    match step {
        Step::Well | Step::RecordLost => Input { result: Ok(()), took: QUICK },
        Step::SentTwice => Input { result: Ok(()), took: SLOW },
        Step::AnswerLost | Step::HeldBack => Input { result: Err(Fault::Failed), took: QUICK },
    }
}
