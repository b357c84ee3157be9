//! `/orders` over HTTP. Errors are problem details (RFC 9457).

use axum::{
    Json, Router,
    body::{self, Body},
    extract::{Path, Request, State, rejection::PathRejection},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use event_sourcing::{
    proto::orders::v1::CreateOrderRequest,
    service::{
        call_error::{CallError, Violation},
        spans::{Attribute, SpanKind},
        trace_context::traceparent,
    },
};

use super::{
    Orders,
    json::{OrderJson, create_order_request, field_name},
    requests::details,
};

/// No valid request comes near it.
const MAX_BODY: usize = 64 * 1024;

pub(super) fn routes(orders: Orders) -> Router {
    Router::new()
        .route("/orders", post(create))
        .route("/orders/{order_id}", get(show))
        .method_not_allowed_fallback(async || CallError::Method)
        .with_state(orders)
}

async fn create(State(orders): State<Orders>, request: Request) -> Result<Response, CallError> {
    let (head, body) = request.into_parts();
    require_json(&head.headers)?;
    let (request, violations) =
        create_order_request(&read(body).await?).map_err(|violation| CallError::Invalid(vec![violation]))?;
    if !violations.is_empty() {
        return Err(CallError::Invalid(with_the_rest(violations, request)));
    }
    let before = traceparent(&head.headers);
    let attributes = || vec![Attribute::new("http.request.method", "POST"), Attribute::new("http.route", "/orders")];
    let mut span = orders.spans.start(SpanKind::Server, "POST /orders", before.as_deref(), attributes);
    let context = span.traceparent(before.as_deref());
    let order = orders.create(request, context).await.map_err(with_json_names).inspect_err(|error| span.fail(error))?;
    let location =
        HeaderValue::try_from(format!("/orders/{}", order.order_id)).map_err(|_never| CallError::Internal)?;
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(OrderJson::from(order))).into_response())
}

async fn show(
    State(orders): State<Orders>,
    order_id: Result<Path<String>, PathRejection>,
) -> Result<Json<OrderJson>, CallError> {
    let Path(order_id) = order_id.map_err(|_not_text| CallError::NoRoute)?;
    let order = orders.get(&order_id).await.map_err(with_json_names)?;
    Ok(Json(order.into()))
}

fn require_json(headers: &HeaderMap) -> Result<(), CallError> {
    let media_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media_type = media_type.and_then(|value| value.split(';').next()).map(str::trim);
    match media_type {
        Some(media_type) if media_type.eq_ignore_ascii_case("application/json") => Ok(()),
        _ => Err(CallError::MediaType { expected: "application/json" }),
    }
}

async fn read(body: Body) -> Result<Vec<u8>, CallError> {
    // A body that breaks off has nobody left to answer.
    let bytes = body::to_bytes(body, MAX_BODY).await.map_err(|_too_large| CallError::TooLarge { limit: MAX_BODY })?;
    Ok(bytes.into())
}

/// Adds what is wrong with the fields that could be read.
fn with_the_rest(mut violations: Vec<Violation>, request: CreateOrderRequest) -> Vec<Violation> {
    for mut violation in details(request).err().unwrap_or_default() {
        violation.field = field_name(&violation.field);
        if !violations.iter().any(|known| known.field == violation.field) {
            violations.push(violation);
        }
    }
    violations
}

fn with_json_names(mut error: CallError) -> CallError {
    if let CallError::Invalid(violations) = &mut error {
        for violation in violations {
            violation.field = field_name(&violation.field);
        }
    }
    error
}
