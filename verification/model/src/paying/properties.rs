//! What holds in every state, and what is reached.

use oncelog::aggregate::Aggregate as _;
use order_service::order::{self, Order, Rejection, State as Of};
use payment_service::payment::{Payment, PaymentEvent, State as At};
use stateright::Property;

use super::{Defence, Faults, Paying, State, details};

/// Whatever dies, is lost or is repeated.
pub const CHARGED_ONCE: &str = "one order is charged at most once";
/// By the gateway, or by a person.
pub const GIVEN_BACK_ONCE: &str = "what was charged is given back at most once";
/// No money moves before.
pub const INTENT_FIRST: &str = "nothing is charged whose intent is not recorded";
/// A record is read as often as it likes.
pub const ONE_EFFECT: &str = "every record has its effect at most once";
/// Neither a service, nor the gateway, nor a person says what contradicts what was known.
pub const NO_CONTRADICTION: &str = "nothing that anyone says is refused by another";
/// A repeat is answered as the first call was.
pub const SAME_REQUEST: &str = "the same request makes no second order, and another one under its id is refused";
/// Cancelled, refunded or failed.
pub const NOT_LEFT_CHARGED: &str = "when all is quiet, an order that is not paid is not left charged";
/// And so nobody is served who has not paid.
pub const PAID_IS_CHARGED: &str = "when all is quiet, a paid order is charged";
/// Nothing is stuck, and nothing was forgotten.
pub const AGREED: &str = "when all is quiet, order and payment have ended, in the same way";
/// The checker went where it matters.
pub const REACHED: [&str; 4] = [
    "an order is paid, after as many faults as there may be",
    "an order fails, after as many faults as there may be",
    "an order is cancelled, after as many faults as there may be",
    "an order is refunded, after as many faults as there may be",
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
    let Order::Known { state, .. } = &state.order.state else { unreachable!("it begins with its creation") };
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
