//! The payment's events as messages of `payments.events.v1`, and back.

use std::time::SystemTime;

use contracts::{
    money::Money,
    proto::payments::events::v1::{self as message, payment_event::Event},
};
use oncelog::aggregate::{Envelope, Payload, PayloadError};
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
    use contracts::money::MAX_AMOUNT;
    use oncelog::{
        event::{EventId, StreamId, Version, from_micros, now},
        testing::golden,
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

    /// The bytes that were published and stored first, each with its type. They can never change.
    const GOLDEN: &str = include_str!("payment_event.golden");

    fn golden_events() -> Vec<PaymentEvent> {
        let text = || "jane".to_owned();
        vec![
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
        ]
    }

    fn golden_envelope() -> Envelope {
        Envelope {
            id: EventId::parse("01a20859-c427-7384-b47b-d18ff68dd444").expect("an id"),
            stream: StreamId::parse("7fca35d2-f40f-54e2-aa4f-e22156b4d64b").expect("an id"),
            version: Version(7),
            time: from_micros(1_793_476_800_000_000),
        }
    }

    #[test]
    fn every_event_reads_and_writes_the_bytes_it_always_had() {
        let golden = golden(GOLDEN);
        let written = golden_events().into_iter().map(|event| (event.event_type(), event.encode(&golden_envelope())));
        assert_eq!(written.collect::<Vec<_>>(), golden);
        let read: Vec<_> = golden.iter().map(|(_, bytes)| PaymentEvent::decode(bytes).expect("decodes")).collect();
        assert_eq!(read, golden_events());
        let with: Vec<_> = golden.iter().map(|(name, _)| *name).collect();
        let without: Vec<_> = EVENT_TYPES.iter().filter(|name| !with.contains(name)).collect();
        assert!(without.is_empty(), "no golden bytes of {without:?}");
    }

    /// A later program's field is passed over, and a later program's event is told apart from damage.
    #[test]
    fn a_field_and_an_event_of_a_later_version_do_no_harm() {
        for ((_, bytes), event) in golden(GOLDEN).into_iter().zip(golden_events()) {
            let later_field = [bytes, vec![0xfa, 0x3f, 0x01, 0x2a]].concat(); // field 1023: "*"
            assert_eq!(PaymentEvent::decode(&later_field).expect("decodes"), event);
        }
        let later_event = [0x0a, 0x01, 0x78, 0xfa, 0x06, 0x00]; // event_id, and an empty message as field 111
        assert!(matches!(PaymentEvent::decode(&later_event), Err(PayloadError::Newer)));
    }
}
