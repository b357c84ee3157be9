//! The HTTP API at `/orders`. Errors are problem details (RFC 9457). `/openapi.json` describes the API.

use std::{error::Error as _, future, pin::Pin};

use axum::{
    Json, Router,
    body::{self, Body, HttpBody as _},
    extract::{
        Path, Query, Request, State,
        rejection::{PathRejection, QueryRejection},
    },
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{
        IntoResponse, Response,
        sse::{self, KeepAlive, Sse},
    },
    routing::get,
};
use contracts::proto::orders::v1::Order;
use futures_util::{FutureExt as _, StreamExt as _};
use http_body_util::LengthLimitError;
use oncelog::{
    edge::{CallError, MAX_REQUEST, Violation},
    runtime::{Attribute, SpanKind, TraceContext},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Orders,
    json::{EventsJson, OrderJson, OrdersJson, create_order_request, list_orders_request},
    openapi::{self, NewOrder, Problem},
    requests::{REQUEST_ID_RULE, details, is_request_id, page},
};

/// The query parameters, in order.
type Parameters = Query<Vec<(String, String)>>;

pub(super) fn routes(orders: Orders) -> Router {
    let (router, document) = OpenApiRouter::with_openapi(openapi::head())
        .routes(routes!(create, list))
        .routes(routes!(show))
        .routes(routes!(cancel))
        .routes(routes!(events))
        .split_for_parts();
    router.route("/openapi.json", get(async move || Json(document.clone()))).with_state(orders)
}

/// Creates an order. Its payment follows without another call.
#[utoipa::path(
    post,
    path = "/orders",
    params(("Idempotency-Key" = Option<String>, Header,
        description = "Makes the call safe to repeat, for ever. The same as `requestId`. Quoted or bare.")),
    request_body = NewOrder,
    responses(
        (status = 201, body = OrderJson, description = "The created order; a repeated call gets the same answer",
            headers(("Location" = String, description = "Its path"))),
        (status = 400, body = Problem, content_type = "application/problem+json", description = "Names each bad field"),
        (status = 413, body = Problem, content_type = "application/problem+json", description = "More than 64 KiB"),
        (status = 415, body = Problem, content_type = "application/problem+json", description = "Not JSON, or compressed"),
        (status = 422, body = Problem, content_type = "application/problem+json",
            description = "The key was used before with other fields"),
        (status = 429, body = Problem, content_type = "application/problem+json",
            description = "Too many calls wait; see Retry-After"),
        (status = 503, body = Problem, content_type = "application/problem+json",
            description = "The service cannot write; only a repeat with the same key is safe"),
    )
)]
async fn create(State(orders): State<Orders>, request: Request) -> Result<Response, CallError> {
    let (head, body) = request.into_parts();
    require_json(&head.headers)?;
    let (mut request, mut violations) = create_order_request(&read(body).await?)?;
    if let Some(key) = idempotency_key(&head.headers)? {
        if !request.request_id.is_empty() && request.request_id != key {
            violations.push(Violation::new("requestId", "differs from the Idempotency-Key"));
        }
        request.request_id = key;
    }
    if !violations.is_empty() {
        return Err(CallError::Invalid(with_the_rest(violations, details(request).err())));
    }
    let order =
        traced(&orders, "/orders", &head.headers, async |context| orders.create(request, context).await).await?;
    let location =
        HeaderValue::try_from(format!("/orders/{}", order.order_id)).map_err(|_never| CallError::Internal)?;
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(OrderJson::from(order))).into_response())
}

/// Lists orders, newest first.
#[utoipa::path(
    get,
    path = "/orders",
    params(
        ("state" = Option<String>, Query, description = "Only orders in this state, such as `PAID`"),
        ("customerId" = Option<String>, Query, description = "Only this customer's"),
        ("createTimeFrom" = Option<String>, Query, description = "Only orders created then or later (RFC 3339)"),
        ("createTimeUntil" = Option<String>, Query, description = "Only orders created before then (RFC 3339)"),
        ("pageSize" = Option<i32>, Query, description = "The largest number of orders, up to 1000; 50 if not given"),
        ("pageToken" = Option<String>, Query, description = "The `nextPageToken` of the previous page, same filters"),
    ),
    responses(
        (status = 200, body = OrdersJson),
        (status = 400, body = Problem, content_type = "application/problem+json",
            description = "Names each bad parameter"),
    )
)]
async fn list(
    State(orders): State<Orders>,
    query: Result<Parameters, QueryRejection>,
) -> Result<Json<OrdersJson>, CallError> {
    let Query(parameters) = query.map_err(|_malformed| bad("query", "cannot be read"))?;
    let (request, violations) = list_orders_request(parameters);
    if !violations.is_empty() {
        return Err(CallError::Invalid(with_the_rest(violations, page(request).err())));
    }
    Ok(Json(orders.list(request).await?.into()))
}

