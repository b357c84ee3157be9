//! What can be asked of orders: gRPC and HTTP on one port, with the same answers.

mod grpc;
mod http;
mod json;
mod openapi;
mod requests;

use axum::Router;
use contracts::proto::orders::{DESCRIPTORS, v1 as message};
use futures_util::{Stream, StreamExt as _};
use oncelog::{
    aggregate::{self, Cause, ExecuteError, Loaded},
    edge::{call_error::CallError, health::Health, listener, message_json::MessageJson, metrics::Metrics, page::Place},
    event::{Event, StreamId, Version},
    runtime::spans::Spans,
    store::{self, Store},
};

use crate::{
    SERVICE,
    order::{Command, Order, PaymentFailure, Rejection, State},
    order_event, orders_table,
    watchers::Watchers,
};

#[cfg(fuzzing)]
pub use self::http::fuzz_http_order;

/// Every route of the service.
pub(crate) fn routes(store: Store, watchers: Watchers, spans: Spans, health: &Health, metrics: &Metrics) -> Router {
    let shape = MessageJson::of(order_event::MESSAGE, DESCRIPTORS);
    let orders = Orders { store, watchers, spans, shape };
    listener::one_port(grpc::services(orders.clone()), DESCRIPTORS, http::routes(orders), SERVICE, health, metrics)
}

/// The calls themselves, whichever way they came.
#[derive(Clone)]
struct Orders {
    store: Store,
    watchers: Watchers,
    spans: Spans,
    /// How events are shown to people.
    shape: MessageJson,
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
        let id = requests::new_order_id(&details.request_id);
        let command = Command::Create(details);
        let order = aggregate::execute_new::<Order>(&self.store, id, &command, &cause).await;
        tracing::debug!(order = %id, "created");
        Ok(as_created(shown(id, &order.map_err(|error| failed(id, error))?)?))
    }

    /// Cancels an order, or finds that there is nothing to cancel (any more).
    async fn cancel(&self, order_id: &str, traceparent: Option<String>) -> Result<message::Order, CallError> {
        let id = requests::order_id(order_id)?;
        let cause = Cause { event: None, traceparent };
        let order = aggregate::execute::<Order>(&self.store, id, &Command::Cancel, &cause).await;
        shown(id, &order.map_err(|error| failed(id, error))?)
    }

    async fn get(&self, order_id: &str) -> Result<message::Order, CallError> {
        let id = requests::order_id(order_id)?;
        shown(id, &aggregate::load(&self.store, id).await?)
    }

    /// The order as it stands and after each further event, or after those that came after a version.
    async fn watch(
        &self,
        order_id: &str,
        after: i64,
    ) -> Result<impl Stream<Item = Result<message::Order, CallError>> + use<>, CallError> {
        let id = requests::order_id(order_id)?;
        let after = Version(requests::version(after)?);
        let changes = self.watchers.watch(self.store.clone(), id, after).await?;
        Ok(changes.map(move |order| shown(id, &order?)))
    }

    async fn list(&self, request: message::ListOrdersRequest) -> Result<message::ListOrdersResponse, CallError> {
        let (filter, page) = requests::page(request).map_err(CallError::Invalid)?;
        let (after, limit) = (page.after, page.size + 1);
        let mut orders = self
            .store
            .read(move |table| {
                let places = orders_table::page(table, &filter, after, limit)?;
                let with_events = |place: Place| Ok((place, store::events_of(table, place.id)?));
                places.into_iter().map(with_events).collect::<rusqlite::Result<Vec<_>>>()
            })
            .await?;
        let next_page_token = page.cut(&mut orders, |(place, _)| *place);
        let orders = orders.iter().map(|(place, events)| shown(place.id, &Loaded::fold(events)?));
        Ok(message::ListOrdersResponse { orders: orders.collect::<Result<_, _>>()?, next_page_token })
    }

    async fn events(&self, order_id: &str) -> Result<Vec<message::RecordedEvent>, CallError> {
        let id = requests::order_id(order_id)?;
        let events = self.store.read_stream(id).await?;
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
            traceparent: event.traceparent.unwrap_or_default(),
            payload_json: self.shape.show(&event.payload).map(|value| value.to_string()).unwrap_or_default(),
            payload: event.payload,
        }
    }
}

fn unknown(id: StreamId) -> CallError {
    CallError::NotFound { what: "order", id: id.to_string() }
}

fn failed(id: StreamId, error: ExecuteError<Rejection>) -> CallError {
    match error {
        ExecuteError::Rejected(Rejection::Exists { differing }) => CallError::RequestIdReused { differing },
        ExecuteError::Rejected(Rejection::Unknown) => unknown(id),
        // Only what is recorded of payments is ever refused for this.
        ExecuteError::Rejected(Rejection::Contradicted) => CallError::Internal,
        ExecuteError::Load(error) => error.into(),
        ExecuteError::Commit(error) => error.into(),
    }
}

fn shown(id: StreamId, order: &Loaded<Order>) -> Result<message::Order, CallError> {
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
        version: i64::try_from(order.version.0).unwrap_or(i64::MAX),
    })
}

/// The order as its creation was answered, however often that is repeated and whatever happened since.
fn as_created(order: message::Order) -> message::Order {
    message::Order {
        state: message::OrderState::Created.into(),
        update_time: order.create_time,
        payment_failure: None,
        version: 1,
        ..order
    }
}
