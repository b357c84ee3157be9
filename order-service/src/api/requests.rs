//! Checks requests. Every bad field is reported, not only the first.

use std::time::SystemTime;

use contracts::{
    money::Money,
    proto::orders::v1::{CreateOrderRequest, ListOrdersRequest, OrderState},
};
use oncelog::{
    edge::{CallError, Page, Violation},
    event::StreamId,
};
use prost_types::Timestamp;
use uuid::Uuid;

use crate::{order::Details, orders_table::Filter};

const DEFAULT_CURRENCY: &str = "USD";
const ID_LENGTH: usize = 64;
/// Clients make keys of up to 255 characters.
pub(super) const REQUEST_ID_LENGTH: usize = 255;
const METADATA_ENTRIES: usize = 16;
const METADATA_KEY_LENGTH: usize = 64;
const METADATA_VALUE_LENGTH: usize = 256;

/// The namespace in which order ids are made from request ids. It can never change, because a repeated request must get
/// the same order id.
const REQUEST_IDS: Uuid = Uuid::from_u128(0x8f0c_2f0e_51f6_4b6a_9d0d_6a4c_5e1b_77a3);

/// Returns the order id for a request id, or a new id if the request id is empty.
pub(super) fn new_order_id(request_id: &str) -> StreamId {
    if request_id.is_empty() {
        StreamId::generate()
    } else {
        StreamId(Uuid::new_v5(&REQUEST_IDS, request_id.as_bytes()))
    }
}

/// Reads an order id.
pub(super) fn order_id(order_id: &str) -> Result<StreamId, CallError> {
    Ok(Violation::stream_id("order_id", order_id)?)
}

/// Reads the version after which a watcher wants changes.
pub(super) fn version(version: i64) -> Result<u64, CallError> {
    u64::try_from(version).map_err(|_negative| Violation::new("after_version", "must not be negative").into())
}

/// Reads the filter and the page of a list request, or returns every bad field.
pub(super) fn page(request: ListOrdersRequest) -> Result<(Filter, Page), Vec<Violation>> {
    let mut violations = Vec::new();
    let mut time = |field: &str, time: Option<Timestamp>| {
        let time = time.map(|time| SystemTime::try_from(time).ok().filter(|time| *time >= SystemTime::UNIX_EPOCH));
        if time == Some(None) {
            violations.push(Violation::new(field, "must be 1970 or later"));
        }
        time.flatten()
    };
    let created_from = time("create_time_from", request.create_time_from);
    let created_until = time("create_time_until", request.create_time_until);
    let state = match OrderState::try_from(request.state) {
        Ok(OrderState::Unspecified) => None,
        Ok(state) => state.as_str_name().strip_prefix("ORDER_STATE_"),
        Err(_unknown) => {
            violations.push(Violation::new("state", "must be a state of orders"));
            None
        }
    };
    let customer_id = Some(request.customer_id).filter(|customer| !customer.is_empty());
    if customer_id.as_ref().is_some_and(|customer| too_long(customer, ID_LENGTH)) {
        violations.push(Violation::new("customer_id", "must be up to 64 characters"));
    }
    let filter = Filter { state, customer_id, created_from, created_until };
    match Page::parse(request.page_size, &request.page_token, format!("{filter:?}")) {
        Ok(page) if violations.is_empty() => Ok((filter, page)),
        Ok(_) => Err(violations),
        Err(of_the_page) => Err([violations, of_the_page].concat()),
    }
}

/// Reads the details of a new order, or returns every bad field.
pub(super) fn details(request: CreateOrderRequest) -> Result<Details, Vec<Violation>> {
    let mut violations = Vec::new();
    let currency_code = Some(request.currency_code.as_str()).filter(|code| !code.is_empty());
    let money = Money::new(request.amount, currency_code.unwrap_or(DEFAULT_CURRENCY));
    if let Err(errors) = &money {
        violations.extend(errors.iter().map(|error| Violation::new(error.field(), error.to_string())));
    }
    if !is_request_id(&request.request_id) {
        violations.push(Violation::new("request_id", REQUEST_ID_RULE));
    }
    if too_long(&request.customer_id, ID_LENGTH) || request.customer_id.chars().any(char::is_control) {
        violations.push(Violation::new("customer_id", "must be up to 64 characters, none of them a control character"));
    }
    if request.metadata.len() > METADATA_ENTRIES {
        violations.push(Violation::new("metadata", "must have at most 16 entries"));
    } else {
        for (key, value) in &request.metadata {
            metadata(key, value, &mut violations);
        }
    }
    match money {
        Ok(money) if violations.is_empty() => Ok(Details {
            money,
            request_id: request.request_id,
            customer_id: request.customer_id,
            metadata: request.metadata,
        }),
        _ => Err(violations),
    }
}

