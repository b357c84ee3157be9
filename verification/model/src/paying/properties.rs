//! The properties that hold in every state, and the end states that must be reachable.

use oncelog::aggregate::Aggregate as _;
use order_service::order::{self, Order, Rejection, State as Of};
use payment_service::payment::{Payment, PaymentEvent, State as At};
use stateright::Property;

use super::{Defence, Faults, Paying, State, details};

/// Holds through crashes, lost answers and repeated requests.
pub const CHARGED_ONCE: &str = "one order is charged at most once";
/// Counts refunds of the gateway and of a person.
pub const GIVEN_BACK_ONCE: &str = "a charge is refunded at most once";
/// The intent is on disk before any money moves.
pub const INTENT_FIRST: &str = "nothing is charged before the intent to charge is recorded";
/// A record may be read any number of times.
pub const ONE_EFFECT: &str = "every record has its effect at most once";
/// A report never contradicts what its receiver has recorded.
pub const NO_CONTRADICTION: &str = "no service refuses what the other service, the gateway or a person reports";
/// A repeated request gets the answer of the first one.
pub const SAME_REQUEST: &str = "the same request makes no second order, and another request under its id is refused";
/// Such an order is cancelled, refunded or failed.
pub const NOT_LEFT_CHARGED: &str = "when the system is idle, an order that is not paid is not left charged";
/// No order is delivered without payment.
pub const PAID_IS_CHARGED: &str = "when the system is idle, a paid order is charged";
/// No order or payment is stuck, and no record was lost.
pub const AGREED: &str = "when the system is idle, order and payment have ended in the same way";
/// The checker reaches every end state of an order.
pub const REACHED: [&str; 4] = [
    "an order is paid after the maximum number of faults",
    "an order fails after the maximum number of faults",
    "an order is cancelled after the maximum number of faults",
    "an order is refunded after the maximum number of faults",
];

pub(super) fn all() -> Vec<Property<Paying>> {
    vec![
        Property::always(CHARGED_ONCE, |_, state: &State| state.gateway.charges() <= 1),
        Property::always(GIVEN_BACK_ONCE, |_, state: &State| {
            state.gateway.refunds + state.gateway.transfers <= state.gateway.charges()
        }),
        Property::always(INTENT_FIRST, |_, state: &State| {
            let intent = |(event, _): &_| matches!(event, PaymentEvent::Requested { .. });
            state.gateway.charges() == 0 || state.payment.log.iter().any(intent)
        }),
        Property::always(ONE_EFFECT, |_, state: &State| {
            state.order.each_record_led_to_one_event() && state.payment.each_record_led_to_one_event()
        }),
        Property::always(NO_CONTRADICTION, |_, state: &State| !state.order.refused && !state.payment.refused),
        Property::always(SAME_REQUEST, |model, state: &State| {
            let another = Order::default();
            let is_found = model.off != Some(Defence::RequestNamesTheOrder);
            let named = if is_found { &state.order.state } else { &another };
            let asked = |amount| named.decide(&order::Command::Create(details(amount)));
            asked(500) == Ok(Vec::new()) && asked(501) == Err(Rejection::Exists { differing: vec!["amount"] })
        }),
        Property::always(NOT_LEFT_CHARGED, |model, state: &State| {
            state.gateway.keeps() == 0 || matches!(of(state), Of::Paid { .. }) || !model.is_quiet(state)
        }),
        Property::always(PAID_IS_CHARGED, |model, state: &State| {
            state.gateway.keeps() == 1 || !matches!(of(state), Of::Paid { .. }) || !model.is_quiet(state)
        }),
        Property::always(AGREED, |model, state: &State| agree(state) || !model.is_quiet(state)),
        Property::sometimes(REACHED[0], |model, state| ends(model, state, |of| matches!(of, Of::Paid { .. }))),
        Property::sometimes(REACHED[1], |model, state| ends(model, state, |of| matches!(of, Of::PaymentFailed(_)))),
        Property::sometimes(REACHED[2], |model, state| ends(model, state, |of| matches!(of, Of::Cancelled))),
        Property::sometimes(REACHED[3], |model, state| ends(model, state, |of| matches!(of, Of::Refunded { .. }))),
    ]
}

fn of(state: &State) -> &Of {
    let Order::Known { state, .. } = &state.order.state else { unreachable!("the log begins with OrderCreated") };
    state
}

fn agree(state: &State) -> bool {
    let at = match &state.payment.state {
        Payment::Known { state, .. } => Some(state),
        Payment::NeverBegun | Payment::Unknown => None,
    };
    match (of(state), at) {
        (Of::Paid { .. }, Some(At::Completed { .. }))
        | (Of::PaymentFailed(_), Some(At::Failed(_)))
        | (Of::Cancelled, None | Some(At::Voided | At::Failed(_)))
        | (Of::Refunded { .. }, Some(At::Refunded { .. })) => true,
        (
            Of::Created | Of::Cancelling | Of::Paid { .. } | Of::PaymentFailed(_) | Of::Cancelled | Of::Refunded { .. },
            _,
        ) => false,
    }
}

fn ends(model: &Paying, state: &State, end: fn(&Of) -> bool) -> bool {
    let Faults { crashes, network, aside, reviews: _, contradictions: _ } = state.faults;
    crashes + network + aside == 0 && end(of(state)) && model.is_quiet(state)
}
