//! The calls, over gRPC (`shipping.v1.ShippingService`) and HTTP (`/shipments`). Both use the functions of [`Shipments`].

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, FromRequest as _, Path, Request, State},
    http::StatusCode,
    routing::{get, post},
};
use oncelog::{
    Service as _,
    aggregate::{Cause, Loaded, NoTable, Streams},
    edge::{CallError, MAX_REQUEST, Violation},
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
        .method_not_allowed_fallback(async || CallError::Method)
        .layer(DefaultBodyLimit::max(MAX_REQUEST))
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
        let id = parse_order_id(order_id).map_err(|violation| CallError::Invalid(vec![violation]))?;
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

fn parse_order_id(order_id: &str) -> Result<StreamId, Violation> {
    let malformed = || Violation::new("order_id", "must be a UUID of 36 characters in lower case");
    StreamId::parse(order_id).ok_or_else(malformed)
}

/// Returns the command of a request, or every bad field.
fn parse(request: ShipOrderRequest) -> Result<(StreamId, Command), Vec<Violation>> {
    let ShipOrderRequest { order_id, tracking_code } = request;
    let mut violations = Vec::new();
    let id = parse_order_id(&order_id).map_err(|violation| violations.push(violation));
    if !(1..=64).contains(&tracking_code.chars().count()) || tracking_code.chars().any(char::is_control) {
        violations
            .push(Violation::new("tracking_code", "must be 1 to 64 characters, none of them a control character"));
    }
    match id {
        Ok(id) if violations.is_empty() => Ok((id, Command::Ship { tracking_code })),
        _ => Err(violations),
    }
}

fn rejected(rejection: Rejection) -> CallError {
    let (reason, message) = match rejection {
        Rejection::NotPrepared => ("NOT_PREPARED", "the payment of the order has not completed"),
        Rejection::CalledOff => ("CALLED_OFF", "the shipment was called off"),
        Rejection::AlreadyShipped => ("ALREADY_SHIPPED", "the order was shipped with another tracking code"),
    };
    CallError::Precondition { reason, message }
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
    shipments.get(&order_id).await.map(to_json).map_err(with_json_names)
}

async fn http_ship(State(shipments): State<Shipments>, Path(order_id): Path<String>, request: Request) -> Answer {
    let trace = TraceContext::of(request.headers());
    let ShipBody { tracking_code } = read(request).await?;
    let request = ShipOrderRequest { order_id, tracking_code };
    shipments.ship(request, trace).await.map(to_json).map_err(with_json_names)
}

/// The body of `POST /shipments/{order_id}/ship`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ShipBody {
    tracking_code: String,
}

/// Reads the body of a request. The error of a bad body has the same form as any other error.
async fn read(request: Request) -> Result<ShipBody, CallError> {
    let Json(body) = Json::from_request(request, &()).await.map_err(|rejection| match rejection.status() {
        StatusCode::UNSUPPORTED_MEDIA_TYPE => CallError::MediaType { expected: "application/json" },
        StatusCode::PAYLOAD_TOO_LARGE => CallError::TooLarge { limit: MAX_REQUEST },
        _ => CallError::Invalid(vec![Violation::new("body", rejection.body_text())]),
    })?;
    Ok(body)
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

/// Names bad fields as they are named in JSON.
fn with_json_names(mut error: CallError) -> CallError {
    if let CallError::Invalid(violations) = &mut error {
        for violation in violations {
            violation.field = violation.field.replace("order_id", "orderId").replace("tracking_code", "trackingCode");
        }
    }
    error
}
