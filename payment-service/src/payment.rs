//! What a payment is and how it changes. Pure: no clock, no I/O, no async.

use std::time::SystemTime;

use event_sourcing::{aggregate::Aggregate, money::Money};

/// Why the gateway refused for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decline {
    /// From a closed list, such as `CARD_DECLINED`.
    pub code: String,
    /// For a person.
    pub message: String,
}

/// What the gateway said became of a charge. It says so once and for all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Receipt {
    /// It was charged.
    Charged {
        /// The gateway's own name for the charge.
        reference: String,
    },
    /// It was not, and never will be.
    Declined(Decline),
}

/// What can happen to a payment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PaymentEvent {
    /// The intent to charge was recorded. No money moves before.
    Requested {
        /// What is to be charged.
        money: Money,
        /// When the order was taken: no call to the gateway came before, whatever store recorded it.
        order_time: SystemTime,
    },
    /// The gateway charged it.
    Completed {
        /// The gateway's own name for the charge.
        gateway_reference: String,
    },
    /// The gateway refused.
    Failed(Decline),
}

/// What can be asked of a payment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Charge for the order.
    Request {
        /// What is to be charged.
        money: Money,
        /// When the order was taken.
        order_time: SystemTime,
    },
    /// Take note of what the gateway said.
    Record(Receipt),
}

/// The one payment of an order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Payment {
    /// Nobody asked for it.
    #[default]
    Unknown,
    /// It was asked for.
    Known {
        /// What is charged.
        money: Money,
        /// When the order was taken.
        order_time: SystemTime,
        /// Where it is in its life.
        state: State,
    },
}

/// Where a payment is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// The gateway has not said what became of it.
    Requested,
    /// Charged, once.
    Completed {
        /// The gateway's own name for the charge.
        gateway_reference: String,
    },
    /// Refused for good.
    Failed(Decline),
}

/// Why a payment refuses a command.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// It was asked for before, with another amount.
    #[error("the payment was requested before with {known}, and now with {asked}")]
    OtherAmount {
        /// What is to be charged.
        known: Money,
        /// What would have been.
        asked: Money,
    },
    /// Nobody asked for it.
    #[error("there is no such payment")]
    Unknown,
    /// The gateway said otherwise before.
    #[error("the gateway said otherwise before")]
    Contradicted,
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
            (Self::Known { money, .. }, Command::Request { money: asked, .. }) if money == asked => Ok(Vec::new()),
            (Self::Known { money, .. }, Command::Request { money: asked, .. }) => {
                Err(Rejection::OtherAmount { known: *money, asked: *asked })
            }
            (Self::Unknown, Command::Record(_)) => Err(Rejection::Unknown),
            (Self::Known { state, .. }, Command::Record(receipt)) => state.record(receipt),
        }
    }

    fn apply(&mut self, event: &PaymentEvent) {
        match (self, event) {
            (this @ Self::Unknown, &PaymentEvent::Requested { money, order_time }) => {
                *this = Self::Known { money, order_time, state: State::Requested };
            }
            (Self::Known { state, .. }, PaymentEvent::Completed { gateway_reference }) => {
                *state = State::Completed { gateway_reference: gateway_reference.clone() };
            }
            (Self::Known { state, .. }, PaymentEvent::Failed(decline)) => *state = State::Failed(decline.clone()),
            // No decision leads here.
            (Self::Known { .. }, PaymentEvent::Requested { .. })
            | (Self::Unknown, PaymentEvent::Completed { .. } | PaymentEvent::Failed(_)) => {}
        }
    }
}

impl State {
    fn record(&self, receipt: &Receipt) -> Result<Vec<PaymentEvent>, Rejection> {
        match (self, receipt) {
            (Self::Requested, Receipt::Charged { reference }) => {
                Ok(vec![PaymentEvent::Completed { gateway_reference: reference.clone() }])
            }
            (Self::Requested, Receipt::Declined(decline)) => Ok(vec![PaymentEvent::Failed(decline.clone())]),
            (Self::Completed { gateway_reference }, Receipt::Charged { reference })
                if gateway_reference == reference =>
            {
                Ok(Vec::new())
            }
            (Self::Failed(known), Receipt::Declined(decline)) if known == decline => Ok(Vec::new()),
            (Self::Completed { .. } | Self::Failed(_), _) => Err(Rejection::Contradicted),
        }
    }
}

#[cfg(test)]
mod tests {
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
        PaymentEvent::Completed { gateway_reference: "ch_1".to_owned() }
    }

    fn charged(reference: &str) -> Command {
        Command::Record(Receipt::Charged { reference: reference.to_owned() })
    }

    fn declined() -> Command {
        Command::Record(Receipt::Declined(decline()))
    }

    /// Given what happened, when something is asked: what follows?
    fn decided(history: &[PaymentEvent], command: &Command) -> Result<Vec<PaymentEvent>, Rejection> {
        let mut payment = Payment::default();
        history.iter().for_each(|event| payment.apply(event));
        payment.decide(command)
    }

    #[test]
    fn the_intent_is_recorded_once() {
        let request = request(500);
        assert_eq!(decided(&[], &request), Ok(vec![requested()]));
        for history in [vec![requested()], vec![requested(), completed()]] {
            assert_eq!(decided(&history, &request), Ok(vec![]));
        }
    }

    #[test]
    fn an_order_cannot_change_its_amount() {
        let rejection = Rejection::OtherAmount { known: money(500), asked: money(501) };
        assert_eq!(decided(&[requested()], &request(501)), Err(rejection));
    }

    #[test]
    fn what_the_gateway_said_is_recorded_once() {
        assert_eq!(decided(&[requested()], &charged("ch_1")), Ok(vec![completed()]));
        assert_eq!(decided(&[requested()], &declined()), Ok(vec![PaymentEvent::Failed(decline())]));
        assert_eq!(decided(&[requested(), completed()], &charged("ch_1")), Ok(vec![]));
        assert_eq!(decided(&[requested(), PaymentEvent::Failed(decline())], &declined()), Ok(vec![]));
    }

    #[test]
    fn a_gateway_that_says_otherwise_later_is_contradicted() {
        let rejected = Err(Rejection::Contradicted);
        assert_eq!(decided(&[requested(), completed()], &declined()), rejected);
        assert_eq!(decided(&[requested(), completed()], &charged("ch_2")), rejected);
        assert_eq!(decided(&[requested(), PaymentEvent::Failed(decline())], &charged("ch_1")), rejected);
    }

    #[test]
    fn nothing_is_charged_that_nobody_asked_for() {
        assert_eq!(decided(&[], &charged("ch_1")), Err(Rejection::Unknown));
    }
}
