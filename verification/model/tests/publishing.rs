//! Checks the promises of the relay, and that each of its rules is needed.

use model::{
    check,
    publishing::{Defence, Publishing},
};

#[test]
fn every_event_is_published_once_whatever_dies_hangs_or_arrives_late() {
    check::every_state("publishing", Publishing::new(None));
}

#[test]
fn a_broker_that_costs_a_producer_with_every_commit_is_published_to_all_the_same() {
    check::every_state("publishing slowly", Publishing::on_a_slow_broker());
}

#[test]
fn a_log_that_loses_its_newest_records_is_published_to_once_or_refused() {
    check::every_state("publishing to a log that loses records", Publishing::on_a_log_that_loses_records(None));
}

#[test]
fn without_any_one_defence_the_property_that_it_guards_fails() {
    for defence in Defence::ALL {
        let model = if defence.is_against_losses() {
            Publishing::on_a_log_that_loses_records(Some(defence))
        } else {
            Publishing::new(Some(defence))
        };
        let trace = check::shortest_trace(&model, defence.guards());
        let trace = trace.unwrap_or_else(|| panic!("without {defence:?}, this still holds: {}", defence.guards()));
        eprintln!("without {defence:?}, this fails after {} steps: {}", trace.len(), defence.guards());
        eprintln!("    {trace:?}");
    }
}
