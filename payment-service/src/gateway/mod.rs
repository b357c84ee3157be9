//! The payment gateway, as this service needs it; [`simulated`] is one.
//!
//! A call may fail without telling whether it had its effect. It is made again under the same key, and the
//! gateway answers what it answered before, for as long as it remembers the key. After that, it is asked.

pub mod args;
mod ledger;
pub mod simulated;
pub(crate) mod statement;

use std::{future::Future, time::Duration};

use contracts::money::Money;
use oncelog::event::StreamId;

use crate::payment::{Receipt, Refund};

/// Why a call has no answer. It may or may not have had its effect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the gateway gave no answer: {0}")]
pub struct NoAnswer(pub String);

/// What a gateway knows of a charge that may have been made long ago.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// This became of it.
    Receipt(Receipt),
    /// There was none.
    Nothing,
    /// It can't tell any more.
    Unknown,
}

/// Moves money. The key of a payment is its order's id: one order, one payment.
pub trait Gateway: Send + Sync + 'static {
    /// How long a key is remembered after its first use. A charge under a forgotten key would be a second one.
    fn remembers(&self) -> Duration;

    /// Charges an amount, once for each key. A decline is an answer.
    fn charge(&self, key: StreamId, money: Money) -> impl Future<Output = Result<Receipt, NoAnswer>> + Send;

    /// Sees to it that nothing stays charged under a key, once: gives the charge back if there is one, and if there is
    /// none, takes care that none can be made any more, by a call that is still under way either.
    fn refund(&self, key: StreamId, money: Money) -> impl Future<Output = Result<Refund, NoAnswer>> + Send;

    /// What became of the charge under a key.
    fn find(&self, key: StreamId) -> impl Future<Output = Result<Found, NoAnswer>> + Send;
}
