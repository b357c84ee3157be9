//! The events of the topic `payment-events`, as Rust types.

mod codec;

use std::time::SystemTime;

use oncelog::TopicSpec;

use crate::{money::Money, proto};

/// The topic that payment-service publishes to.
pub const TOPIC: TopicSpec = TopicSpec {
    name: "payment-events",
    message: "payments.events.v1.PaymentEvent",
    event_types: codec::EVENT_TYPES,
    descriptors: proto::payments::DESCRIPTORS,
};

/// An event of a payment. `settled_by` names the person who reported the outcome; it is empty if the gateway did.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PaymentEvent {
    /// The intent to charge was recorded. No money moves before this event.
    Requested {
        /// The amount to charge.
        money: Money,
        /// The time at which the order was created. No store can have called the gateway for the order before this.
        order_time: SystemTime,
    },
    /// The amount was charged.
    Completed {
        /// The gateway's reference for the charge.
        gateway_reference: String,
        /// See [`PaymentEvent`].
        settled_by: String,
    },
    /// The amount was not charged, and never will be.
    Failed {
        /// The reason.
        decline: Decline,
        /// See [`PaymentEvent`].
        settled_by: String,
    },
    /// The order is being cancelled: nothing may stay charged.
    CancellationRequested,
    /// The order is cancelled; nothing was charged, and nothing ever will be.
    Voided {
        /// See [`PaymentEvent`].
        settled_by: String,
    },
    /// The order is cancelled; the charge was refunded.
    Refunded {
        /// The gateway's reference for the refund.
        gateway_reference: String,
        /// See [`PaymentEvent`].
        settled_by: String,
    },
    /// A person has to find out what happened to the money.
    ReviewRequired(Review),
}

/// The reason for which the gateway refused for good.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Decline {
    /// The code, from a closed list, such as `CARD_DECLINED`.
    pub code: String,
    /// The reason in words.
    pub message: String,
}

/// The reason for which a person has to look into a payment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Review {
    /// The gateway can no longer tell whether it charged.
    ChargeUnknown,
    /// The gateway refuses to refund the charge. Holds the gateway's message.
    RefundRefused(String),
}

const CHARGE_UNKNOWN: &str = "CHARGE_UNKNOWN";
const REFUND_REFUSED: &str = "REFUND_REFUSED";

impl Review {
    /// Returns the code of the reason in the contracts.
    pub fn code(&self) -> &'static str {
        match self {
            Self::ChargeUnknown => CHARGE_UNKNOWN,
            Self::RefundRefused(_) => REFUND_REFUSED,
        }
    }

    /// Returns the reason in words.
    pub fn message(&self) -> &str {
        match self {
            Self::ChargeUnknown => "the gateway cannot tell whether it charged",
            Self::RefundRefused(message) => message,
        }
    }
}
