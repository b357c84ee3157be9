//! The payment gateway, as this service needs it; [`simulated`] is one.
//!
//! A call may fail without telling whether it had its effect. It is made again under the same key, and the
//! gateway answers what it answered before, for as long as it remembers the key. After that, it is asked.

mod ledger;
pub mod simulated;

use std::{future::Future, time::Duration};

use event_sourcing::{event::StreamId, money::Money};

use crate::payment::Receipt;

/// Why a call has no answer. The charge may or may not have been made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the gateway gave no answer: {0}")]
pub struct NoAnswer(pub String);

/// Moves money. The key of a payment is its order's id: one order, one payment.
pub trait Gateway: Send + Sync + 'static {
    /// How long a key is remembered after its first use. A charge under a forgotten key would be a second one.
    fn remembers(&self) -> Duration;

    /// Charges an amount, once for each key. A decline is an answer.
    fn charge(&self, key: StreamId, money: Money) -> impl Future<Output = Result<Receipt, NoAnswer>> + Send;

    /// What became of the charge under a key, however long ago; `None`: there was none.
    fn find(&self, key: StreamId) -> impl Future<Output = Result<Option<Receipt>, NoAnswer>> + Send;
}
