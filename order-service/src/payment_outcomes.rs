//! Reads `payment-events`: what a payment's outcome asks of its order.

use contracts::proto::payments::events::v1::{PaymentEvent, payment_event::Event};
use oncelog::{inbox::Asked, kafka::record::Incoming};
use prost::Message as _;

use crate::order::{Command, PaymentFailure, PaymentOutcome};

/// The topic that payment-service publishes to.
pub const TOPIC: &str = "payment-events";

/// What a record asks of an order, or why it cannot be read.
pub fn read(record: &Incoming<'_>) -> Result<Asked<Command>, String> {
    let message =
        PaymentEvent::decode(record.payload).map_err(|error| format!("the value is no PaymentEvent: {error}"))?;
    record.check(&message.event_id, &message.order_id)?;
    let outcome = match message.event {
        None => return Ok(Asked::Newer),
        Some(Event::PaymentRequested(_) | Event::PaymentCancellationRequested(_) | Event::PaymentReviewRequired(_)) => {
            return Ok(Asked::Nothing);
        }
        Some(Event::PaymentCompleted(completed)) => {
            PaymentOutcome::Completed { gateway_reference: completed.gateway_reference }
        }
        Some(Event::PaymentFailed(failed)) => {
            PaymentOutcome::Failed(PaymentFailure { code: failed.code, message: failed.message })
        }
        Some(Event::PaymentVoided(_)) => PaymentOutcome::Voided,
        Some(Event::PaymentRefunded(refunded)) => {
            PaymentOutcome::Refunded { gateway_reference: refunded.gateway_reference }
        }
    };
    Ok(Asked::Command(record.stream, Command::RecordPayment(outcome)))
}
