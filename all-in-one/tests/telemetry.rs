//! Tests of the telemetry: metrics for each service, and one tree of spans for each order.

use std::{
    collections::{HashMap, HashSet},
    net::TcpListener,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
};

use oncelog::testing::eventually;
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{Span, span::SpanKind},
};
use tonic::{Request, Response, Status, transport::Server};

/// A collector that keeps all spans, each with the name of the service that sent it.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<(String, Span)>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for spans in request.into_inner().resource_spans {
            let service = attribute(&spans.resource.expect("a resource").attributes, "service.name");
            kept.extend(
                spans.scope_spans.into_iter().flat_map(|scope| scope.spans).map(|span| (service.clone(), span)),
            );
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    fn spans(&self) -> Vec<(String, Span)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn attribute(attributes: &[KeyValue], key: &str) -> String {
    let value = attributes.iter().find(|attribute| attribute.key == key).and_then(|found| found.value.clone());
    match value.and_then(|value| value.value) {
        Some(Value::StringValue(text)) => text,
        other => format!("{other:?}"),
    }
}

/// The program. Killed when dropped.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_addresses() -> [String; 4] {
    let listeners = [0; 4].map(|_| TcpListener::bind("127.0.0.1:0").expect("a port"));
    listeners.map(|listener| listener.local_addr().expect("has one").to_string())
}

fn get(url: &str) -> Option<String> {
    ureq::get(url).call().ok()?.body_mut().read_to_string().ok()
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::too_many_lines, reason = "the life of one order, from beginning to end")]
async fn an_order_is_one_tree_of_spans_and_is_counted_in_both_services() {
    let [orders, payments, kafka, otlp] = free_addresses();
    let collector = Collector::default();
    let server = Server::builder().add_service(TraceServiceServer::new(collector.clone()));
    let server = server.serve(otlp.parse().expect("an address"));
    let data = tempfile::tempdir().expect("a directory");
    let program = Command::new(env!("CARGO_BIN_EXE_all-in-one"))
        .args(["--listen", &orders, "--payment-listen", &payments, "--kafka-listen", &kafka, "--data-dir"])
        .arg(data.path())
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{otlp}"))
        .env("OTEL_BSP_SCHEDULE_DELAY", "100")
        .stdout(Stdio::null())
        .spawn();
    let _program = Program(program.expect("starts"));

    let calls = tokio::task::spawn_blocking(move || {
        eventually("it is ready", || get(&format!("http://{orders}/readyz")).is_some());
        let trace = "0af7651916cd43dd8448eb211c80319c";
        let order: serde_json::Value = ureq::post(format!("http://{orders}/orders"))
            .header("traceparent", format!("00-{trace}-b7ad6b7169203331-01"))
            .send_json(serde_json::json!({"amount": 500}))
            .and_then(|mut answer| answer.body_mut().read_json())
            .expect("taken");
        let declined = ureq::post(format!("http://{orders}/orders")).send_json(serde_json::json!({"amount": 4001}));
        assert!(declined.is_ok());
        let metric = |address: &str, line: &str| {
            let text = get(&format!("http://{address}/metrics")).unwrap_or_default();
            text.lines().any(|found| found == line)
        };
        for (address, line) in [
            (&orders, r#"event_store_events_total{event_type="orders.events.v1.OrderCreated"} 2"#),
            (&orders, r#"event_store_events_total{event_type="orders.events.v1.OrderPaid"} 1"#),
            (&orders, r#"event_store_events_total{event_type="orders.events.v1.OrderPaymentFailed"} 1"#),
            (
                &orders,
                r#"messaging_client_sent_messages_total{messaging_system="kafka",messaging_destination_name="order-events"} 4"#,
            ),
            (
                &orders,
                r#"relay_unpublished_events{messaging_system="kafka",messaging_destination_name="order-events"} 0"#,
            ),
            (
                &orders,
                r#"messaging_client_consumed_messages_total{messaging_system="kafka",messaging_destination_name="payment-events",outcome="handled"} 2"#,
            ),
            (&payments, r#"gateway_calls_total{outcome="charged"} 1"#),
            (&payments, r#"gateway_calls_total{outcome="declined"} 1"#),
        ] {
            eventually(line, || metric(address, line));
        }
        eventually("all spans are exported", || {
            collector.spans().iter().filter(|(_, span)| hex(&span.trace_id) == trace).count() >= 8
        });
        let spans: Vec<_> = collector.spans().into_iter().filter(|(_, span)| hex(&span.trace_id) == trace).collect();
        (order["orderId"].as_str().expect("an id").to_owned(), spans)
    });
    let (order, spans) = tokio::select! {
        done = calls => done.expect("no panic"),
        ended = server => panic!("the collector ended: {ended:?}"),
    };

    let mut seen: Vec<_> = spans.iter().map(|(service, span)| (service.as_str(), span.name.as_str())).collect();
    seen.sort_unstable();
    let expected = [
        ("order-service", "POST /orders"),
        ("order-service", "process payment-events"),
        ("order-service", "send order-events"),
        ("order-service", "send order-events"),
        ("payment-service", "charge"),
        ("payment-service", "process order-events"),
        ("payment-service", "send payment-events"),
        ("payment-service", "send payment-events"),
    ];
    assert_eq!(seen, expected);

    // The spans are one tree: the parent of its root is the caller's span, and every other parent is in the tree.
    let ids: HashSet<_> = spans.iter().map(|(_, span)| span.span_id.clone()).collect();
    let parents: HashMap<_, _> = spans.iter().map(|(_, span)| (span.name.as_str(), &span.parent_span_id)).collect();
    assert_eq!(hex(parents["POST /orders"]), "b7ad6b7169203331");
    for (_, span) in &spans {
        assert!(span.name == "POST /orders" || ids.contains(&span.parent_span_id), "an orphan: {span:?}");
    }
    for (_, span) in spans.iter().filter(|(_, span)| span.name.starts_with("send") || span.name.starts_with("process"))
    {
        let (operation, topic) = span.name.split_once(' ').expect("an operation and a topic");
        let kind = if operation == "send" { SpanKind::Producer } else { SpanKind::Consumer };
        assert_eq!(span.kind(), kind);
        for (key, value) in [
            ("messaging.system", "kafka"),
            ("messaging.operation.name", operation),
            ("messaging.destination.name", topic),
            ("messaging.kafka.message.key", &order),
        ] {
            assert_eq!(attribute(&span.attributes, key), value, "{key} of {}", span.name);
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
