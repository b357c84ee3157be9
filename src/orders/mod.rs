//! The events of the topic `order-events`, as Rust types.

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

/// An event of an order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum OrderEvent {
    /// The order was created.
    Created(Details),
    /// The payment was completed.
    Paid {
        /// The gateway's reference for the charge.
        gateway_reference: String,
    },
    /// The payment failed for good.
    PaymentFailed(PaymentFailure),
    /// The cancellation of the order was requested.
    CancellationRequested,
    /// The order is cancelled, and was never charged.
    Cancelled,
    /// The order is cancelled, and its charge was refunded.
    Refunded {
        /// The gateway's reference for the refund.
        gateway_reference: String,
    },
}

/// The details of an order, as its creator gave them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Details {
    /// The price.
    pub money: Money,
    /// The id that makes repeated calls idempotent; empty if none was given.
    pub request_id: String,
    /// The caller's id of the customer; empty if none was given.
    pub customer_id: String,
    /// The entries that the caller attached.
    pub metadata: BTreeMap<String, String>,
}

/// The reason for which a payment failed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PaymentFailure {
    /// The code, from the gateway's closed list, such as `CARD_DECLINED`.
    pub code: String,
    /// The reason in words.
    pub message: String,
}
