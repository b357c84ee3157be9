//! The rules of payments: their state, commands and events. Pure: no clock, no I/O, no async.

use std::time::SystemTime;

use contracts::money::Money;
pub use contracts::payments::{Decline, PaymentEvent, Review};
use oncelog::aggregate::Aggregate;

/// The gateway's answer to a charge. It is final.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Receipt {
    /// The amount was charged.
    Charged {
        /// The gateway's reference for the charge.
        reference: String,
    },
    /// The amount was not charged, and never will be.
    Declined(Decline),
}

/// The gateway's answer to a refund.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Refund {
    /// The charge was refunded.
    Refunded {
        /// The gateway's reference for the refund.
        reference: String,
    },
    /// Nothing was charged, and nothing ever will be under this key.
    NothingCharged,
    /// The gateway refuses to refund the charge, with this message.
    Refused(String),
}

/// The outcome that a person found out.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Settlement {
    /// The amount was charged.
    Charged {
        /// The gateway's reference for the charge.
        reference: String,
    },
    /// The amount was not charged, and cannot be charged any more.
    NotCharged,
    /// The charge was refunded.
    Refunded {
        /// The reference for the refund, at the gateway or elsewhere.
        reference: String,
    },
}

/// The code of a payment that failed because a person found that it was never charged.
pub const NOT_CHARGED: &str = "NOT_CHARGED";

/// A command to a payment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// Charge for the order.
    Request {
        /// The amount to charge.
        money: Money,
        /// The time at which the order was created.
        order_time: SystemTime,
    },
    /// Leave nothing charged: the order is being cancelled.
    Cancel,
    /// Record the gateway's answer to the charge.
    RecordCharge(Receipt),
    /// Record the gateway's answer to the refund.
    RecordRefund(Refund),
    /// Record that the gateway cannot tell whether it charged.
    RequireReview,
    /// Record the outcome that a person found out.
    Settle {
        /// The outcome.
        settlement: Settlement,
        /// The person.
        by: String,
    },
}

/// The one payment of an order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Payment {
    /// The payment has no event.
    #[default]
    Unknown,
    /// The order was cancelled before the payment was requested.
    NeverBegun,
    /// The payment was requested.
    Known {
        /// The amount.
        money: Money,
        /// The time at which the order was created.
        order_time: SystemTime,
        /// The current state.
        state: State,
    },
}

/// The state of a payment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// The gateway has not answered yet.
    Requested,
    /// Charged, once.
    Completed {
        /// The gateway's reference for the charge.
        gateway_reference: String,
    },
    /// Refused for good.
    Failed(Decline),
    /// Nothing may stay charged, and the gateway has not confirmed that yet.
    Cancelling {
        /// The gateway's reference for the charge, if it is known.
        charge: Option<String>,
    },
    /// Cancelled, and never charged.
    Voided,
    /// Cancelled, and refunded.
    Refunded {
        /// The gateway's reference for the charge, if it was ever known.
        charge: Option<String>,
        /// The gateway's reference for the refund.
        refund: String,
    },
    /// A person has to find out what happened to the money.
    NeedsReview {
        /// The reason for which a person is needed.
        review: Review,
        /// True if the order is being cancelled.
        cancelled: bool,
        /// The gateway's reference for the charge, if it is known.
        charge: Option<String>,
    },
}

/// The reason for which a payment refuses a command.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// The payment was requested before, with another amount.
    #[error("the payment was requested before with {known}, and now with {asked}")]
    OtherAmount {
        /// The amount of the payment.
        known: Money,
        /// The amount of this request.
        asked: Money,
    },
    /// The payment was never requested.
    #[error("there is no such payment")]
    Unknown,
    /// The gateway gave another answer before.
    #[error("the gateway gave another answer before")]
    Contradicted,
    /// The payment needs no review, or another outcome answers it.
    #[error("the payment needs no review, or needs another outcome")]
    NotInReview,
}

impl Aggregate for Payment {
    type Event = PaymentEvent;
    type Command = Command;
    type Rejection = Rejection;

