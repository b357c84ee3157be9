//! Models one order from its creation to its end, in both services and at the gateway.
//!
//! The rules are production code: [`Order`] and [`Payment`], how each service reads the other's records, which gateway
//! call is [`due`](payment_service::due), and whether a record has already had its effect. At any step a process may
//! crash, an answer may be lost, a request may arrive after its timeout, the gateway may forget the key, a record may
//! be dead-lettered and replayed, and a customer may cancel the order.
//!
//! The model assumes that a charge request arrives within half of the time for which the gateway remembers keys, or
//! never. It leaves out a payment-service on an older copy of its store, because the relay refuses that
//! ([`publishing`](crate::publishing)).

mod gateway;
mod instruction;
mod model;
pub mod properties;
mod service;

use std::time::Duration;

use contracts::money::Money;
use order_service::order::{self, Details, Order, OrderEvent};
use payment_service::payment::{self, Payment, PaymentEvent};

pub use self::{
    gateway::Gateway,
    service::{Decided, Record, Service},
};

/// The rules that the promises depend on. Each can be disabled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Defence {
    /// The effect of a record and the inbox's offset are committed together.
    OffsetWithTheEffect,
    /// A decision is committed only if the stream has not changed since the decision.
    ExpectedVersion,
    /// The intent to charge is on disk before the gateway is called.
    IntentBeforeTheCall,
    /// Every gateway call for a payment has the same idempotency key.
    IdempotencyKey,
    /// Once the gateway may have forgotten the key, the charge is looked up before it is repeated.
    AskWhenTheKeyMayBeForgotten,
    /// A gateway call ends before the next one for the same payment begins.
    OneCallAtATime,
    /// A decline is accepted only if the gateway's records do not contradict it.
    ADeclineIsConfirmed,
    /// A call without an answer is retried, and not treated as a decline.
    NoAnswerIsNoOutcome,
    /// If nothing was charged, a refund prevents every later charge.
    RefundBarsTheKey,
    /// A record that has had its effect is recognized by its recorded cause, and has no effect when it is read again.
    /// This is a second line of defence: both domains are idempotent without it, and no property fails without it.
    CauseIsRecorded,
    /// Both lines together: a record that is read again has no effect, because its cause is recorded or because the
    /// domains are idempotent.
    CauseOrEffectIsKnown,
    /// The request id determines the order id, so a repeated request finds its order.
    RequestNamesTheOrder,
}

impl Defence {
    /// All defences without which a property fails.
    pub const NEEDED: [Self; 11] = [
        Self::OffsetWithTheEffect,
        Self::ExpectedVersion,
        Self::IntentBeforeTheCall,
        Self::IdempotencyKey,
        Self::AskWhenTheKeyMayBeForgotten,
        Self::OneCallAtATime,
        Self::ADeclineIsConfirmed,
        Self::NoAnswerIsNoOutcome,
        Self::RefundBarsTheKey,
        Self::CauseOrEffectIsKnown,
        Self::RequestNamesTheOrder,
    ];

    /// Returns properties that fail without this defence. Others may fail, too.
    pub fn guards(self) -> &'static [&'static str] {
        match self {
            Self::OffsetWithTheEffect => &[properties::AGREED],
            Self::ExpectedVersion => &[properties::PAID_IS_CHARGED],
            Self::IntentBeforeTheCall => &[properties::INTENT_FIRST],
            Self::IdempotencyKey => &[properties::CHARGED_ONCE, properties::GIVEN_BACK_ONCE],
            Self::AskWhenTheKeyMayBeForgotten => &[properties::CHARGED_ONCE],
            Self::OneCallAtATime => &[properties::NO_CONTRADICTION],
            Self::ADeclineIsConfirmed | Self::NoAnswerIsNoOutcome | Self::RefundBarsTheKey => {
                &[properties::NOT_LEFT_CHARGED]
            }
            Self::CauseIsRecorded => &[],
            Self::CauseOrEffectIsKnown => &[properties::ONE_EFFECT],
            Self::RequestNamesTheOrder => &[properties::SAME_REQUEST],
        }
    }
}

