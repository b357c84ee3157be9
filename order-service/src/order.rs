//! The rules of orders: their state, commands and events. Pure: no clock, no I/O, no async.

pub use contracts::orders::{Details, OrderEvent, PaymentFailure};
use oncelog::aggregate::Aggregate;

/// The outcome of an order's payment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PaymentOutcome {
    /// The amount was charged.
    Completed {
        /// The gateway's reference for the charge.
        gateway_reference: String,
    },
    /// The gateway refused the charge for good.
    Failed(PaymentFailure),
    /// The amount was never charged, and never will be.
    Voided,
    /// The charge was refunded.
    Refunded {
        /// The gateway's reference for the refund.
        gateway_reference: String,
    },
}

/// A command to an order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// Create the order.
    Create(Details),
    /// Cancel the order.
    Cancel,
    /// Record the outcome of its payment.
    RecordPayment(PaymentOutcome),
}

/// An order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Order {
    /// The order has no event.
    #[default]
    Unknown,
    /// The order was created.
    Known {
        /// The details that its creator gave.
        details: Details,
        /// The current state.
        state: State,
    },
}

/// The state of an order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Not paid yet.
    Created,
    /// Paid, once.
    Paid {
        /// The gateway's reference for the charge.
        gateway_reference: String,
    },
    /// Not paid, and never charged.
    PaymentFailed(PaymentFailure),
    /// Being cancelled. The outcome of the payment decides between `Cancelled` and `Refunded`.
    Cancelling,
    /// Cancelled, and never charged.
    Cancelled,
    /// Cancelled, and the charge was refunded.
    Refunded {
        /// The gateway's reference for the refund.
        gateway_reference: String,
    },
}

/// The reason for which an order refuses a command.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// The order was created before, with other details.
    #[error("the order exists with other values of: {}", differing.join(", "))]
    Exists {
        /// The fields that differ, by their names in the API.
        differing: Vec<&'static str>,
    },
    /// The order was never created.
    #[error("there is no such order")]
    Unknown,
    /// The payment had another outcome before.
    #[error("the order's payment had another outcome before")]
    Contradicted,
}

impl Aggregate for Order {
    type Event = OrderEvent;
    type Command = Command;
    type Rejection = Rejection;

    fn decide(&self, command: &Command) -> Result<Vec<OrderEvent>, Rejection> {
        match (self, command) {
            (Self::Unknown, Command::Create(details)) => Ok(vec![OrderEvent::Created(details.clone())]),
            (Self::Known { details: known, .. }, Command::Create(details)) => match differing(known, details) {
                differing if differing.is_empty() => Ok(Vec::new()),
                differing => Err(Rejection::Exists { differing }),
            },
            (Self::Unknown, Command::Cancel | Command::RecordPayment(_)) => Err(Rejection::Unknown),
            (Self::Known { state, .. }, Command::Cancel) => Ok(state.cancel()),
            (Self::Known { state, .. }, Command::RecordPayment(outcome)) => state.record(outcome),
        }
    }

    fn apply(&mut self, event: &OrderEvent) {
        match (self, event) {
            (this @ Self::Unknown, OrderEvent::Created(details)) => {
                *this = Self::Known { details: details.clone(), state: State::Created };
            }
            (Self::Known { state, .. }, event) => {
                *state = match event {
                    OrderEvent::Created(_) => return, // no decision leads here
                    OrderEvent::Paid { gateway_reference } => {
                        State::Paid { gateway_reference: gateway_reference.clone() }
                    }
                    OrderEvent::PaymentFailed(failure) => State::PaymentFailed(failure.clone()),
                    OrderEvent::CancellationRequested => State::Cancelling,
                    OrderEvent::Cancelled => State::Cancelled,
                    OrderEvent::Refunded { gateway_reference } => {
                        State::Refunded { gateway_reference: gateway_reference.clone() }
                    }
                };
            }
            (Self::Unknown, _) => {} // no decision leads here
        }
    }
}

impl State {
    /// Returns true if no further event follows without a call.
    pub fn is_settled(&self) -> bool {
        match self {
            Self::Created | Self::Cancelling => false,
            Self::Paid { .. } | Self::PaymentFailed(_) | Self::Cancelled | Self::Refunded { .. } => true,
        }
    }

