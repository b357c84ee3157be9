//! Reads `order-events`: what an order's event asks of its payment.

use std::time::SystemTime;

use contracts::{
    money::Money,
    proto::orders::events::v1::{OrderEvent, order_event::Event},
};
use oncelog::{inbox::Asked, kafka::record::Incoming};
use prost::Message as _;

use crate::payment::Command;

/// The topic that order-service publishes to.
pub const TOPIC: &str = "order-events";

/// What a record asks of a payment, or why it cannot be read.
pub fn read(record: &Incoming<'_>) -> Result<Asked<Command>, String> {
    let message = OrderEvent::decode(record.payload).map_err(|error| format!("the value is no OrderEvent: {error}"))?;
    record.check(&message.event_id, &message.order_id)?;
    match message.event {
        None => Ok(Asked::Newer),
        Some(Event::OrderCreated(created)) => {
            let money = Money::new(created.amount, &created.currency_code).map_err(|errors| {
                let listed: Vec<_> = errors.iter().map(|error| format!("{} {error}", error.field())).collect();
                listed.join("; ")
            })?;
            let order_time = message.occur_time.and_then(|time| SystemTime::try_from(time).ok());
            let order_time = order_time.ok_or("occur_time is missing")?;
            Ok(Asked::Command(record.stream, Command::Request { money, order_time }))
        }
        Some(Event::OrderCancellationRequested(_)) => Ok(Asked::Command(record.stream, Command::Cancel)),
        Some(
            Event::OrderPaid(_) | Event::OrderPaymentFailed(_) | Event::OrderCancelled(_) | Event::OrderRefunded(_),
        ) => Ok(Asked::Nothing),
    }
}
