//! A service: its log, which is its topic too, its inbox, and one caller beside that.
//!
//! That every event of a log is read once and in order is what [`publishing`](crate::publishing) shows.

use oncelog::{
    aggregate::{Aggregate, decide_once},
    event::EventId,
};
use uuid::Uuid;

use super::Defence;

/// An event and the record that led to it, by its place in the other service's log.
type Recorded<E> = (E, Option<usize>);

/// A service.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Service<A, E, C> {
    /// The aggregate, as its log tells.
    pub state: A,
    /// What it has recorded of the order.
    pub log: Vec<Recorded<E>>,
    /// Where its inbox stands. What led to nothing may be read again after a crash.
    pub read: usize,
    /// The same, in the store.
    pub stored: usize,
    /// Records that were set aside and will be put back.
    pub aside: Vec<usize>,
    /// What the inbox has decided and not committed yet.
    pub inbox: Option<Decided<E, C>>,
    /// The same of a call, or of an answer.
    pub caller: Option<Decided<E, C>>,
    /// Whether it has refused what the other service, the gateway or a person said.
    pub refused: bool,
}

/// A decision that is yet to be committed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Decided<E, C> {
    command: C,
    /// The record that it comes from.
    record: Option<Record>,
    /// How long the log was.
    expected: usize,
    events: Vec<E>,
}

/// A record in the hands of the inbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Record {
    /// Its place in the other service's log.
    pub offset: usize,
    /// Whether it was put back.
    pub put_back: bool,
}

impl<A: Aggregate<Event = E, Command = C>, E, C> Service<A, E, C> {
    /// A service that has recorded this.
    pub fn new(events: Vec<E>) -> Self {
        let (state, log, aside) = (A::default(), Vec::new(), Vec::new());
        let mut service = Self { state, log, read: 0, stored: 0, aside, inbox: None, caller: None, refused: false };
        service.record(events, None);
        service
    }

    fn record(&mut self, events: Vec<E>, cause: Option<usize>) {
        events.iter().for_each(|event| self.state.apply(event));
        self.log.extend(events.into_iter().map(|event| (event, cause)));
    }

    /// Dies, and forgets everything but its store.
    pub fn crash(&mut self) {
        self.read = self.stored;
        (self.inbox, self.caller) = (None, None);
    }

    /// Sets a record aside, to be put back later.
    pub fn set_aside(&mut self, record: Record) {
        self.aside.push(record.offset);
        self.pass(record);
    }

    /// Whether no record has led to a second event.
    pub fn each_record_led_to_one_event(&self) -> bool {
        let mut causes: Vec<_> = self.log.iter().filter_map(|(_, cause)| *cause).collect();
        let in_all = causes.len();
        causes.sort_unstable();
        causes.dedup();
        causes.len() == in_all
    }

    /// The records that the inbox may go on with: the next one of the topic, and one that was put back.
    pub fn next(&self, topic: usize) -> impl Iterator<Item = Record> + use<A, E, C> {
        let next = Some(self.read).filter(|read| *read < topic).map(|offset| Record { offset, put_back: false });
        let put_back = self.aside.first().map(|offset| Record { offset: *offset, put_back: true });
        let is_free = self.inbox.is_none();
        next.into_iter().chain(put_back).filter(move |_| is_free)
    }

    /// Whether the inbox, and a caller, are about to commit.
    pub fn doors(&self) -> (bool, bool) {
        (self.inbox.is_some(), self.caller.is_some())
    }

    /// Loads and decides what a record asks for. One that leads to nothing needs no commit.
    pub fn take(&mut self, record: Record, command: Option<C>, off: Option<Defence>) {
        let decided = command.and_then(|command| self.decide(command, Some(record), off));
        if off == Some(Defence::OffsetWithTheEffect) {
            self.pass(record);
        }
        match decided {
            Some(decided) if !decided.events.is_empty() => self.inbox = Some(decided),
            _ if record.put_back => self.pass(record),
            _ => self.read = record.offset + 1,
        }
    }

    /// Loads and decides what a caller asks for.
    pub fn call(&mut self, command: C, off: Option<Defence>) {
        self.caller = self.decide(command, None, off).filter(|decided| !decided.events.is_empty());
    }

    /// Commits what was decided, if nothing came in between; otherwise decides it again.
    pub fn commit(&mut self, decided: Decided<E, C>, off: Option<Defence>) {
        let Decided { command, record, expected, events } = decided;
        if expected != self.log.len() && off != Some(Defence::ExpectedVersion) {
            match record {
                Some(record) => self.take(record, Some(command), off),
                None => self.call(command, off),
            }
            return;
        }
        self.record(events, record.map(|record| record.offset));
        if let Some(record) = record
            && off != Some(Defence::OffsetWithTheEffect)
        {
            self.pass(record);
        }
    }

    fn decide(&mut self, command: C, record: Option<Record>, off: Option<Defence>) -> Option<Decided<E, C>> {
        let name = |offset: usize| EventId(Uuid::from_u128(offset as u128));
        let mut causes: Vec<_> = self.log.iter().filter_map(|(_, cause)| cause.map(name)).collect();
        if matches!(off, Some(Defence::CauseIsRecorded | Defence::CauseOrEffectIsKnown)) {
            causes.clear();
        }
        let cause = record.map(|record| name(record.offset));
        let state = match record {
            Some(record) if off == Some(Defence::CauseOrEffectIsKnown) => &self.without_effects_of(record),
            _ => &self.state,
        };
        match decide_once(state, &causes, &command, cause) {
            Ok(events) => Some(Decided { command, record, expected: self.log.len(), events }),
            Err(_) => {
                self.refused = true;
                None
            }
        }
    }

    /// The aggregate as it would be, had a record never been read.
    fn without_effects_of(&self, record: Record) -> A {
        let mut state = A::default();
        let others = self.log.iter().filter(|(_, cause)| *cause != Some(record.offset));
        others.for_each(|(event, _)| state.apply(event));
        state
    }

    fn pass(&mut self, record: Record) {
        if record.put_back {
            self.aside.retain(|offset| *offset != record.offset);
        } else {
            self.read = record.offset + 1;
            self.stored = self.read;
        }
    }
}
