//! Tests of an order's life as callers see it: cancelling, watching, listing and deadlines.

use std::{
    collections::HashSet,
    io::{BufRead as _, BufReader},
    time::{Duration, SystemTime},
};

use axum::body::Bytes;
use contracts::proto::{
    orders::v1::{
        CancelOrderRequest, CreateOrderRequest, ListOrderEventsRequest, ListOrdersRequest, OrderState,
        WatchOrderRequest,
    },
    payments::events::v1::{PaymentRefunded, PaymentVoided, payment_event},
};
use http_body_util::Full;
use hyper_util::rt::TokioExecutor;
use oncelog::{
    event::Position,
    testing::{eventually, publish},
};
use prost::Message as _;
use serde_json::Value;
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::{
    harness::{Service, agent},
    payments::{completed, outcome, state},
};

fn voided() -> payment_event::Event {
    payment_event::Event::PaymentVoided(PaymentVoided::default())
}

fn refunded() -> payment_event::Event {
    let refund = PaymentRefunded { gateway_reference: "re_1".to_owned(), ..Default::default() };
    payment_event::Event::PaymentRefunded(refund)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_is_cancelled_over_both_and_ends_as_its_payment_says() {
    let service = Service::start().await;
    let [unpaid, paid] = [(); 2].map(|()| service.post(r#"{"amount":500}"#).order_id().to_owned());
    publish(&service.broker, &[completed(&paid)]);
    eventually("the order is paid", || state(&service, &paid) == "PAID");
    for order in [&unpaid, &paid] {
        for _ in 0..2 {
            let answer = service.http("POST", &format!("/orders/{order}/cancel"), "", b"");
            assert_eq!((answer.status, answer.body["state"].as_str()), (200, Some("CANCELLING")));
        }
        let request = CancelOrderRequest { order_id: order.clone() };
        let again = service.grpc().await.cancel_order(request).await.expect("answered").into_inner();
        assert_eq!(again.order.expect("an order").state(), OrderState::Cancelling);
    }
    publish(&service.broker, &[outcome(&unpaid, voided()), outcome(&paid, refunded())]);
    eventually("both are final", || state(&service, &unpaid) == "CANCELLED" && state(&service, &paid) == "REFUNDED");
    let answer = service.http("POST", &format!("/orders/{paid}/cancel"), "", b"");
    assert_eq!((answer.status, answer.body["state"].as_str()), (200, Some("REFUNDED")), "a repeat changes nothing");

    let unknown = service.http("POST", "/orders/01a20859-c427-7384-b47b-d18ff68dd444/cancel", "", b"");
    assert_eq!((unknown.status, unknown.body["reason"].as_str()), (404, Some("NOT_FOUND")));
    assert_eq!(service.http("POST", "/orders/x/cancel", "", b"").bad_fields(), ["orderId"]);
    service.stop().await.expect("a clean stop");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idempotency_key_is_a_request_id_quoted_or_bare() {
    let service = Service::start().await;
    let first = service.post(r#"{"amount":500,"requestId":"k-1"}"#);
    for key in ["k-1", "\"k-1\""] {
        let again = service.keyed(key, r#"{"amount":500}"#);
        assert_eq!((again.status, &again.body), (201, &first.body), "{key}");
        assert_eq!(service.keyed(key, r#"{"amount":500,"requestId":"k-1"}"#).body, first.body);
        assert_eq!(service.keyed(key, r#"{"amount":501}"#).body["reason"], "REQUEST_ID_REUSED");
        assert_eq!(service.keyed(key, r#"{"amount":500,"requestId":"other"}"#).bad_fields(), ["requestId"]);
    }
    let (longest, longer) = ("k".repeat(255), "k".repeat(256));
    assert_eq!(service.keyed(&longest, r#"{"amount":500}"#).status, 201);
    for key in [&longer, "a b", "\"\"", "\"", "\"k-1", "\"k-1\"x"] {
        assert_eq!(service.keyed(key, r#"{"amount":500}"#).bad_fields(), ["Idempotency-Key"], "{key}");
    }
    let two = service.request("POST", "/orders").header("content-type", "application/json");
    let two = two.header("idempotency-key", "k-1").header("idempotency-key", "k-2");
    let two = two.body(&br#"{"amount":500}"#[..]).expect("a request");
    assert_eq!(agent().run(two).expect("an answer").status(), 400);
    assert_eq!(service.stored_orders(), 2);
    service.stop().await.expect("a clean stop");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_sees_each_step_until_nothing_more_happens() {
    let service = Service::start().await;
    let order = service.post(r#"{"amount":500}"#).order_id().to_owned();
    let request = WatchOrderRequest { order_id: order.clone(), after_version: 0 };
    let mut steps = service.grpc().await.watch_order(request).await.expect("watched").into_inner();
    let first = steps.message().await.expect("answered").expect("the order").order.expect("an order");
    assert_eq!((first.state(), first.version), (OrderState::Created, 1));
    service.http("POST", &format!("/orders/{order}/cancel"), "", b"");
    publish(&service.broker, &[outcome(&order, refunded())]);
    let mut seen = Vec::new();
    while let Some(step) = steps.message().await.expect("answered") {
        let order = step.order.expect("an order");
        seen.push((order.state(), order.version));
    }
    assert_eq!(seen, [(OrderState::Cancelling, 2), (OrderState::Refunded, 3)]);

    // A late watcher gets each step after the version that it has seen.
    let request = WatchOrderRequest { order_id: order.clone(), after_version: 1 };
    let mut steps = service.grpc().await.watch_order(request).await.expect("watched").into_inner();
    let mut versions = Vec::new();
    while let Some(step) = steps.message().await.expect("answered") {
        versions.push(step.order.expect("an order").version);
    }
    assert_eq!(versions, [2, 3]);
    for (order_id, code) in [("x".to_owned(), Code::InvalidArgument), (UNKNOWN.to_owned(), Code::NotFound)] {
        for after_version in [0, 1] {
            let request = WatchOrderRequest { order_id: order_id.clone(), after_version };
            let refused = service.grpc().await.watch_order(request).await.expect_err("refused");
            assert_eq!(refused.code(), code);
        }
    }
    service.stop().await.expect("a clean stop");
}

const UNKNOWN: &str = "01a20859-c427-7384-b47b-d18ff68dd444";

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_watches_by_server_sent_events_and_comes_back_where_it_was() {
    let service = Service::start().await;
    let order = service.post(r#"{"amount":500}"#).order_id().to_owned();
    let response = service.open(&format!("/orders/{order}?watch"), None);
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    publish(&service.broker, &[completed(&order)]);
    let lines: Vec<_> = BufReader::new(response.into_body().into_reader()).lines().map_while(Result::ok).collect();
    let ids: Vec<_> = lines.iter().filter_map(|line| line.strip_prefix("id: ")).collect();
    assert_eq!(ids, ["1", "2"]);
    let states = lines.iter().filter_map(|line| line.strip_prefix("data: "));
    let states = states.map(|data| serde_json::from_str::<Value>(data).expect("JSON")["state"].clone());
    assert_eq!(states.collect::<Vec<_>>(), ["CREATED", "PAID"]);

    let mut late = service.open(&format!("/orders/{order}?watch"), Some("1"));
    assert!(late.body_mut().read_to_string().expect("read").contains("\"PAID\""));
    assert_eq!(service.open(&format!("/orders/{order}?watch=true"), Some("2")).status(), 204);
    for (path, seen, status) in [
        (format!("/orders/{order}?watch=maybe"), None, 400),
        (format!("/orders/{order}?colour=red"), None, 400),
        (format!("/orders/{order}?watch"), Some("-1"), 400),
        (format!("/orders/{UNKNOWN}?watch"), Some("1"), 404),
    ] {
        assert_eq!(service.open(&path, seen).status(), status, "{path}");
    }
    service.stop().await.expect("a clean stop");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_stops_sends_its_watchers_away() {
    let service = Service::start().await;
    let order_id = service.post(r#"{"amount":500}"#).order_id().to_owned();
    let request = WatchOrderRequest { order_id, after_version: 0 };
    let mut steps = service.grpc().await.watch_order(request).await.expect("watched").into_inner();
    steps.message().await.expect("answered").expect("the order");
    let (stopped, left) = tokio::join!(service.stop(), steps.message());
    stopped.expect("a clean stop");
    assert_eq!(left.expect_err("the service stops").code(), Code::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_are_listed_page_by_page_by_each_filter() {
    let service = Service::start().await;
    let mut ids = Vec::new();
    for number in 0..7 {
        let customer = if number % 2 == 0 { "even" } else { "odd" };
        ids.push(service.post(&format!(r#"{{"amount":500,"customerId":"{customer}"}}"#)).order_id().to_owned());
    }
    publish(&service.broker, &[completed(&ids[2]), completed(&ids[5])]);
    eventually("two orders are paid", || [2, 5].iter().all(|n| state(&service, &ids[*n]) == "PAID"));
    let newest_first = |numbers: &[usize]| numbers.iter().rev().map(|n| ids[*n].clone()).collect::<Vec<_>>();
    let middle = service.get(&format!("/orders/{}", ids[3])).body["createTime"].as_str().expect("a time").to_owned();
    for (query, expected) in [
        (String::new(), vec![0, 1, 2, 3, 4, 5, 6]),
        ("state=PAID".to_owned(), vec![2, 5]),
        ("customerId=odd".to_owned(), vec![1, 3, 5]),
        ("customerId=even&state=PAID".to_owned(), vec![2]),
        (format!("createTimeFrom={middle}"), vec![3, 4, 5, 6]),
        (format!("createTimeUntil={middle}&state=CREATED"), vec![0, 1]),
        ("customerId=nobody".to_owned(), vec![]),
    ] {
        for size in [1, 2, 50] {
            let (mut listed, mut token) = (Vec::new(), String::new());
            loop {
                let page = service.get(&format!("/orders?pageSize={size}&{query}&pageToken={token}")).body;
                let orders = page["orders"].as_array().expect("a list").iter();
                listed.extend(orders.map(|order| order["orderId"].as_str().expect("an id").to_owned()));
                match page["nextPageToken"].as_str() {
                    Some(next) => token = next.to_owned(),
                    None => break,
                }
            }
            assert_eq!(listed, newest_first(&expected), "{query} by {size}");
        }
    }
    let token = service.get("/orders?pageSize=1").body["nextPageToken"].as_str().expect("more").to_owned();
    assert_eq!(service.get(&format!("/orders?state=PAID&pageToken={token}")).bad_fields(), ["pageToken"]);
    let wrong = service.get("/orders?state=GONE&createTimeFrom=yesterday&pageSize=x&colour=red");
    assert_eq!(wrong.bad_fields(), ["state", "createTimeFrom", "pageSize", "colour"]);
    let long = "x".repeat(65);
    let wrong = service.get(&format!("/orders?state=GONE&pageSize=-1&customerId={long}&pageToken=x"));
    assert_eq!(wrong.bad_fields(), ["state", "customerId", "pageSize", "pageToken"]);
    assert_eq!(service.get("/orders?state=PAID&state=CREATED").bad_fields(), ["state"]);
    assert_eq!(service.get("/orders?pageSize=-1").bad_fields(), ["pageSize"]);

    let request = ListOrdersRequest { state: OrderState::Paid.into(), ..Default::default() };
    let page = service.grpc().await.list_orders(request).await.expect("a page").into_inner();
    let listed: Vec<_> = page.orders.into_iter().map(|order| order.order_id).collect();
    assert_eq!(listed, newest_first(&[2, 5]));
    service.stop().await.expect("a clean stop");
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_happened_to_an_order_is_listed() {
    let service = Service::start().await;
    let order = service.post(r#"{"amount":500,"requestId":"r"}"#).order_id().to_owned();
    let payment = completed(&order);
    publish(&service.broker, std::slice::from_ref(&payment));
    eventually("the order is paid", || state(&service, &order) == "PAID");
    let events = service.get(&format!("/orders/{order}/events")).body["events"].clone();
    assert_eq!(events[0]["eventType"], "orders.events.v1.OrderCreated");
    assert_eq!(events[0]["message"]["orderCreated"]["requestId"], "r");
    assert_eq!((&events[1]["version"], &events[1]["position"]), (&Value::from(2), &Value::from(2)));
    let cause = payment.headers.iter().find(|(name, _)| name == "ce_id").and_then(|(_, value)| value.clone());
    assert_eq!(events[1]["causationId"].as_str().map(str::as_bytes), cause.as_deref());

    let request = ListOrderEventsRequest { order_id: order.clone() };
    let same = service.grpc().await.list_order_events(request).await.expect("listed").into_inner().events;
    assert_eq!(same.len(), 2);
    assert_eq!(same[1].event_id, events[1]["eventId"]);
    assert!(!same[0].payload.is_empty());
    assert_eq!(service.get(&format!("/orders/{UNKNOWN}/events")).status, 404);
    service.stop().await.expect("a clean stop");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_that_is_over_ends_the_call_and_leaves_no_half_order() {
    let service = Service::start().await;
    // Without tonic's client, which enforces deadlines itself.
    let client = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).http2_only(true).build_http();
    let call = async |timeout: &str| {
        let message = CreateOrderRequest { amount: 500, ..Default::default() }.encode_to_vec();
        let body = [&[0, 0, 0, 0, u8::try_from(message.len()).expect("short")], &message[..]].concat();
        let request = service.request("POST", "/orders.v1.OrderService/CreateOrder");
        let request = request.header("content-type", "application/grpc").header("te", "trailers");
        let request = request.header("grpc-timeout", timeout).body(Full::new(Bytes::from(body))).expect("a request");
        let response = client.request(request).await.expect("an answer");
        response.headers().get("grpc-status").map(|status| status.to_str().expect("text").to_owned())
    };
    let held = service.hold_the_disk();
    assert_eq!(call("50m").await.as_deref(), Some("4"), "DEADLINE_EXCEEDED");
    drop(held);
    assert_eq!(call("10S").await, None, "answered: the status follows the message");
    assert_eq!(call("soon").await, None, "not a valid timeout: treated as none");
    eventually("all three orders are complete", || {
        let events = service.store.read_all_blocking(Position::START, 10).expect("reads");
        events.len() == 3 && service.stored_orders() == 3
    });
    service.stop().await.expect("a clean stop");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_that_is_over_ends_a_stream() {
    let service = Service::start().await;
    let order_id = service.post(r#"{"amount":500}"#).order_id().to_owned();
    // tonic's client enforces this deadline only until the stream begins.
    let mut request = tonic::Request::new(WatchOrderRequest { order_id, after_version: 0 });
    request.set_timeout(Duration::from_millis(300));
    let mut changes = service.grpc().await.watch_order(request).await.expect("watched").into_inner();
    assert!(changes.message().await.expect("the current order").is_some());
    let end = tokio::time::timeout(Duration::from_secs(10), changes.message()).await.expect("the stream ends");
    assert_eq!(end.expect_err("the deadline has passed").code(), Code::DeadlineExceeded);
    service.stop().await.expect("a clean stop");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_is_refused_over_both() {
    let service = Service::start().await;
    let metadata = (0..10_000).map(|number| (format!("key-{number}"), "v".repeat(10))).collect();
    let request = CreateOrderRequest { amount: 500, metadata, ..Default::default() };
    let refused = service.grpc().await.create_order(request).await.expect_err("too large");
    assert_eq!(refused.code(), Code::OutOfRange);
    assert_eq!(service.post(&format!(r#"{{"amount":500,"x":"{}"}}"#, "x".repeat(70_000))).status, 413);
    assert!(refused.get_details_bad_request().is_none());
    service.stop().await.expect("a clean stop");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_openapi_document_names_every_route_and_every_field() {
    let service = Service::start().await;
    let document = service.get("/openapi.json").body;
    assert!(document["openapi"].as_str().is_some_and(|version| version.starts_with("3.1")));
    let paths: HashSet<_> = document["paths"].as_object().expect("paths").keys().map(String::as_str).collect();
    let expected = ["/orders", "/orders/{orderId}", "/orders/{orderId}/cancel", "/orders/{orderId}/events"];
    assert_eq!(paths, HashSet::from(expected));
    // The service accepts each documented field of a request, and documents each field of its answers.
    let schema = |name: &str| document["components"]["schemas"][name]["properties"].as_object().expect(name).clone();
    let fields = schema("NewOrder");
    assert_eq!(fields.len(), 5);
    for field in fields.keys() {
        let refused = service.post(&format!(r#"{{"{field}":[]}}"#)).body;
        assert!(!refused.to_string().contains("is not a field"), "{field}: {refused}");
    }
    let taken = service.post(r#"{"amount":500,"customerId":"c","metadata":{"k":"v"}}"#).body;
    let documented = schema("Order");
    for field in taken.as_object().expect("an order").keys() {
        assert!(documented.contains_key(field), "{field}");
    }
    let problem = service.post("{}").body;
    let documented = schema("Problem");
    assert!(problem.as_object().expect("a problem").keys().all(|field| documented.contains_key(field)));
    service.stop().await.expect("a clean stop");
}

/// A thousand watchers of one order do not read, and other orders are still taken.
#[tokio::test(flavor = "multi_thread")]
async fn many_watchers_that_do_not_read_hold_up_nobody() {
    let service = Service::start().await;
    let order_id = service.post(r#"{"amount":500}"#).order_id().to_owned();
    let mut watchers = Vec::new();
    for _ in 0..20 {
        let mut grpc = service.grpc().await; // one connection has up to a hundred calls in flight
        for _ in 0..50 {
            let request = WatchOrderRequest { order_id: order_id.clone(), after_version: 0 };
            watchers.push(grpc.watch_order(request).await.expect("watched").into_inner());
        }
    }
    let began = SystemTime::now();
    for _ in 0..100 {
        assert_eq!(service.post(r#"{"amount":500}"#).status, 201);
    }
    assert!(began.elapsed().is_ok_and(|took| took < Duration::from_secs(30)), "the calls were delayed");
    publish(&service.broker, &[completed(&order_id)]);
    for watcher in &mut watchers {
        let mut states = Vec::new();
        while let Some(step) = watcher.message().await.expect("answered") {
            states.push(step.order.expect("an order").state());
        }
        assert_eq!(states, [OrderState::Created, OrderState::Paid]);
    }
    service.stop().await.expect("a clean stop");
}
