//! What can be asked of orders: gRPC and HTTP on one port, with the same answers.

mod grpc;
mod http;
mod json;
mod requests;

use axum::Router;
use event_sourcing::{
    aggregate::{self, Cause, ExecuteError, Loaded},
    event::StreamId,
    proto::orders::{DESCRIPTORS, v1 as message},
    service::{
        call_error::{CallError, Violation},
        health::Health,
        listener,
        metrics::Metrics,
        spans::Spans,
    },
    store::Store,
};

use crate::{
    SERVICE,
    order::{Command, Order, PaymentFailure, Rejection, State},
};

/// Every route of the service.
pub(crate) fn routes(store: Store, spans: Spans, health: &Health, metrics: &Metrics) -> Router {
    let orders = Orders { store, spans };
    listener::one_port(grpc::services(orders.clone()), DESCRIPTORS, http::routes(orders), health, metrics)
}

/// The calls themselves, whichever way they came.
#[derive(Clone)]
struct Orders {
    store: Store,
    spans: Spans,
}

impl Orders {
    /// Takes an order; the same request id gives the same answer.
    async fn create(
        &self,
        request: message::CreateOrderRequest,
        traceparent: Option<String>,
    ) -> Result<message::Order, CallError> {
        let details = requests::details(request).map_err(CallError::Invalid)?;
        let cause = Cause { event: None, traceparent };
        let id = requests::order_id(&details.request_id);
        let command = Command::Create(details);
        let order = aggregate::execute_new::<Order>(&self.store, id, &command, &cause).await.map_err(|error| {
            match error {
                ExecuteError::Rejected(Rejection::Exists { differing }) => CallError::RequestIdReused { differing },
                // Only what is recorded of payments is ever refused for these.
                ExecuteError::Rejected(Rejection::Unknown | Rejection::Contradicted) => CallError::Internal,
                ExecuteError::Load(error) => error.into(),
                ExecuteError::Commit(error) => error.into(),
            }
        })?;
        tracing::debug!(order = %id, "created");
        Ok(as_created(shown(id, &order)?))
    }

    async fn get(&self, order_id: &str) -> Result<message::Order, CallError> {
        let malformed = || Violation::new("order_id", "must be a UUID of 36 characters in lower case");
        let id = StreamId::parse(order_id).ok_or_else(|| CallError::Invalid(vec![malformed()]))?;
        shown(id, &aggregate::load(&self.store, id).await?)
    }
}

fn shown(id: StreamId, order: &Loaded<Order>) -> Result<message::Order, CallError> {
    let Order::Known { details, state } = &order.state else {
        return Err(CallError::NotFound { what: "order", id: id.to_string() });
    };
    let (state, payment_failure) = match state {
        State::Created => (message::OrderState::Created, None),
        State::Paid { .. } => (message::OrderState::Paid, None),
        State::PaymentFailed(PaymentFailure { code, message }) => (
            message::OrderState::PaymentFailed,
            Some(message::PaymentFailure { code: code.clone(), message: message.clone() }),
        ),
    };
    Ok(message::Order {
        order_id: id.to_string(),
        amount: details.money.amount(),
        currency_code: details.money.currency_code().to_owned(),
        state: state.into(),
        create_time: Some(order.create_time.into()),
        update_time: Some(order.update_time.into()),
        customer_id: details.customer_id.clone(),
        metadata: details.metadata.clone(),
        payment_failure,
    })
}

/// The order as its creation was answered, however often that is repeated and whatever happened since.
fn as_created(order: message::Order) -> message::Order {
    message::Order {
        state: message::OrderState::Created.into(),
        update_time: order.create_time,
        payment_failure: None,
        ..order
    }
}
