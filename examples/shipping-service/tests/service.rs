//! The whole service on the embedded mock broker: records of the followed topics in, calls in, `shipping-events` out.

use contracts::{
    orders::{self, OrderEvent},
    payments::{self, Decline, PaymentEvent},
};
use oncelog::{
    Service as _, TopicSpec,
    aggregate::{Envelope, Payload},
    app::NoArgs,
    embedded::EmbeddedBroker,
    event::{Event, EventId, Position, StreamId, Version, now},
    testing::{Received, Record, RunningService, Source, eventually, publish, read_until},
};
use serde_json::{Value, json};
use shipping_service::{
    ShippingService,
    proto::v1::{GetShipmentRequest, ShipOrderRequest, ShipmentState, shipping_service_client::ShippingServiceClient},
};
use tempfile::TempDir;
use tonic::{Code, Request, Status, transport::Channel};
use tonic_types::StatusExt as _;

const SERVICE: &str = ShippingService::INFO.name;
const TOPIC: &str = ShippingService::TOPIC.name;
const PARTITIONS: i32 = 3;
const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// The running service, and its broker.
struct World {
    broker: EmbeddedBroker,
    service: RunningService,
    _directory: TempDir,
}

impl World {
    async fn start() -> Self {
        let topics = [TOPIC, orders::TOPIC.name, payments::TOPIC.name];
        let broker = EmbeddedBroker::start(&[SERVICE], &topics, PARTITIONS).expect("the broker starts");
        let directory = tempfile::tempdir().expect("a directory");
        let store = directory.path().join("shipping.db");
        let service = RunningService::start::<ShippingService>(&broker, &store, NoArgs {}).await;
        Self { broker, service, _directory: directory }
    }

    async fn grpc(&self) -> ShippingServiceClient<Channel> {
        let address = format!("http://{}", self.service.address);
        ShippingServiceClient::connect(address).await.expect("connects")
    }

    async fn ship(&self, order: StreamId, tracking_code: &str) -> Result<ShipmentState, Status> {
        let request = ShipOrderRequest { order_id: order.to_string(), tracking_code: tracking_code.to_owned() };
        let mut request = Request::new(request);
        request.metadata_mut().insert("traceparent", TRACEPARENT.parse().expect("a value"));
        let answer = self.grpc().await.ship_order(request).await?;
        Ok(answer.into_inner().shipment.expect("a shipment").state())
    }

    fn get(&self, path: &str) -> (u16, Value) {
        answer(agent().get(format!("http://{}{path}", self.service.address)).call())
    }

    fn post(&self, path: &str, content_type: &str, body: &str) -> (u16, Value) {
        let request = agent().post(format!("http://{}{path}", self.service.address));
        answer(request.header("content-type", content_type).send(body))
    }

    /// The state of the shipment over HTTP; `null` if there is none.
    fn state(&self, order: StreamId) -> Value {
        self.get(&format!("/shipments/{order}")).1["state"].clone()
    }

    fn eventually_all(&self, state: &str, orders: &[StreamId]) {
        eventually(state, || orders.iter().all(|order| self.state(*order) == state));
    }

    /// The types of the events that were published for an order.
    fn published(&self, order: StreamId, count: usize) -> Vec<Received> {
        let of_order = |records: &[Received]| -> Vec<Received> {
            let subject = order.to_string();
            records.iter().filter(|record| record.header("ce_subject") == Some(&subject)).cloned().collect()
        };
        of_order(&read_until(&self.broker, TOPIC, |records| of_order(records).len() >= count))
    }
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder().http_status_as_error(false).build().into()
}

fn answer(answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> (u16, Value) {
    let mut answer = answer.expect("an answer");
    (answer.status().as_u16(), answer.body_mut().read_json().unwrap_or_default())
}

/// The record of an event, as the service of the topic publishes it.
fn record<E: Payload>(topic: TopicSpec, order: StreamId, event: &E) -> Record {
    let envelope = Envelope { id: EventId::generate(), stream: order, version: Version(1), time: now() };
    let event = Event {
        position: Position(1),
        stream: order,
        version: envelope.version,
        id: envelope.id,
        event_type: event.event_type().to_owned(),
        time: envelope.time,
        causation: None,
        trace: None,
        payload: event.encode(&envelope),
    };
    let (topic, message) = (topic.name.to_owned(), topic.message);
    Record::of(&event, &Source { topic, uri: "/test/store".to_owned(), message, partitions: PARTITIONS })
}

fn order_event(order: StreamId, event: OrderEvent) -> Record {
    record(orders::TOPIC, order, &event)
}

fn payment_event(order: StreamId, event: PaymentEvent) -> Record {
    record(payments::TOPIC, order, &event)
}

fn completed(order: StreamId) -> Record {
    let (gateway_reference, settled_by) = ("ch_1".to_owned(), String::new());
    payment_event(order, PaymentEvent::Completed { gateway_reference, settled_by })
}

fn cancelled(order: StreamId) -> Record {
    order_event(order, OrderEvent::CancellationRequested)
}

fn types(records: &[Received]) -> Vec<&str> {
    records.iter().filter_map(|record| record.header("ce_type")?.rsplit('.').next()).collect()
}

fn header<'a>(record: &'a Record, name: &str) -> Option<&'a str> {
    let (_, value) = record.headers.iter().find(|(key, _)| key == name)?;
    std::str::from_utf8(value.as_deref()?).ok()
}

