//! The codec of payment events: messages of `payments.events.v1`.

use std::time::SystemTime;

use oncelog::aggregate::{Decoded, DecodedEnvelope, Envelope, Payload, PayloadError};
use prost::Message as _;
use prost_types::Timestamp;

use super::{CHARGE_UNKNOWN, Decline, PaymentEvent, REFUND_REFUSED, Review};
use crate::{
    money::{Money, in_words},
    proto::payments::events::v1::{self as message, payment_event::Event},
};

/// Every event type that this program can read.
pub(super) const EVENT_TYPES: &[&str] =
    &[REQUESTED, COMPLETED, FAILED, CANCELLATION_REQUESTED, VOIDED, REFUNDED, REVIEW_REQUIRED];

const REQUESTED: &str = "payments.events.v1.PaymentRequested";
const COMPLETED: &str = "payments.events.v1.PaymentCompleted";
const FAILED: &str = "payments.events.v1.PaymentFailed";
const CANCELLATION_REQUESTED: &str = "payments.events.v1.PaymentCancellationRequested";
const VOIDED: &str = "payments.events.v1.PaymentVoided";
const REFUNDED: &str = "payments.events.v1.PaymentRefunded";
const REVIEW_REQUIRED: &str = "payments.events.v1.PaymentReviewRequired";

impl Payload for PaymentEvent {
    fn event_type(&self) -> &'static str {
        match self {
            Self::Requested { .. } => REQUESTED,
            Self::Completed { .. } => COMPLETED,
            Self::Failed { .. } => FAILED,
            Self::CancellationRequested => CANCELLATION_REQUESTED,
            Self::Voided { .. } => VOIDED,
            Self::Refunded { .. } => REFUNDED,
            Self::ReviewRequired(_) => REVIEW_REQUIRED,
        }
    }

    fn encode(&self, envelope: &Envelope) -> Vec<u8> {
        let event = match self.clone() {
            Self::Requested { money, order_time } => Event::PaymentRequested(message::PaymentRequested {
                amount: money.amount(),
                currency_code: money.currency_code().to_owned(),
                order_time: Some(Timestamp::from(order_time)),
            }),
            Self::Completed { gateway_reference, settled_by } => {
                Event::PaymentCompleted(message::PaymentCompleted { gateway_reference, settled_by })
            }
            Self::Failed { decline: Decline { code, message }, settled_by } => {
                Event::PaymentFailed(message::PaymentFailed { code, message, settled_by })
            }
            Self::CancellationRequested => {
                Event::PaymentCancellationRequested(message::PaymentCancellationRequested {})
            }
            Self::Voided { settled_by } => Event::PaymentVoided(message::PaymentVoided { settled_by }),
            Self::Refunded { gateway_reference, settled_by } => {
                Event::PaymentRefunded(message::PaymentRefunded { gateway_reference, settled_by })
            }
            Self::ReviewRequired(review) => Event::PaymentReviewRequired(message::PaymentReviewRequired {
                code: review.code().to_owned(),
                message: review.message().to_owned(),
            }),
        };
        message::PaymentEvent {
            event_id: envelope.id.to_string(),
            order_id: envelope.stream.to_string(),
            version: envelope.version.into(),
            occur_time: Some(Timestamp::from(envelope.time)),
            event: Some(event),
        }
        .encode_to_vec()
    }

    fn decode(payload: &[u8]) -> Result<Decoded<Self>, PayloadError> {
        let message::PaymentEvent { event_id, order_id, occur_time, event, .. } =
            message::PaymentEvent::decode(payload)?;
        let envelope = Some(DecodedEnvelope::new(event_id, order_id, occur_time));
        Ok(Decoded { event: event_of(event.ok_or(PayloadError::Newer)?)?, envelope })
    }
}

