//! The reader of `order-events`: turns an event of an order into a command to its payment.

use contracts::orders::OrderEvent;
use oncelog::{
    aggregate::PayloadError,
    inbox::{Incoming, Instruction, Unreadable},
};

use crate::payment::Command;

/// Reads a record of `order-events`.
pub fn read(record: &Incoming<'_>) -> Result<Instruction<Command>, Unreadable> {
    let Some(decoded) = record.event::<OrderEvent>()? else { return Ok(Instruction::Skip) };
    Ok(match decoded.event {
        OrderEvent::Created(details) => {
            let time = decoded.envelope.and_then(|envelope| envelope.time);
            let order_time = time.ok_or_else(|| PayloadError::field("occur_time", "is missing"))?;
            Instruction::Execute(Command::Request { money: details.money, order_time })
        }
        OrderEvent::CancellationRequested => Instruction::Execute(Command::Cancel),
        OrderEvent::Paid { .. }
        | OrderEvent::PaymentFailed(_)
        | OrderEvent::Cancelled
        | OrderEvent::Refunded { .. } => Instruction::Ignore,
    })
}
