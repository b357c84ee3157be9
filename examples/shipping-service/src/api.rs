//! The calls, over gRPC (`shipping.v1.ShippingService`) and HTTP (`/shipments`). Both use the functions of [`Shipments`].

use axum::{
    Router,
    extract::{Path, State},
    http::HeaderMap,
    routing::{get, post},
};
use oncelog::{
    Service as _,
    aggregate::{Cause, Loaded, NoTable, Streams},
    edge::{CallError, Json, MAX_REQUEST, Violation},
    event::StreamId,
    runtime::TraceContext,
};
use serde::Deserialize;
use serde_json::{Value, json};
use tonic::{Response, Status, service::Routes};

use crate::{
    proto::v1::{
        self as message, GetShipmentRequest, GetShipmentResponse, ShipOrderRequest, ShipOrderResponse, ShipmentState,
        shipping_service_server::{ShippingService, ShippingServiceServer},
    },
    shipment::{Command, Rejection, Shipment},
};

/// Returns the routes of the service, gRPC and HTTP.
pub(crate) fn routes(streams: Streams<NoTable<Shipment>>) -> (Routes, Router) {
    let shipments = Shipments { streams };
    let grpc = ShippingServiceServer::new(shipments.clone()).max_decoding_message_size(MAX_REQUEST);
    let http = Router::new()
        .route("/shipments/{order_id}", get(http_get))
        .route("/shipments/{order_id}/ship", post(http_ship))
        .with_state(shipments);
    (Routes::new(grpc), http)
}

/// The calls themselves.
#[derive(Clone)]
struct Shipments {
    streams: Streams<NoTable<Shipment>>,
}

impl Shipments {
    async fn get(&self, order_id: &str) -> Result<message::Shipment, CallError> {
        let id = Violation::stream_id("order_id", order_id)?;
        to_message(id, self.streams.load(id).await?)
    }

    async fn ship(
        &self,
        request: ShipOrderRequest,
        trace: Option<TraceContext>,
    ) -> Result<message::Shipment, CallError> {
        let (id, command) = parse(request).map_err(CallError::Invalid)?;
        let shipped = self.streams.execute(id, &command, &Cause { event: None, trace }).await;
        to_message(id, shipped.map_err(|error| CallError::of(error, rejected))?)
    }
}

/// Returns the command of a request, or every bad field.
fn parse(request: ShipOrderRequest) -> Result<(StreamId, Command), Vec<Violation>> {
    let id = Violation::stream_id("order_id", &request.order_id);
    match (id, Violation::text("tracking_code", request.tracking_code, 64)) {
        (Ok(id), Ok(tracking_code)) => Ok((id, Command::Ship { tracking_code })),
        (id, tracking_code) => Err(id.err().into_iter().chain(tracking_code.err()).collect()),
    }
}

fn rejected(rejection: Rejection) -> CallError {
    let reason = match rejection {
        Rejection::NotPrepared => "NOT_PREPARED",
        Rejection::CalledOff => "CALLED_OFF",
        Rejection::AlreadyShipped => "ALREADY_SHIPPED",
    };
    CallError::Precondition { reason, message: rejection.to_string().into() }
}

fn to_message(id: StreamId, shipment: Loaded<Shipment>) -> Result<message::Shipment, CallError> {
    let (state, tracking_code, call_off_reason) = match shipment.state {
        Shipment::Unknown => return Err(CallError::NotFound { what: "shipment of order", id: id.to_string() }),
        Shipment::Prepared => (ShipmentState::Prepared, String::new(), ""),
        Shipment::CalledOff(reason) => (ShipmentState::CalledOff, String::new(), reason.code()),
        Shipment::Shipped { tracking_code } => (ShipmentState::Shipped, tracking_code, ""),
    };
    Ok(message::Shipment {
        order_id: id.to_string(),
        state: state.into(),
        tracking_code,
        call_off_reason: call_off_reason.to_owned(),
        create_time: Some(shipment.create_time.into()),
        update_time: Some(shipment.update_time.into()),
        version: i64::try_from(shipment.version.0).unwrap_or(i64::MAX),
    })
}

#[tonic::async_trait]
impl ShippingService for Shipments {
    async fn ship_order(&self, call: tonic::Request<ShipOrderRequest>) -> Result<Response<ShipOrderResponse>, Status> {
        let trace = TraceContext::of(call.metadata().as_ref());
        let shipment = self.ship(call.into_inner(), trace).await.map_err(to_status)?;
        Ok(Response::new(ShipOrderResponse { shipment: Some(shipment) }))
    }

    async fn get_shipment(
        &self,
        call: tonic::Request<GetShipmentRequest>,
    ) -> Result<Response<GetShipmentResponse>, Status> {
        let shipment = self.get(&call.get_ref().order_id).await.map_err(to_status)?;
        Ok(Response::new(GetShipmentResponse { shipment: Some(shipment) }))
    }
}

fn to_status(error: CallError) -> Status {
    error.into_status(crate::ShippingService::INFO.name)
}

type Answer = Result<Json<Value>, CallError>;

async fn http_get(State(shipments): State<Shipments>, Path(order_id): Path<String>) -> Answer {
    shipments.get(&order_id).await.map(to_json)
}

async fn http_ship(
    State(shipments): State<Shipments>,
    Path(order_id): Path<String>,
    headers: HeaderMap,
    Json(ShipBody { tracking_code }): Json<ShipBody>,
) -> Answer {
    let request = ShipOrderRequest { order_id, tracking_code };
    shipments.ship(request, TraceContext::of(&headers)).await.map(to_json)
}

/// The body of `POST /shipments/{order_id}/ship`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ShipBody {
    tracking_code: String,
}

/// Returns the shipment as JSON, without empty fields.
fn to_json(shipment: message::Shipment) -> Json<Value> {
    let state = shipment.state().as_str_name();
    let mut json = json!({
        "orderId": shipment.order_id,
        "state": state.strip_prefix("SHIPMENT_STATE_"),
        "trackingCode": shipment.tracking_code,
        "callOffReason": shipment.call_off_reason,
        "createTime": shipment.create_time.map(|time| time.to_string()),
        "updateTime": shipment.update_time.map(|time| time.to_string()),
        "version": shipment.version,
    });
    if let Some(fields) = json.as_object_mut() {
        fields.retain(|_, value| value != "");
    }
    Json(json)
}
