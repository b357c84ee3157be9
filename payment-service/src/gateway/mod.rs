//! The interface to a payment gateway, and one implementation of it: [`simulated`].
//!
//! A call may fail without showing whether it had its effect. Then it is repeated under the same idempotency key, and
//! the gateway repeats its answer, as long as it remembers the key. After that, the service looks the charge up
//! instead.

pub mod args;
mod ledger;
pub mod simulated;
pub(crate) mod statement;

use std::{future::Future, time::Duration};

use contracts::money::Money;
use oncelog::event::StreamId;

use crate::payment::{Receipt, Refund};

/// A call failed without an answer. It may or may not have had its effect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the gateway gave no answer: {0}")]
pub struct NoAnswer(pub String);

/// The result of looking up a charge, which may have been made long ago.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// The gateway has a receipt: charged or declined.
    Receipt(Receipt),
    /// There was no charge.
    Nothing,
    /// The gateway does not know any more.
    Unknown,
}

/// Moves money. The key of a payment is its order's id: one order, one payment.
pub trait Gateway: Send + Sync + 'static {
    /// The time for which a key is remembered after its first use. Under a forgotten key, a repeated charge would be a
    /// second charge.
    fn remembers(&self) -> Duration;

    /// Charges an amount, once for each key. A decline is an answer, not an error.
    fn charge(&self, key: StreamId, money: Money) -> impl Future<Output = Result<Receipt, NoAnswer>> + Send;

    /// Makes sure that nothing stays charged under a key. Refunds the charge once if there is one. If there is none,
    /// bars the key, so that no charge can be made any more, not even by a call that is still in flight.
    fn refund(&self, key: StreamId, money: Money) -> impl Future<Output = Result<Refund, NoAnswer>> + Send;

    /// Looks up the charge under a key.
    fn find(&self, key: StreamId) -> impl Future<Output = Result<Found, NoAnswer>> + Send;
}
