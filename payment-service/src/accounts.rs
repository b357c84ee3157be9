//! The audit's extra checks, which compare the payments with the gateway's statement. Each order is charged at most
//! once, each completed payment is charged there, each refunded one is refunded there, and no money is kept for an
//! order that failed or was cancelled.

use std::time::SystemTime;

use oncelog::{
    aggregate::Payload as _,
    audit::{AuditError, Case, ConsumedRecord, ExtraChecks, Finding, Findings},
    event::{Event, StreamId},
    runtime::chain,
};

use crate::{
    gateway::{
        args::{GatewayLocation, LedgerArgs},
        statement::{Line, Lines, Statement},
    },
    payment::{Payment, PaymentEvent, State},
};

/// The event types that end an order with nothing charged.
const UNPAID: [&str; 3] =
    ["orders.events.v1.OrderCancelled", "orders.events.v1.OrderRefunded", "orders.events.v1.OrderPaymentFailed"];

/// The gateway's statement up to a moment, and the progress of its comparison with the payments.
pub struct Accounts {
    statement: Statement,
    /// The first key of the statement that has not been compared yet. Payments come in the order of their keys.
    next: Option<String>,
    charges: u64,
    refunds: u64,
}

impl Accounts {
    /// Reports every key before `key`, because no payment has it, and moves on to the first key after it.
    fn pass(&mut self, key: Option<&str>, found: &mut Findings<'_>) -> Result<(), AuditError> {
        while let Some(next) = self.next.take_if(|next| key.is_none_or(|key| next.as_str() <= key)) {
            if Some(next.as_str()) != key {
                let what = format!("the gateway has moved money under the key {next}, and no payment is known");
                found(Finding { stream: StreamId::parse(&next), what, ..Finding::default() });
            }
            self.next = self.statement.next_key(&next).map_err(unreadable)?;
        }
        Ok(())
    }
}

impl ExtraChecks<Payment> for Accounts {
    type Args = LedgerArgs;

    fn open(args: LedgerArgs, moment: SystemTime) -> Result<Self, AuditError> {
        let GatewayLocation::Simulated(ledger) = args.gateway;
        let statement = Statement::open(&ledger, moment).map_err(|error| AuditError::Extra(chain(&error)))?;
        let next = statement.next_key("").map_err(unreadable)?;
        Ok(Self { statement, next, charges: 0, refunds: 0 })
    }

    fn compare(&mut self, case: &Case<'_>, payment: &Payment, found: &mut Findings<'_>) -> Result<(), AuditError> {
        self.pass(Some(&case.stream.to_string()), found)?;
        let lines = self.statement.about(case.stream).map_err(unreadable)?;
        self.charges += lines.charges.len() as u64;
        self.refunds += lines.refunds.len() as u64;
        for what in discrepancies(payment, is_settled_by_a_person(case.events), ended_unpaid(case.consumed), &lines) {
            let position = case.events.last().map(|event| event.position);
            found(Finding { stream: Some(case.stream), position, place: None, what });
        }
        Ok(())
    }

    fn finish(&mut self, found: &mut Findings<'_>) -> Result<Vec<(&'static str, u64)>, AuditError> {
        self.pass(None, found)?;
        Ok(vec![("charges", self.charges), ("refunds", self.refunds)])
    }
}

fn unreadable(error: rusqlite::Error) -> AuditError {
    AuditError::Extra(format!("cannot read the gateway's ledger: {error}"))
}

/// Returns true if a person reported the last outcome. Money that moved elsewhere need not be in the statement.
fn is_settled_by_a_person(events: &[Event]) -> bool {
    let outcomes = events.iter().rev().filter_map(|event| {
        match PaymentEvent::decode(&event.payload).map(|decoded| decoded.event) {
            Ok(
                PaymentEvent::Completed { settled_by, .. }
                | PaymentEvent::Failed { settled_by, .. }
                | PaymentEvent::Voided { settled_by }
                | PaymentEvent::Refunded { settled_by, .. },
            ) => Some(settled_by),
            Ok(
                PaymentEvent::Requested { .. } | PaymentEvent::CancellationRequested | PaymentEvent::ReviewRequired(_),
            )
            | Err(_) => None,
        }
    });
    outcomes.take(1).any(|settled_by| !settled_by.is_empty())
}

