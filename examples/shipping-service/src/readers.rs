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

#[cfg(test)]
mod tests {
    use contracts::{
        money::Money,
        orders::{Details, PaymentFailure},
        payments::{Decline, Review},
    };
    use oncelog::{aggregate::Payload, event::now, inbox::Reader, testing::golden_envelope};

    use super::*;

    fn read<E: Payload>(reader: Reader<Command>, event: &E) -> Instruction<Command> {
        read_bytes(reader, &event.encode(&golden_envelope()))
    }

    fn read_bytes(reader: Reader<Command>, payload: &[u8]) -> Instruction<Command> {
        let (id, stream) = (golden_envelope().id, golden_envelope().stream);
        let incoming =
            Incoming { id, stream, event_type: "", causation: None, traceparent: None, tracestate: None, payload };
        reader(&incoming).expect("can be read")
    }

    fn call_off(reason: Reason) -> Instruction<Command> {
        Instruction::Execute(Command::CallOff(reason))
    }

    fn money() -> Money {
        Money::new(500, "USD").expect("valid")
    }

    #[test]
    fn an_order_that_is_cancelled_calls_its_shipment_off() {
        let none = String::new;
        let details = Details { money: money(), request_id: none(), customer_id: none(), metadata: [].into() };
        let failure = PaymentFailure { code: none(), message: none() };
        for (event, expected) in [
            (OrderEvent::Created(details), Instruction::Ignore),
            (OrderEvent::Paid { gateway_reference: none() }, Instruction::Ignore),
            (OrderEvent::PaymentFailed(failure), Instruction::Ignore),
            (OrderEvent::CancellationRequested, call_off(Reason::OrderCancelled)),
            (OrderEvent::Cancelled, call_off(Reason::OrderCancelled)),
            (OrderEvent::Refunded { gateway_reference: none() }, call_off(Reason::OrderCancelled)),
        ] {
            assert_eq!(read(order_event, &event), expected, "{event:?}");
        }
    }

    #[test]
    fn a_payment_prepares_the_shipment_or_calls_it_off() {
        let none = String::new;
        let decline = Decline { code: none(), message: none() };
        for (event, expected) in [
            (PaymentEvent::Requested { money: money(), order_time: now() }, Instruction::Ignore),
            (
                PaymentEvent::Completed { gateway_reference: none(), settled_by: none() },
                Instruction::Execute(Command::Prepare),
            ),
            (PaymentEvent::Failed { decline, settled_by: none() }, call_off(Reason::PaymentFailed)),
            (PaymentEvent::CancellationRequested, call_off(Reason::OrderCancelled)),
            (PaymentEvent::Voided { settled_by: none() }, call_off(Reason::OrderCancelled)),
            (
                PaymentEvent::Refunded { gateway_reference: none(), settled_by: none() },
                call_off(Reason::OrderCancelled),
            ),
            (PaymentEvent::ReviewRequired(Review::ChargeUnknown), Instruction::Ignore),
        ] {
            assert_eq!(read(payment_event, &event), expected, "{event:?}");
        }
    }

    #[test]
    fn a_newer_event_is_skipped() {
        let newer = [0xfa, 0x06, 0x00]; // an empty message as field 111
        assert_eq!(read_bytes(order_event, &newer), Instruction::Skip);
        assert_eq!(read_bytes(payment_event, &newer), Instruction::Skip);
    }
}
