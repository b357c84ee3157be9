//! The parts of `/openapi.json` that do not come from the routes: its head, and the schemas of requests and errors.

#![expect(dead_code, reason = "only the schemas of these types are used")]

use std::collections::BTreeMap;

use utoipa::{
    OpenApi, ToSchema,
    openapi::{self, InfoBuilder},
};

/// Creates, cancels and shows orders.
#[derive(OpenApi)]
#[openapi(info(title = "order-service"), components(schemas(NewOrder, Problem)))]
struct Document;

pub(super) fn head() -> openapi::OpenApi {
    let mut document = Document::openapi();
    document.info = InfoBuilder::from(document.info).version(env!("CARGO_PKG_VERSION")).build();
    document
}

/// An order to create.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(super) struct NewOrder {
    /// The amount in the currency's minor unit: 500 is USD 5.00.
    #[schema(minimum = 1, maximum = 1_000_000_000_000_i64, example = 500)]
    amount: i64,
    /// The currency's ISO 4217 code.
    #[schema(default = "USD", example = "USD")]
    currency_code: Option<String>,
    /// Makes the call safe to repeat, for ever. Printable ASCII without spaces, best a UUID.
    #[schema(max_length = 255)]
    request_id: Option<String>,
    /// The caller's id of the customer.
    #[schema(max_length = 64)]
    customer_id: Option<String>,
    /// Up to 16 entries that are stored with the order. Keys have 1 to 64 characters from `[a-z0-9_.-]`, values up to
    /// 256 characters, none of them a control character.
    metadata: Option<BTreeMap<String, String>>,
}

/// The error of a call (RFC 9457).
#[derive(ToSchema)]
pub(super) struct Problem {
    /// Always `about:blank`.
    r#type: String,
    /// The HTTP status in words.
    title: String,
    /// The HTTP status.
    status: u16,
    /// The error, for people.
    detail: String,
    /// The error, for programs: the reason in gRPC's `ErrorInfo`.
    #[schema(example = "REQUEST_ID_REUSED")]
    reason: String,
    /// Each bad field.
    errors: Option<Vec<BadField>>,
}

/// A bad field.
#[derive(ToSchema)]
struct BadField {
    /// The name of the field.
    field: String,
    /// The problem, phrased to follow the name of the field.
    detail: String,
}
