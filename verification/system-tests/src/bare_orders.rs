//! Publishes orders as order-service would, without a store and without a check of the topic.

use std::time::Duration;

use contracts::proto::orders::events::v1::{OrderCreated, OrderEvent, order_event};
use prost::Message as _;
use rdkafka::{
    ClientConfig,
    message::{Header, OwnedHeaders},
    producer::{BaseProducer, BaseRecord, Producer as _},
};
use uuid::Uuid;

const TOPIC: &str = "order-events";

/// An event of a new order.
#[derive(Clone, Debug)]
pub(crate) struct BareOrder {
    pub(crate) order: String,
    event: String,
    sequence: u64,
}

/// A publisher with a position of its own, as a store has.
pub(crate) struct BareOrders {
    brokers: String,
    source: String,
    sequence: u64,
}

impl BareOrders {
    pub(crate) fn new(brokers: &str) -> Self {
        Self { brokers: brokers.to_owned(), source: format!("/order-service/{}", Uuid::now_v7()), sequence: 0 }
    }

    /// Publishes new orders to a partition, in batches of ten records.
    pub(crate) fn publish(&mut self, partition: i32, count: u64) -> anyhow::Result<Vec<BareOrder>> {
        let mut next = || {
            self.sequence += 1;
            BareOrder { order: Uuid::now_v7().to_string(), event: Uuid::now_v7().to_string(), sequence: self.sequence }
        };
        let orders: Vec<_> = std::iter::repeat_with(&mut next).take(usize::try_from(count)?).collect();
        self.publish_again(partition, &orders)?;
        Ok(orders)
    }

    /// Publishes orders under the ids that they have.
    pub(crate) fn publish_again(&self, partition: i32, orders: &[BareOrder]) -> anyhow::Result<()> {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.brokers).set("enable.idempotence", "true").set("linger.ms", "1000");
        let producer: BaseProducer = config.create()?;
        for batch in orders.chunks(10) {
            for order in batch {
                self.send(&producer, partition, order)?;
            }
            producer.flush(Duration::from_secs(20))?;
        }
        Ok(())
    }

    fn send(&self, producer: &BaseProducer, partition: i32, bare: &BareOrder) -> anyhow::Result<()> {
        let BareOrder { order, event, sequence } = bare;
        let created = OrderCreated { amount: 500, currency_code: "USD".to_owned(), ..Default::default() };
        let value = OrderEvent {
            event_id: event.clone(),
            order_id: order.clone(),
            version: 1,
            occur_time: Some(std::time::SystemTime::now().into()),
            event: Some(order_event::Event::OrderCreated(created)),
        };
        let sequence = format!("{sequence:020}");
        let headers = [
            ("ce_specversion", "1.0"),
            ("ce_id", event),
            ("ce_type", "orders.events.v1.OrderCreated"),
            ("ce_source", &self.source),
            ("ce_subject", order),
            ("ce_time", "2026-01-31T12:00:00Z"),
            ("ce_sequence", &sequence),
            ("content-type", "application/protobuf"),
        ];
        let headers = headers
            .iter()
            .fold(OwnedHeaders::new(), |headers, (key, value)| headers.insert(Header { key, value: Some(*value) }));
        let payload = value.encode_to_vec();
        let record = BaseRecord::to(TOPIC).partition(partition).key(order.as_str()).payload(&payload).headers(headers);
        producer.send(record).map_err(|(error, _)| error.into())
    }
}
