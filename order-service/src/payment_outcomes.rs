//! The reader of `payment-events`: turns the outcome of a payment into a command to its order.

use contracts::payments::PaymentEvent;
use oncelog::inbox::{Incoming, Instruction, Unreadable};

use crate::order::{Command, PaymentFailure, PaymentOutcome};

/// Reads a record of `payment-events`.
pub fn read(record: &Incoming<'_>) -> Result<Instruction<Command>, Unreadable> {
    let Some(decoded) = record.event::<PaymentEvent>()? else { return Ok(Instruction::Skip) };
    let outcome = match decoded.event {
        PaymentEvent::Requested { .. } | PaymentEvent::CancellationRequested | PaymentEvent::ReviewRequired(_) => {
            return Ok(Instruction::Ignore);
        }
        PaymentEvent::Completed { gateway_reference, .. } => PaymentOutcome::Completed { gateway_reference },
        PaymentEvent::Failed { decline, .. } => {
            PaymentOutcome::Failed(PaymentFailure { code: decline.code, message: decline.message })
        }
        PaymentEvent::Voided { .. } => PaymentOutcome::Voided,
        PaymentEvent::Refunded { gateway_reference, .. } => PaymentOutcome::Refunded { gateway_reference },
    };
    Ok(Instruction::Execute(Command::RecordPayment(outcome)))
}
