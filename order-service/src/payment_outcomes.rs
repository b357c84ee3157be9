//! Reads `payment-events`: what a payment's outcome asks of its order.

use event_sourcing::{
    event::StreamId,
    inbox::Asked,
    kafka::record::Incoming,
    proto::payments::events::v1::{PaymentEvent, payment_event::Event},
};
use prost::Message as _;

use crate::order::{Command, PaymentFailure, PaymentOutcome};

/// The topic that payment-service publishes to.
pub(crate) const TOPIC: &str = "payment-events";

/// What a record asks of an order, or why it cannot be read.
pub(crate) fn read(record: &Incoming<'_>) -> Result<Asked<Command>, String> {
    let message =
        PaymentEvent::decode(record.payload).map_err(|error| format!("the value is no PaymentEvent: {error}"))?;
    if StreamId::parse(&message.order_id) != Some(record.stream) {
        return Err(format!("the event is of order {:?}, its key is another's", message.order_id));
    }
    if message.event_id != record.id.to_string() {
        return Err(format!("the event is {:?}, its ce_id is another's", message.event_id));
    }
    let outcome = match message.event {
        None => return Ok(Asked::Newer),
        Some(Event::PaymentRequested(_)) => return Ok(Asked::Nothing),
        Some(Event::PaymentCompleted(completed)) => {
            PaymentOutcome::Completed { gateway_reference: completed.gateway_reference }
        }
        Some(Event::PaymentFailed(failed)) => {
            PaymentOutcome::Failed(PaymentFailure { code: failed.code, message: failed.message })
        }
    };
    Ok(Asked::Command(record.stream, Command::RecordPayment(outcome)))
}
