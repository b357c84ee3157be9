//! Tests interleavings of create, cancel, charge, lost answer, outcome, refund and repeat, with the real rules of both
//! services and a gateway of ten lines. Each one has to end in a state of the diagrams in docs/api.md, and the money
//! has to agree with that state.

use std::{collections::VecDeque, time::SystemTime};

use contracts::money::Money;
use oncelog::aggregate::Aggregate;
use order_service::order::{self, Details, Order, OrderEvent, PaymentFailure, PaymentOutcome};
use payment_service::payment::{self, Decline, Payment, PaymentEvent, Receipt, Refund, Review, Settlement};
use proptest::prelude::*;

/// A step that may come next. A step that is not possible does nothing.
#[derive(Clone, Copy, Debug)]
enum Step {
    Cancel,
    /// The payment consumes the next event of the order.
    PaymentReads,
    /// The payment consumes again every event that it has consumed before.
    PaymentReadsAgain,
    OrderReads,
    OrderReadsAgain,
    /// The gateway is called for what is due, and the answer is recorded.
    Call,
    /// The gateway is called for what is due, and the answer is lost. The call is retried later.
    CallAndLoseTheAnswer,
    /// The gateway has forgotten the key, and cannot tell whether it charged.
    RequireReview,
    /// A person looks into the gateway's records and reports the outcome.
    Settle,
}

/// The behaviour of the gateway for this payment.
#[derive(Clone, Copy, Debug)]
struct Manner {
    declines: bool,
    refuses_refunds: bool,
}

#[derive(Debug, Default)]
struct Gateway {
    charged: bool,
    declined: bool,
    refunded: bool,
}

impl Gateway {
    fn charge(&mut self, manner: Manner) -> Receipt {
        if !self.charged && !self.declined {
            (self.charged, self.declined) = (!manner.declines, manner.declines);
        }
        if self.charged {
            Receipt::Charged { reference: "ch".to_owned() }
        } else {
            Receipt::Declined(Decline { code: "CARD_DECLINED".to_owned(), message: String::new() })
        }
    }

    fn refund(&mut self, manner: Manner) -> Refund {
        if !self.charged {
            self.declined = true; // the key is barred
            Refund::NothingCharged
        } else if manner.refuses_refunds {
            Refund::Refused("no".to_owned())
        } else {
            self.refunded = true;
            Refund::Refunded { reference: "re".to_owned() }
        }
    }
}

#[derive(Default)]
struct World {
    order: Order,
    payment: Payment,
    gateway: Gateway,
    order_events: Vec<OrderEvent>,
    payment_events: Vec<PaymentEvent>,
    /// The number of events that the payment and the order have consumed.
    read: (usize, usize),
}

impl World {
    fn order(&mut self, command: &order::Command) {
        for event in self.order.decide(command).expect("the order accepts the outcome of its payment") {
            self.order.apply(&event);
            self.order_events.push(event);
        }
    }

    fn payment(&mut self, command: &payment::Command) {
        for event in self.payment.decide(command).expect("the payment accepts the command") {
            self.payment.apply(&event);
            self.payment_events.push(event);
        }
    }

    fn payment_reads(&mut self, index: usize) {
        let command = match self.order_events.get(index) {
            Some(OrderEvent::Created(details)) => {
                payment::Command::Request { money: details.money, order_time: SystemTime::UNIX_EPOCH }
            }
            Some(OrderEvent::CancellationRequested) => payment::Command::Cancel,
            Some(
                OrderEvent::Paid { .. }
                | OrderEvent::PaymentFailed(_)
                | OrderEvent::Cancelled
                | OrderEvent::Refunded { .. },
            )
            | None => return,
        };
        self.payment(&command);
    }

    fn order_reads(&mut self, index: usize) {
        let outcome = match self.payment_events.get(index) {
            Some(PaymentEvent::Completed { gateway_reference, .. }) => {
                PaymentOutcome::Completed { gateway_reference: gateway_reference.clone() }
            }
            Some(PaymentEvent::Failed { decline: Decline { code, message }, .. }) => {
                PaymentOutcome::Failed(PaymentFailure { code: code.clone(), message: message.clone() })
            }
            Some(PaymentEvent::Voided { .. }) => PaymentOutcome::Voided,
            Some(PaymentEvent::Refunded { gateway_reference, .. }) => {
                PaymentOutcome::Refunded { gateway_reference: gateway_reference.clone() }
            }
            Some(
                PaymentEvent::Requested { .. } | PaymentEvent::CancellationRequested | PaymentEvent::ReviewRequired(_),
            )
            | None => return,
        };
        self.order(&order::Command::RecordPayment(outcome));
    }

    fn state(&self) -> Option<&payment::State> {
        match &self.payment {
            Payment::Known { state, .. } => Some(state),
            Payment::Unknown | Payment::NeverBegun => None,
        }
    }

