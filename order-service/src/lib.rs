//! order-service: takes orders over gRPC and HTTP, records their events, and publishes them to `order-events`. It
//! consumes `payment-events` to learn which orders are paid.
//!
//! Begin with [`order`]: it has the rules.

mod api;
pub mod order;
mod orders_table;
pub mod payment_outcomes;
mod watchers;

/// The functions that the fuzz targets call.
#[cfg(fuzzing)]
pub mod fuzzing {
    pub use crate::api::fuzz_http_order as http_order;
}

use oncelog::{
    TopicSpec,
    app::{Context, Info, NoArgs, Part, Parts, Service},
    inbox::Follow,
    runtime::Failure,
};

pub use self::orders_table::{OrdersTable, unfinished};
use self::{order::Order, watchers::Watchers};

/// The description of the service, which the kit runs.
#[derive(Debug)]
pub struct OrderService;

impl Service for OrderService {
    const INFO: Info = Info {
        name: "order-service",
        version: env!("CARGO_PKG_VERSION"),
        about: "Takes orders over gRPC and HTTP, records their events, and publishes them to Kafka",
        stream: "order",
        grpc_service: "orders.v1.OrderService",
        listen: "127.0.0.1:3001",
        store: "sqlite:orders.db",
    };
    const TOPIC: TopicSpec = contracts::orders::TOPIC;
    type Domain = Order;
    type Table = OrdersTable;
    type Args = NoArgs;
    type Audit = ();

    fn follows() -> Vec<Follow<Order>> {
        vec![Follow::new(contracts::payments::TOPIC.name, payment_outcomes::read)]
    }

    fn start(context: Context<Self>) -> Result<Parts, Failure> {
        let watchers = Watchers::default();
        let (grpc, http) = api::routes(&context, &watchers);
        let store = context.streams.store().clone();
        Ok(Parts::new().grpc(grpc).http(http).before_listener(Part::new("watchers", |stop| watchers.run(store, stop))))
    }
}
