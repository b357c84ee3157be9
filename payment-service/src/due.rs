//! Decides the next gateway call of a payment, and the command that its answer leads to. Pure: charging and the model
//! both use it.

use std::time::{Duration, SystemTime};

use crate::{
    gateway::Found,
    payment::{Command, Receipt, Refund, State},
};

/// The gateway call that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Due {
    /// Charge the amount.
    Charge,
    /// Look the charge up, and make it if there was none.
    FindOrCharge,
    /// Refund the charge, or bar the key if there was none.
    Refund,
}

/// Returns the call that is due for a payment, or `None` if the payment is settled or waits for a person.
///
/// Once the gateway forgets the key, a repeated charge would be a second charge. So when half of that time has passed,
/// or if the age is not known, the charge is looked up first.
pub fn due(state: &State, age: Option<Duration>, remembers: Duration) -> Option<Due> {
    match state {
        State::Requested if age.is_none_or(|age| age > remembers / 2) => Some(Due::FindOrCharge),
        State::Requested => Some(Due::Charge),
        State::Cancelling { .. } => Some(Due::Refund),
        State::Completed { .. }
        | State::Failed(_)
        | State::Voided
        | State::Refunded { .. }
        | State::NeedsReview { .. } => None,
    }
}

/// Returns the age of a charge, or `None` if a clock was wrong.
///
/// The order's time comes from the clock of order-service, the intent's from the clock of this service. The larger age
/// counts. The order's time is needed, because after a restore this store may consume an old order again; the intent's,
/// because the other clock may be ahead. A time in the future shows a wrong clock, if it is more than a small skew.
pub fn age(order_time: SystemTime, intent_time: SystemTime, now: SystemTime, remembers: Duration) -> Option<Duration> {
    let skew = SKEW.min(remembers / 4);
    let age = |time| match now.duration_since(time) {
        Ok(age) => Some(age),
        Err(ahead) if ahead.duration() <= skew => Some(Duration::ZERO),
        Err(_) => None,
    };
    Some(age(order_time)?.max(age(intent_time)?))
}

/// The largest difference between two clocks that is usual.
const SKEW: Duration = Duration::from_secs(60);

/// The gateway's answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// The result of the charge.
    Charge(Receipt),
    /// The result of the refund.
    Refund(Refund),
    /// The gateway does not know whether it charged.
    Unknown,
}

impl Answer {
    /// Returns the answer that a look-up gave, or `None` if it found no charge, so that the charge can be made now.
    pub fn found(found: Found) -> Option<Self> {
        match found {
            Found::Receipt(receipt) => Some(Self::Charge(receipt)),
            Found::Unknown => Some(Self::Unknown),
            Found::Nothing => None,
        }
    }

    /// Returns the answer after a decline and a look-up. An earlier call may have charged without an answer, and a
    /// crash leaves no trace of that call here. So a decline counts only if the gateway's records do not contradict it.
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
        assert_eq!(due(&State::Requested, Some(DAY / 2), DAY), Some(Due::Charge));
        assert_eq!(due(&State::Requested, Some(DAY / 2 + Duration::from_secs(1)), DAY), Some(Due::FindOrCharge));
        assert_eq!(due(&State::Requested, None, DAY), Some(Due::FindOrCharge));
    }

    #[test]
    fn the_larger_age_of_both_clocks_counts_and_a_time_in_the_future_is_no_age() {
        let hour = Duration::from_secs(60 * 60);
        let now = SystemTime::UNIX_EPOCH + 365 * DAY;
        assert_eq!(age(now - hour, now - 2 * hour, now, DAY), Some(2 * hour));
        assert_eq!(age(now - 3 * hour, now - 2 * hour, now, DAY), Some(3 * hour));
        // The clock of order-service is 13 hours ahead, and the gateway has forgotten the key since.
        assert_eq!(age(now + 13 * hour, now, now, DAY), None);
        let later = now + 25 * hour;
        assert_eq!(age(now + 13 * hour, now, later, DAY), Some(25 * hour));
        // The own clock was set back since the intent.
        assert_eq!(age(now - hour, now + 2 * hour, now, DAY), None);
        assert_eq!(age(now + SKEW, now, now, DAY), Some(Duration::ZERO), "a usual skew");
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
            assert_eq!(due(&State::Cancelling { charge: None }, Some(age), DAY), Some(Due::Refund));
        }
        assert_eq!(due(&State::Voided, Some(Duration::ZERO), DAY), None);
    }
}
