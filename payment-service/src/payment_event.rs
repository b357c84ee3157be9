//! The payment's events as messages of `payments.events.v1`, and back.

use std::time::SystemTime;

use event_sourcing::{
    aggregate::{Envelope, Payload, PayloadError},
    money::Money,
    proto::payments::events::v1::{self as message, payment_event::Event},
};
use prost::Message as _;
use prost_types::Timestamp;

use crate::payment::{Decline, PaymentEvent, Review};

/// Every event type that this program can read.
pub(crate) const EVENT_TYPES: &[&str] =
    &[REQUESTED, COMPLETED, FAILED, CANCELLATION_REQUESTED, VOIDED, REFUNDED, REVIEW_REQUIRED];

/// The one message type of the topic.
pub(crate) const MESSAGE: &str = "payments.events.v1.PaymentEvent";

const REQUESTED: &str = "payments.events.v1.PaymentRequested";
const COMPLETED: &str = "payments.events.v1.PaymentCompleted";
const FAILED: &str = "payments.events.v1.PaymentFailed";
const CANCELLATION_REQUESTED: &str = "payments.events.v1.PaymentCancellationRequested";
const VOIDED: &str = "payments.events.v1.PaymentVoided";
const REFUNDED: &str = "payments.events.v1.PaymentRefunded";
const REVIEW_REQUIRED: &str = "payments.events.v1.PaymentReviewRequired";

const CHARGE_UNKNOWN: &str = "CHARGE_UNKNOWN";
const REFUND_REFUSED: &str = "REFUND_REFUSED";

impl Review {
    /// The word for it in the contracts.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::ChargeUnknown => CHARGE_UNKNOWN,
            Self::RefundRefused(_) => REFUND_REFUSED,
        }
    }

    /// The same for a person.
    pub(crate) fn message(&self) -> &str {
        match self {
            Self::ChargeUnknown => "the gateway cannot tell whether it charged",
            Self::RefundRefused(message) => message,
        }
    }
}

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
            version: i64::try_from(envelope.version.0).unwrap_or(i64::MAX),
            occur_time: Some(Timestamp::from(envelope.time)),
            event: Some(event),
        }
        .encode_to_vec()
    }

    fn decode(payload: &[u8]) -> Result<Self, PayloadError> {
        Ok(match message::PaymentEvent::decode(payload)?.event.ok_or(PayloadError::Newer)? {
            Event::PaymentRequested(requested) => Self::Requested {
                money: Money::new(requested.amount, &requested.currency_code).map_err(|_errors| {
                    PayloadError::Field { field: "payment_requested.amount", problem: "is not an amount of money" }
                })?,
                order_time: requested
                    .order_time
                    .and_then(|time| SystemTime::try_from(time).ok())
                    .ok_or(PayloadError::Field { field: "payment_requested.order_time", problem: "is not a time" })?,
            },
            Event::PaymentCompleted(message::PaymentCompleted { gateway_reference, settled_by }) => {
                Self::Completed { gateway_reference, settled_by }
            }
            Event::PaymentFailed(message::PaymentFailed { code, message, settled_by }) => {
                Self::Failed { decline: Decline { code, message }, settled_by }
            }
            Event::PaymentCancellationRequested(message::PaymentCancellationRequested {}) => {
                Self::CancellationRequested
            }
            Event::PaymentVoided(message::PaymentVoided { settled_by }) => Self::Voided { settled_by },
            Event::PaymentRefunded(message::PaymentRefunded { gateway_reference, settled_by }) => {
                Self::Refunded { gateway_reference, settled_by }
            }
            Event::PaymentReviewRequired(message::PaymentReviewRequired { code, message }) => {
                Self::ReviewRequired(match code.as_str() {
                    CHARGE_UNKNOWN => Review::ChargeUnknown,
                    REFUND_REFUSED => Review::RefundRefused(message),
                    _ => return Err(PayloadError::Newer),
                })
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use event_sourcing::{
        event::{EventId, StreamId, Version, from_micros, now},
        money::MAX_AMOUNT,
    };
    use proptest::prelude::*;

    use super::*;

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
            let envelope =
                Envelope { id: EventId::generate(), stream: StreamId::generate(), version: Version(1), time: now() };
            prop_assert_eq!(PaymentEvent::decode(&event.encode(&envelope)).expect("decodes"), event);
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = PaymentEvent::decode(&bytes);
        }
    }

    #[test]
    fn an_event_of_a_later_version_is_newer_not_malformed() {
        let later = message::PaymentEvent { event: None, ..Default::default() };
        assert!(matches!(PaymentEvent::decode(&later.encode_to_vec()), Err(PayloadError::Newer)));
    }
}