/// Returns an order. With `?watch`, sends the current order, and again after each event, as Server-Sent Events.
///
/// The id of each event is the order's version, so that a browser that reconnects with `Last-Event-ID` misses nothing.
/// The stream ends when the order is settled: when no event follows without another call. A client that reconnects then
/// gets 204.
#[utoipa::path(
    get,
    path = "/orders/{orderId}",
    params(
        ("orderId" = String, Path, description = "A UUID of 36 characters"),
        ("watch" = Option<String>, Query, description = "Watch the order"),
        ("Last-Event-ID" = Option<i64>, Header, description = "Send only changes after this version"),
    ),
    responses(
        (status = 200, content((OrderJson = "application/json"), (String = "text/event-stream"))),
        (status = 204, description = "The order is settled: no further changes follow"),
        (status = 400, body = Problem, content_type = "application/problem+json", description = "Not an id"),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "No such order"),
    )
)]
async fn show(
    State(orders): State<Orders>,
    order_id: Result<Path<String>, PathRejection>,
    query: Result<Parameters, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, CallError> {
    let Path(order_id) = order_id.map_err(|_not_text| CallError::NoRoute)?;
    let Query(parameters) = query.map_err(|_malformed| bad("query", "cannot be read"))?;
    let mut watch = false;
    for (name, value) in parameters {
        watch |= match (name.as_str(), value.as_str()) {
            ("watch", "" | "true") => true,
            ("watch", "false") => false,
            ("watch", _) => return Err(bad("watch", "must be true or false")),
            _ => return Err(bad(name, "is not a parameter of this call")),
        };
    }
    if !watch {
        let order = orders.get(&order_id).await?;
        return Ok(Json(OrderJson::from(order)).into_response());
    }
    let seen = headers.get("last-event-id").map(|value| value.to_str().ok().and_then(|text| text.parse().ok()));
    let seen = seen.map(|seen| seen.filter(|seen| *seen >= 0).ok_or_else(|| bad("Last-Event-ID", "must be a version")));
    let seen = seen.transpose()?.unwrap_or(0);
    let mut changes = Box::pin(orders.watch(&order_id, seen).await?).peekable();
    // A settled order has no further changes. The status 204 makes a browser stop reconnecting.
    if seen > 0 && Pin::new(&mut changes).peek().now_or_never() == Some(None) {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    // An error ends the stream. A client can reconnect with the newest version that it has seen.
    let orders = changes.take_while(|order| future::ready(order.is_ok())).filter_map(async |order| order.ok());
    let events = orders.map(|order| {
        let event = sse::Event::default().id(order.version.to_string());
        event.json_data(OrderJson::from(order))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::default()).into_response())
}

/// Cancels an order, paid or not. The call may be repeated.
#[utoipa::path(
    post,
    path = "/orders/{orderId}/cancel",
    params(("orderId" = String, Path, description = "A UUID of 36 characters")),
    responses(
        (status = 200, body = OrderJson, description = "The current order, most often `CANCELLING`"),
        (status = 400, body = Problem, content_type = "application/problem+json", description = "Not an id"),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "No such order"),
        (status = 429, body = Problem, content_type = "application/problem+json",
            description = "Too many calls wait; see Retry-After"),
        (status = 503, body = Problem, content_type = "application/problem+json",
            description = "The service cannot write; call again"),
    )
)]
async fn cancel(
    State(orders): State<Orders>,
    order_id: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Json<OrderJson>, CallError> {
    let Path(order_id) = order_id.map_err(|_not_text| CallError::NoRoute)?;
    let route = "/orders/{orderId}/cancel";
    let order = traced(&orders, route, &headers, async |context| orders.cancel(&order_id, context).await).await?;
    Ok(Json(order.into()))
}

/// Lists the events of an order.
#[utoipa::path(
    get,
    path = "/orders/{orderId}/events",
    params(("orderId" = String, Path, description = "A UUID of 36 characters")),
    responses(
        (status = 200, body = EventsJson),
        (status = 400, body = Problem, content_type = "application/problem+json", description = "Not an id"),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "No such order"),
    )
)]
async fn events(
    State(orders): State<Orders>,
    order_id: Result<Path<String>, PathRejection>,
) -> Result<Json<EventsJson>, CallError> {
    let Path(order_id) = order_id.map_err(|_not_text| CallError::NoRoute)?;
    Ok(Json(orders.events(&order_id).await?.into()))
}

