//! What an order is and how it changes. Pure: no clock, no I/O, no async.

use std::collections::BTreeMap;

use event_sourcing::{aggregate::Aggregate, money::Money};

/// What an order is about, as its creator said it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Details {
    /// What it costs.
    pub money: Money,
    /// The id under which its creation may be repeated; empty if none was given.
    pub request_id: String,
    /// The caller's name for the customer; empty if none was given.
    pub customer_id: String,
    /// What the caller attached.
    pub metadata: BTreeMap<String, String>,
}

/// Why a payment failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PaymentFailure {
    /// From the gateway's closed list, such as `CARD_DECLINED`.
    pub code: String,
    /// For a person.
    pub message: String,
}

/// What became of an order's payment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PaymentOutcome {
    /// It was charged.
    Completed {
        /// The gateway's own name for the charge.
        gateway_reference: String,
    },
    /// It was refused for good.
    Failed(PaymentFailure),
}

/// What can happen to an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OrderEvent {
    /// It was taken.
    Created(Details),
    /// Its payment was completed.
    Paid {
        /// The gateway's own name for the charge.
        gateway_reference: String,
    },
    /// Its payment failed for good.
    PaymentFailed(PaymentFailure),
}

/// What can be asked of an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Take it.
    Create(Details),
    /// Take note of what became of its payment.
    RecordPayment(PaymentOutcome),
}

/// An order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// Nothing is known of it.
    #[default]
    Unknown,
    /// It was taken.
    Known {
        /// What it is about.
        details: Details,
        /// Where it is in its life.
        state: State,
    },
}

/// Where an order is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Not paid yet.
    Created,
    /// Paid, once.
    Paid {
        /// The gateway's own name for the charge.
        gateway_reference: String,
    },
    /// Not paid, and never charged.
    PaymentFailed(PaymentFailure),
}

/// Why an order refuses a command.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// It was taken before, with other details.
    #[error("the order exists with other values of: {}", differing.join(", "))]
    Exists {
        /// The fields that differ, by their names in the API.
        differing: Vec<&'static str>,
    },
    /// It was never taken.
    #[error("there is no such order")]
    Unknown,
    /// Its payment had another outcome before.
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
            (Self::Unknown, Command::RecordPayment(_)) => Err(Rejection::Unknown),
            (Self::Known { state, .. }, Command::RecordPayment(outcome)) => state.record(outcome),
        }
    }

    fn apply(&mut self, event: &OrderEvent) {
        match (self, event) {
            (this @ Self::Unknown, OrderEvent::Created(details)) => {
                *this = Self::Known { details: details.clone(), state: State::Created };
            }
            (Self::Known { state, .. }, OrderEvent::Paid { gateway_reference }) => {
                *state = State::Paid { gateway_reference: gateway_reference.clone() };
            }
            (Self::Known { state, .. }, OrderEvent::PaymentFailed(failure)) => {
                *state = State::PaymentFailed(failure.clone());
            }
            // No decision leads here.
            (Self::Known { .. }, OrderEvent::Created(_))
            | (Self::Unknown, OrderEvent::Paid { .. } | OrderEvent::PaymentFailed(_)) => {}
        }
    }
}

impl State {
    fn record(&self, outcome: &PaymentOutcome) -> Result<Vec<OrderEvent>, Rejection> {
        match (self, outcome) {
            (Self::Created, PaymentOutcome::Completed { gateway_reference }) => {
                Ok(vec![OrderEvent::Paid { gateway_reference: gateway_reference.clone() }])
            }
            (Self::Created, PaymentOutcome::Failed(failure)) => Ok(vec![OrderEvent::PaymentFailed(failure.clone())]),
            (Self::Paid { gateway_reference: known }, PaymentOutcome::Completed { gateway_reference })
                if known == gateway_reference =>
            {
                Ok(Vec::new())
            }
            (Self::PaymentFailed(known), PaymentOutcome::Failed(failure)) if known == failure => Ok(Vec::new()),
            (Self::Paid { .. } | Self::PaymentFailed(_), _) => Err(Rejection::Contradicted),
        }
    }
}

/// The fields in which two orders differ, by their names in the API.
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

    /// Given what happened, when something is asked: what follows?
    fn decided(history: &[OrderEvent], command: Command) -> Result<Vec<OrderEvent>, Rejection> {
        let mut order = Order::default();
        history.iter().for_each(|event| order.apply(event));
        order.decide(&command)
    }

    #[test]
    fn an_order_is_taken_once() {
        assert_eq!(decided(&[], Command::Create(details())), Ok(vec![created()]));
        for history in [vec![created()], vec![created(), paid()], vec![created(), failed()]] {
            assert_eq!(decided(&history, Command::Create(details())), Ok(vec![]));
        }
    }

    #[test]
    fn a_repeat_with_other_fields_is_refused_by_their_names() {
        let mut other = details();
        other.money = Money::new(501, "EUR").expect("valid");
        other.metadata.insert("k".to_owned(), "v".to_owned());
        let differing = vec!["amount", "currency_code", "metadata"];
        assert_eq!(decided(&[created()], Command::Create(other)), Err(Rejection::Exists { differing }));
        let mut other = details();
        other.customer_id.clear();
        let differing = vec!["customer_id"];
        assert_eq!(decided(&[created(), paid()], Command::Create(other)), Err(Rejection::Exists { differing }));
    }

    #[test]
    fn the_outcome_of_the_payment_is_recorded() {
        assert_eq!(decided(&[created()], Command::RecordPayment(completed())), Ok(vec![paid()]));
        let outcome = PaymentOutcome::Failed(failure());
        assert_eq!(decided(&[created()], Command::RecordPayment(outcome)), Ok(vec![failed()]));
    }

    #[test]
    fn the_same_outcome_again_changes_nothing() {
        assert_eq!(decided(&[created(), paid()], Command::RecordPayment(completed())), Ok(vec![]));
        let outcome = PaymentOutcome::Failed(failure());
        assert_eq!(decided(&[created(), failed()], Command::RecordPayment(outcome)), Ok(vec![]));
    }

    #[test]
    fn another_outcome_is_a_contradiction() {
        let outcome = PaymentOutcome::Failed(failure());
        assert_eq!(decided(&[created(), paid()], Command::RecordPayment(outcome)), Err(Rejection::Contradicted));
        assert_eq!(decided(&[created(), failed()], Command::RecordPayment(completed())), Err(Rejection::Contradicted));
        let other = PaymentOutcome::Completed { gateway_reference: "ch_2".to_owned() };
        assert_eq!(decided(&[created(), paid()], Command::RecordPayment(other)), Err(Rejection::Contradicted));
    }

    #[test]
    fn a_payment_of_an_order_that_was_never_taken_is_refused() {
        assert_eq!(decided(&[], Command::RecordPayment(completed())), Err(Rejection::Unknown));
    }
}