    fn decide(&self, command: &Command) -> Result<Vec<PaymentEvent>, Rejection> {
        match (self, command) {
            (Self::Unknown, &Command::Request { money, order_time }) => {
                Ok(vec![PaymentEvent::Requested { money, order_time }])
            }
            (Self::Unknown, Command::Cancel) => Ok(vec![PaymentEvent::Voided { settled_by: String::new() }]),
            (Self::NeverBegun, Command::Request { .. } | Command::Cancel) => Ok(Vec::new()),
            (Self::Unknown | Self::NeverBegun, _) => Err(Rejection::Unknown),
            (Self::Known { money, .. }, Command::Request { money: asked, .. }) if money == asked => Ok(Vec::new()),
            (Self::Known { money, .. }, Command::Request { money: asked, .. }) => {
                Err(Rejection::OtherAmount { known: *money, asked: *asked })
            }
            (Self::Known { state, .. }, Command::Cancel) => Ok(state.cancel()),
            (Self::Known { state, .. }, Command::RecordCharge(receipt)) => state.record_charge(receipt),
            (Self::Known { state, .. }, Command::RecordRefund(refund)) => state.record_refund(refund),
            (Self::Known { state, .. }, Command::RequireReview) => Ok(state.require_review()),
            (Self::Known { state, .. }, Command::Settle { settlement, by }) => state.settle(settlement, by),
        }
    }

    fn apply(&mut self, event: &PaymentEvent) {
        match (self, event) {
            (this @ Self::Unknown, &PaymentEvent::Requested { money, order_time }) => {
                *this = Self::Known { money, order_time, state: State::Requested };
            }
            (this @ Self::Unknown, PaymentEvent::Voided { .. }) => *this = Self::NeverBegun,
            (Self::Known { state, .. }, event) => state.apply(event),
            (Self::Unknown | Self::NeverBegun, _) => {} // no decision leads here
        }
    }
}

impl State {
    fn cancel(&self) -> Vec<PaymentEvent> {
        match self {
            Self::Requested | Self::Completed { .. } | Self::NeedsReview { cancelled: false, .. } => {
                vec![PaymentEvent::CancellationRequested]
            }
            // Nothing is charged and nothing will be, or the cancellation has begun.
            Self::Failed(_)
            | Self::Cancelling { .. }
            | Self::Voided
            | Self::Refunded { .. }
            | Self::NeedsReview { cancelled: true, .. } => Vec::new(),
        }
    }

    fn record_charge(&self, receipt: &Receipt) -> Result<Vec<PaymentEvent>, Rejection> {
        let settled_by = String::new();
        match (self, receipt) {
            (Self::Requested | Self::Cancelling { charge: None }, Receipt::Charged { reference }) => {
                Ok(vec![PaymentEvent::Completed { gateway_reference: reference.clone(), settled_by }])
            }
            (Self::Requested | Self::Cancelling { charge: None }, Receipt::Declined(decline)) => {
                Ok(vec![PaymentEvent::Failed { decline: decline.clone(), settled_by }])
            }
            (known, Receipt::Charged { reference }) if known.charge() == Some(reference) => Ok(Vec::new()),
            (Self::Failed(known), Receipt::Declined(decline)) if known == decline => Ok(Vec::new()),
            _ => Err(Rejection::Contradicted),
        }
    }

    fn record_refund(&self, refund: &Refund) -> Result<Vec<PaymentEvent>, Rejection> {
        let settled_by = String::new();
        match (self, refund) {
            (Self::Cancelling { .. }, Refund::Refunded { reference }) => {
                Ok(vec![PaymentEvent::Refunded { gateway_reference: reference.clone(), settled_by }])
            }
            (Self::Cancelling { charge: None }, Refund::NothingCharged) => {
                Ok(vec![PaymentEvent::Voided { settled_by }])
            }
            (Self::Cancelling { .. }, Refund::Refused(message)) => {
                Ok(vec![PaymentEvent::ReviewRequired(Review::RefundRefused(message.clone()))])
            }
            (Self::Refunded { refund, .. }, Refund::Refunded { reference }) if refund == reference => Ok(Vec::new()),
            (Self::Voided, Refund::NothingCharged) => Ok(Vec::new()),
            (Self::NeedsReview { review: Review::RefundRefused(_), .. }, Refund::Refused(_)) => Ok(Vec::new()),
            _ => Err(Rejection::Contradicted),
        }
    }

