//! The properties that hold in every state, and the end state that must be reachable.

use stateright::Property;

use super::{Doing, Publishing, State};

/// Checks the events that a `read_committed` reader sees against their positions in the store.
pub const EACH_ONCE: &str = "every event is read at most once, in order and without a gap";
/// An event is read only if its publisher has requested the commit.
pub const MEANT: &str = "no event of an aborted transaction is read";
/// A copy of the store may have recorded other events.
pub const ONE_HISTORY: &str = "the events that are read are the history of one store";
/// Covers a process that has learned that it is the publisher, and publishes again after its successor.
pub const ONE_PUBLISHER: &str = "a publisher that was replaced does not publish again";
/// No event stays unpublished.
pub const COMPLETE: &str = "when the system is idle, every event was read";
/// The checker reaches a second process that has published everything.
pub const REACHED: &str = "a second process publishes everything after the maximum number of faults";

pub(super) fn all() -> Vec<Property<Publishing>> {
    vec![
        Property::always(EACH_ONCE, |_, state: &State| {
            let positions = state.broker.events().map(|(_, event)| event.0.as_u128() / 16);
            positions.eq(1..=state.broker.events().count() as u128)
        }),
        Property::always(MEANT, |_, state: &State| state.broker.events().all(|(entry, _)| entry.meant)),
        Property::always(ONE_HISTORY, |_, state: &State| {
            let read: Vec<_> = state.broker.events().map(|(_, event)| event).collect();
            state.processes.iter().any(|process| process.store.starts_with(&read))
        }),
        Property::always(ONE_PUBLISHER, |_, state: &State| !state.broker.came_back),
        // A topic that has lost events is refused. A person has to decide.
        Property::always(COMPLETE, |model, state: &State| {
            state.broker.lost_tail || !model.is_quiet(state) || is_complete(state)
        }),
        Property::sometimes(REACHED, |model, state: &State| {
            let spent = state.faults.crashes + state.faults.network == 0 && state.broker.under_way.is_empty();
            let second = state.processes.get(1);
            let all = second.is_some_and(|it| it.doing == Doing::Waiting && it.store.len() == model.events);
            spent && all && model.is_quiet(state) && is_complete(state)
        }),
    ]
}

/// Returns true if a publisher is left and all its recorded events were read. Another process may not know yet that it
/// was replaced, if it has no unpublished events.
fn is_complete(state: &State) -> bool {
    let read: Vec<_> = state.broker.events().map(|(_, event)| event).collect();
    let waiting = || state.processes.iter().filter(|process| process.doing == Doing::Waiting);
    waiting().any(|process| process.store == read) && waiting().all(|process| read.starts_with(&process.store))
}
