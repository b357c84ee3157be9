//! Checks the promises of both services about one order and its money, and that each of their rules is needed.

use model::{
    check,
    paying::{Defence, Faults, Paying},
};

#[test]
fn an_order_is_charged_once_and_not_left_charged_whatever_dies_or_is_lost() {
    check::every_state("paying", Paying::new(None));
}

#[test]
fn a_record_that_is_read_again_changes_nothing_even_where_its_cause_is_forgotten() {
    let faults = Faults { crashes: 1, network: 0, aside: 2, reviews: 1, contradictions: 0 };
    check::every_state("paying, causes forgotten", Paying { faults, off: Some(Defence::CauseIsRecorded) });
}

#[test]
fn without_any_one_defence_the_property_that_it_guards_fails() {
    for defence in Defence::NEEDED {
        let model = Paying::new(Some(defence));
        for property in defence.guards() {
            let trace = check::shortest_trace(&model, property);
            let trace = trace.unwrap_or_else(|| panic!("without {defence:?}, this still holds: {property}"));
            eprintln!("without {defence:?}, this fails after {} steps: {property}", trace.len());
            eprintln!("    {trace:?}");
        }
    }
}
