//! The steps that are possible in a state, and the state after each.

use order_service::{
    order::{self, Order, OrderEvent},
    payment_outcomes,
};
use payment_service::{
    due::{Answer, Due, due},
    gateway::Found,
    order_events,
    payment::{self, Decline, Payment, Receipt, Refund, Review, Settlement},
};
use stateright::{Model, Property};

use super::{
    Age, Asks, Defence, Faults, Gateway, Happens, MEMORY, Paying, Record, Reply, Request, Service, State, Who, details,
    gateway::declined, instruction::command_of, properties,
};

impl Paying {
    fn without(&self, defence: Defence) -> bool {
        self.off == Some(defence)
    }

    /// Returns the gateway call that is due, if another call may begin now.
    fn due(&self, state: &State) -> Option<Due> {
        let Payment::Known { state: payment, .. } = &state.payment.state else { return None };
        let under_way = state.requests.iter().filter(|request| request.awaited).count()
            + usize::from(state.payment.caller.is_some());
        let at_most = if self.without(Defence::OneCallAtATime) { 2 } else { 1 };
        let age = if self.without(Defence::AskWhenTheKeyMayBeForgotten) { Age::Young } else { state.age };
        due(payment, Some(age.duration()), MEMORY).filter(|_| under_way < at_most)
    }

    /// Returns the steps that happen without a fault and without a customer.
    fn progress(&self, state: &State) -> Vec<Happens> {
        let mut next = Vec::new();
        let orders = state.order.next(state.payment.log.len()).map(|record| Happens::Reads(Who::Order, record));
        let payments = state.payment.next(state.order.log.len());
        next.extend(orders.chain(payments.map(|record| Happens::Reads(Who::Payment, record))));
        for (who, (inbox, call)) in [(Who::Order, state.order.doors()), (Who::Payment, state.payment.doors())] {
            next.extend(inbox.then_some(Happens::CommitsInbox(who)));
            next.extend(call.then_some(Happens::CommitsCall(who)));
        }
        if self.due(state).is_some() {
            next.push(Happens::Calls);
        }
        let awaited = state.requests.iter().filter(|request| request.awaited && state.payment.caller.is_none());
        next.extend(awaited.map(|request| Happens::Arrives(*request, Reply::Well)));
        if let Payment::Known { state: payment::State::NeedsReview { .. }, .. } = &state.payment.state
            && state.payment.caller.is_none()
        {
            next.push(Happens::Settles);
        }
        next
    }

    /// Returns true if the system is idle: without a fault or a customer, no step is left.
    pub fn is_quiet(&self, state: &State) -> bool {
        self.progress(state).is_empty()
    }

    fn arrives(&self, state: &mut State, request: Request, reply: Reply) {
        let gateway = &mut state.gateway;
        let answer = match request.asks {
            Asks::Charge => {
                gateway.remembers &= !self.without(Defence::IdempotencyKey);
                let contradicts = reply == Reply::Contradicts;
                let mut charge = || gateway.charge(reply == Reply::Declines);
                let receipt = if contradicts { declined("CARD_DECLINED") } else { charge() };
                let is_taken = matches!(receipt, Receipt::Charged { .. }) || self.without(Defence::ADeclineIsConfirmed);
                is_taken.then_some(Answer::Charge(receipt))
            }
            Asks::Confirm => {
                let found = if reply == Reply::NeedsReview { Found::Unknown } else { gateway.find() };
                Some(Answer::confirmed(declined("CARD_DECLINED"), found))
            }
            Asks::Refund if reply == Reply::NeedsReview => {
                gateway.refuses = true;
                Some(Answer::Refund(Refund::Refused(String::new())))
            }
            Asks::Refund => Some(Answer::Refund(gateway.refund(self.off))),
            Asks::Find if reply == Reply::NeedsReview => Answer::found(Found::Unknown),
            Asks::Find => Answer::found(gateway.find()),
        };
        match answer {
            _ if !request.awaited => {}
            _ if reply == Reply::Lost => self.without_answer(state, request),
            Some(answer) => state.payment.call(answer.into(), self.off),
            None => {
                let asks = if request.asks == Asks::Charge { Asks::Confirm } else { Asks::Charge };
                state.requests.push(Request { asks, awaited: true });
            }
        }
    }

