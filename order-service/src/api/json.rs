//! Orders as JSON: lowerCamelCase, states without prefix, amounts as numbers.

use std::collections::BTreeMap;

use event_sourcing::{
    proto::orders::v1::{CreateOrderRequest, Order},
    service::call_error::Violation,
};
use serde::Serialize;
use serde_json::Value;

/// An order as an answer.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct OrderJson {
    order_id: String,
    amount: i64,
    currency_code: String,
    state: String,
    create_time: String,
    update_time: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    customer_id: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    metadata: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payment_failure: Option<PaymentFailureJson>,
}

#[derive(Serialize)]
struct PaymentFailureJson {
    code: String,
    message: String,
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
            customer_id: order.customer_id,
            metadata: order.metadata,
            payment_failure: order
                .payment_failure
                .map(|failure| PaymentFailureJson { code: failure.code, message: failure.message }),
        }
    }
}

/// Reads a request to create an order, with every field of the wrong type or name: what could be read is there too,
/// for the rest of it to be checked. An error if it is no JSON object at all.
///
/// A field that is `null` counts as absent, as in the JSON form of protobuf.
pub(super) fn create_order_request(body: &[u8]) -> Result<(CreateOrderRequest, Vec<Violation>), Violation> {
    let body: Value =
        serde_json::from_slice(body).map_err(|error| Violation::new("body", format!("must be valid JSON: {error}")))?;
    let Value::Object(fields) = body else { return Err(Violation::new("body", "must be a JSON object")) };
    let mut request = CreateOrderRequest::default();
    let mut violations = Vec::new();
    for (name, value) in fields {
        let result = match (name.as_str(), value) {
            ("amount" | "currencyCode" | "requestId" | "customerId" | "metadata", Value::Null) => Ok(()),
            ("amount", value) => amount(&value).map(|amount| request.amount = amount),
            ("currencyCode", value) => text(value).map(|text| request.currency_code = text),
            ("requestId", value) => text(value).map(|text| request.request_id = text),
            ("customerId", value) => text(value).map(|text| request.customer_id = text),
            ("metadata", value) => metadata(value).map(|entries| request.metadata = entries),
            _ => Err("is not a field of an order"),
        };
        if let Err(problem) = result {
            violations.push(Violation::new(name, problem));
        }
    }
    Ok((request, violations))
}

/// A whole number, or a string of one, as protobuf writes 64 bits.
fn amount(value: &Value) -> Result<i64, &'static str> {
    let number = match value {
        Value::Number(number) => number.as_i64(),
        Value::String(digits) => digits.parse().ok(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    };
    number.ok_or("must be a whole number of the currency's minor unit (500 is USD 5.00), at most 1000000000000")
}

fn text(value: Value) -> Result<String, &'static str> {
    match value {
        Value::String(text) => Ok(text),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => Err("must be a string"),
    }
}

fn metadata(value: Value) -> Result<BTreeMap<String, String>, &'static str> {
    const PROBLEM: &str = "must be an object whose values are strings";
    let Value::Object(entries) = value else { return Err(PROBLEM) };
    entries.into_iter().map(|(key, value)| Ok((key, text(value).map_err(|_problem| PROBLEM)?))).collect()
}

/// The name of a field in JSON: `currency_code` is `currencyCode`.
pub(super) fn field_name(name: &str) -> String {
    let mut camel = String::with_capacity(name.len());
    let (field, path) = name.split_at(name.find('[').unwrap_or(name.len()));
    for (index, part) in field.split('_').enumerate() {
        let mut letters = part.chars();
        match letters.next() {
            Some(first) if index > 0 => {
                camel.push(first.to_ascii_uppercase());
                camel.push_str(letters.as_str());
            }
            _ => camel.push_str(part),
        }
    }
    camel + path
}

#[cfg(test)]
mod tests {
    use event_sourcing::proto::orders::v1::OrderState;
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
            (r#"{"amount":1e3}"#, vec!["amount"]),
            (r#"{"amount":"five"}"#, vec!["amount"]),
            (r#"{"amount":99999999999999999999}"#, vec!["amount"]),
            (r#"{"amount":5,"colour":null}"#, vec!["colour"]),
            (r#"{"amount":true,"currencyCode":5}"#, vec!["amount", "currencyCode"]),
            (r#"{"amount":5,"currency_code":"USD"}"#, vec!["currency_code"]),
            (r#"{"amount":5,"metadata":{"k":1}}"#, vec!["metadata"]),
        ] {
            let (_, violations) = create_order_request(body.as_bytes()).expect(body);
            assert_eq!(violations.iter().map(|v| v.field.as_str()).collect::<Vec<_>>(), fields, "{body}");
        }
    }

    #[test]
    fn what_is_no_object_is_a_bad_body() {
        for body in ["[]", "5", r#"{"amount":5"#, "", "{}{}", "\u{0}"] {
            assert_eq!(create_order_request(body.as_bytes()).expect_err(body).field, "body");
        }
    }

    #[test]
    fn fields_have_their_json_names() {
        assert_eq!(field_name("currency_code"), "currencyCode");
        assert_eq!(field_name("amount"), "amount");
        assert_eq!(field_name("metadata[\"a_b\"]"), "metadata[\"a_b\"]");
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