/// Returns the event type that ended the order, if that end leaves nothing charged.
fn ended_unpaid(consumed: &[ConsumedRecord]) -> Option<&'static str> {
    UNPAID.into_iter().find(|end| consumed.iter().any(|record| record.event_type == *end))
}

/// Returns the contradictions between a payment and the statement. A call may be in flight: money moves before the
/// payment records it, never after.
fn discrepancies(payment: &Payment, by_a_person: bool, ended: Option<&str>, lines: &Lines) -> Vec<String> {
    let Lines { charges, refunds, later } = lines;
    let kept = charges.len().saturating_sub(refunds.len());
    let mut wrong = Vec::new();
    if charges.len() > 1 {
        let references: Vec<_> = charges.iter().map(|charge| charge.reference.as_str()).collect();
        wrong.push(format!("was charged {} times: {}", charges.len(), references.join(", ")));
    }
    if refunds.len() > charges.len() {
        wrong.push(format!("was refunded {} times and charged {}", refunds.len(), charges.len()));
    }
    if let Some(ended) = ended.filter(|_| kept > 0 && !by_a_person) {
        wrong.push(format!("is left charged, though it has ended: {ended}"));
    }
    let Payment::Known { money, state, .. } = payment else {
        if kept > 0 {
            wrong.push("is charged, and no payment was ever begun".to_owned());
        }
        return wrong;
    };
    for line in charges.iter().chain(refunds) {
        if line.amount != money.amount() || line.currency_code != money.currency_code() {
            let moved = format!("{} {}", line.currency_code, line.amount);
            wrong.push(format!(
                "{} has the amount {moved}, and the payment {money} (in minor units {})",
                line.reference,
                money.amount()
            ));
        }
    }
    let has = |lines: &[Line], reference: &String| {
        by_a_person || later.contains(reference) || lines.iter().any(|line| line.reference == *reference)
    };
    match state {
        State::Completed { gateway_reference } => {
            if !has(charges, gateway_reference) {
                wrong.push(format!("is completed as {gateway_reference}, which the gateway does not have"));
            }
            if !refunds.is_empty() {
                wrong.push("is completed, and its charge was given back".to_owned());
            }
        }
        State::Refunded { refund, .. } => {
            if !has(refunds, refund) {
                wrong.push(format!("is refunded as {refund}, which the gateway does not have"));
            }
        }
        State::Failed(_) | State::Voided => {
            if kept > 0 {
                wrong.push("is charged, though its payment has failed or was voided".to_owned());
            }
        }
        State::Requested | State::NeedsReview { cancelled: false, .. } => {
            if !refunds.is_empty() {
                wrong.push("was given back, and nobody has cancelled it".to_owned());
            }
        }
        State::Cancelling { .. } | State::NeedsReview { cancelled: true, .. } => {}
    }
    wrong
}

#[cfg(test)]
mod tests {
    use contracts::money::Money;

    use super::*;
    use crate::payment::{Decline, Review};

    fn payment(state: State) -> Payment {
        let money = Money::new(500, "USD").expect("valid");
        Payment::Known { money, order_time: SystemTime::UNIX_EPOCH, state }
    }

    fn completed() -> Payment {
        payment(State::Completed { gateway_reference: "ch_1".to_owned() })
    }

    fn refunded() -> Payment {
        payment(State::Refunded { charge: Some("ch_1".to_owned()), refund: "re_1".to_owned() })
    }

    fn failed() -> Payment {
        payment(State::Failed(Decline { code: "CARD_DECLINED".to_owned(), message: String::new() }))
    }