/// The rule for a request id, phrased to follow the name of its field.
pub(super) const REQUEST_ID_RULE: &str = "must be up to 255 printable ASCII characters without spaces";

/// Returns true if the text may be a request id.
pub(super) fn is_request_id(text: &str) -> bool {
    text.len() <= REQUEST_ID_LENGTH && text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn metadata(key: &str, value: &str, violations: &mut Vec<Violation>) {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_.-".contains(c);
    if key.is_empty() || too_long(key, METADATA_KEY_LENGTH) || !key.chars().all(allowed) {
        let shown: String = key.chars().take(METADATA_KEY_LENGTH).collect();
        violations.push(Violation::new(
            format!("metadata[{shown:?}]"),
            "must have a key of 1 to 64 characters from a-z, 0-9, '_', '.' and '-'",
        ));
    } else if too_long(value, METADATA_VALUE_LENGTH) || value.chars().any(char::is_control) {
        let rule = "must be at most 256 characters, none of them a control character";
        violations.push(Violation::new(format!("metadata[{key:?}]"), rule));
    }
}

fn too_long(text: &str, limit: usize) -> bool {
    text.chars().nth(limit).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> CreateOrderRequest {
        CreateOrderRequest { amount: 500, ..Default::default() }
    }

    fn bad_fields(request: CreateOrderRequest) -> Vec<String> {
        details(request).expect_err("invalid").into_iter().map(|violation| violation.field).collect()
    }

    #[test]
    fn an_amount_is_enough() {
        let details = details(request()).expect("valid");
        assert_eq!(details.money.to_string(), "USD 5.00");
    }

    #[test]
    fn every_bad_field_is_named() {
        let request = CreateOrderRequest {
            amount: -1,
            currency_code: "XXL".to_owned(),
            request_id: "a b".to_owned(),
            customer_id: "x".repeat(65),
            metadata: [
                ("Key".to_owned(), String::new()),
                ("ok".to_owned(), "v".repeat(257)),
                ("tab".to_owned(), "a\tb".to_owned()),
            ]
            .into(),
        };
        let of_metadata = ["metadata[\"Key\"]", "metadata[\"ok\"]", "metadata[\"tab\"]"];
        let expected = [&["amount", "currency_code", "request_id", "customer_id"][..], &of_metadata].concat();
        assert_eq!(bad_fields(request), expected);
    }

    #[test]
    fn the_limits_are_inclusive() {
        let entries = (0..16).map(|n| (format!("{n:064}"), "ü".repeat(256))).collect();
        let request = CreateOrderRequest {
            request_id: "r".repeat(255),
            customer_id: "ü".repeat(64),
            metadata: entries,
            ..request()
        };
        assert!(details(request.clone()).is_ok());
        let mut one_more = request;
        one_more.metadata.insert("k".to_owned(), String::new());
        assert_eq!(bad_fields(one_more), ["metadata"]);
    }

    #[test]
    fn a_request_id_stands_for_one_order_for_ever() {
        assert_eq!(new_order_id("r-1"), new_order_id("r-1"));
        assert_ne!(new_order_id("r-1"), new_order_id("r-2"));
        assert_ne!(new_order_id(""), new_order_id(""));
        // The exact id. If it changed, repeating an old call would create and charge a second order.
        assert_eq!(new_order_id("r-1").to_string(), "25893b66-31ce-5702-b25a-f52ded935105");
    }

    #[test]
    fn every_bad_field_of_a_list_is_named() {
        let request = ListOrdersRequest {
            page_size: -1,
            page_token: "x".to_owned(),
            state: 99,
            customer_id: "x".repeat(65),
            create_time_from: Some(Timestamp { seconds: -1, nanos: 0 }),
            create_time_until: Some(Timestamp { seconds: -1, nanos: 0 }),
        };
        let fields: Vec<_> = page(request).expect_err("invalid").into_iter().map(|violation| violation.field).collect();
        let expected = ["create_time_from", "create_time_until", "state", "customer_id", "page_size", "page_token"];
        assert_eq!(fields, expected);
    }
}