    fn without_answer(&self, state: &mut State, request: Request) {
        if self.without(Defence::NoAnswerIsNoOutcome) && request.asks != Asks::Refund {
            let decline = Decline { code: "NO_ANSWER".to_owned(), message: String::new() };
            let command = payment::Command::RecordCharge(Receipt::Declined(decline));
            state.payment.call(command, self.off);
        }
    }

    /// A person looks the payment up in the gateway's records, and settles it.
    fn settle(&self, state: &mut State) -> Option<()> {
        let Payment::Known { state: payment::State::NeedsReview { review, .. }, .. } = &state.payment.state else {
            return None;
        };
        let gateway = &mut state.gateway;
        let settlement = match (review, gateway.receipts.last()) {
            (Review::ChargeUnknown, Some(Receipt::Charged { reference })) => {
                Settlement::Charged { reference: reference.clone() }
            }
            (Review::ChargeUnknown, _) => {
                gateway.bar();
                Settlement::NotCharged
            }
            (Review::RefundRefused(_), _) => {
                gateway.transfers = 1; // a repeat records the same transfer again
                Settlement::Refunded { reference: "transfer".to_owned() }
            }
        };
        state.payment.call(payment::Command::Settle { settlement, by: "jane".to_owned() }, self.off);
        Some(())
    }

    fn reads(&self, state: &mut State, who: Who, record: Record) {
        let State { order, payment, requests, .. } = state;
        match who {
            Who::Order => {
                order.take(record, command_of(&payment.log[record.offset].0, payment_outcomes::read), self.off);
            }
            Who::Payment => {
                let command = command_of(&order.log[record.offset].0, order_events::read);
                let charges = matches!(command, Some(payment::Command::Request { .. }));
                payment.take(record, command, self.off);
                if self.without(Defence::IntentBeforeTheCall) && charges && payment.inbox.is_some() {
                    requests.push(Request { asks: Asks::Charge, awaited: false });
                }
            }
        }
    }
}

fn may_be_cancelled(order: &Order) -> bool {
    matches!(order, Order::Known { state: order::State::Created | order::State::Paid { .. }, .. })
}

