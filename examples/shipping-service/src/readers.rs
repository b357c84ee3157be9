//! The readers of the followed topics: which command a record leads to.
//!
//! Each event is matched by name, so that a new event of the other service breaks this build and is not overlooked.

use contracts::{orders::OrderEvent, payments::PaymentEvent};
use oncelog::inbox::{Incoming, Instruction, Unreadable};

use crate::shipment::{Command, Reason};

/// Reads a record of `order-events`. Payments are read from `payment-events` only.
pub fn order_event(record: &Incoming<'_>) -> Result<Instruction<Command>, Unreadable> {
    let Some(decoded) = record.event::<OrderEvent>()? else { return Ok(Instruction::Skip) };
    Ok(match decoded.event {
        OrderEvent::CancellationRequested | OrderEvent::Cancelled | OrderEvent::Refunded { .. } => {
            Instruction::Execute(Command::CallOff(Reason::OrderCancelled))
        }
        OrderEvent::Created(_) | OrderEvent::Paid { .. } | OrderEvent::PaymentFailed(_) => Instruction::Ignore,
    })
}

/// Reads a record of `payment-events`. A payment is cancelled only if its order is.
pub fn payment_event(record: &Incoming<'_>) -> Result<Instruction<Command>, Unreadable> {
    let Some(decoded) = record.event::<PaymentEvent>()? else { return Ok(Instruction::Skip) };
    Ok(match decoded.event {
        PaymentEvent::Completed { .. } => Instruction::Execute(Command::Prepare),
        PaymentEvent::Failed { .. } => Instruction::Execute(Command::CallOff(Reason::PaymentFailed)),
        PaymentEvent::CancellationRequested | PaymentEvent::Voided { .. } | PaymentEvent::Refunded { .. } => {
            Instruction::Execute(Command::CallOff(Reason::OrderCancelled))
        }
        PaymentEvent::Requested { .. } | PaymentEvent::ReviewRequired(_) => Instruction::Ignore,
    })
}
