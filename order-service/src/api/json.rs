//! Orders as JSON: lowerCamelCase, states without prefix, amounts as numbers.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use contracts::proto::orders::v1::{
    CreateOrderRequest, ListOrdersRequest, ListOrdersResponse, Order, OrderState, RecordedEvent,
};
use oncelog::edge::Violation;
use prost_types::Timestamp;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{MapAccess, Visitor},
};
use serde_json::{Value, value::RawValue};
use utoipa::ToSchema;

const TWICE: &str = "is given more than once";

/// An order.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Order)]
pub(super) struct OrderJson {
    /// A UUID of 36 characters.
    #[schema(example = "01a01815-6a2b-7c3d-8e4f-5a6b7c8d9e0f")]
    order_id: String,
    /// The amount in the currency's minor unit: 500 is USD 5.00.
    #[schema(example = 500)]
    amount: i64,
    /// The currency's ISO 4217 code.
    #[schema(example = "USD")]
    currency_code: String,
    /// CREATED, PAID, PAYMENT_FAILED, CANCELLING, CANCELLED or REFUNDED.
    #[schema(example = "PAID")]
    state: String,
    /// The time at which the order was created (RFC 3339).
    create_time: String,
    /// The time at which its newest event was recorded (RFC 3339).
    update_time: String,
    /// The number of its events.
    version: i64,
    /// The caller's id of the customer.
    #[serde(skip_serializing_if = "String::is_empty")]
    customer_id: String,
    /// The entries that the caller attached.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    metadata: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payment_failure: Option<PaymentFailureJson>,
}

/// The reason for which an order could not be paid.
#[derive(Serialize, ToSchema)]
#[schema(as = PaymentFailure)]
struct PaymentFailureJson {
    /// CARD_DECLINED, INSUFFICIENT_FUNDS, EXPIRED_CARD, NOT_CHARGED; the list may grow.
    code: String,
    /// The reason in words.
    message: String,
}

/// One page of orders.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Orders)]
pub(super) struct OrdersJson {
    /// The orders, newest first.
    orders: Vec<OrderJson>,
    /// The token of the next page; absent on the last page.
    #[serde(skip_serializing_if = "String::is_empty")]
    next_page_token: String,
}

impl From<ListOrdersResponse> for OrdersJson {
    fn from(page: ListOrdersResponse) -> Self {
        let ListOrdersResponse { orders, next_page_token } = page;
        Self { orders: orders.into_iter().map(Into::into).collect(), next_page_token }
    }
}

/// The events of an order.
#[derive(Serialize, ToSchema)]
#[schema(as = Events)]
pub(super) struct EventsJson {
    /// The events, oldest first.
    events: Vec<EventJson>,
}

/// An event, as it is recorded and published to `order-events`.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Event)]
struct EventJson {
    /// The id, unique among all events; on the topic, `ce_id`.
    event_id: String,
    /// The number of the event in its order: 1, 2, 3 …
    version: i64,
    /// The number of the event in the service: 1, 2, 3 …; on the topic, `ce_sequence`.
    position: i64,
    /// The time at which the event was recorded (RFC 3339).
    occur_time: String,
    /// The full name of the event's type.
    #[schema(example = "orders.events.v1.OrderCreated")]
    event_type: String,
    /// The id of the event of payment-service that caused it.
    #[serde(skip_serializing_if = "String::is_empty")]
    causation_id: String,
    /// The W3C trace context that it belongs to.
    #[serde(skip_serializing_if = "String::is_empty")]
    traceparent: String,
    /// The message that is published to the topic, as JSON.
    #[schema(value_type = Object)]
    message: Value,
}

impl From<Vec<RecordedEvent>> for EventsJson {
    fn from(events: Vec<RecordedEvent>) -> Self {
        let event = |event: RecordedEvent| EventJson {
            event_id: event.event_id,
            version: event.version,
            position: event.position,
            occur_time: event.occur_time.map(|time| time.to_string()).unwrap_or_default(),
            event_type: event.event_type,
            causation_id: event.causation_id,
            traceparent: event.traceparent,
            message: serde_json::from_str(&event.payload_json).unwrap_or_default(),
        };
        Self { events: events.into_iter().map(event).collect() }
    }
}

impl From<Order> for OrderJson {
    fn from(order: Order) -> Self {
        let state = order.state().as_str_name();
        Self {
            state: state.strip_prefix("ORDER_STATE_").unwrap_or(state).to_owned(),
            create_time: order.create_time.map(|time| time.to_string()).unwrap_or_default(),
            update_time: order.update_time.map(|time| time.to_string()).unwrap_or_default(),
            order_id: order.order_id,
            amount: order.amount,
            currency_code: order.currency_code,
            version: order.version,
            customer_id: order.customer_id,
            metadata: order.metadata,
            payment_failure: order
                .payment_failure
                .map(|failure| PaymentFailureJson { code: failure.code, message: failure.message }),
        }
    }
}