    fn require_review(&self) -> Vec<PaymentEvent> {
        match self {
            Self::Requested | Self::Cancelling { charge: None } => {
                vec![PaymentEvent::ReviewRequired(Review::ChargeUnknown)]
            }
            // The answer has become known in between.
            Self::Completed { .. }
            | Self::Failed(_)
            | Self::Cancelling { charge: Some(_) }
            | Self::Voided
            | Self::Refunded { .. }
            | Self::NeedsReview { .. } => Vec::new(),
        }
    }

    fn settle(&self, settlement: &Settlement, by: &str) -> Result<Vec<PaymentEvent>, Rejection> {
        let settled_by = by.to_owned();
        match (self, settlement) {
            (Self::NeedsReview { review: Review::ChargeUnknown, .. }, Settlement::Charged { reference }) => {
                Ok(vec![PaymentEvent::Completed { gateway_reference: reference.clone(), settled_by }])
            }
            (Self::NeedsReview { review: Review::ChargeUnknown, cancelled: true, .. }, Settlement::NotCharged) => {
                Ok(vec![PaymentEvent::Voided { settled_by }])
            }
            (Self::NeedsReview { review: Review::ChargeUnknown, cancelled: false, .. }, Settlement::NotCharged) => {
                let message = "a person found that the gateway never charged it".to_owned();
                let decline = Decline { code: NOT_CHARGED.to_owned(), message };
                Ok(vec![PaymentEvent::Failed { decline, settled_by }])
            }
            (Self::NeedsReview { review: Review::RefundRefused(_), .. }, Settlement::Refunded { reference }) => {
                Ok(vec![PaymentEvent::Refunded { gateway_reference: reference.clone(), settled_by }])
            }
            // The same outcome was reported before.
            (known, Settlement::Charged { reference }) if known.charge() == Some(reference) => Ok(Vec::new()),
            (Self::Failed(Decline { code, .. }), Settlement::NotCharged) if code == NOT_CHARGED => Ok(Vec::new()),
            (Self::Voided, Settlement::NotCharged) => Ok(Vec::new()),
            (Self::Refunded { refund, .. }, Settlement::Refunded { reference }) if refund == reference => {
                Ok(Vec::new())
            }
            _ => Err(Rejection::NotInReview),
        }
    }

    /// Returns the gateway's reference for the charge, if one is known.
    pub fn charge(&self) -> Option<&String> {
        match self {
            Self::Completed { gateway_reference } => Some(gateway_reference),
            Self::Cancelling { charge } | Self::Refunded { charge, .. } | Self::NeedsReview { charge, .. } => {
                charge.as_ref()
            }
            Self::Requested | Self::Failed(_) | Self::Voided => None,
        }
    }

    fn apply(&mut self, event: &PaymentEvent) {
        let charge = self.charge().cloned();
        let cancelled = matches!(self, Self::Cancelling { .. } | Self::NeedsReview { cancelled: true, .. });
        *self = match event {
            PaymentEvent::Requested { .. } => return, // no decision leads here
            PaymentEvent::Completed { gateway_reference, .. } if cancelled => {
                Self::Cancelling { charge: Some(gateway_reference.clone()) }
            }
            PaymentEvent::Completed { gateway_reference, .. } => {
                Self::Completed { gateway_reference: gateway_reference.clone() }
            }
            PaymentEvent::Failed { decline, .. } => Self::Failed(decline.clone()),
            PaymentEvent::CancellationRequested => {
                if let Self::NeedsReview { cancelled, .. } = self {
                    *cancelled = true;
                    return;
                }
                Self::Cancelling { charge }
            }
            PaymentEvent::Voided { .. } => Self::Voided,
            PaymentEvent::Refunded { gateway_reference, .. } => {
                Self::Refunded { charge, refund: gateway_reference.clone() }
            }
            PaymentEvent::ReviewRequired(review) => Self::NeedsReview { review: review.clone(), cancelled, charge },
        };
    }
}

#[cfg(test)]
mod tests {
    use oncelog::testing::{assert_replay, given};
    use proptest::prelude::*;

    use super::*;

    fn money(amount: i64) -> Money {
        Money::new(amount, "USD").expect("valid")
    }

    fn decline() -> Decline {
        Decline { code: "CARD_DECLINED".to_owned(), message: "declined".to_owned() }
    }

