//! Orders: the events of `order-events`, as Rust sees them.

mod codec;

use std::collections::BTreeMap;

use oncelog::TopicSpec;

use crate::{money::Money, proto};

/// The topic that order-service publishes to.
pub const TOPIC: TopicSpec = TopicSpec {
    name: "order-events",
    message: "orders.events.v1.OrderEvent",
    event_types: codec::EVENT_TYPES,
    descriptors: proto::orders::DESCRIPTORS,
};

/// What can happen to an order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
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
    /// Somebody wants it cancelled.
    CancellationRequested,
    /// It is cancelled, and was never charged.
    Cancelled,
    /// It is cancelled, and its charge was given back.
    Refunded {
        /// The gateway's own name for the refund.
        gateway_reference: String,
    },
}

/// What an order is about, as its creator said it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
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
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PaymentFailure {
    /// From the gateway's closed list, such as `CARD_DECLINED`.
    pub code: String,
    /// For a person.
    pub message: String,
}
