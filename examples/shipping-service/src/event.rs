//! The events of `shipping-events` and their codec, which stores and publishes them as messages of `shipping.events.v1`.

use oncelog::{
    TopicSpec,
    aggregate::{Decoded, DecodedEnvelope, Envelope, Payload, PayloadError},
};
use prost::Message as _;
use prost_types::Timestamp;

use crate::proto::{
    DESCRIPTORS,
    events::{self as message, shipping_event::Event},
};

/// The topic that the service publishes to.
pub const TOPIC: TopicSpec = TopicSpec {
    name: "shipping-events",
    message: "shipping.events.v1.ShippingEvent",
    event_types: &[PREPARED, CALLED_OFF, SHIPPED],
    descriptors: DESCRIPTORS,
};

const PREPARED: &str = "shipping.events.v1.ShipmentPrepared";
const CALLED_OFF: &str = "shipping.events.v1.ShipmentCalledOff";
const SHIPPED: &str = "shipping.events.v1.OrderShipped";

/// The events of a shipment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ShippingEvent {
    /// The payment completed, and the order can be shipped.
    Prepared,
    /// The order will never be shipped.
    CalledOff(Reason),
    /// The order was handed to the carrier.
    Shipped {
        /// The code of the carrier.
        tracking_code: String,
    },
}

/// Why a shipment was called off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The order is being cancelled, or was.
    OrderCancelled,
    /// The payment failed for good.
    PaymentFailed,
}

impl Reason {
    /// The code of the reason in messages.
    pub fn code(self) -> &'static str {
        match self {
            Self::OrderCancelled => "ORDER_CANCELLED",
            Self::PaymentFailed => "PAYMENT_FAILED",
        }
    }
}

impl Payload for ShippingEvent {
    fn event_type(&self) -> &'static str {
        match self {
            Self::Prepared => PREPARED,
            Self::CalledOff(_) => CALLED_OFF,
            Self::Shipped { .. } => SHIPPED,
        }
    }

    fn encode(&self, envelope: &Envelope) -> Vec<u8> {
        let event = match self.clone() {
            Self::Prepared => Event::ShipmentPrepared(message::ShipmentPrepared {}),
            Self::CalledOff(reason) => {
                Event::ShipmentCalledOff(message::ShipmentCalledOff { reason: reason.code().to_owned() })
            }
            Self::Shipped { tracking_code } => Event::OrderShipped(message::OrderShipped { tracking_code }),
        };
        message::ShippingEvent {
            event_id: envelope.id.to_string(),
            order_id: envelope.stream.to_string(),
            version: envelope.version.into(),
            occur_time: Some(Timestamp::from(envelope.time)),
            event: Some(event),
        }
        .encode_to_vec()
    }

    fn decode(payload: &[u8]) -> Result<Decoded<Self>, PayloadError> {
        let message = message::ShippingEvent::decode(payload)?;
        let event = match message.event.ok_or(PayloadError::Newer)? {
            Event::ShipmentPrepared(message::ShipmentPrepared {}) => Self::Prepared,
            Event::ShipmentCalledOff(message::ShipmentCalledOff { reason }) => {
                let known = [Reason::OrderCancelled, Reason::PaymentFailed].into_iter().find(|r| r.code() == reason);
                Self::CalledOff(known.ok_or_else(|| PayloadError::field("shipment_called_off.reason", "is unknown"))?)
            }
            Event::OrderShipped(message::OrderShipped { tracking_code }) => Self::Shipped { tracking_code },
        };
        let envelope = DecodedEnvelope::new(message.event_id, message.order_id, message.occur_time);
        Ok(Decoded { event, envelope: Some(envelope) })
    }
}

#[cfg(test)]
mod tests {
    use oncelog::testing::{assert_golden, assert_round_trip};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_event_has_the_bytes_that_it_always_had() {
        let events = [
            ShippingEvent::Prepared,
            ShippingEvent::CalledOff(Reason::OrderCancelled),
            ShippingEvent::CalledOff(Reason::PaymentFailed),
            ShippingEvent::Shipped { tracking_code: "T-1".to_owned() },
        ];
        assert_golden(include_str!("events.golden"), "src/events.golden", &events, TOPIC.event_types);
    }

    #[test]
    fn malformed_bytes_and_an_unknown_reason_are_errors() {
        assert!(matches!(ShippingEvent::decode(b"\xff\xff"), Err(PayloadError::Malformed(_))));
        let reason = "FLOODED".to_owned();
        let event = Some(Event::ShipmentCalledOff(message::ShipmentCalledOff { reason }));
        let bytes = message::ShippingEvent { event, ..Default::default() }.encode_to_vec();
        assert!(matches!(ShippingEvent::decode(&bytes), Err(PayloadError::Field { .. })));
    }

    proptest! {
        #[test]
        fn an_event_survives_its_encoding(tracking_code in any::<String>()) {
            assert_round_trip(&ShippingEvent::Shipped { tracking_code });
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = ShippingEvent::decode(&bytes);
        }
    }
}
