use contracts::proto::payments::events::v1::{PaymentCompleted, PaymentEvent, PaymentFailed, payment_event};
use oncelog::{
    event::{Event, EventId, Position, StreamId, Version, now},
    inbox::dead_letters,
    kafka::record::{Record, Source},
    testing::{eventually, publish, read_until},
};
use prost::Message as _;

use crate::harness::{PAYMENT_EVENTS, SERVICE, Service, TOPIC};

/// Returns a record like those that payment-service publishes.
pub(crate) fn outcome(order_id: &str, event: payment_event::Event) -> Record {
    let id = EventId::generate();
    let message = PaymentEvent {
        event_id: id.to_string(),
        order_id: order_id.to_owned(),
        version: 2,
        occur_time: Some(now().into()),
        event: Some(event),
    };
    let event = Event {
        position: Position(1),
        stream: StreamId::parse(order_id).expect("an id"),
        version: Version(2),
        id,
        event_type: "payments.events.v1.PaymentCompleted".to_owned(),
        time: now(),
        causation: None,
        trace: None,
        payload: message.encode_to_vec(),
    };
    let source = Source {
        topic: PAYMENT_EVENTS.to_owned(),
        uri: "/payment-service/test".to_owned(),
        message: "payments.events.v1.PaymentEvent",
        partitions: 3,
    };
    Record::of(&event, &source)
}

pub(crate) fn completed(order_id: &str) -> Record {
    let event = PaymentCompleted { gateway_reference: "ch_1".to_owned(), ..Default::default() };
    outcome(order_id, payment_event::Event::PaymentCompleted(event))
}

fn failed(order_id: &str) -> Record {
    let event =
        PaymentFailed { code: "CARD_DECLINED".to_owned(), message: "declined".to_owned(), ..Default::default() };
    outcome(order_id, payment_event::Event::PaymentFailed(event))
}

pub(crate) fn state(service: &Service, order_id: &str) -> String {
    service.get(&format!("/orders/{order_id}")).body["state"].as_str().expect("a state").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_becomes_what_its_payment_became_and_that_is_published() {
    let service = Service::start().await;
    let paid = service.post(r#"{"amount":500,"requestId":"paid"}"#).order_id().to_owned();
    let declined = service.post(r#"{"amount":500}"#).order_id().to_owned();
    let waiting = service.post(r#"{"amount":500}"#).order_id().to_owned();
    let once = completed(&paid);
    publish(&service.broker, &[once.clone(), once, completed(&paid), failed(&declined)]);
    eventually("the outcomes are recorded", || {
        state(&service, &paid) == "PAID" && state(&service, &declined) == "PAYMENT_FAILED"
    });
    assert_eq!(state(&service, &waiting), "CREATED");
    let failure = service.get(&format!("/orders/{declined}")).body["paymentFailure"].clone();
    assert_eq!((failure["code"].as_str(), failure["message"].as_str()), (Some("CARD_DECLINED"), Some("declined")));
    // A repeated call gets the answer of the first one.
    assert_eq!(service.post(r#"{"amount":500,"requestId":"paid"}"#).body["state"], "CREATED");

    let records = read_until(&service.broker, TOPIC, |records| records.len() >= 5);
    let of = |order: &str| -> Vec<_> {
        let own = records.iter().filter(|record| record.header("ce_subject") == Some(order));
        own.map(|record| record.header("ce_type").expect("there").to_owned()).collect()
    };
    assert_eq!(of(&paid), ["orders.events.v1.OrderCreated", "orders.events.v1.OrderPaid"]);
    assert_eq!(of(&declined), ["orders.events.v1.OrderCreated", "orders.events.v1.OrderPaymentFailed"]);
    assert_eq!(of(&waiting), ["orders.events.v1.OrderCreated"]);
    service.stop().await.expect("a clean stop");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_impossible_outcome_is_dead_lettered_with_its_reason() {
    let service = Service::start().await;
    let paid = service.post(r#"{"amount":500}"#).order_id().to_owned();
    let unknown = StreamId::generate().to_string();
    let other = service.post(r#"{"amount":500}"#).order_id().to_owned();
    let mut stolen = completed(&other);
    stolen.key = Some(paid.clone().into_bytes());
    stolen.headers.retain(|(name, _)| name != "ce_subject");
    stolen.headers.push(("ce_subject".to_owned(), Some(paid.clone().into_bytes())));
    let mut broken = completed(&paid);
    broken.value = Some(b"\xff\xff".to_vec());
    publish(&service.broker, &[completed(&paid), failed(&paid), completed(&unknown), stolen, broken]);
    let letters = read_until(&service.broker, &dead_letters::topic_of(SERVICE), |letters| letters.len() >= 4);
    let mut reasons: Vec<_> =
        letters.iter().map(|letter| letter.header("dead_letter_reason").expect("a reason").to_owned()).collect();
    reasons.sort();
    assert_eq!(reasons[1], "the order's payment had another outcome before");
    assert!(reasons[0].starts_with("the event is of \""), "{}", reasons[0]);
    assert!(reasons[2].starts_with("the value is not a valid message"), "{}", reasons[2]);
    assert_eq!(reasons[3], "there is no such order");
    assert_eq!(state(&service, &paid), "PAID");
    assert_eq!(state(&service, &other), "CREATED");
    service.stop().await.expect("a clean stop");
}
