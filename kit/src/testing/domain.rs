//! Given / when / then tests of the rules of a domain.

use std::{borrow::Borrow, fmt::Debug};

use crate::{
    aggregate::{Aggregate, Cause, Loaded, Payload},
    event::{Event, Position, StreamId, Version},
};

/// Starts a test of a domain's rules with the events that have already happened.
///
/// ```
/// # use oncelog::{aggregate::*, testing::given};
/// # #[derive(Debug, Default)] struct Door { open: bool }
/// # #[derive(Clone, Debug, PartialEq)] enum DoorEvent { Opened, Closed }
/// # #[derive(Debug, PartialEq, thiserror::Error)] #[error("the door is closed")] struct IsClosed;
/// # #[derive(Debug)] enum Command { Open, Close }
/// # impl Payload for DoorEvent {
/// #     fn event_type(&self) -> &'static str { "doors.v1.Event" }
/// #     fn encode(&self, _: &Envelope) -> Vec<u8> { Vec::new() }
/// #     fn decode(_: &[u8]) -> Result<Decoded<Self>, PayloadError> { Err(PayloadError::Newer) }
/// # }
/// # impl Aggregate for Door {
/// #     type Event = DoorEvent; type Command = Command; type Rejection = IsClosed;
/// #     fn decide(&self, command: &Command) -> Result<Vec<DoorEvent>, IsClosed> {
/// #         match command {
/// #             Command::Open if self.open => Ok(vec![]),
/// #             Command::Open => Ok(vec![DoorEvent::Opened]),
/// #             Command::Close if self.open => Ok(vec![DoorEvent::Closed]),
/// #             Command::Close => Err(IsClosed),
/// #         }
/// #     }
/// #     fn apply(&mut self, event: &DoorEvent) { self.open = *event == DoorEvent::Opened; }
/// # }
/// given::<Door>([]).when(Command::Open).then([DoorEvent::Opened]);
/// given::<Door>([DoorEvent::Opened]).when(Command::Open).then([]); // a repeat changes nothing
/// given::<Door>([]).when(Command::Close).then_rejected(IsClosed);
/// ```
pub fn given<A: Aggregate>(history: impl AsRef<[A::Event]>) -> Given<A> {
    let mut state = A::default();
    history.as_ref().iter().for_each(|event| state.apply(event));
    Given { state }
}

/// The given history. The command follows with [`when`](Given::when).
#[derive(Debug)]
pub struct Given<A> {
    state: A,
}

impl<A: Aggregate<Command: Debug>> Given<A> {
    /// Decides a command.
    pub fn when(self, command: impl Borrow<A::Command>) -> When<A> {
        let described = format!("{:?}", command.borrow());
        let decided = self.state.decide(command.borrow());
        When { state: self.state, command: described, decided }
    }

    /// Returns the state after the history.
    pub fn state(self) -> A {
        self.state
    }
}

/// The decision on a command. [`then`](When::then) or [`then_rejected`](When::then_rejected) checks it.
#[derive(Debug)]
pub struct When<A: Aggregate> {
    state: A,
    command: String,
    decided: Result<Vec<A::Event>, A::Rejection>,
}

impl<A: Aggregate<Event: Debug + PartialEq, Rejection: Debug + PartialEq> + Debug> When<A> {
    /// Asserts that the command results in these events, and returns the history with them for the next command.
    ///
    /// # Panics
    /// If the command results in other events, or is rejected.
    #[track_caller]
    pub fn then(self, expected: impl AsRef<[A::Event]>) -> Given<A> {
        let expected = expected.as_ref();
        let Self { mut state, command, decided } = self;
        match decided {
            Ok(events) => assert_eq!(events, expected, "{command} on {state:?}"),
            Err(rejection) => panic!("{command} on {state:?} was rejected: {rejection:?}"),
        }
        expected.iter().for_each(|event| state.apply(event));
        Given { state }
    }

    /// Returns the decision.
    pub fn decision(self) -> Result<Vec<A::Event>, A::Rejection> {
        self.decided
    }

    /// Asserts that the command is rejected for this reason.
    ///
    /// # Panics
    /// If the command is accepted, or rejected for another reason.
    #[track_caller]
    pub fn then_rejected(self, expected: A::Rejection) {
        let Self { state, command, decided } = self;
        match decided {
            Ok(events) => panic!("{command} on {state:?} was accepted: {events:?}"),
            Err(rejection) => assert_eq!(rejection, expected, "{command} on {state:?}"),
        }
    }
}

/// Executes commands one after the other. Asserts that the events, encoded and folded again, result in the same state.
/// A rejected command adds no event.
///
/// # Panics
/// If the states differ, or an event cannot be decoded.
pub fn assert_replay<A: Aggregate + Debug + PartialEq>(commands: &[A::Command]) {
    let stream = StreamId::generate();
    let mut live = Loaded::<A>::default();
    let mut stored = Vec::new();
    for command in commands {
        for new in live.execute(stream, command, &Cause::default()).unwrap_or_default() {
            let version = Version(stored.len() as u64 + 1);
            stored.push(Event::stored(new, Position(version.0), stream, version));
        }
    }
    let replayed = Loaded::<A>::fold(&stored).expect("every event can be decoded");
    assert_eq!(replayed.state, live.state);
    assert_eq!(replayed.version, live.version);
    assert_eq!(replayed.update_time, live.update_time);
    for event in &stored {
        let decoded = A::Event::decode(&event.payload).expect("decodes").event;
        assert_eq!(decoded.event_type(), event.event_type);
    }
}