/// Reads a request to create an order. Returns the fields that could be read, so that they can be checked, and a
/// violation for every field of a wrong type or name. Fails only if the body is not a JSON object.
///
/// A field that is `null` counts as absent, as in the JSON form of protobuf.
pub(super) fn create_order_request(body: &[u8]) -> Result<(CreateOrderRequest, Vec<Violation>), Violation> {
    let Members(fields) = serde_json::from_slice(body).map_err(|error: serde_json::Error| {
        let problem =
            if error.is_data() { "must be a JSON object".to_owned() } else { format!("must be valid JSON: {error}") };
        Violation::new("body", problem)
    })?;
    let mut request = CreateOrderRequest::default();
    let mut violations = Vec::new();
    let mut seen = BTreeSet::new();
    for (name, value) in fields {
        let result = match name.as_str() {
            _ if !seen.insert(name.clone()) => Err(TWICE),
            "amount" | "currencyCode" | "requestId" | "customerId" | "metadata" if value.get() == "null" => Ok(()),
            "amount" => amount(&value).map(|amount| request.amount = amount),
            "currencyCode" => text(&value).map(|text| request.currency_code = text),
            "requestId" => text(&value).map(|text| request.request_id = text),
            "customerId" => text(&value).map(|text| request.customer_id = text),
            "metadata" => metadata(&value).map(|entries| request.metadata = entries),
            _ => Err("is not a field of an order"),
        };
        if let Err(problem) = result {
            violations.push(Violation::as_sent(name, problem));
        }
    }
    Ok((request, violations))
}

/// The members of a JSON object as they were sent. A `Value` would silently keep the last of two members with the same
/// name, and another reader of the same bytes might use the first. A request with two amounts must be refused instead.
struct Members(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = object.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// Reads the parameters of a list request. Returns those that could be read, so that they can be checked, and a
/// violation for every wrong one.
pub(super) fn list_orders_request(parameters: Vec<(String, String)>) -> (ListOrdersRequest, Vec<Violation>) {
    let mut request = ListOrdersRequest::default();
    let mut violations = Vec::new();
    let mut seen = BTreeSet::new();
    for (name, value) in parameters {
        let result = match name.as_str() {
            _ if !seen.insert(name.clone()) => Err(TWICE),
            "state" => OrderState::from_str_name(&format!("ORDER_STATE_{value}"))
                .map(|state| request.set_state(state))
                .ok_or("must be a state of orders, such as PAID"),
            "createTimeFrom" => time(&value).map(|time| request.create_time_from = Some(time)),
            "createTimeUntil" => time(&value).map(|time| request.create_time_until = Some(time)),
            "pageSize" => value.parse().map(|size| request.page_size = size).map_err(|_error| "must be a whole number"),
            "customerId" => {
                request.customer_id = value;
                Ok(())
            }
            "pageToken" => {
                request.page_token = value;
                Ok(())
            }
            _ => Err("is not a parameter of this call"),
        };
        if let Err(problem) = result {
            violations.push(Violation::as_sent(name, problem));
        }
    }
    (request, violations)
}

/// Reads a time of RFC 3339, which has an offset. Without one, the time would depend on where it is read.
fn time(text: &str) -> Result<Timestamp, &'static str> {
    let time = text.parse().map_err(|_error| "must be a time such as 2026-01-31T12:00:00Z; write a + as %2B")?;
    let (date, clock) = text.split_at(text.len().min("2026-01-31".len()));
    if date.len() < "2026-01-31".len() || !clock.contains(['Z', 'z', '+', '-']) {
        return Err("must have an offset from UTC, as in 2026-01-31T12:00:00Z or 2026-01-31T12:00:00+01:00");
    }
    Ok(time)
}

/// Reads a whole number, or a string that contains one: the JSON form of protobuf writes 64-bit numbers as strings.
fn amount(value: &RawValue) -> Result<i64, &'static str> {
    let number = match serde_json::from_str(value.get()) {
        Ok(Value::Number(_)) => integer(value.get()),
        Ok(Value::String(digits)) => integer(&digits),
        Ok(Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_)) | Err(_) => None,
    };
    number.ok_or("must be a whole number of the currency's minor unit (500 is USD 5.00), at most 1000000000000")
}

/// Reads a decimal number whose value is an integer, such as `500`, `500.0` or `5e2`. JSON Schema and the JSON form of
/// protobuf define integers by their value. Computes without rounding.
fn integer(text: &str) -> Option<i64> {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = whole.strip_prefix('-').unwrap_or(whole);
    if digits.is_empty() || !digits.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let fraction = fraction.trim_end_matches('0');
    let shift = exponent.checked_sub(i32::try_from(fraction.len()).ok()?)?;
    let mut number: i128 = format!("{whole}{fraction}").parse().ok()?;
    if number == 0 {
        return Some(0);
    }
    for _ in 0..shift.unsigned_abs().min(40) {
        if shift < 0 {
            number = (number % 10 == 0).then_some(number / 10)?;
        } else {
            number = number.checked_mul(10)?;
        }
    }
    i64::try_from(number).ok()
}

