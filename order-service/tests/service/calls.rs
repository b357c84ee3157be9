use std::{
    collections::HashSet,
    io::{Read as _, Write as _},
    net::{Shutdown, TcpStream},
    sync::mpsc,
};

use contracts::proto::orders::v1::{CancelOrderRequest, CreateOrderRequest, GetOrderRequest, OrderState};
use futures_util::FutureExt as _;
use oncelog::{
    store::{Commit, CommitError},
    testing::{eventually, read_until},
};
use tonic::{Code, Request, codec::CompressionEncoding, transport::Endpoint};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tonic_types::StatusExt as _;

use crate::harness::{Service, TOPIC, agent};

fn ready(service: &Service) -> u16 {
    service.get("/readyz").status
}

async fn health(service: &Service) -> ServingStatus {
    let channel = Endpoint::from_shared(format!("http://{}", service.address)).expect("an address");
    let mut health = HealthClient::new(channel.connect().await.expect("connects"));
    let request = HealthCheckRequest { service: "orders.v1.OrderService".to_owned() };
    health.check(request).await.expect("answered").into_inner().status()
}

const UNKNOWN: &str = "01a20859-c427-7384-b47b-d18ff68dd444";

#[tokio::test(flavor = "multi_thread")]
async fn an_order_is_taken_over_http_and_read_back_over_both() {
    let service = Service::start().await;
    let created =
        service.post(r#"{"amount":"500","currencyCode":"EUR","customerId":"c-1","metadata":{"campaign":"autumn"}}"#);
    assert_eq!((created.status, created.content_type.as_str()), (201, "application/json"));
    let id = created.order_id().to_owned();
    assert_eq!(created.location, format!("/orders/{id}"));
    assert_eq!(created.body["amount"], 500);
    assert_eq!(created.body["currencyCode"], "EUR");
    assert_eq!(created.body["state"], "CREATED");
    assert_eq!(created.body["customerId"], "c-1");
    assert_eq!(created.body["metadata"]["campaign"], "autumn");
    assert!(created.body["createTime"].as_str().is_some_and(|time| time.ends_with('Z')));

    assert_eq!(service.get(&created.location).body, created.body);
    let mut grpc = service.grpc().await;
    let order = grpc.get_order(GetOrderRequest { order_id: id.clone() }).await.expect("found");
    let order = order.into_inner().order.expect("an order");
    assert_eq!((order.order_id.as_str(), order.amount, order.state()), (id.as_str(), 500, OrderState::Created));
    service.stop().await.expect("a clean stop");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_taken_over_grpc_is_published_with_the_callers_trace() {
    let service = Service::start().await;
    let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let mut request = Request::new(CreateOrderRequest { amount: 700, ..Default::default() });
    request.metadata_mut().insert("traceparent", traceparent.parse().expect("a value"));
    request.metadata_mut().insert("tracestate", "congo=t61rcWkgMzE".parse().expect("a value"));
    let order = service.grpc().await.create_order(request).await.expect("taken").into_inner().order.expect("an order");
    assert_eq!((order.amount, order.currency_code.as_str()), (700, "USD"));
    let records = read_until(&service.broker, TOPIC, |records| !records.is_empty());
    assert_eq!(records[0].header("ce_subject"), Some(order.order_id.as_str()));
    assert_eq!(records[0].header("ce_type"), Some("orders.events.v1.OrderCreated"));
    assert_eq!(records[0].header("traceparent"), Some(traceparent));
    assert_eq!(records[0].header("tracestate"), Some("congo=t61rcWkgMzE"));
    service.stop().await.expect("a clean stop");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_http_request_names_each_bad_field_and_stores_nothing() {
    let service = Service::start().await;
    let too_many: String = (0..17).map(|n| format!("\"k{n}\":\"v\",")).collect();
    let cases = [
        ("{}", 400, vec!["amount"]),
        (r#"{"amount":0}"#, 400, vec!["amount"]),
        (r#"{"amount":-1}"#, 400, vec!["amount"]),
        (r#"{"amount":1000000000001}"#, 400, vec!["amount"]),
        (r#"{"amount":"five"}"#, 400, vec!["amount"]),
        (r#"{"amount":1.5}"#, 400, vec!["amount"]),
        (r#"{"amount":5,"currencyCode":"XXL"}"#, 400, vec!["currencyCode"]),
        (r#"{"amount":5,"currencyCode":"usd","customerId":"a\u0000b"}"#, 400, vec!["currencyCode", "customerId"]),
        (r#"{"amount":5,"requestId":"two words"}"#, 400, vec!["requestId"]),
        (r#"{"amount":5,"metadata":{"UPPER":"v"}}"#, 400, vec![r#"metadata["UPPER"]"#]),
        (&format!("{{\"amount\":5,\"metadata\":{{{too_many}\"k\":\"v\"}}}}"), 400, vec!["metadata"]),
        (r#"{"amount":5,"colour":"red"}"#, 400, vec!["colour"]),
        (r#"{"amount":"x","colour":"red","currencyCode":"XXL"}"#, 400, vec!["amount", "colour", "currencyCode"]),
        (r#"{"amount":5,"amount":6}"#, 400, vec!["amount"]),
        (r#"{"amount":5,"metadata":{"k":"v","k":"w"}}"#, 400, vec!["metadata"]),
        (r#"{"amount":5"#, 400, vec!["body"]),
        (r#"[5]"#, 400, vec!["body"]),
    ];
    for (body, status, fields) in cases {
        let answer = service.post(body);
        assert_eq!((answer.status, answer.bad_fields()), (status, fields), "{body}");
        assert_eq!(answer.content_type, "application/problem+json", "{body}");
        assert_eq!(answer.body["status"], status, "{body}");
    }
    let large = format!("{{\"amount\":5,\"customerId\":\"{}\"}}", "x".repeat(64 * 1024));
    assert_eq!(service.post(&large).status, 413);
    let packed = service.request("POST", "/orders").header("content-type", "application/json");
    let packed = packed.header("content-encoding", "gzip").body(&[0x1f, 0x8b][..]).expect("a request");
    assert_eq!(agent().run(packed).expect("an answer").status(), 415);
    for (broken, status) in [
        ("content-length: 20\r\n\r\n{\"amount\"", "400"),
        ("transfer-encoding: chunked\r\n\r\nsix\r\n", "400"),
        ("content-length: 70000\r\n\r\n{", "413"),
    ] {
        let mut stream = TcpStream::connect(service.address).expect("connects");
        let head = "POST /orders HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n";
        stream.write_all(format!("{head}{broken}").as_bytes()).expect("sent");
        stream.shutdown(Shutdown::Write).expect("the writing half is shut down");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answered");
        assert_eq!(answer.split(' ').nth(1), Some(status), "{broken:?}: {answer}");
    }
    for content_type in ["text/plain", "application/x-www-form-urlencoded", ""] {
        assert_eq!(service.http("POST", "/orders", content_type, b"{\"amount\":5}").status, 415, "{content_type}");
    }
    let charset = service.http("POST", "/orders", "application/json; charset=utf-8", b"{}");
    assert_eq!((charset.status, charset.bad_fields()), (400, vec!["amount"]), "the type is right, the fields are not");
    assert_eq!(service.stored_orders(), 0);

    for (id, status) in [("x", 400), (&UNKNOWN[1..], 400), (UNKNOWN, 404), (&UNKNOWN.to_uppercase(), 404)] {
        let answer = service.get(&format!("/orders/{id}"));
        let fields = if status == 400 { vec!["orderId"] } else { vec![] };
        assert_eq!((answer.status, answer.bad_fields()), (status, fields), "{id}");
    }
    assert_eq!(service.get("/nothing").status, 404);
    assert_eq!(service.get("/nothing").content_type, "application/problem+json");
    assert_eq!(service.http("DELETE", "/orders", "", b"").status, 405);
    service.stop().await.expect("a clean stop");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_field_is_named_as_the_caller_named_it() {
    let service = Service::start().await;
    assert_eq!(service.post(r#"{"amount":5,"currency_code":"USD"}"#).bad_fields(), ["currency_code"]);
    assert_eq!(service.get("/orders?page_size=1").bad_fields(), ["page_size"]);
    service.stop().await.expect("a clean stop");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_grpc_request_names_each_bad_field_and_stores_nothing() {
    let service = Service::start().await;
    let mut grpc = service.grpc().await;
    let request = CreateOrderRequest {
        amount: -5,
        currency_code: "XXL".to_owned(),
        request_id: "ü".to_owned(),
        customer_id: "x".repeat(65),
        metadata: [(String::new(), String::new())].into(),
    };
    let status = grpc.create_order(request).await.expect_err("refused");
    assert_eq!(status.code(), Code::InvalidArgument);
    let details = status.get_error_details();
    let fields: Vec<_> = details
        .bad_request()
        .expect("named")
        .field_violations
        .iter()
        .map(|violation| violation.field.as_str())
        .collect();
    assert_eq!(fields, ["amount", "currency_code", "request_id", "customer_id", "metadata[\"\"]"]);
    assert_eq!(details.error_info().map(|info| info.domain.as_str()), Some("order-service"));
    assert_eq!(service.stored_orders(), 0);

    let malformed = grpc.get_order(GetOrderRequest { order_id: "x".to_owned() }).await.expect_err("refused");
    assert_eq!(malformed.code(), Code::InvalidArgument);
    let unknown = grpc.get_order(GetOrderRequest { order_id: UNKNOWN.to_owned() }).await.expect_err("refused");
    assert_eq!(unknown.code(), Code::NotFound);
    service.stop().await.expect("a clean stop");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_request_creates_one_order_and_has_one_answer() {
    let service = Service::start().await;
    let grpc = service.grpc().await;
    let request = CreateOrderRequest { amount: 500, request_id: "r-1".to_owned(), ..Default::default() };
    let calls: Vec<_> = (0..20)
        .map(|_| {
            let (mut grpc, request) = (grpc.clone(), request.clone());
            async move { grpc.create_order(request).await.expect("answered").into_inner().order.expect("an order") }
        })
        .collect();
    let mut calls: tokio::task::JoinSet<_> = calls.into_iter().collect();
    let mut answers = Vec::new();
    while let Some(answer) = calls.join_next().await {
        answers.push(answer.expect("no panic"));
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]));
    assert_eq!(service.stored_orders(), 1);
    let over_http = service.post(r#"{"amount":500,"requestId":"r-1"}"#);
    assert_eq!((over_http.status, over_http.order_id()), (201, answers[0].order_id.as_str()));

    let mut grpc = grpc;
    let other = CreateOrderRequest { amount: 501, ..request };
    let status = grpc.create_order(other).await.expect_err("refused");
    assert_eq!(status.code(), Code::AlreadyExists);
    assert_eq!(status.get_error_details().error_info().map(|info| info.reason.as_str()), Some("REQUEST_ID_REUSED"));
    let over_http = service.post(r#"{"amount":501,"requestId":"r-1"}"#);
    assert_eq!((over_http.status, over_http.body["reason"].as_str()), (422, Some("REQUEST_ID_REUSED")));
    assert_eq!(service.stored_orders(), 1);
    service.stop().await.expect("a clean stop");
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_are_taken_while_kafka_is_away_and_published_when_it_is_back() {
    let service = Service::start().await;
    service.broker.down().expect("the broker stops");
    let ids: HashSet<_> = (0..5).map(|_| service.post(r#"{"amount":500}"#).order_id().to_owned()).collect();
    service.broker.up().expect("the broker starts");
    let records = read_until(&service.broker, TOPIC, |records| records.len() >= 5);
    let published: HashSet<_> =
        records.iter().map(|record| record.header("ce_subject").expect("there").to_owned()).collect();
    assert_eq!(published, ids);
    service.stop().await.expect("a clean stop");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_cannot_write_refuses_the_call_and_says_when_to_come_again() {
    let service = Service::start().await;
    let limit = |pages: u32| Commit::statement(move |table| table.pragma_update(None, "max_page_count", pages));
    service.store.commit(limit(1)).await.expect("SQLite raises the limit to the current size");
    let large = format!("{{\"amount\":5,\"customerId\":\"{}\"}}", "x".repeat(64));
    assert_eq!((health(&service).await, ready(&service)), (ServingStatus::Serving, 200));
    let refused = (0..1000).map(|_| service.post(&large)).find(|answer| answer.status != 201).expect("the store fills");
    assert_eq!((refused.status, refused.body["reason"].as_str()), (503, Some("STORE_UNAVAILABLE")));
    let request = CreateOrderRequest { amount: 5, customer_id: "x".repeat(64), ..Default::default() };
    let status = service.grpc().await.create_order(request).await.expect_err("refused");
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.get_error_details().retry_info().is_some());
    eventually("the service is not ready", || ready(&service) == 503);
    assert_eq!(health(&service).await, ServingStatus::NotServing);
    assert_eq!(service.get("/livez").status, 200);
    service.store.commit(limit(100_000)).await.expect("the store has room again");
    assert_eq!(service.post(&large).status, 201);
    eventually("the service is ready", || ready(&service) == 200);
    assert_eq!(health(&service).await, ServingStatus::Serving);
    service.stop().await.expect("a clean stop");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses_the_call_and_says_when_to_come_again() {
    let service = Service::start().await;
    let taken = service.post(r#"{"amount":500}"#).order_id().to_owned();
    let (begin, begun) = mpsc::channel();
    let (release, held) = mpsc::channel::<()>();
    let hold = Commit::statement(move |_| {
        let _ = begin.send(());
        let _ = held.recv();
        Ok(())
    });
    assert!(service.store.commit(hold).now_or_never().is_none(), "the commit waits");
    begun.recv().expect("the writer has taken it, and takes nothing more from the queue");
    // A commit stays in the queue after its caller has dropped it.
    let full = |answer| matches!(answer, Some(Err(CommitError::Overloaded)));
    let refused = (0..100_000).any(|_| full(service.store.commit(Commit::statement(|_| Ok(()))).now_or_never()));
    assert!(refused, "the queue has no limit");

    let request = service.request("POST", "/orders").header("content-type", "application/json");
    let answer = agent().run(request.body(&br#"{"amount":500}"#[..]).expect("a request")).expect("an answer");
    assert_eq!(answer.status(), 429);
    assert_eq!(answer.headers().get("retry-after").map(|seconds| seconds.as_bytes()), Some(&b"1"[..]));
    assert_eq!(service.http("POST", &format!("/orders/{taken}/cancel"), "", b"").body["reason"], "OVERLOADED");
    let mut grpc = service.grpc().await;
    let request = CreateOrderRequest { amount: 500, ..Default::default() };
    let created = grpc.create_order(request).await.expect_err("refused");
    let cancelled = grpc.cancel_order(CancelOrderRequest { order_id: taken }).await.expect_err("refused");
    for status in [created, cancelled] {
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert!(status.get_details_retry_info().is_some(), "{status:?}");
    }
    release.send(()).expect("the commit waits");
    eventually("the queue has room again", || service.post(r#"{"amount":500}"#).status == 201);
    service.stop().await.expect("a clean stop");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compressed_call_is_taken() {
    let service = Service::start().await;
    let mut grpc = service.grpc().await.send_compressed(CompressionEncoding::Gzip);
    let request = CreateOrderRequest { amount: 500, customer_id: "c".repeat(64), ..Default::default() };
    let order = grpc.create_order(request).await.expect("taken").into_inner().order.expect("an order");
    assert_eq!(order.customer_id.len(), 64);
    service.stop().await.expect("a clean stop");
}
