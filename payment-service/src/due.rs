//! What is due at the gateway, and what its answer tells the payment. Pure: charging goes by it, and so does the model.

use std::time::Duration;

use crate::{
    gateway::Found,
    payment::{Command, Receipt, Refund, State},
};

/// What the gateway is to be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Due {
    /// To charge.
    Charge,
    /// To say what became of the charge, and to make it if there was none.
    FindOrCharge,
    /// To let nothing stay charged.
    Refund,
}

/// What is due for a payment; nothing, if it is settled or waits for a person.
///
/// Near the end of the gateway's memory of keys a repeat could be a second charge: then it is asked first. The age is
/// the order's and not that of this store's record, which may be a restored copy that reads of the order again.
pub fn due(state: &State, age: Duration, remembers: Duration) -> Option<Due> {
    match state {
        State::Requested if age > remembers / 2 => Some(Due::FindOrCharge),
        State::Requested => Some(Due::Charge),
        State::Cancelling { .. } => Some(Due::Refund),
        State::Completed { .. }
        | State::Failed(_)
        | State::Voided
        | State::Refunded { .. }
        | State::NeedsReview { .. } => None,
    }
}

/// What the gateway said.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// Of the charge.
    Charge(Receipt),
    /// Of the refund.
    Refund(Refund),
    /// It can't tell whether it charged.
    Unknown,
}

impl Answer {
    /// What was found is the answer. Where there was nothing, there is none yet: now it can be charged.
    pub fn found(found: Found) -> Option<Self> {
        match found {
            Found::Receipt(receipt) => Some(Self::Charge(receipt)),
            Found::Unknown => Some(Self::Unknown),
            Found::Nothing => None,
        }
    }

    /// An earlier call may have charged and never been answered, and a crash leaves no trace of it here: a decline is
    /// taken only if the gateway's own records do not say otherwise.
    pub fn confirmed(decline: Receipt, found: Found) -> Self {
        Self::found(found).unwrap_or(Self::Charge(decline))
    }
}

impl From<Answer> for Command {
    fn from(answer: Answer) -> Self {
        match answer {
            Answer::Charge(receipt) => Self::RecordCharge(receipt),
            Answer::Refund(refund) => Self::RecordRefund(refund),
            Answer::Unknown => Self::RequireReview,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payment::Decline;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    #[test]
    fn past_half_of_the_gateways_memory_it_is_asked_before_it_is_called_again() {
        assert_eq!(due(&State::Requested, DAY / 2, DAY), Some(Due::Charge));
        assert_eq!(due(&State::Requested, DAY / 2 + Duration::from_secs(1), DAY), Some(Due::FindOrCharge));
    }

    #[test]
    fn a_decline_is_taken_only_if_the_gateways_records_do_not_say_otherwise() {
        let decline = Receipt::Declined(Decline { code: "CARD_DECLINED".to_owned(), message: String::new() });
        let charged = Receipt::Charged { reference: "ch_1".to_owned() };
        let confirmed = |found| Answer::confirmed(decline.clone(), found);
        assert_eq!(confirmed(Found::Receipt(charged.clone())), Answer::Charge(charged));
        assert_eq!(confirmed(Found::Nothing), Answer::Charge(decline.clone()));
        assert_eq!(confirmed(Found::Unknown), Answer::Unknown);
    }

    #[test]
    fn a_refund_is_due_however_old_the_order_is() {
        for age in [Duration::ZERO, DAY, 2 * DAY] {
            assert_eq!(due(&State::Cancelling { charge: None }, age, DAY), Some(Due::Refund));
        }
        assert_eq!(due(&State::Voided, Duration::ZERO, DAY), None);
    }
}