fn text(value: &RawValue) -> Result<String, &'static str> {
    serde_json::from_str(value.get()).map_err(|_other| "must be a string")
}

fn metadata(value: &RawValue) -> Result<BTreeMap<String, String>, &'static str> {
    const PROBLEM: &str = "must be an object whose values are strings, each name once";
    let Members(members) = serde_json::from_str(value.get()).map_err(|_other| PROBLEM)?;
    let mut entries = BTreeMap::new();
    for (key, value) in members {
        let value = text(&value).map_err(|_other| PROBLEM)?;
        if entries.insert(key, value).is_some() {
            return Err(PROBLEM);
        }
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use contracts::proto::orders::v1::OrderState;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_field_is_read() {
        let body = br#"{"amount":"500","currencyCode":"EUR","requestId":"r","customerId":null,"metadata":{"k":"v"}}"#;
        let (request, violations) = create_order_request(body).expect("an object");
        assert_eq!(violations, []);
        assert_eq!(request.amount, 500);
        assert_eq!(request.currency_code, "EUR");
        assert_eq!(request.request_id, "r");
        assert_eq!(request.customer_id, "");
        assert_eq!(request.metadata, BTreeMap::from([("k".to_owned(), "v".to_owned())]));
    }

    #[test]
    fn each_wrong_field_is_named() {
        for (body, fields) in [
            (r#"{"amount":1.5}"#, vec!["amount"]),
            (r#"{"amount":5e-1}"#, vec!["amount"]),
            (r#"{"amount":1e99}"#, vec!["amount"]),
            (r#"{"amount":"0x10"}"#, vec!["amount"]),
            (r#"{"amount":"five"}"#, vec!["amount"]),
            (r#"{"amount":99999999999999999999}"#, vec!["amount"]),
            (r#"{"amount":5,"colour":null}"#, vec!["colour"]),
            (r#"{"amount":true,"currencyCode":5}"#, vec!["amount", "currencyCode"]),
            (r#"{"amount":5,"currency_code":"USD"}"#, vec!["currency_code"]),
            (r#"{"amount":5,"metadata":{"k":1}}"#, vec!["metadata"]),
            (r#"{"amount":5,"amount":6}"#, vec!["amount"]),
            (r#"{"amount":5,"\u0061mount":5}"#, vec!["amount"]),
            (r#"{"amount":5,"metadata":{"k":"v","k":"v"}}"#, vec!["metadata"]),
        ] {
            let (_, violations) = create_order_request(body.as_bytes()).expect(body);
            assert_eq!(violations.iter().map(|v| v.field.as_str()).collect::<Vec<_>>(), fields, "{body}");
        }
    }

    #[test]
    fn an_integer_is_one_by_its_value() {
        let read = ["500", "500.0", "5e2", "5E+2", "5000e-1", "0.5e3", "-500", "0", "0e99", "9223372036854775807"];
        let values = [500, 500, 500, 500, 500, 500, -500, 0, 0, i64::MAX];
        assert_eq!(read.map(integer), values.map(Some));
        for refused in ["", "-", ".", "0.5", "5e-1", "5e", "1e19", "9223372036854775808", "1e999999999999", "+5", "5 "]
        {
            assert_eq!(integer(refused), None, "{refused}");
        }
    }

    #[test]
    fn a_time_has_an_offset() {
        for good in ["2026-01-31T12:00:00Z", "2026-01-31T12:00:00.5+01:00", "2026-01-31T12:00:00-05:30"] {
            assert!(time(good).is_ok(), "{good}");
        }
        for bad in ["2026-01-31T12:00:00", "2026-01-31"] {
            assert!(time(bad).expect_err(bad).contains("offset"), "{bad}");
        }
        assert!(time("2026-01-31T12:00:00 01:00").expect_err("a decoded +").contains("%2B"));
    }

    #[test]
    fn what_is_no_object_is_a_bad_body() {
        for body in ["[]", "5", r#"{"amount":5"#, "", "{}{}", "\u{0}"] {
            assert_eq!(create_order_request(body.as_bytes()).expect_err(body).field, "body");
        }
    }

    #[test]
    fn states_have_no_prefix() {
        let order = Order { state: OrderState::PaymentFailed.into(), ..Default::default() };
        assert_eq!(OrderJson::from(order).state, "PAYMENT_FAILED");
    }

    proptest! {
        #[test]
        fn no_body_makes_the_reader_panic(body in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = create_order_request(&body);
        }

        #[test]
        fn no_json_makes_the_reader_panic(key in "amount|currencyCode|metadata|x", value in "[0-9eE.+\\-\"{}\\[\\]:,a]{0,30}") {
            let _ = create_order_request(format!("{{\"{key}\":{value}}}").as_bytes());
        }
    }
}
