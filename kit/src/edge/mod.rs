//! The edge of a service: its port, TLS, health, metrics, errors and pages.

mod bodies;
pub(crate) mod call_error;
pub(crate) mod connections;
mod deadline;
pub(crate) mod gate;
pub(crate) mod guard;
pub(crate) mod health;
mod json;
pub(crate) mod listener;
pub(crate) mod message_json;
pub(crate) mod metrics;
pub(crate) mod page;
pub(crate) mod refused;
pub(crate) mod tls;

pub use self::{
    call_error::{CallError, Violation},
    json::Json,
    listener::{ListenArgs, MAX_REQUEST, bind},
    message_json::MessageJson,
    page::{Page, Place},
    tls::TlsArgs,
};
