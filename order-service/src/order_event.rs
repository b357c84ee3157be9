//! The order's events as messages of `orders.events.v1`, and back.

use contracts::{
    money::Money,
    proto::orders::events::v1::{self as message, order_event::Event},
};
use oncelog::aggregate::{Envelope, Payload, PayloadError};
use prost::Message as _;
use prost_types::Timestamp;

use crate::order::{Details, OrderEvent, PaymentFailure};

/// Every event type that this program can read.
pub(crate) const EVENT_TYPES: &[&str] = &[CREATED, PAID, PAYMENT_FAILED, CANCELLATION_REQUESTED, CANCELLED, REFUNDED];

/// The one message type of the topic.
pub(crate) const MESSAGE: &str = "orders.events.v1.OrderEvent";

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
            version: i64::try_from(envelope.version.0).unwrap_or(i64::MAX),
            occur_time: Some(Timestamp::from(envelope.time)),
            event: Some(event),
        }
        .encode_to_vec()
    }

    fn decode(payload: &[u8]) -> Result<Self, PayloadError> {
        Ok(match message::OrderEvent::decode(payload)?.event.ok_or(PayloadError::Newer)? {
            Event::OrderCreated(created) => Self::Created(Details {
                money: Money::new(created.amount, &created.currency_code).map_err(|_errors| PayloadError::Field {
                    field: "order_created.amount",
                    problem: "is not an amount of money",
                })?,
                request_id: created.request_id,
                customer_id: created.customer_id,
                metadata: created.metadata,
            }),
            Event::OrderPaid(paid) => Self::Paid { gateway_reference: paid.gateway_reference },
            Event::OrderPaymentFailed(failed) => {
                Self::PaymentFailed(PaymentFailure { code: failed.code, message: failed.message })
            }
            Event::OrderCancellationRequested(message::OrderCancellationRequested {}) => Self::CancellationRequested,
            Event::OrderCancelled(message::OrderCancelled {}) => Self::Cancelled,
            Event::OrderRefunded(refunded) => Self::Refunded { gateway_reference: refunded.gateway_reference },
        })
    }
}

#[cfg(test)]
mod tests {
    use contracts::money::MAX_AMOUNT;
    use oncelog::{
        aggregate::{Cause, Loaded},
        event::{Event as StoredEvent, EventId, Position, StreamId, Version, from_micros, now},
        testing::golden,
    };
    use proptest::prelude::*;

    use super::*;
    use crate::order::{Command, Order, PaymentOutcome};

    fn envelope() -> Envelope {
        Envelope { id: EventId::generate(), stream: StreamId::generate(), version: Version(1), time: now() }
    }

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

    fn any_outcome() -> impl Strategy<Value = PaymentOutcome> {
        prop_oneof![
            "[ab]".prop_map(|gateway_reference| PaymentOutcome::Completed { gateway_reference }),
            "[ab]".prop_map(|code| PaymentOutcome::Failed(PaymentFailure { code, message: String::new() })),
            Just(PaymentOutcome::Voided),
            "[ab]".prop_map(|gateway_reference| PaymentOutcome::Refunded { gateway_reference }),
        ]
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

    fn any_command() -> impl Strategy<Value = Command> {
        prop_oneof![
            any_details().prop_map(Command::Create),
            Just(Command::Cancel),
            any_outcome().prop_map(Command::RecordPayment),
        ]
    }

    proptest! {
        #[test]
        fn an_event_survives_its_encoding(event in any_event()) {
            prop_assert_eq!(OrderEvent::decode(&event.encode(&envelope())).expect("decodes"), event);
        }

        #[test]
        fn equal_events_have_equal_bytes(event in any_event()) {
            let envelope = envelope();
            prop_assert_eq!(event.encode(&envelope), event.clone().encode(&envelope));
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = OrderEvent::decode(&bytes);
        }

        /// What the log gives back is what the commands left.
        #[test]
        fn replay_equals_the_live_state(commands in prop::collection::vec(any_command(), 0..20)) {
            let stream = StreamId::generate();
            let mut live = Loaded::<Order>::default();
            let mut stored = Vec::new();
            for command in &commands {
                for new in live.execute(stream, command, &Cause::default()).unwrap_or_default() {
                    let version = Version(stored.len() as u64 + 1);
                    stored.push(StoredEvent {
                        position: Position(version.0),
                        stream,
                        version,
                        id: new.id,
                        event_type: new.event_type.to_owned(),
                        time: new.time,
                        causation: new.causation,
                        traceparent: new.traceparent,
                        payload: new.payload,
                    });
                }
            }
            let replayed = Loaded::<Order>::fold(&stored).expect("readable");
            prop_assert_eq!(&replayed.state, &live.state);
            prop_assert_eq!(replayed.version, live.version);
            prop_assert_eq!(replayed.update_time, live.update_time);
        }
    }

    /// The bytes that were published and stored first, each with its type. They can never change.
    const GOLDEN: &str = include_str!("order_event.golden");

    fn golden_events() -> Vec<OrderEvent> {
        vec![
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
        let read: Vec<_> = golden.iter().map(|(_, bytes)| OrderEvent::decode(bytes).expect("decodes")).collect();
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
            assert_eq!(OrderEvent::decode(&later_field).expect("decodes"), event);
        }
        let later_event = [0x0a, 0x01, 0x78, 0xfa, 0x06, 0x00]; // event_id, and an empty message as field 111
        assert!(matches!(OrderEvent::decode(&later_event), Err(PayloadError::Newer)));
    }
}