    fn requested() -> PaymentEvent {
        PaymentEvent::Requested { money: money(500), order_time: SystemTime::UNIX_EPOCH }
    }

    fn request(amount: i64) -> Command {
        Command::Request { money: money(amount), order_time: SystemTime::UNIX_EPOCH }
    }

    fn completed() -> PaymentEvent {
        PaymentEvent::Completed { gateway_reference: "ch_1".to_owned(), settled_by: String::new() }
    }

    fn failed() -> PaymentEvent {
        PaymentEvent::Failed { decline: decline(), settled_by: String::new() }
    }

    fn refunded() -> PaymentEvent {
        PaymentEvent::Refunded { gateway_reference: "re_1".to_owned(), settled_by: String::new() }
    }

    fn voided() -> PaymentEvent {
        PaymentEvent::Voided { settled_by: String::new() }
    }

    fn given_back() -> Command {
        Command::RecordRefund(Refund::Refunded { reference: "re_1".to_owned() })
    }

    fn settle(settlement: Settlement) -> Command {
        Command::Settle { settlement, by: "jane".to_owned() }
    }

    fn charged(reference: &str) -> Command {
        Command::RecordCharge(Receipt::Charged { reference: reference.to_owned() })
    }

    fn declined() -> Command {
        Command::RecordCharge(Receipt::Declined(decline()))
    }

    #[test]
    fn the_intent_is_recorded_once() {
        let request = request(500);
        given::<Payment>([]).when(&request).then([requested()]);
        for history in [vec![requested()], vec![requested(), completed()]] {
            given::<Payment>(&history).when(&request).then([]);
        }
    }

    #[test]
    fn an_order_cannot_change_its_amount() {
        let rejection = Rejection::OtherAmount { known: money(500), asked: money(501) };
        given::<Payment>([requested()]).when(request(501)).then_rejected(rejection);
    }

    #[test]
    fn what_the_gateway_said_is_recorded_once() {
        given::<Payment>([requested()]).when(charged("ch_1")).then([completed()]);
        given::<Payment>([requested()]).when(declined()).then([failed()]);
        given::<Payment>([requested(), completed()]).when(charged("ch_1")).then([]);
        given::<Payment>([requested(), failed()]).when(declined()).then([]);
    }

    #[test]
    fn a_gateway_that_says_otherwise_later_is_contradicted() {
        given::<Payment>([requested(), completed()]).when(declined()).then_rejected(Rejection::Contradicted);
        given::<Payment>([requested(), completed()]).when(charged("ch_2")).then_rejected(Rejection::Contradicted);
        given::<Payment>([requested(), failed()]).when(charged("ch_1")).then_rejected(Rejection::Contradicted);
    }

    #[test]
    fn nothing_is_charged_that_nobody_asked_for() {
        given::<Payment>([]).when(charged("ch_1")).then_rejected(Rejection::Unknown);
    }

    use PaymentEvent::{CancellationRequested, ReviewRequired};

    #[test]
    fn a_cancelled_payment_is_given_back_or_never_made() {
        given::<Payment>([requested()]).when(&Command::Cancel).then([CancellationRequested]);
        given::<Payment>([requested(), completed()]).when(&Command::Cancel).then([CancellationRequested]);
        let unknown = [requested(), CancellationRequested];
        let known = [requested(), completed(), CancellationRequested];
        let nothing = Command::RecordRefund(Refund::NothingCharged);
        given::<Payment>(&unknown).when(&nothing).then([voided()]);
        given::<Payment>(&known).when(&nothing).then_rejected(Rejection::Contradicted);
        for before in [&unknown[..], &known[..]] {
            given::<Payment>(before).when(&Command::Cancel).then([]);
            given::<Payment>(before).when(given_back()).then([refunded()]);
            given::<Payment>([before, &[refunded()]].concat()).when(given_back()).then([]);
            given::<Payment>([before, &[refunded()]].concat()).when(&Command::Cancel).then([]);
        }
    }

    #[test]
    fn a_charge_that_is_under_way_when_it_is_cancelled_is_recorded_and_then_given_back() {
        let cancelled = [requested(), CancellationRequested];
        given::<Payment>(&cancelled).when(charged("ch_1")).then([completed()]);
        let known = [&cancelled[..], &[completed()]].concat();
        given::<Payment>(&known).when(given_back()).then([refunded()]);
        given::<Payment>(&cancelled).when(declined()).then([failed()]);
        given::<Payment>([&cancelled[..], &[failed()]].concat()).when(&Command::Cancel).then([]);
    }