impl Model for Paying {
    type State = State;
    type Action = Happens;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            order: Service::new(vec![OrderEvent::Created(details(500))]),
            payment: Service::new(Vec::new()),
            gateway: Gateway::default(),
            requests: Vec::new(),
            age: Age::Young,
            faults: self.faults,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Happens>) {
        let Faults { crashes, network, aside, reviews, contradictions } = state.faults;
        actions.extend(self.progress(state));
        if state.order.caller.is_none() && may_be_cancelled(&state.order.state) {
            actions.push(Happens::Cancel);
        }
        for request in &state.requests {
            let is_heard = !request.awaited || state.payment.caller.is_none();
            let arrives = |reply| Happens::Arrives(*request, reply);
            let is_new = state.gateway.receipts.is_empty();
            if !request.awaited {
                actions.push(arrives(Reply::Well));
            }
            if request.asks == Asks::Charge && is_new && is_heard {
                actions.push(arrives(Reply::Declines));
            }
            let may_contradict = contradictions > 0 && state.gateway.charges() > 0;
            if request.asks == Asks::Charge && request.awaited && is_heard && may_contradict {
                actions.push(arrives(Reply::Contradicts));
            }
            if request.awaited && is_heard && network > 0 {
                actions.extend([arrives(Reply::Lost), Happens::GivesUp(*request)]);
            }
            let can_need_review = match request.asks {
                Asks::Charge => false,
                Asks::Find | Asks::Confirm => true,
                Asks::Refund => state.gateway.keeps() > 0,
            };
            if request.awaited && is_heard && can_need_review && reviews > 0 {
                actions.push(arrives(Reply::NeedsReview));
            }
        }
        if crashes > 0 {
            actions.extend([Happens::Crash(Who::Order), Happens::Crash(Who::Payment)]);
        }
        if aside > 0 {
            let orders = state.order.next(state.payment.log.len()).map(|record| (Who::Order, record));
            let payments = state.payment.next(state.order.log.len()).map(|record| (Who::Payment, record));
            let next = orders.chain(payments).filter(|(_, record)| !record.put_back);
            actions.extend(next.map(|(who, record)| Happens::SetAside(who, record)));
            actions.extend((0..state.order.read).map(|offset| Happens::ReadAgain(Who::Order, offset)));
            actions.extend((0..state.payment.read).map(|offset| Happens::ReadAgain(Who::Payment, offset)));
        }
        let may_pass = match state.age {
            Age::Young => true,
            // A request that was sent has arrived by then, or never will.
            Age::PastHalf => !state.requests.iter().any(|request| request.awaited),
            Age::Forgotten => false,
        };
        if may_pass {
            actions.push(Happens::Ages);
        }
    }

    #[expect(clippy::too_many_lines, reason = "one arm for each thing that may happen")]
    fn next_state(&self, before: &State, happens: Happens) -> Option<State> {
        let mut state = before.clone();
        let State { order, payment, gateway, requests, age, faults } = &mut state;
        match happens {
            Happens::Cancel => order.call(order::Command::Cancel, self.off),
            Happens::Reads(who, record) => self.reads(&mut state, who, record),
            Happens::CommitsInbox(Who::Order) => {
                let decided = order.inbox.take()?;
                order.commit(decided, self.off);
            }
            Happens::CommitsInbox(Who::Payment) => {
                let decided = payment.inbox.take()?;
                payment.commit(decided, self.off);
            }
            Happens::CommitsCall(Who::Order) => {
                let decided = order.caller.take()?;
                order.commit(decided, self.off);
            }
            Happens::CommitsCall(Who::Payment) => {
                let decided = payment.caller.take()?;
                payment.commit(decided, self.off);
            }
            Happens::SetAside(who, record) => {
                faults.aside -= 1;
                match who {
                    Who::Order => order.set_aside(record),
                    Who::Payment => payment.set_aside(record),
                }
            }
            Happens::ReadAgain(who, offset) => {
                faults.aside -= 1;
                match who {
                    Who::Order => order.aside.push(offset),
                    Who::Payment => payment.aside.push(offset),
                }
            }
            Happens::Calls => {
                let asks = match self.due(before)? {
                    Due::Charge => Asks::Charge,
                    Due::FindOrCharge => Asks::Find,
                    Due::Refund => Asks::Refund,
                };
                requests.push(Request { asks, awaited: true });
            }
            Happens::Arrives(request, reply) => {
                requests.remove(requests.iter().position(|other| *other == request)?);
                faults.network -= u8::from(reply == Reply::Lost);
                faults.contradictions -= u8::from(reply == Reply::Contradicts);
                faults.reviews -= u8::from(reply == Reply::NeedsReview);
                self.arrives(&mut state, request, reply);
            }
            Happens::GivesUp(request) => {
                faults.network -= 1;
                requests.iter_mut().find(|other| **other == request)?.awaited = false;
                self.without_answer(&mut state, request);
            }
            Happens::Crash(who) => {
                faults.crashes -= 1;
                match who {
                    Who::Order => order.crash(),
                    Who::Payment => {
                        payment.crash();
                        requests.iter_mut().for_each(|request| request.awaited = false);
                    }
                }
            }
            Happens::Ages if *age == Age::Young => *age = Age::PastHalf,
            Happens::Ages => {
                *age = Age::Forgotten;
                gateway.remembers = false;
                requests.clear();
            }
            Happens::Settles => self.settle(&mut state)?,
        }
        // A lookup without a waiting caller changes nothing.
        state.requests.retain(|request| request.awaited || matches!(request.asks, Asks::Charge | Asks::Refund));
        state.requests.sort_unstable();
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::all()
    }
}
