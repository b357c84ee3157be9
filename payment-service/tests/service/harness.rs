//! A service that can be stopped and restarted, its broker, its ledger, and the orders that it consumes.

use std::{
    path::PathBuf,
    time::{Duration, Instant, SystemTime},
};

use contracts::proto::{
    orders::events::v1::{OrderCancellationRequested, OrderCreated, OrderEvent, order_event},
    payments::v1::{GetPaymentRequest, Payment, payment_service_client::PaymentServiceClient},
};
use oncelog::{
    app::Service as _,
    embedded::EmbeddedBroker,
    event::{Event, EventId, Position, StreamId, Version, now},
    kafka::record::{Record, Source},
    store::StoreId,
    testing::{RunningService, publish},
};
use payment_service::{GatewayLocation, PaymentService};
use prost::Message as _;
use rusqlite::Connection;
use tempfile::TempDir;
use tonic::{Status, transport::Channel};

pub(crate) const SERVICE: &str = PaymentService::INFO.name;
pub(crate) const TOPIC: &str = PaymentService::TOPIC.name;
const ORDER_EVENTS: &str = "order-events";

/// Everything that outlives the service: the broker, the store and the ledger.
pub(crate) struct World {
    pub(crate) broker: EmbeddedBroker,
    directory: TempDir,
    pub(crate) gateway_latency: Duration,
    pub(crate) gateway_key_memory: Duration,
}

pub(crate) struct Service(pub(crate) RunningService);

impl World {
    pub(crate) fn new() -> Self {
        let broker = EmbeddedBroker::start(&[SERVICE], &[TOPIC, ORDER_EVENTS], 3).expect("the broker starts");
        Self {
            broker,
            directory: tempfile::tempdir().expect("a directory"),
            gateway_latency: Duration::ZERO,
            gateway_key_memory: Duration::from_secs(24 * 60 * 60),
        }
    }

    pub(crate) async fn start(&self) -> Service {
        self.start_in_place_of(None).await
    }

    /// Starts the service with a new store, in place of a lost one.
    pub(crate) async fn start_in_place_of(&self, lost: Option<StoreId>) -> Service {
        let args = payment_service::Args {
            gateway: GatewayLocation::Simulated(self.ledger()),
            gateway_latency: self.gateway_latency,
            gateway_key_memory: self.gateway_key_memory,
        };
        let store = self.directory.path().join("payments.db");
        Service(RunningService::start_in_place_of::<PaymentService>(&self.broker, &store, args, lost).await)
    }

    /// Publishes new orders of these amounts, as order-service does, and returns their ids.
    pub(crate) fn order(&self, amounts: &[i64]) -> Vec<StreamId> {
        let (ids, records): (Vec<_>, Vec<_>) = amounts.iter().map(|amount| order_created(*amount)).unzip();
        publish(&self.broker, &records);
        ids
    }

    /// Deletes the store. The effect is that of restoring a backup that is too old.
    pub(crate) fn lose_the_store(&self) {
        std::fs::remove_file(self.directory.path().join("payments.db")).expect("the store was closed");
    }

    /// Returns the number of the order's charges in the ledger.
    pub(crate) fn charges(&self, order: StreamId) -> u64 {
        let sql = "SELECT count(*) FROM charges WHERE key = ?1 AND reference IS NOT NULL";
        let ledger = Connection::open(self.ledger()).expect("opens");
        ledger.query_row(sql, [order.to_string()], |row| row.get(0)).expect("reads")
    }

    /// Returns the number of the order's refunds in the ledger.
    pub(crate) fn refunds(&self, order: StreamId) -> u64 {
        let ledger = Connection::open(self.ledger()).expect("opens");
        let sql = "SELECT count(*) FROM refunds WHERE key = ?1";
        ledger.query_row(sql, [order.to_string()], |row| row.get(0)).expect("reads")
    }

    fn ledger(&self) -> PathBuf {
        self.directory.path().join("charges.db")
    }
}

impl Service {
    pub(crate) async fn grpc(&self) -> PaymentServiceClient<Channel> {
        PaymentServiceClient::connect(format!("http://{}", self.0.address)).await.expect("connects")
    }

    pub(crate) async fn payment(&self, order: &str) -> Result<Payment, Status> {
        let mut grpc = self.grpc().await;
        let answer = grpc.get_payment(GetPaymentRequest { order_id: order.to_owned() }).await?;
        Ok(answer.into_inner().payment.expect("a payment"))
    }

    /// Waits until the payment meets the condition, and returns it.
    pub(crate) async fn payment_until(&self, order: StreamId, reached: impl Fn(&Payment) -> bool) -> Payment {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let payment = self.payment(&order.to_string()).await;
            match payment {
                Ok(payment) if reached(&payment) => return payment,
                payment => assert!(Instant::now() < deadline, "not within 30 s: {payment:?}"),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(crate) async fn stop(self) {
        self.0.stop().await.expect("a clean stop");
    }
}

/// Returns the id and the record of a new order.
pub(crate) fn order_created(amount: i64) -> (StreamId, Record) {
    order_created_at(now(), amount)
}

/// Returns the id and the record of an order that was created at this time.
pub(crate) fn order_created_at(time: SystemTime, amount: i64) -> (StreamId, Record) {
    let stream = StreamId::generate();
    let created = OrderCreated { amount, currency_code: "USD".to_owned(), ..Default::default() };
    (stream, record(stream, time, "orders.events.v1.OrderCreated", order_event::Event::OrderCreated(created)))
}

/// Returns the record of a requested cancellation.
pub(crate) fn order_cancelled(order: StreamId) -> Record {
    let event = order_event::Event::OrderCancellationRequested(OrderCancellationRequested {});
    record(order, now(), "orders.events.v1.OrderCancellationRequested", event)
}

fn record(stream: StreamId, time: SystemTime, event_type: &str, event: order_event::Event) -> Record {
    let id = EventId::generate();
    let message = OrderEvent {
        event_id: id.to_string(),
        order_id: stream.to_string(),
        version: 1,
        occur_time: Some(time.into()),
        event: Some(event),
    };
    let event = Event {
        position: Position(1),
        stream,
        version: Version(1),
        id,
        event_type: event_type.to_owned(),
        time,
        causation: None,
        trace: None,
        payload: message.encode_to_vec(),
    };
    let source = Source {
        topic: ORDER_EVENTS.to_owned(),
        uri: "/order-service/test".to_owned(),
        message: "orders.events.v1.OrderEvent",
        partitions: 3,
    };
    Record::of(&event, &source)
}
