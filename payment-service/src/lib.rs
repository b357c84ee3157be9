//! payment-service: consumes `order-events`, keeps one payment for each order, charges it through a gateway, and
//! publishes the events of the payment to `payment-events`.
//!
//! Begin with [`payment`]: it has the rules. Then read [`due`]: it decides the next call to the gateway.

mod accounts;
mod api;
mod charging;
pub mod due;
pub mod fault;
pub mod gateway;
pub mod order_events;
pub mod payment;
mod payments_table;

use std::sync::Arc;

use oncelog::{
    TopicSpec,
    app::{Context, Info, Part, Parts, Service},
    inbox::Follow,
    runtime::Failure,
};

use self::{
    accounts::Accounts,
    charging::{Calls, Charging},
    gateway::args::GatewayArgs,
    payment::Payment,
    payments_table::PaymentsTable,
};
pub use self::{
    gateway::args::{GatewayArgs as Args, GatewayLocation},
    payments_table::unfinished,
};

/// The description of the service, which the kit runs.
#[derive(Debug)]
pub struct PaymentService;

impl Service for PaymentService {
    const INFO: Info = Info {
        name: "payment-service",
        version: env!("CARGO_PKG_VERSION"),
        about: "Charges orders: consumes them from Kafka, calls a payment gateway, and publishes each outcome",
        stream: "order",
        grpc_service: "payments.v1.PaymentService",
        listen: "127.0.0.1:3002",
        store: "sqlite:payments.db",
    };
    const TOPIC: TopicSpec = contracts::payments::TOPIC;
    type Domain = Payment;
    type Table = PaymentsTable;
    type Args = GatewayArgs;
    type Audit = Accounts;

    fn follows() -> Vec<Follow<Payment>> {
        vec![Follow::new(contracts::orders::TOPIC.name, order_events::read)]
    }

    fn start(context: Context<Self>) -> Result<Parts, Failure> {
        let gateway = Arc::new(context.args.open()?);
        let calls = Calls::new();
        let (silence, registered) = (calls.silence.clone(), calls.clone());
        let parts = Parts::new()
            .grpc(api::routes(context.streams.clone()))
            .dependency("gateway", silence)
            .metrics(move |registry| registered.register(registry));
        let charging = Charging {
            streams: context.streams,
            gateway,
            calls,
            spans: context.spans,
            publisher_confirmed: context.publisher_confirmed,
        };
        Ok(parts.after_inbox(Part::new("charging", |stop| charging.run(stop))))
    }
}
