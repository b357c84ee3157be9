//! The API of orders: gRPC and HTTP on one port, with the same answers.

mod grpc;
mod http;
mod json;
mod openapi;
mod requests;

use axum::Router;
use contracts::{orders::TOPIC, proto::orders::v1 as message};
use futures_util::{Stream, StreamExt as _};
use oncelog::{
    aggregate::{Cause, ExecuteError, Listing, Loaded, Streams},
    app::Context,
    edge::{CallError, MessageJson, Place},
    event::{Event, StreamId, Version},
    runtime::{Spans, TraceContext},
    store::StoredRow,
};
use tonic::service::Routes;

use crate::{
    OrderService,
    order::{Command, Order, PaymentFailure, Rejection, State},
    orders_table::OrdersTable,
    watchers::Watchers,
};

/// The name of the service in errors.
const SERVICE: &str = <OrderService as oncelog::app::Service>::INFO.name;

#[cfg(fuzzing)]
pub use self::http::fuzz_http_order;

/// Returns the routes of the service, gRPC and HTTP.
pub(crate) fn routes(context: &Context<OrderService>, watchers: &Watchers) -> (Routes, Router) {
    let orders = Orders {
        streams: context.streams.clone(),
        watchers: watchers.clone(),
        spans: context.spans.clone(),
        shape: MessageJson::of(TOPIC.message, TOPIC.descriptors),
    };
    (grpc::services(orders.clone()), http::routes(orders))
}

/// The calls, which gRPC and HTTP share.
#[derive(Clone)]
struct Orders {
    streams: Streams<OrdersTable>,
    watchers: Watchers,
    spans: Spans,
    /// Formats events as JSON.
    shape: MessageJson,
}

impl Orders {
    /// Creates an order. The same request id gives the same order and answer.
    async fn create(
        &self,
        request: message::CreateOrderRequest,
        trace: Option<TraceContext>,
    ) -> Result<message::Order, CallError> {
        let details = requests::details(request).map_err(CallError::Invalid)?;
        let cause = Cause { event: None, trace };
        let id = requests::new_order_id(&details.request_id);
        let command = Command::Create(details);
        let order = self.streams.execute_new(id, &command, &cause).await;
        tracing::debug!(order = %id, "created");
        Ok(as_created(to_message(id, &order.map_err(|error| to_call_error(id, error))?)?))
    }

    /// Cancels an order. Does nothing if it was cancelled before or its payment has failed.
    async fn cancel(&self, order_id: &str, trace: Option<TraceContext>) -> Result<message::Order, CallError> {
        let id = requests::order_id(order_id)?;
        let cause = Cause { event: None, trace };
        let order = self.streams.execute(id, &Command::Cancel, &cause).await;
        to_message(id, &order.map_err(|error| to_call_error(id, error))?)
    }

    async fn get(&self, order_id: &str) -> Result<message::Order, CallError> {
        let id = requests::order_id(order_id)?;
        to_message(id, &self.streams.load(id).await?)
    }

    /// Streams the current order, and then the order after each event. With a version, streams only the order after
    /// each later event.
    async fn watch(
        &self,
        order_id: &str,
        after: i64,
    ) -> Result<impl Stream<Item = Result<message::Order, CallError>> + use<>, CallError> {
        let id = requests::order_id(order_id)?;
        let after = Version(requests::version(after)?);
        let changes = self.watchers.watch(self.streams.store().clone(), id, after).await?;
        Ok(changes.map(move |order| to_message(id, &order?)))
    }

    async fn list(&self, request: message::ListOrdersRequest) -> Result<message::ListOrdersResponse, CallError> {
        let (filter, page) = requests::page(request).map_err(CallError::Invalid)?;
        let Listing { entries: mut orders, is_cut } = self.streams.list(filter.page(&page)).await?;
        let place =
            |(row, order): &(StoredRow, Loaded<Order>)| Place { create_time: order.create_time, id: row.stream };
        let next_page_token = page.cut(&mut orders, is_cut, place);
        let orders = orders.iter().map(|(row, order)| to_message(row.stream, order));
        Ok(message::ListOrdersResponse { orders: orders.collect::<Result<_, _>>()?, next_page_token })
    }

    async fn events(&self, order_id: &str) -> Result<Vec<message::RecordedEvent>, CallError> {
        let id = requests::order_id(order_id)?;
        let events = self.streams.store().read_stream(id).await?;
        if events.is_empty() {
            return Err(unknown(id));
        }
        Ok(events.into_iter().map(|event| self.recorded(event)).collect())
    }

    fn recorded(&self, event: Event) -> message::RecordedEvent {
        let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        message::RecordedEvent {
            event_id: event.id.to_string(),
            version: number(event.version.0),
            position: number(event.position.0),
            occur_time: Some(event.time.into()),
            event_type: event.event_type,
            causation_id: event.causation.map(|cause| cause.to_string()).unwrap_or_default(),
            traceparent: event.trace.map(|trace| trace.traceparent).unwrap_or_default(),
            payload_json: self.shape.show(&event.payload).map(|value| value.to_string()).unwrap_or_default(),
            payload: event.payload,
        }
    }
}

fn unknown(id: StreamId) -> CallError {
    CallError::NotFound { what: "order", id: id.to_string() }
}

fn to_call_error(id: StreamId, error: ExecuteError<Rejection>) -> CallError {
    CallError::of(error, |rejection| match rejection {
        Rejection::Exists { differing } => CallError::RequestIdReused { differing },
        Rejection::Unknown => unknown(id),
        // No call leads here: only a payment's outcome can contradict an order.
        Rejection::Contradicted => CallError::Internal,
    })
}

fn to_message(id: StreamId, order: &Loaded<Order>) -> Result<message::Order, CallError> {
    let Order::Known { details, state } = &order.state else {
        return Err(unknown(id));
    };
    let (state, payment_failure) = match state {
        State::Created => (message::OrderState::Created, None),
        State::Paid { .. } => (message::OrderState::Paid, None),
        State::PaymentFailed(PaymentFailure { code, message }) => (
            message::OrderState::PaymentFailed,
            Some(message::PaymentFailure { code: code.clone(), message: message.clone() }),
        ),
        State::Cancelling => (message::OrderState::Cancelling, None),
        State::Cancelled => (message::OrderState::Cancelled, None),
        State::Refunded { .. } => (message::OrderState::Refunded, None),
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
        version: order.version.into(),
    })
}

/// Returns the order as it was when it was created. A repeated request gets this answer, whatever has happened since.
fn as_created(order: message::Order) -> message::Order {
    message::Order {
        state: message::OrderState::Created.into(),
        update_time: order.create_time,
        payment_failure: None,
        version: 1,
        ..order
    }
}
