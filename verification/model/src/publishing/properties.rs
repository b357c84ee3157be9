//! What holds in every state, and what is reached.

use stateright::Property;

use super::{Doing, Publishing, State};

/// What a `read_committed` reader sees, by the events' positions in their store.
pub const EACH_ONCE: &str = "every event is read at most once, in order and without a gap";
/// An event is read only if its publisher has asked for the commit.
pub const MEANT: &str = "no event of an aborted transaction is read";
/// Though there may be a copy that went its own way.
pub const ONE_HISTORY: &str = "what is read is the history of one store";
/// What a process publishes after it was told that it does, and after another one did.
pub const ONE_PUBLISHER: &str = "a publisher that was replaced does not come back";
/// And in the end, all of it.
pub const COMPLETE: &str = "when all is quiet, every event was read";
/// The checker went where it matters.
pub const REACHED: &str = "a second process publishes everything, after as many faults as there may be";

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
        Property::always(COMPLETE, |model, state: &State| !model.is_quiet(state) || is_complete(state)),
        Property::sometimes(REACHED, |model, state: &State| {
            let spent = state.faults.crashes + state.faults.network == 0 && state.broker.under_way.is_empty();
            let second = state.processes.get(1);
            let all = second.is_some_and(|it| it.doing == Doing::Waiting && it.store.len() == model.events);
            spent && all && model.is_quiet(state) && is_complete(state)
        }),
    ]
}

/// Whether a publisher is left, and everything that it has recorded was read. There may be another one that does not
/// know yet that it was replaced, and has nothing to tell.
fn is_complete(state: &State) -> bool {
    let read: Vec<_> = state.broker.events().map(|(_, event)| event).collect();
    let waiting = || state.processes.iter().filter(|process| process.doing == Doing::Waiting);
    waiting().any(|process| process.store == read) && waiting().all(|process| read.starts_with(&process.store))
}