    fn cancel(&self) -> Vec<OrderEvent> {
        match self {
            Self::Created | Self::Paid { .. } => vec![OrderEvent::CancellationRequested],
            // Nothing is charged and nothing will be, or the cancellation has begun.
            Self::PaymentFailed(_) | Self::Cancelling | Self::Cancelled | Self::Refunded { .. } => Vec::new(),
        }
    }

    /// Records an outcome as payment-service reports it: payment-service decides how a cancellation ends. A repeated
    /// outcome changes nothing, and neither does one that a later outcome has overtaken.
    fn record(&self, outcome: &PaymentOutcome) -> Result<Vec<OrderEvent>, Rejection> {
        use PaymentOutcome as Outcome;
        match (self, outcome) {
            (Self::Created, Outcome::Completed { gateway_reference }) => {
                Ok(vec![OrderEvent::Paid { gateway_reference: gateway_reference.clone() }])
            }
            (Self::Created, Outcome::Failed(failure)) => Ok(vec![OrderEvent::PaymentFailed(failure.clone())]),
            (Self::Cancelling, Outcome::Failed(_) | Outcome::Voided) => Ok(vec![OrderEvent::Cancelled]),
            (Self::Cancelling, Outcome::Refunded { gateway_reference }) => {
                Ok(vec![OrderEvent::Refunded { gateway_reference: gateway_reference.clone() }])
            }
            (Self::Paid { gateway_reference: known }, Outcome::Completed { gateway_reference })
            | (Self::Refunded { gateway_reference: known }, Outcome::Refunded { gateway_reference })
                if known == gateway_reference =>
            {
                Ok(Vec::new())
            }
            (Self::PaymentFailed(known), Outcome::Failed(failure)) if known == failure => Ok(Vec::new()),
            (Self::Cancelled, Outcome::Failed(_) | Outcome::Voided)
            | (Self::Cancelling | Self::Refunded { .. }, Outcome::Completed { .. }) => Ok(Vec::new()),
            (
                Self::Created | Self::Paid { .. } | Self::PaymentFailed(_) | Self::Cancelled | Self::Refunded { .. },
                _,
            ) => Err(Rejection::Contradicted),
        }
    }
}