    fn take(&mut self, step: Step, manner: Manner) {
        match step {
            Step::Cancel => self.order(&order::Command::Cancel),
            Step::PaymentReads if self.read.0 < self.order_events.len() => {
                self.payment_reads(self.read.0);
                self.read.0 += 1;
            }
            Step::PaymentReadsAgain => (0..self.read.0).for_each(|index| self.payment_reads(index)),
            Step::OrderReads if self.read.1 < self.payment_events.len() => {
                self.order_reads(self.read.1);
                self.read.1 += 1;
            }
            Step::OrderReadsAgain => (0..self.read.1).for_each(|index| self.order_reads(index)),
            Step::Call | Step::CallAndLoseTheAnswer => {
                let command = match self.state() {
                    Some(payment::State::Requested) => payment::Command::RecordCharge(self.gateway.charge(manner)),
                    Some(payment::State::Cancelling { .. }) => {
                        payment::Command::RecordRefund(self.gateway.refund(manner))
                    }
                    _ => return,
                };
                if matches!(step, Step::Call) {
                    self.payment(&command);
                }
            }
            Step::RequireReview => {
                if matches!(self.state(), Some(payment::State::Requested)) {
                    self.payment(&payment::Command::RequireReview);
                }
            }
            Step::Settle => {
                let Some(payment::State::NeedsReview { review, .. }) = self.state() else { return };
                let settlement = match review {
                    Review::ChargeUnknown if self.gateway.charged => Settlement::Charged { reference: "ch".to_owned() },
                    Review::ChargeUnknown => {
                        self.gateway.declined = true; // the gateway cannot charge it any more
                        Settlement::NotCharged
                    }
                    Review::RefundRefused(_) => {
                        self.gateway.refunded = true; // by other means
                        Settlement::Refunded { reference: "re".to_owned() }
                    }
                };
                self.payment(&payment::Command::Settle { settlement, by: "jane".to_owned() });
            }
            Step::PaymentReads | Step::OrderReads => {}
        }
    }
}

fn any_step() -> impl Strategy<Value = Step> {
    prop::sample::select(vec![
        Step::Cancel,
        Step::PaymentReads,
        Step::PaymentReads,
        Step::PaymentReadsAgain,
        Step::OrderReads,
        Step::OrderReads,
        Step::OrderReadsAgain,
        Step::Call,
        Step::Call,
        Step::CallAndLoseTheAnswer,
        Step::RequireReview,
        Step::Settle,
    ])
}

/// Takes the steps, then those that are still due, and checks the final state.
fn live(steps: &[Step], manner: Manner) -> order::State {
    let mut world = World::default();
    let details = Details {
        money: Money::new(500, "USD").expect("valid"),
        request_id: String::new(),
        customer_id: String::new(),
        metadata: Default::default(),
    };
    world.order(&order::Command::Create(details));
    for step in steps {
        world.take(*step, manner);
    }
    for _ in 0..10 {
        for step in [Step::PaymentReads, Step::Call, Step::Settle, Step::OrderReads] {
            world.take(step, manner);
        }
    }
    let cancelled = world.order_events.contains(&OrderEvent::CancellationRequested);
    let Order::Known { state, .. } = &world.order else { panic!("the order was created") };
    let Gateway { charged, refunded, .. } = world.gateway;
    assert!(!refunded || charged, "an order that was never charged is not refunded");
    let (ends, kept) = match state {
        order::State::Paid { .. } => (!cancelled, true),
        order::State::PaymentFailed(_) => (!cancelled, false),
        order::State::Cancelled => (cancelled && !charged, false),
        order::State::Refunded { .. } => (cancelled && charged, false),
        order::State::Created | order::State::Cancelling => (false, false),
    };
    assert!(ends, "it ends as {state:?}, cancelled: {cancelled}, {:?}", world.gateway);
    assert_eq!(charged && !refunded, kept, "{state:?}, {:?}", world.gateway);
    state.clone()
}

/// Tries all sequences of up to `LENGTH` steps. The property below tries longer ones at random.
#[test]
fn every_short_life_ends_well() {
    const LENGTH: usize = 5;
    const STEPS: [Step; 9] = [
        Step::Cancel,
        Step::PaymentReads,
        Step::PaymentReadsAgain,
        Step::OrderReads,
        Step::OrderReadsAgain,
        Step::Call,
        Step::CallAndLoseTheAnswer,
        Step::RequireReview,
        Step::Settle,
    ];
    let mut ends = Vec::new();
    let mut lives = VecDeque::from([Vec::new()]);
    while let Some(life) = lives.pop_front() {
        for (declines, refuses_refunds) in [(false, false), (false, true), (true, false)] {
            let end = live(&life, Manner { declines, refuses_refunds });
            let end = std::mem::discriminant(&end);
            if !ends.contains(&end) {
                ends.push(end);
            }
        }
        if life.len() < LENGTH {
            lives.extend(STEPS.iter().map(|step| [&life[..], &[*step]].concat()));
        }
    }
    assert_eq!(ends.len(), 4, "paid, failed, cancelled and refunded are all reached");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5000))]

    #[test]
    fn every_long_life_ends_well(
        steps in prop::collection::vec(any_step(), 0..40),
        declines in any::<bool>(),
        refuses_refunds in any::<bool>(),
    ) {
        live(&steps, Manner { declines, refuses_refunds });
    }
}