fn reason(status: &Status) -> String {
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paid_order_is_prepared_shipped_once_and_published() {
    let world = World::start().await;
    let order = StreamId::generate();
    let payment = completed(order);
    let status = world.ship(order, "T-1").await.expect_err("nothing is prepared");
    assert_eq!((status.code(), reason(&status).as_str()), (Code::FailedPrecondition, "NOT_PREPARED"));

    publish(&world.broker, &[payment.clone(), payment.clone(), completed(order)]);
    world.eventually_all("PREPARED", &[order]);
    assert_eq!(world.ship(order, "T-1").await.expect("shipped"), ShipmentState::Shipped);
    assert_eq!(world.ship(order, "T-1").await.expect("a repeat"), ShipmentState::Shipped);
    let status = world.ship(order, "T-2").await.expect_err("shipped before");
    assert_eq!((status.code(), reason(&status).as_str()), (Code::FailedPrecondition, "ALREADY_SHIPPED"));

    // What arrives after the shipment changes nothing. The other order shows that it was read.
    let after = StreamId::generate();
    publish(&world.broker, &[cancelled(order), cancelled(after)]);
    world.eventually_all("CALLED_OFF", &[after]);
    let request = GetShipmentRequest { order_id: order.to_string() };
    let shipment = world.grpc().await.get_shipment(request).await.expect("found").into_inner().shipment;
    let shipment = shipment.expect("a shipment");
    assert_eq!((shipment.state(), shipment.version), (ShipmentState::Shipped, 2));
    assert_eq!((shipment.tracking_code.as_str(), shipment.call_off_reason.as_str()), ("T-1", ""));

    let records = world.published(order, 2);
    assert_eq!(types(&records), ["ShipmentPrepared", "OrderShipped"]);
    assert_eq!(records[0].header("ce_causationid"), header(&payment, "ce_id"));
    assert_eq!(records[1].header("traceparent"), Some(TRACEPARENT));
    assert!(records.iter().all(|record| record.key.as_deref() == Some(order.to_string().as_bytes())));
    world.service.stop().await.expect("a clean stop");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancellation_wins_in_whatever_order_the_topics_are_read() {
    let world = World::start().await;
    let [cancelled_first, paid_first, voided, failed] = [(); 4].map(|()| StreamId::generate());
    let none = String::new;
    let decline = Decline { code: "CARD_DECLINED".to_owned(), message: none() };
    publish(
        &world.broker,
        &[
            cancelled(cancelled_first),
            completed(paid_first),
            payment_event(voided, PaymentEvent::Voided { settled_by: none() }),
            payment_event(failed, PaymentEvent::Failed { decline, settled_by: none() }),
        ],
    );
    world.eventually_all("PREPARED", &[paid_first]);
    world.eventually_all("CALLED_OFF", &[cancelled_first, voided, failed]);

    let refunded = PaymentEvent::Refunded { gateway_reference: "re_1".to_owned(), settled_by: none() };
    publish(&world.broker, &[completed(cancelled_first), payment_event(paid_first, refunded)]);
    world.eventually_all("CALLED_OFF", &[paid_first]);

    assert_eq!(types(&world.published(cancelled_first, 1)), ["ShipmentCalledOff"]);
    assert_eq!(types(&world.published(paid_first, 2)), ["ShipmentPrepared", "ShipmentCalledOff"]);
    let (_, body) = world.get(&format!("/shipments/{failed}"));
    assert_eq!(body["callOffReason"], "PAYMENT_FAILED");
    let status = world.ship(voided, "T-1").await.expect_err("called off");
    assert_eq!((status.code(), reason(&status).as_str()), (Code::FailedPrecondition, "CALLED_OFF"));
    world.service.stop().await.expect("a clean stop");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_is_shipped_over_http_and_bad_calls_name_what_is_wrong() {
    let world = World::start().await;
    let order = StreamId::generate();
    let path = format!("/shipments/{order}");
    let ship = |body: &str| world.post(&format!("{path}/ship"), "application/json", body);
    let good = r#"{"trackingCode":"T-1"}"#;
    let reason = |(status, body): (u16, Value)| (status, body["reason"].as_str().unwrap_or_default().to_owned());
    let expected = |status: u16, reason: &str| (status, reason.to_owned());

    assert_eq!(reason(world.get(&path)), expected(404, "NOT_FOUND"));
    assert_eq!(reason(ship(good)), expected(409, "NOT_PREPARED"));
    publish(&world.broker, &[completed(order)]);
    world.eventually_all("PREPARED", &[order]);

    for body in ["", "{", "{}", "[]", r#"{"trackingCode":1}"#, r#"{"trackingCode":"T-1","colour":"red"}"#] {
        let (status, problem) = ship(body);
        assert_eq!((status, &problem["errors"][0]["field"]), (400, &json!("body")), "{body}");
    }
    for code in ["", "a\\u0000b", &"x".repeat(65)] {
        let (status, problem) = ship(&format!(r#"{{"trackingCode":"{code}"}}"#));
        assert_eq!((status, &problem["errors"][0]["field"]), (400, &json!("trackingCode")), "{code}");
    }
    let (status, problem) = world.post("/shipments/1/ship", "application/json", r#"{"trackingCode":""}"#);
    assert_eq!((status, problem["errors"].as_array().map(Vec::len)), (400, Some(2)));
    assert_eq!(problem["errors"][0]["field"], "orderId");
    assert_eq!(
        reason(world.post(&format!("{path}/ship"), "text/plain", good)),
        expected(415, "UNSUPPORTED_MEDIA_TYPE")
    );
    assert_eq!(reason(ship(&"x".repeat(64 * 1024 + 1))), expected(413, "BODY_TOO_LARGE"));
    assert_eq!(reason(world.get(&format!("{path}/ship"))), expected(405, "METHOD_NOT_ALLOWED"));
    assert_eq!(world.state(order), "PREPARED");

    let (status, shipped) = ship(good);
    assert_eq!((status, &shipped["state"], &shipped["trackingCode"]), (200, &json!("SHIPPED"), &json!("T-1")));
    assert_eq!(world.get(&path), (200, shipped.clone()));
    assert_eq!(ship(good), (200, shipped));
    assert_eq!(reason(ship(r#"{"trackingCode":"T-2"}"#)), expected(409, "ALREADY_SHIPPED"));
    world.service.stop().await.expect("a clean stop");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_record_of_either_topic_goes_to_the_dead_letters_and_blocks_nothing() {
    let world = World::start().await;
    let [bad, good] = [(); 2].map(|()| StreamId::generate());
    let broken = |record: Record| Record { value: Some(b"\xff\xff".to_vec()), ..record };
    publish(&world.broker, &[broken(cancelled(bad)), broken(completed(bad)), completed(good)]);
    world.eventually_all("PREPARED", &[good]);

    let letters = read_until(&world.broker, &format!("{SERVICE}.dead-letters"), |letters| letters.len() >= 2);
    let mut origins: Vec<_> = letters.iter().filter_map(|letter| letter.header("dead_letter_topic")).collect();
    origins.sort_unstable();
    assert_eq!(origins, [orders::TOPIC.name, payments::TOPIC.name]);
    for letter in &letters {
        let reason = letter.header("dead_letter_reason").unwrap_or_default();
        assert!(reason.starts_with("the value is not a valid message"), "{reason}");
    }
    assert_eq!(world.state(bad), Value::Null);
    world.service.stop().await.expect("a clean stop");
}

/// A dead letter, as the subcommand `dead-letters replay` puts it into the topic of retries.
fn replay(mut record: Record) -> Record {
    let origin = [
        ("dead_letter_topic", record.topic.as_str()),
        ("dead_letter_partition", "0"),
        ("dead_letter_offset", "0"),
        ("dead_letter_failures", "1"),
    ];
    let headers = origin.map(|(name, value)| (name.to_owned(), Some(value.as_bytes().to_vec())));
    record.headers.extend(headers);
    Record { topic: format!("{SERVICE}.retries"), partition: None, ..record }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_is_read_by_the_reader_of_its_first_topic() {
    let world = World::start().await;
    let [paid, cancelled_order] = [(); 2].map(|()| StreamId::generate());
    // The same fields in both contracts: the reader of payments would take this for a completed payment.
    let order_paid = order_event(cancelled_order, OrderEvent::Paid { gateway_reference: "ch_1".to_owned() });
    publish(&world.broker, &[order_paid, cancelled(cancelled_order), completed(paid)].map(replay));
    world.eventually_all("PREPARED", &[paid]);
    world.eventually_all("CALLED_OFF", &[cancelled_order]);
    assert_eq!(types(&world.published(cancelled_order, 1)), ["ShipmentCalledOff"]);
    world.service.stop().await.expect("a clean stop");
}