    fn lines(charges: &[&str], refunds: &[&str]) -> Lines {
        let line = |reference: &&str| Line {
            reference: (*reference).to_owned(),
            amount: 500,
            currency_code: "USD".to_owned(),
        };
        let (charges, refunds) = (charges.iter().map(line).collect(), refunds.iter().map(line).collect());
        Lines { charges, refunds, later: Vec::new() }
    }

    #[test]
    fn what_fits_is_not_found() {
        let review = payment(State::NeedsReview { review: Review::ChargeUnknown, cancelled: false, charge: None });
        let cancelling = payment(State::Cancelling { charge: None });
        for (payment, lines) in [
            (completed(), lines(&["ch_1"], &[])),
            (refunded(), lines(&["ch_1"], &["re_1"])),
            (failed(), lines(&[], &[])),
            (payment(State::Voided), lines(&[], &[])),
            (Payment::NeverBegun, lines(&[], &[])),
            // A call is in flight.
            (payment(State::Requested), lines(&[], &[])),
            (payment(State::Requested), lines(&["ch_1"], &[])),
            (cancelling.clone(), lines(&["ch_1"], &[])),
            (cancelling, lines(&["ch_1"], &["re_1"])),
            (review, lines(&["ch_1"], &[])),
        ] {
            assert_eq!(discrepancies(&payment, false, None, &lines), [""; 0], "{payment:?}");
        }
    }

    #[test]
    fn what_the_gateway_did_after_the_moment_is_known_but_not_counted() {
        let later = Lines { later: vec!["ch_1".to_owned(), "re_1".to_owned()], ..lines(&[], &[]) };
        assert_eq!(discrepancies(&completed(), false, None, &later), [""; 0]);
        let later = Lines { later: vec!["re_1".to_owned()], ..lines(&["ch_1"], &[]) };
        assert_eq!(discrepancies(&completed(), false, None, &later), [""; 0]);
        assert_eq!(discrepancies(&refunded(), false, None, &later), [""; 0]);
    }

    #[test]
    fn each_thing_that_does_not_fit_is_found() {
        let ended = Some("orders.events.v1.OrderCancelled");
        for (payment, ended, lines, what) in [
            (completed(), None, lines(&["ch_1", "ch_2"], &[]), "was charged 2 times: ch_1, ch_2"),
            (completed(), None, lines(&[], &[]), "is completed as ch_1, which the gateway does not have"),
            (completed(), None, lines(&["ch_2"], &[]), "is completed as ch_1, which the gateway does not have"),
            (completed(), None, lines(&["ch_1"], &["re_1"]), "is completed, and its charge was given back"),
            (
                completed(),
                ended,
                lines(&["ch_1"], &[]),
                "is left charged, though it has ended: orders.events.v1.OrderCancelled",
            ),
            (refunded(), None, lines(&["ch_1"], &[]), "is refunded as re_1, which the gateway does not have"),
            (failed(), None, lines(&["ch_1"], &[]), "is charged, though its payment has failed or was voided"),
            (
                payment(State::Voided),
                None,
                lines(&["ch_1"], &[]),
                "is charged, though its payment has failed or was voided",
            ),
            (
                payment(State::Requested),
                None,
                lines(&["ch_1"], &["re_1"]),
                "was given back, and nobody has cancelled it",
            ),
            (Payment::NeverBegun, None, lines(&["ch_1"], &[]), "is charged, and no payment was ever begun"),
        ] {
            assert_eq!(discrepancies(&payment, false, ended, &lines), [what], "{payment:?}");
        }
        let mut other = lines(&["ch_1"], &[]);
        other.charges[0].amount = 501;
        assert_eq!(discrepancies(&completed(), false, None, &other).len(), 1);
    }

    #[test]
    fn what_a_person_saw_to_elsewhere_is_believed_but_not_that_nothing_was_charged() {
        assert_eq!(discrepancies(&completed(), true, None, &lines(&[], &[])), [""; 0]);
        assert_eq!(discrepancies(&refunded(), true, None, &lines(&["ch_1"], &[])), [""; 0]);
        assert_eq!(discrepancies(&failed(), true, None, &lines(&["ch_1"], &[])).len(), 1);
    }
}