fn event_of(event: Event) -> Result<PaymentEvent, PayloadError> {
    Ok(match event {
        Event::PaymentRequested(requested) => PaymentEvent::Requested {
            money: Money::new(requested.amount, &requested.currency_code)
                .map_err(|errors| PayloadError::field("payment_requested", in_words(&errors)))?,
            order_time: requested
                .order_time
                .and_then(|time| SystemTime::try_from(time).ok())
                .ok_or_else(|| PayloadError::field("payment_requested.order_time", "is not a time"))?,
        },
        Event::PaymentCompleted(message::PaymentCompleted { gateway_reference, settled_by }) => {
            PaymentEvent::Completed { gateway_reference, settled_by }
        }
        Event::PaymentFailed(message::PaymentFailed { code, message, settled_by }) => {
            PaymentEvent::Failed { decline: Decline { code, message }, settled_by }
        }
        Event::PaymentCancellationRequested(message::PaymentCancellationRequested {}) => {
            PaymentEvent::CancellationRequested
        }
        Event::PaymentVoided(message::PaymentVoided { settled_by }) => PaymentEvent::Voided { settled_by },
        Event::PaymentRefunded(message::PaymentRefunded { gateway_reference, settled_by }) => {
            PaymentEvent::Refunded { gateway_reference, settled_by }
        }
        Event::PaymentReviewRequired(message::PaymentReviewRequired { code, message }) => {
            PaymentEvent::ReviewRequired(match code.as_str() {
                CHARGE_UNKNOWN => Review::ChargeUnknown,
                REFUND_REFUSED => Review::RefundRefused(message),
                _ => return Err(PayloadError::Newer),
            })
        }
    })
}

#[cfg(test)]
mod tests {
    use oncelog::{
        event::from_micros,
        testing::{assert_golden, assert_round_trip},
    };
    use proptest::prelude::*;

    use super::*;
    use crate::money::MAX_AMOUNT;

    fn any_event() -> impl Strategy<Value = PaymentEvent> {
        let currency = prop::sample::select(vec!["USD", "EUR", "JPY", "KWD"]);
        let money = (1..=MAX_AMOUNT, currency).prop_map(|(amount, code)| Money::new(amount, code).expect("valid"));
        prop_oneof![
            (money, 0..1_i64 << 52)
                .prop_map(|(money, micros)| PaymentEvent::Requested { money, order_time: from_micros(micros) }),
            any::<[String; 2]>()
                .prop_map(|[gateway_reference, settled_by]| PaymentEvent::Completed { gateway_reference, settled_by }),
            any::<[String; 3]>().prop_map(|[code, message, settled_by]| PaymentEvent::Failed {
                decline: Decline { code, message },
                settled_by
            }),
            Just(PaymentEvent::CancellationRequested),
            any::<String>().prop_map(|settled_by| PaymentEvent::Voided { settled_by }),
            any::<[String; 2]>()
                .prop_map(|[gateway_reference, settled_by]| PaymentEvent::Refunded { gateway_reference, settled_by }),
            Just(PaymentEvent::ReviewRequired(Review::ChargeUnknown)),
            any::<String>().prop_map(|message| PaymentEvent::ReviewRequired(Review::RefundRefused(message))),
        ]
    }

    proptest! {
        #[test]
        fn an_event_survives_its_encoding(event in any_event()) {
            assert_round_trip(&event);
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = PaymentEvent::decode(&bytes);
        }
    }

    #[test]
    fn every_event_reads_and_writes_the_bytes_it_always_had() {
        let text = || "jane".to_owned();
        let events = [
            PaymentEvent::Requested { money: Money::new(500, "USD").expect("valid"), order_time: from_micros(1) },
            PaymentEvent::Completed { gateway_reference: "ch_1".to_owned(), settled_by: text() },
            PaymentEvent::Failed {
                decline: Decline { code: "CARD_DECLINED".to_owned(), message: "the card was declined".to_owned() },
                settled_by: text(),
            },
            PaymentEvent::CancellationRequested,
            PaymentEvent::Voided { settled_by: text() },
            PaymentEvent::Refunded { gateway_reference: "re_1".to_owned(), settled_by: text() },
            PaymentEvent::ReviewRequired(Review::ChargeUnknown),
            PaymentEvent::ReviewRequired(Review::RefundRefused("too late".to_owned())),
        ];
        assert_golden(include_str!("events.golden"), "src/payments/events.golden", &events, EVENT_TYPES);
    }
}
