//! Runs the model checker.

use std::time::Instant;

use stateright::{Checker as _, HasDiscoveries, Model};

/// Visits every reachable state, on two threads, and prints the number of states.
///
/// # Panics
/// If a property fails. The message shows the steps that lead there.
pub fn every_state<M>(name: &str, model: M)
where
    M: Model<State: Clone + std::fmt::Debug + PartialEq + std::hash::Hash + Send + Sync> + Send + Sync + 'static,
    M::Action: Clone + std::fmt::Debug + PartialEq,
{
    let began = Instant::now();
    let checker = model.checker().threads(2).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let (states, deep) = (checker.unique_state_count(), checker.max_depth());
    eprintln!("{name}: {states} states, up to {deep} steps deep, in {:.1} s", began.elapsed().as_secs_f64());
    checker.assert_properties();
}

/// Returns the shortest trace to a state in which the property fails, or `None` if it always holds.
pub fn shortest_trace<M>(model: &M, property: &'static str) -> Option<Vec<M::Action>>
where
    M: Model<State: Clone + PartialEq + std::hash::Hash + Send + Sync> + Clone + Send + Sync + 'static,
    M::Action: Clone + PartialEq,
{
    let mut shortest: Option<Vec<M::Action>> = None;
    loop {
        // The checker continues for a while after the first failing state, and keeps the last one that it finds.
        // Search again below that depth, until there is none.
        let finish = HasDiscoveries::AnyOf([property].into());
        let mut checker = model.clone().checker().finish_when(finish);
        if let Some(trace) = &shortest {
            checker = checker.target_max_depth(trace.len() + 1);
        }
        match checker.spawn_bfs().join().discovery(property) {
            Some(path) => shortest = Some(path.into_actions()),
            None => return shortest,
        }
    }
}