/// Returns the fields in which two orders differ, by their names in the API.
fn differing(one: &Details, other: &Details) -> Vec<&'static str> {
    let fields = [
        ("amount", one.money.amount() == other.money.amount()),
        ("currency_code", one.money.currency_code() == other.money.currency_code()),
        ("customer_id", one.customer_id == other.customer_id),
        ("metadata", one.metadata == other.metadata),
    ];
    fields.into_iter().filter(|(_, same)| !same).map(|(name, _)| name).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use contracts::money::Money;
    use oncelog::testing::{assert_replay, given};
    use proptest::prelude::*;

    use super::*;

    fn details() -> Details {
        Details {
            money: Money::new(500, "USD").expect("valid"),
            request_id: "r".to_owned(),
            customer_id: "c".to_owned(),
            metadata: BTreeMap::new(),
        }
    }

    fn completed() -> PaymentOutcome {
        PaymentOutcome::Completed { gateway_reference: "ch_1".to_owned() }
    }

    fn failure() -> PaymentFailure {
        PaymentFailure { code: "CARD_DECLINED".to_owned(), message: "declined".to_owned() }
    }

    fn created() -> OrderEvent {
        OrderEvent::Created(details())
    }

    fn paid() -> OrderEvent {
        OrderEvent::Paid { gateway_reference: "ch_1".to_owned() }
    }

    fn failed() -> OrderEvent {
        OrderEvent::PaymentFailed(failure())
    }

    fn refunded() -> OrderEvent {
        OrderEvent::Refunded { gateway_reference: "re_1".to_owned() }
    }

    #[test]
    fn an_order_is_taken_once() {
        given::<Order>([]).when(Command::Create(details())).then([created()]);
        for history in [vec![created()], vec![created(), paid()], vec![created(), failed()]] {
            given::<Order>(&history).when(Command::Create(details())).then([]);
        }
    }

    #[test]
    fn a_repeat_with_other_fields_is_refused_by_their_names() {
        let mut other = details();
        other.money = Money::new(501, "EUR").expect("valid");
        other.metadata.insert("k".to_owned(), "v".to_owned());
        let differing = vec!["amount", "currency_code", "metadata"];
        given::<Order>([created()]).when(Command::Create(other)).then_rejected(Rejection::Exists { differing });
        let mut other = details();
        other.customer_id.clear();
        let differing = vec!["customer_id"];
        given::<Order>([created(), paid()]).when(Command::Create(other)).then_rejected(Rejection::Exists { differing });
    }

    #[test]
    fn the_outcome_of_the_payment_is_recorded() {
        given::<Order>([created()]).when(Command::RecordPayment(completed())).then([paid()]);
        let outcome = PaymentOutcome::Failed(failure());
        given::<Order>([created()]).when(Command::RecordPayment(outcome)).then([failed()]);
    }

    #[test]
    fn the_same_outcome_again_changes_nothing() {
        given::<Order>([created(), paid()]).when(Command::RecordPayment(completed())).then([]);
        let outcome = PaymentOutcome::Failed(failure());
        given::<Order>([created(), failed()]).when(Command::RecordPayment(outcome)).then([]);
    }

    #[test]
    fn another_outcome_is_a_contradiction() {
        let outcome = PaymentOutcome::Failed(failure());
        given::<Order>([created(), paid()])
            .when(Command::RecordPayment(outcome))
            .then_rejected(Rejection::Contradicted);
        given::<Order>([created(), failed()])
            .when(Command::RecordPayment(completed()))
            .then_rejected(Rejection::Contradicted);
        let other = PaymentOutcome::Completed { gateway_reference: "ch_2".to_owned() };
        given::<Order>([created(), paid()]).when(Command::RecordPayment(other)).then_rejected(Rejection::Contradicted);
    }

    #[test]
    fn a_cancelled_order_ends_as_its_payment_says() {
        use OrderEvent::{CancellationRequested, Cancelled};
        for before in [vec![created()], vec![created(), paid()]] {
            given::<Order>(&before).when(Command::Cancel).then([CancellationRequested]);
            let cancelling = [before, vec![CancellationRequested]].concat();
            let given_back = PaymentOutcome::Refunded { gateway_reference: "re_1".to_owned() };
            for (outcome, ends) in [
                (completed(), vec![]), // the charge will be refunded
                (PaymentOutcome::Failed(failure()), vec![Cancelled]),
                (PaymentOutcome::Voided, vec![Cancelled]),
                (given_back, vec![refunded()]),
            ] {
                given::<Order>(&cancelling).when(Command::RecordPayment(outcome.clone())).then(ends.clone());
                let after = [cancelling.clone(), ends].concat();
                given::<Order>(&after).when(Command::RecordPayment(outcome)).then([]);
                given::<Order>(&after).when(Command::Cancel).then([]);
            }
        }
    }

    #[test]
    fn there_is_nothing_to_cancel_where_nothing_was_paid() {
        given::<Order>([created(), failed()]).when(Command::Cancel).then([]);
        given::<Order>([]).when(Command::Cancel).then_rejected(Rejection::Unknown);
    }

    #[test]
    fn nothing_is_voided_or_refunded_that_nobody_cancelled() {
        let given_back = PaymentOutcome::Refunded { gateway_reference: "re_1".to_owned() };
        for history in [vec![created()], vec![created(), paid()], vec![created(), failed()]] {
            for outcome in [PaymentOutcome::Voided, given_back.clone()] {
                given::<Order>(&history).when(Command::RecordPayment(outcome)).then_rejected(Rejection::Contradicted);
            }
        }
    }

    #[test]
    fn a_payment_of_an_order_that_was_never_taken_is_refused() {
        given::<Order>([]).when(Command::RecordPayment(completed())).then_rejected(Rejection::Unknown);
    }

    fn any_command() -> impl Strategy<Value = Command> {
        let outcome = prop_oneof![
            "[ab]".prop_map(|gateway_reference| PaymentOutcome::Completed { gateway_reference }),
            "[ab]".prop_map(|code| PaymentOutcome::Failed(PaymentFailure { code, message: String::new() })),
            Just(PaymentOutcome::Voided),
            "[ab]".prop_map(|gateway_reference| PaymentOutcome::Refunded { gateway_reference }),
        ];
        prop_oneof![
            "[ab]".prop_map(|customer_id| Command::Create(Details { customer_id, ..details() })),
            Just(Command::Cancel),
            outcome.prop_map(Command::RecordPayment),
        ]
    }

    proptest! {
        #[test]
        fn replay_equals_the_live_state(commands in prop::collection::vec(any_command(), 0..20)) {
            assert_replay::<Order>(&commands);
        }
    }
}
