//! What `/openapi.json` says besides what the routes say of themselves.

#![expect(dead_code, reason = "of these types only the shape is used")]

use std::collections::BTreeMap;

use utoipa::{
    OpenApi, ToSchema,
    openapi::{self, InfoBuilder},
};

/// Takes orders and tells what became of them.
#[derive(OpenApi)]
#[openapi(info(title = "order-service"), components(schemas(NewOrder, Problem)))]
struct Document;

pub(super) fn head() -> openapi::OpenApi {
    let mut document = Document::openapi();
    document.info = InfoBuilder::from(document.info).version(env!("CARGO_PKG_VERSION")).build();
    document
}

/// An order that is to be taken.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(super) struct NewOrder {
    /// What it costs, in the currency's minor unit: 500 is USD 5.00.
    #[schema(minimum = 1, maximum = 1_000_000_000_000_i64, example = 500)]
    amount: i64,
    /// ISO 4217.
    #[schema(default = "USD", example = "USD")]
    currency_code: Option<String>,
    /// Makes the call safe to repeat, for ever: printable ASCII without spaces, best a UUID.
    #[schema(max_length = 64)]
    request_id: Option<String>,
    /// Your own name for the customer.
    #[schema(max_length = 64)]
    customer_id: Option<String>,
    /// Up to 16 entries that the order carries unread: keys of 1 to 64 characters from `[a-z0-9_.-]`, values of up to 256.
    metadata: Option<BTreeMap<String, String>>,
}

/// Why a call failed (RFC 9457).
#[derive(ToSchema)]
pub(super) struct Problem {
    /// Always `about:blank`.
    r#type: String,
    /// The status in words.
    title: String,
    /// The status.
    status: u16,
    /// For a person.
    detail: String,
    /// For a program: the reason in gRPC's `ErrorInfo`.
    #[schema(example = "REQUEST_ID_REUSED")]
    reason: String,
    /// Each bad field.
    errors: Option<Vec<BadField>>,
}

/// A bad field.
#[derive(ToSchema)]
struct BadField {
    /// Its name.
    field: String,
    /// What it must be.
    detail: String,
}
