//! A running service, its broker, and callers over gRPC and HTTP.

use std::net::SocketAddr;

use contracts::proto::orders::v1::order_service_client::OrderServiceClient;
use oncelog::{
    app::{NoArgs, Service as _},
    embedded::EmbeddedBroker,
    runtime::Failure,
    store::Store,
    testing::{RunningService, eventually},
};
use order_service::OrderService;
use rusqlite::Connection;
use serde_json::Value;
use tempfile::TempDir;
use tonic::transport::Channel;

pub(crate) const PAYMENT_EVENTS: &str = "payment-events";

pub(crate) const SERVICE: &str = OrderService::INFO.name;
pub(crate) const TOPIC: &str = OrderService::TOPIC.name;

pub(crate) struct Service {
    pub(crate) broker: EmbeddedBroker,
    pub(crate) address: SocketAddr,
    pub(crate) store: Store,
    running: RunningService,
    directory: TempDir,
}

impl Service {
    pub(crate) async fn start() -> Self {
        let broker = EmbeddedBroker::start(&[SERVICE], &[TOPIC, PAYMENT_EVENTS], 3).expect("the broker starts");
        let directory = tempfile::tempdir().expect("a directory");
        let store = directory.path().join("orders.db");
        let running = RunningService::start::<OrderService>(&broker, &store, NoArgs {}).await;
        let service = Self { broker, address: running.address, store: running.store.clone(), running, directory };
        eventually("the service is ready", || service.get("/readyz").status == 200);
        service
    }

    /// Stops the service as a signal would.
    pub(crate) async fn stop(self) -> Result<(), Failure> {
        self.running.stop().await
    }

    pub(crate) async fn grpc(&self) -> OrderServiceClient<Channel> {
        OrderServiceClient::connect(format!("http://{}", self.address)).await.expect("connects")
    }

    /// Makes an HTTP call.
    pub(crate) fn http(&self, method: &str, path: &str, content_type: &str, body: &[u8]) -> Answer {
        let request = self.request(method, path).header("content-type", content_type);
        Answer::of(agent().run(request.body(body).expect("a request")).expect("an answer"))
    }

    /// Posts an order with an `Idempotency-Key`.
    pub(crate) fn keyed(&self, key: &str, body: &str) -> Answer {
        let request = self.request("POST", "/orders").header("content-type", "application/json");
        let request = request.header("idempotency-key", key).body(body.as_bytes()).expect("a request");
        Answer::of(agent().run(request).expect("an answer"))
    }

    /// Makes a GET, and returns before the body has been received.
    pub(crate) fn open(&self, path: &str, last_event_id: Option<&str>) -> ureq::http::Response<ureq::Body> {
        let mut request = self.request("GET", path);
        if let Some(id) = last_event_id {
            request = request.header("last-event-id", id);
        }
        agent().run(request.body(()).expect("a request")).expect("an answer")
    }

    pub(crate) fn request(&self, method: &str, path: &str) -> ureq::http::request::Builder {
        ureq::http::Request::builder().method(method).uri(format!("http://{}{path}", self.address))
    }

    pub(crate) fn post(&self, body: &str) -> Answer {
        self.http("POST", "/orders", "application/json", body.as_bytes())
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.http("GET", path, "", b"")
    }

    /// Blocks all writes to the store until the returned connection is dropped.
    pub(crate) fn hold_the_disk(&self) -> Connection {
        let connection = Connection::open(self.directory.path().join("orders.db")).expect("opens");
        connection.execute_batch("BEGIN IMMEDIATE").expect("held");
        connection
    }

    pub(crate) fn stored_orders(&self) -> u64 {
        self.store.count_rows_blocking().expect("reads")
    }
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) content_type: String,
    pub(crate) location: String,
    pub(crate) body: Value,
}

pub(crate) fn agent() -> ureq::Agent {
    ureq::Agent::config_builder().http_status_as_error(false).build().into()
}

impl Answer {
    fn of(mut response: ureq::http::Response<ureq::Body>) -> Self {
        let header = |name: &str| {
            response.headers().get(name).map(|value| value.to_str().expect("text").to_owned()).unwrap_or_default()
        };
        Self {
            status: response.status().as_u16(),
            content_type: header("content-type"),
            location: header("location"),
            body: response.body_mut().read_json().unwrap_or_default(),
        }
    }

    pub(crate) fn order_id(&self) -> &str {
        self.body["orderId"].as_str().expect("an order id")
    }

    /// Returns the fields that the problem details name.
    pub(crate) fn bad_fields(&self) -> Vec<&str> {
        self.body["errors"].as_array().into_iter().flatten().filter_map(|error| error["field"].as_str()).collect()
    }
}