/// The model and its limits.
#[derive(Clone, Debug)]
pub struct Paying {
    /// The disabled defence, if any.
    pub off: Option<Defence>,
    /// The number of faults at the start.
    pub faults: Faults,
}

impl Paying {
    /// Allows just enough faults that every defence is needed.
    pub fn new(off: Option<Defence>) -> Self {
        Self { off, faults: Faults { crashes: 1, network: 2, aside: 1, reviews: 1, contradictions: 1 } }
    }
}

/// The number of faults that may still happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Faults {
    /// Crashes of processes.
    pub crashes: u8,
    /// Requests that time out, and answers that are lost.
    pub network: u8,
    /// Records that are dead-lettered and replayed, or read twice.
    pub aside: u8,
    /// Times that the gateway does not know the result of a charge, or refuses a refund.
    pub reviews: u8,
    /// Times that the gateway answers a successful charge with a decline.
    pub contradictions: u8,
}

/// A state of the whole system.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// order-service.
    pub order: Service<Order, OrderEvent, order::Command>,
    /// payment-service.
    pub payment: Service<Payment, PaymentEvent, payment::Command>,
    /// The gateway.
    pub gateway: Gateway,
    /// Requests to the gateway that are in flight.
    pub requests: Vec<Request>,
    /// The age of the order.
    pub age: Age,
    /// The faults that may still happen.
    pub faults: Faults,
}

/// A request to the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Request {
    /// The requested operation.
    pub asks: Asks,
    /// True while payment-service waits for the answer.
    pub awaited: bool,
}

/// The operation that a request asks the gateway for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Asks {
    /// Charges.
    Charge,
    /// Looks up the result of the charge.
    Find,
    /// Looks up the result of a charge that was declined.
    Confirm,
    /// Refunds the charge, or prevents it.
    Refund,
}

/// The age of an order, relative to how long the gateway remembers its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Age {
    /// Less than half of that time is over.
    Young,
    /// More than half of that time is over.
    PastHalf,
    /// The gateway may have forgotten the key.
    Forgotten,
}

const MEMORY: Duration = Duration::from_secs(24 * 60 * 60);

impl Age {
    fn duration(self) -> Duration {
        match self {
            Self::Young => Duration::ZERO,
            Self::PastHalf => MEMORY * 3 / 4,
            Self::Forgotten => MEMORY * 2,
        }
    }
}

/// One of the services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Who {
    /// order-service.
    Order,
    /// payment-service.
    Payment,
}

/// A step of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Happens {
    /// A customer cancels the order.
    Cancel,
    /// A service reads a record, the next one or a replayed one, and decides.
    Reads(Who, Record),
    /// A service commits the decision of its inbox.
    CommitsInbox(Who),
    /// A service commits the decision of a call or of a gateway's answer.
    CommitsCall(Who),
    /// A record is dead-lettered. It is replayed later.
    SetAside(Who, Record),
    /// A record that was read before will be read again.
    ReadAgain(Who, usize),
    /// payment-service calls the gateway.
    Calls,
    /// A request arrives at the gateway. Its answer arrives if payment-service waits for it.
    Arrives(Request, Reply),
    /// A request times out. It may still arrive.
    GivesUp(Request),
    /// A process crashes.
    Crash(Who),
    /// Time passes.
    Ages,
    /// A person settles a payment that needs review.
    Settles,
}

/// The gateway's reply to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reply {
    /// The requested result.
    Well,
    /// A decline.
    Declines,
    /// A decline, although the order was charged.
    Contradicts,
    /// The gateway does not know the result, or refuses the refund.
    NeedsReview,
    /// The request has its effect, and the answer is lost.
    Lost,
}

/// Returns the details of the modelled order.
fn details(amount: i64) -> Details {
    Details {
        money: Money::new(amount, "USD").expect("the amount and the currency are valid"),
        request_id: "r-1".to_owned(),
        customer_id: String::new(),
        metadata: Default::default(),
    }
}