/// Makes a call that changes something, within a span. The trace of its events continues from that span.
async fn traced(
    orders: &Orders,
    route: &'static str,
    headers: &HeaderMap,
    call: impl AsyncFnOnce(Option<TraceContext>) -> Result<Order, CallError>,
) -> Result<Order, CallError> {
    let before = TraceContext::of(headers);
    let attributes = || vec![Attribute::new("http.request.method", "POST"), Attribute::new("http.route", route)];
    let mut span = orders.spans.start(SpanKind::Server, format!("POST {route}"), before.as_ref(), attributes);
    let context = span.trace(before.as_ref());
    call(context).await.map_err(CallError::in_json).inspect_err(|error| span.fail(error))
}

/// Reads the header `Idempotency-Key`. Its value is quoted, as in the IETF's draft, or bare, as most clients send it.
fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, CallError> {
    let mut values = headers.get_all("idempotency-key").iter();
    let Some(value) = values.next() else { return Ok(None) };
    let wrong = || bad("Idempotency-Key", &format!("{REQUEST_ID_RULE}, quoted or bare"));
    if values.next().is_some() {
        return Err(bad("Idempotency-Key", "is given more than once"));
    }
    let text = value.to_str().map_err(|_not_ascii| wrong())?.trim();
    let key = match text.strip_prefix('"') {
        Some(quoted) => quoted.strip_suffix('"').ok_or_else(wrong)?.replace("\\\"", "\"").replace("\\\\", "\\"),
        None => text.to_owned(),
    };
    if key.is_empty() || !is_request_id(&key) { Err(wrong()) } else { Ok(Some(key)) }
}

fn require_json(headers: &HeaderMap) -> Result<(), CallError> {
    let media_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media_type = media_type.and_then(|value| value.split(';').next()).map(str::trim);
    match media_type {
        Some(media_type) if media_type.eq_ignore_ascii_case("application/json") => {}
        _ => return Err(CallError::MediaType { expected: "application/json" }),
    }
    match headers.get(header::CONTENT_ENCODING) {
        None => Ok(()),
        Some(coding) if coding.as_bytes().eq_ignore_ascii_case(b"identity") => Ok(()),
        Some(_) => Err(CallError::MediaType { expected: "application/json, not compressed" }),
    }
}

async fn read(body: Body) -> Result<Vec<u8>, CallError> {
    const TOO_LARGE: CallError = CallError::TooLarge { limit: MAX_REQUEST };
    if body.size_hint().lower() > MAX_REQUEST as u64 {
        return Err(TOO_LARGE); // by its Content-Length, before it is received
    }
    let read = body::to_bytes(body, MAX_REQUEST).await.map_err(|error| {
        let too_large = error.source().is_some_and(|source| source.is::<LengthLimitError>());
        if too_large { TOO_LARGE } else { bad("body", "did not arrive in time, ended early, or is not valid HTTP") }
    });
    Ok(read?.into())
}

fn bad(field: impl Into<String>, description: &str) -> CallError {
    Violation::as_sent(field, description).into()
}

/// Adds the violations of the fields that could be read, with their JSON names.
fn with_the_rest(mut violations: Vec<Violation>, rest: Option<Vec<Violation>>) -> Vec<Violation> {
    for violation in rest.into_iter().flatten().map(Violation::in_json) {
        if !violations.iter().any(|known| known.field == violation.field) {
            violations.push(violation);
        }
    }
    violations
}

/// Parses the input of `POST /orders` and `GET /orders`, without a service.
#[cfg(fuzzing)]
pub fn fuzz_http_order(body: &[u8], key: Option<&[u8]>, query: Vec<(String, String)>) {
    let mut headers = HeaderMap::new();
    if let Some(value) = key.and_then(|key| HeaderValue::from_bytes(key).ok()) {
        headers.insert("idempotency-key", value);
    }
    let key = idempotency_key(&headers);
    if let Ok((mut request, violations)) = create_order_request(body) {
        if let Ok(Some(key)) = key {
            request.request_id = key;
        }
        if details(request.clone()).is_ok() && violations.is_empty() {
            assert!(request.amount > 0);
        }
        with_the_rest(violations, details(request).err());
    }
    let (request, violations) = list_orders_request(query);
    with_the_rest(violations, page(request).err());
}
