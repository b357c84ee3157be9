//! The rules of a shipment. They are pure: no clock, no I/O, no async.

use oncelog::aggregate::Aggregate;

pub use crate::event::{Reason, ShippingEvent};

/// The one shipment of an order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Shipment {
    /// Nothing has happened yet.
    #[default]
    Unknown,
    /// The payment completed, and the order can be shipped.
    Prepared,
    /// The order will never be shipped.
    CalledOff(Reason),
    /// The order was shipped.
    Shipped {
        /// The code of the carrier.
        tracking_code: String,
    },
}

/// The commands of a shipment. The first two come from followed topics, the last one from callers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// The payment completed.
    Prepare,
    /// The order must not be shipped.
    CallOff(Reason),
    /// The order is handed to the carrier.
    Ship {
        /// The code of the carrier.
        tracking_code: String,
    },
}

/// Why a shipment rejects a command.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// The payment has not completed, and no cancellation is known.
    #[error("the payment of the order has not completed")]
    NotPrepared,
    /// The order will never be shipped.
    #[error("the shipment was called off")]
    CalledOff,
    /// The order was shipped before, with another tracking code.
    #[error("the order was shipped with another tracking code")]
    AlreadyShipped,
}

impl Aggregate for Shipment {
    type Event = ShippingEvent;
    type Command = Command;
    type Rejection = Rejection;

    /// The two followed topics are consumed in no fixed order, so a cancellation may come before the payment. The
    /// shipment is then called off, and [`Command::Prepare`] changes nothing any more.
    fn decide(&self, command: &Command) -> Result<Vec<ShippingEvent>, Rejection> {
        match (self, command) {
            (Self::Unknown, Command::Prepare) => Ok(vec![ShippingEvent::Prepared]),
            (Self::Prepared | Self::CalledOff(_) | Self::Shipped { .. }, Command::Prepare) => Ok(Vec::new()),

            (Self::Unknown | Self::Prepared, Command::CallOff(reason)) => Ok(vec![ShippingEvent::CalledOff(*reason)]),
            (Self::CalledOff(_) | Self::Shipped { .. }, Command::CallOff(_)) => Ok(Vec::new()),

            (Self::Unknown, Command::Ship { .. }) => Err(Rejection::NotPrepared),
            (Self::Prepared, Command::Ship { tracking_code }) => {
                Ok(vec![ShippingEvent::Shipped { tracking_code: tracking_code.clone() }])
            }
            (Self::CalledOff(_), Command::Ship { .. }) => Err(Rejection::CalledOff),
            (Self::Shipped { tracking_code: known }, Command::Ship { tracking_code }) if known == tracking_code => {
                Ok(Vec::new()) // a repeat
            }
            (Self::Shipped { .. }, Command::Ship { .. }) => Err(Rejection::AlreadyShipped),
        }
    }

    fn apply(&mut self, event: &ShippingEvent) {
        *self = match event {
            ShippingEvent::Prepared => Self::Prepared,
            ShippingEvent::CalledOff(reason) => Self::CalledOff(*reason),
            ShippingEvent::Shipped { tracking_code } => Self::Shipped { tracking_code: tracking_code.clone() },
        };
    }
}

#[cfg(test)]
mod tests {
    use oncelog::testing::{assert_replay, given};
    use proptest::prelude::*;

    use super::*;

    const PREPARED: ShippingEvent = ShippingEvent::Prepared;
    const CALLED_OFF: ShippingEvent = ShippingEvent::CalledOff(Reason::OrderCancelled);
    const CANCEL: Command = Command::CallOff(Reason::OrderCancelled);

    fn ship(tracking_code: &str) -> Command {
        Command::Ship { tracking_code: tracking_code.to_owned() }
    }

    fn shipped() -> ShippingEvent {
        ShippingEvent::Shipped { tracking_code: "T-1".to_owned() }
    }

    #[test]
    fn a_paid_order_is_prepared_once_and_shipped_once() {
        given::<Shipment>([]).when(Command::Prepare).then([PREPARED]).when(Command::Prepare).then([]);
        given::<Shipment>([PREPARED]).when(ship("T-1")).then([shipped()]).when(ship("T-1")).then([]);
        given::<Shipment>([PREPARED, shipped()]).when(Command::Prepare).then([]);
    }

    #[test]
    fn only_a_prepared_order_is_shipped() {
        given::<Shipment>([]).when(ship("T-1")).then_rejected(Rejection::NotPrepared);
        given::<Shipment>([CALLED_OFF]).when(ship("T-1")).then_rejected(Rejection::CalledOff);
        given::<Shipment>([PREPARED, CALLED_OFF]).when(ship("T-1")).then_rejected(Rejection::CalledOff);
        given::<Shipment>([PREPARED, shipped()]).when(ship("T-2")).then_rejected(Rejection::AlreadyShipped);
    }

    #[test]
    fn a_cancellation_wins_before_and_after_the_payment() {
        given::<Shipment>([]).when(CANCEL).then([CALLED_OFF]).when(Command::Prepare).then([]);
        given::<Shipment>([PREPARED]).when(CANCEL).then([CALLED_OFF]).when(CANCEL).then([]);
    }

    #[test]
    fn the_first_reason_stays() {
        let failed = Command::CallOff(Reason::PaymentFailed);
        given::<Shipment>([CALLED_OFF]).when(failed).then([]);
    }

    #[test]
    fn a_cancellation_after_the_shipment_changes_nothing() {
        given::<Shipment>([PREPARED, shipped()]).when(CANCEL).then([]);
    }

    fn any_command() -> impl Strategy<Value = Command> {
        prop_oneof![
            Just(Command::Prepare),
            Just(CANCEL),
            Just(Command::CallOff(Reason::PaymentFailed)),
            "[ab]".prop_map(|tracking_code| Command::Ship { tracking_code }),
        ]
    }

    proptest! {
        #[test]
        fn replay_equals_the_live_state(commands in prop::collection::vec(any_command(), 0..20)) {
            assert_replay::<Shipment>(&commands);
        }
    }
}
