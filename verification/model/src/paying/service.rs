//! A service: its log, its inbox, and one concurrent caller. The log also serves as its topic.
//!
//! [`publishing`](crate::publishing) shows that every event of a log is read once and in order.

use oncelog::{
    aggregate::{Aggregate, decide_once},
    event::EventId,
};
use uuid::Uuid;

use super::Defence;

/// An event, and the record that caused it: its offset in the other service's log.
type Recorded<E> = (E, Option<usize>);

/// A service with one order or payment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Service<A, E, C> {
    /// The aggregate, folded from the log.
    pub state: A,
    /// The recorded events of the order.
    pub log: Vec<Recorded<E>>,
    /// The next offset that the inbox reads. Records without an effect may be read again after a crash.
    pub read: usize,
    /// The inbox's offset in the store.
    pub stored: usize,
    /// Dead-lettered records that will be replayed.
    pub aside: Vec<usize>,
    /// The uncommitted decision of the inbox.
    pub inbox: Option<Decided<E, C>>,
    /// The uncommitted decision of a call, or of a gateway's answer.
    pub caller: Option<Decided<E, C>>,
    /// True if it has refused a report of the other service, the gateway or a person.
    pub refused: bool,
}

/// A decision that is not committed yet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Decided<E, C> {
    command: C,
    /// The record that caused it.
    record: Option<Record>,
    /// The length of the log at the decision.
    expected: usize,
    events: Vec<E>,
}

/// A record that the inbox processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Record {
    /// Its offset in the other service's log.
    pub offset: usize,
    /// True if it is a replayed dead letter.
    pub put_back: bool,
}

impl<A: Aggregate<Event = E, Command = C>, E, C> Service<A, E, C> {
    /// Returns a service that has recorded these events.
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

    /// Crashes. Only the store is left.
    pub fn crash(&mut self) {
        self.read = self.stored;
        (self.inbox, self.caller) = (None, None);
    }

    /// Dead-letters a record. It is replayed later.
    pub fn set_aside(&mut self, record: Record) {
        self.aside.push(record.offset);
        self.pass(record);
    }

    /// Returns true if no record caused more than one event.
    pub fn each_record_led_to_one_event(&self) -> bool {
        let mut causes: Vec<_> = self.log.iter().filter_map(|(_, cause)| *cause).collect();
        let in_all = causes.len();
        causes.sort_unstable();
        causes.dedup();
        causes.len() == in_all
    }

    /// Returns the records that the inbox may process: the next one of the topic, and the first replayed one.
    pub fn next(&self, topic: usize) -> impl Iterator<Item = Record> + use<A, E, C> {
        let next = Some(self.read).filter(|read| *read < topic).map(|offset| Record { offset, put_back: false });
        let put_back = self.aside.first().map(|offset| Record { offset: *offset, put_back: true });
        let is_free = self.inbox.is_none();
        next.into_iter().chain(put_back).filter(move |_| is_free)
    }

    /// Returns whether the inbox and a caller have an uncommitted decision.
    pub fn doors(&self) -> (bool, bool) {
        (self.inbox.is_some(), self.caller.is_some())
    }

    /// Decides the command of a record. Without events there is nothing to commit.
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

    /// Decides the command of a caller.
    pub fn call(&mut self, command: C, off: Option<Defence>) {
        self.caller = self.decide(command, None, off).filter(|decided| !decided.events.is_empty());
    }

    /// Commits a decision if the log has not changed since. Otherwise decides again.
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

    /// Returns the aggregate without the effects of a record.
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
