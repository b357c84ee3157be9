//! Payments: the events of `payment-events`, as Rust sees them.

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

/// What can happen to a payment. `settled_by` names the person who said so; empty if it was the gateway.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PaymentEvent {
    /// The intent to charge was recorded. No money moves before.
    Requested {
        /// What is to be charged.
        money: Money,
        /// When the order was taken: no call to the gateway came before, whatever store recorded it.
        order_time: SystemTime,
    },
    /// It was charged.
    Completed {
        /// The gateway's own name for the charge.
        gateway_reference: String,
        /// See [`PaymentEvent`].
        settled_by: String,
    },
    /// It was not charged, and never will be.
    Failed {
        /// Why.
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
    /// The order is cancelled; the charge was given back.
    Refunded {
        /// The gateway's own name for the refund.
        gateway_reference: String,
        /// See [`PaymentEvent`].
        settled_by: String,
    },
    /// A person has to find out what became of the money.
    ReviewRequired(Review),
}

/// Why the gateway refused for good.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Decline {
    /// From a closed list, such as `CARD_DECLINED`.
    pub code: String,
    /// For a person.
    pub message: String,
}

/// What a person has to find out.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Review {
    /// Whether the gateway has charged: it can't tell any more.
    ChargeUnknown,
    /// How the charge is given back: the gateway refuses to, for this reason.
    RefundRefused(String),
}

const CHARGE_UNKNOWN: &str = "CHARGE_UNKNOWN";
const REFUND_REFUSED: &str = "REFUND_REFUSED";

impl Review {
    /// The word for it in the contracts.
    pub fn code(&self) -> &'static str {
        match self {
            Self::ChargeUnknown => CHARGE_UNKNOWN,
            Self::RefundRefused(_) => REFUND_REFUSED,
        }
    }

    /// The same for a person.
    pub fn message(&self) -> &str {
        match self {
            Self::ChargeUnknown => "the gateway cannot tell whether it charged",
            Self::RefundRefused(message) => message,
        }
    }
}
