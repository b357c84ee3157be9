//! Paying: one order from its creation to its end, in both services and at the gateway.
//!
//! The rules that are run are the services' own: [`Order`] and [`Payment`], what a record of one asks of the other as it
//! is read from its bytes, what is [`due`](payment_service::due) at the gateway, and whether a record has had its
//! effect. At any step a process may die, an answer be lost, a request arrive after it was given up, the gateway forget
//! the key, a record be set aside and put back, and somebody cancel the order.
//!
//! One thing is taken for granted: a request to charge arrives within half of the gateway's memory, or never. Left out:
//! that payment-service goes on from an older copy of its store, which its relay refuses
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

/// What the promise rests on. Each can be switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Defence {
    /// A record's effect and the inbox's offset are committed together.
    OffsetWithTheEffect,
    /// What was decided is committed only if nothing else happened to the stream in between.
    ExpectedVersion,
    /// The intent to charge is on disk before the gateway is called.
    IntentBeforeTheCall,
    /// Every call for a payment has the same key.
    IdempotencyKey,
    /// Once the gateway may have forgotten the key, it is asked before it is called.
    AskWhenTheKeyMayBeForgotten,
    /// A call ends before the next one for the same payment begins.
    OneCallAtATime,
    /// A decline is taken only if the gateway's records do not say otherwise.
    ADeclineIsConfirmed,
    /// A call without an answer is made again, and not taken for a refusal.
    NoAnswerIsNoOutcome,
    /// Where nothing was charged, a refund sees to it that nothing will be.
    RefundBarsTheKey,
    /// A record that has had its effect has none when it is read again. A second line: whatever is read again, both
    /// domains know already, and nothing fails without it.
    CauseIsRecorded,
    /// Both lines: it has none because its cause is recorded, or because the domains know what it says.
    CauseOrEffectIsKnown,
    /// A request id names its order, and so a repeat finds it.
    RequestNamesTheOrder,
}

impl Defence {
    /// All that something fails without.
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

    /// The properties that fail without it. There may be others.
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

/// The model, and how much may happen in it.
#[derive(Clone, Debug)]
pub struct Paying {
    /// The defence that is switched off, if any.
    pub off: Option<Defence>,
    /// What may go wrong.
    pub faults: Faults,
}

impl Paying {
    /// Enough for each defence to be needed.
    pub fn new(off: Option<Defence>) -> Self {
        Self { off, faults: Faults { crashes: 1, network: 2, aside: 1, reviews: 1, contradictions: 1 } }
    }
}

/// How much may go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Faults {
    /// Processes that die.
    pub crashes: u8,
    /// Requests that are given up, and answers that are lost.
    pub network: u8,
    /// Records that are set aside and put back, or that are read twice.
    pub aside: u8,
    /// Times that the gateway cannot tell, or refuses a refund.
    pub reviews: u8,
    /// Times that the gateway declines what it has charged.
    pub contradictions: u8,
}

/// Everything there is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// order-service.
    pub order: Service<Order, OrderEvent, order::Command>,
    /// payment-service.
    pub payment: Service<Payment, PaymentEvent, payment::Command>,
    /// The gateway.
    pub gateway: Gateway,
    /// What is on its way to the gateway.
    pub requests: Vec<Request>,
    /// How old the order is.
    pub age: Age,
    /// What may still go wrong.
    pub faults: Faults,
}

/// A request to the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Request {
    /// What it asks for.
    pub asks: Asks,
    /// Whether anybody waits for the answer.
    pub awaited: bool,
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Asks {
    /// To charge.
    Charge,
    /// What became of the charge.
    Find,
    /// The same, of one that was declined.
    Confirm,
    /// To let nothing stay charged.
    Refund,
}

/// How old an order is, by what the gateway remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Age {
    /// Every key of it is remembered for long.
    Young,
    /// The first half of the memory is over.
    PastHalf,
    /// The first key that may have been used is forgotten.
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

/// What may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Happens {
    /// Somebody cancels the order.
    Cancel,
    /// A service reads a record, the next one or one that was put back, and decides.
    Reads(Who, Record),
    /// It commits what its inbox has decided.
    CommitsInbox(Who),
    /// It commits what a call or an answer has led to.
    CommitsCall(Who),
    /// A record is set aside, to be put back.
    SetAside(Who, Record),
    /// A record is put where it will be read again.
    ReadAgain(Who, usize),
    /// payment-service calls the gateway.
    Calls,
    /// The gateway gets a request, and its answer arrives if anybody waits for it.
    Arrives(Request, Reply),
    /// A request is given up; it may still arrive.
    GivesUp(Request),
    /// A process dies.
    Crash(Who),
    /// Time passes.
    Ages,
    /// A person finds out what became of the money.
    Settles,
}

/// What the gateway makes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reply {
    /// What was asked for.
    Well,
    /// A decline.
    Declines,
    /// A decline of what it has charged.
    Contradicts,
    /// It cannot tell, or refuses the refund.
    NeedsReview,
    /// What was asked for, and the answer is lost.
    Lost,
}

/// What the order is about.
fn details(amount: i64) -> Details {
    Details {
        money: Money::new(amount, "USD").expect("an amount"),
        request_id: "r-1".to_owned(),
        customer_id: String::new(),
        metadata: Default::default(),
    }
}