    #[test]
    fn what_was_voided_is_never_charged() {
        let history = [requested(), CancellationRequested, voided()];
        given::<Payment>(&history).when(charged("ch_1")).then_rejected(Rejection::Contradicted);
        given::<Payment>(&history).when(request(500)).then([]);
        given::<Payment>([]).when(&Command::Cancel).then([voided()]);
        given::<Payment>([voided()]).when(request(500)).then([]);
        given::<Payment>([voided()]).when(charged("ch_1")).then_rejected(Rejection::Unknown);
    }

    #[test]
    fn what_the_gateway_cannot_tell_is_settled_by_a_person() {
        let review = || ReviewRequired(Review::ChargeUnknown);
        given::<Payment>([requested()]).when(&Command::RequireReview).then([review()]);
        given::<Payment>([requested(), completed()]).when(&Command::RequireReview).then([]);
        let unknown = [requested(), review()];
        let was_charged = settle(Settlement::Charged { reference: "ch_1".to_owned() });
        let by = || "jane".to_owned();
        let charged = PaymentEvent::Completed { gateway_reference: "ch_1".to_owned(), settled_by: by() };
        given::<Payment>(&unknown).when(&was_charged).then([charged.clone()]);
        given::<Payment>([&unknown[..], std::slice::from_ref(&charged)].concat()).when(&was_charged).then([]);
        let decision = given::<Payment>(&unknown).when(settle(Settlement::NotCharged)).decision();
        let not_charged = decision.expect("settled");
        assert!(matches!(&not_charged[..], [PaymentEvent::Failed { decline, .. }] if decline.code == NOT_CHARGED));
        given::<Payment>([&unknown[..], &not_charged].concat()).when(settle(Settlement::NotCharged)).then([]);

        // The order was cancelled in the meantime.
        let cancelled = [&unknown[..], &[CancellationRequested]].concat();
        given::<Payment>(&cancelled)
            .when(settle(Settlement::NotCharged))
            .then([PaymentEvent::Voided { settled_by: by() }]);
        let to_be_given_back = [&cancelled[..], &[charged]].concat();
        given::<Payment>(&to_be_given_back).when(given_back()).then([refunded()]);
    }

    #[test]
    fn a_refund_that_is_refused_is_settled_by_a_person() {
        let refused = Command::RecordRefund(Refund::Refused("too late".to_owned()));
        let review = ReviewRequired(Review::RefundRefused("too late".to_owned()));
        let history = [requested(), completed(), CancellationRequested];
        given::<Payment>(&history).when(&refused).then([review.clone()]);
        let history = [&history[..], &[review]].concat();
        given::<Payment>(&history).when(settle(Settlement::NotCharged)).then_rejected(Rejection::NotInReview);
        let by_transfer = settle(Settlement::Refunded { reference: "transfer".to_owned() });
        let refunded =
            PaymentEvent::Refunded { gateway_reference: "transfer".to_owned(), settled_by: "jane".to_owned() };
        given::<Payment>(&history).when(&by_transfer).then([refunded]);
        given::<Payment>([requested()]).when(&by_transfer).then_rejected(Rejection::NotInReview);
    }

    fn any_command() -> impl Strategy<Value = Command> {
        let refused = || Command::RecordRefund(Refund::Refused("too late".to_owned()));
        prop_oneof![
            (1..3_i64).prop_map(request),
            Just(Command::Cancel),
            "[ab]".prop_map(|reference| charged(&reference)),
            Just(declined()),
            Just(given_back()),
            Just(refused()),
            Just(Command::RecordRefund(Refund::NothingCharged)),
            Just(Command::RequireReview),
            Just(settle(Settlement::NotCharged)),
            "[ab]".prop_map(|reference| settle(Settlement::Charged { reference })),
            "[ab]".prop_map(|reference| settle(Settlement::Refunded { reference })),
        ]
    }

    proptest! {
        #[test]
        fn replay_equals_the_live_state(commands in prop::collection::vec(any_command(), 0..20)) {
            assert_replay::<Payment>(&commands);
        }
    }
}
