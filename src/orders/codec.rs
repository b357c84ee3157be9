//! The codec of order events: messages of `orders.events.v1`.

use oncelog::aggregate::{Decoded, DecodedEnvelope, Envelope, Payload, PayloadError};
use prost::Message as _;
use prost_types::Timestamp;

use super::{Details, OrderEvent, PaymentFailure};
use crate::{
    money::{Money, in_words},
    proto::orders::events::v1::{self as message, order_event::Event},
};

/// Every event type that this program can read.
pub(super) const EVENT_TYPES: &[&str] = &[CREATED, PAID, PAYMENT_FAILED, CANCELLATION_REQUESTED, CANCELLED, REFUNDED];

const CREATED: &str = "orders.events.v1.OrderCreated";
const PAID: &str = "orders.events.v1.OrderPaid";
const PAYMENT_FAILED: &str = "orders.events.v1.OrderPaymentFailed";
const CANCELLATION_REQUESTED: &str = "orders.events.v1.OrderCancellationRequested";
const CANCELLED: &str = "orders.events.v1.OrderCancelled";
const REFUNDED: &str = "orders.events.v1.OrderRefunded";

impl Payload for OrderEvent {
    fn event_type(&self) -> &'static str {
        match self {
            Self::Created(_) => CREATED,
            Self::Paid { .. } => PAID,
            Self::PaymentFailed(_) => PAYMENT_FAILED,
            Self::CancellationRequested => CANCELLATION_REQUESTED,
            Self::Cancelled => CANCELLED,
            Self::Refunded { .. } => REFUNDED,
        }
    }

    fn encode(&self, envelope: &Envelope) -> Vec<u8> {
        let event = match self.clone() {
            Self::Created(Details { money, request_id, customer_id, metadata }) => {
                Event::OrderCreated(message::OrderCreated {
                    amount: money.amount(),
                    currency_code: money.currency_code().to_owned(),
                    request_id,
                    customer_id,
                    metadata,
                })
            }
            Self::Paid { gateway_reference } => Event::OrderPaid(message::OrderPaid { gateway_reference }),
            Self::PaymentFailed(PaymentFailure { code, message }) => {
                Event::OrderPaymentFailed(message::OrderPaymentFailed { code, message })
            }
            Self::CancellationRequested => Event::OrderCancellationRequested(message::OrderCancellationRequested {}),
            Self::Cancelled => Event::OrderCancelled(message::OrderCancelled {}),
            Self::Refunded { gateway_reference } => Event::OrderRefunded(message::OrderRefunded { gateway_reference }),
        };
        message::OrderEvent {
            event_id: envelope.id.to_string(),
            order_id: envelope.stream.to_string(),
            version: envelope.version.into(),
            occur_time: Some(Timestamp::from(envelope.time)),
            event: Some(event),
        }
        .encode_to_vec()
    }

    fn decode(payload: &[u8]) -> Result<Decoded<Self>, PayloadError> {
        let message::OrderEvent { event_id, order_id, occur_time, event, .. } = message::OrderEvent::decode(payload)?;
        let envelope = Some(DecodedEnvelope::new(event_id, order_id, occur_time));
        Ok(Decoded { event: event_of(event.ok_or(PayloadError::Newer)?)?, envelope })
    }
}

fn event_of(event: Event) -> Result<OrderEvent, PayloadError> {
    Ok(match event {
        Event::OrderCreated(created) => OrderEvent::Created(Details {
            money: Money::new(created.amount, &created.currency_code)
                .map_err(|errors| PayloadError::field("order_created", in_words(&errors)))?,
            request_id: created.request_id,
            customer_id: created.customer_id,
            metadata: created.metadata,
        }),
        Event::OrderPaid(paid) => OrderEvent::Paid { gateway_reference: paid.gateway_reference },
        Event::OrderPaymentFailed(failed) => {
            OrderEvent::PaymentFailed(PaymentFailure { code: failed.code, message: failed.message })
        }
        Event::OrderCancellationRequested(message::OrderCancellationRequested {}) => OrderEvent::CancellationRequested,
        Event::OrderCancelled(message::OrderCancelled {}) => OrderEvent::Cancelled,
        Event::OrderRefunded(refunded) => OrderEvent::Refunded { gateway_reference: refunded.gateway_reference },
    })
}

#[cfg(test)]
mod tests {
    use oncelog::testing::{assert_golden, assert_round_trip, golden_envelope};
    use proptest::prelude::*;

    use super::*;
    use crate::money::MAX_AMOUNT;

    fn any_details() -> impl Strategy<Value = Details> {
        let currency = prop::sample::select(vec!["USD", "EUR", "JPY", "KWD"]);
        let metadata = prop::collection::btree_map(any_text(), any_text(), 0..3);
        (1..=MAX_AMOUNT, currency, [any_text(), any_text()], metadata).prop_map(
            |(amount, currency, [request_id, customer_id], metadata)| Details {
                money: Money::new(amount, currency).expect("valid"),
                request_id,
                customer_id,
                metadata,
            },
        )
    }

    fn any_text() -> impl Strategy<Value = String> {
        prop::collection::vec(any::<char>(), 0..8).prop_map(String::from_iter)
    }

    fn any_event() -> impl Strategy<Value = OrderEvent> {
        prop_oneof![
            any_details().prop_map(OrderEvent::Created),
            any_text().prop_map(|gateway_reference| OrderEvent::Paid { gateway_reference }),
            [any_text(), any_text()]
                .prop_map(|[code, message]| OrderEvent::PaymentFailed(PaymentFailure { code, message })),
            Just(OrderEvent::CancellationRequested),
            Just(OrderEvent::Cancelled),
            any_text().prop_map(|gateway_reference| OrderEvent::Refunded { gateway_reference }),
        ]
    }

    proptest! {
        #[test]
        fn an_event_survives_its_encoding(event in any_event()) {
            assert_round_trip(&event);
        }

        #[test]
        fn equal_events_have_equal_bytes(event in any_event()) {
            prop_assert_eq!(event.encode(&golden_envelope()), event.clone().encode(&golden_envelope()));
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = OrderEvent::decode(&bytes);
        }
    }

    #[test]
    fn every_event_reads_and_writes_the_bytes_it_always_had() {
        let events = [
            OrderEvent::Created(Details {
                money: Money::new(500, "USD").expect("valid"),
                request_id: "r-1".to_owned(),
                customer_id: "c-1".to_owned(),
                metadata: [("campaign".to_owned(), "autumn".to_owned())].into(),
            }),
            OrderEvent::Paid { gateway_reference: "ch_1".to_owned() },
            OrderEvent::PaymentFailed(PaymentFailure {
                code: "CARD_DECLINED".to_owned(),
                message: "the card was declined".to_owned(),
            }),
            OrderEvent::CancellationRequested,
            OrderEvent::Cancelled,
            OrderEvent::Refunded { gateway_reference: "re_1".to_owned() },
        ];
        assert_golden(include_str!("events.golden"), "src/orders/events.golden", &events, EVENT_TYPES);
    }
}
