//! A simulated gateway that keeps a real ledger. The amount selects its behaviour, like the test cards of payment
//! providers. It charges every amount that is not listed in [`AMOUNTS`].

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use contracts::money::Money;
use oncelog::event::StreamId;

use super::{Found, Gateway, NoAnswer, ledger::Ledger};
use crate::payment::{Decline, Receipt, Refund};

/// The behaviour that an amount selects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// Charge at once.
    Charge,
    /// Decline for good, with a code and a message.
    Decline(&'static str, &'static str),
    /// Charge after a delay.
    Slow(Duration),
    /// Fail this many calls without charging, then charge.
    FailAtFirst(u32),
    /// Charge at the first call, and lose the answer.
    LoseTheAnswer,
    /// Charge at the first call and lose the answer, then answer that it was declined. A look-up finds the charge.
    ContradictItself,
    /// Charge at the first call and never answer. A look-up answers that the gateway does not know.
    ForgetTheCharge,
    /// Charge, and refuse the refund for good.
    RefuseTheRefund,
    /// Charge; refund at the first call for it, and lose that answer.
    LoseTheRefundsAnswer,
    /// Charge; fail this many calls for the refund, then refund.
    FailTheRefundAtFirst(u32),
}

/// The amounts for which the gateway does something else than charge, in the minor unit of any currency.
pub const AMOUNTS: [(i64, Behaviour); 11] = [
    (4001, Behaviour::Decline("CARD_DECLINED", "the card was declined")),
    (4002, Behaviour::Decline("INSUFFICIENT_FUNDS", "the account does not cover the amount")),
    (4003, Behaviour::Decline("EXPIRED_CARD", "the card has expired")),
    (5001, Behaviour::Slow(Duration::from_secs(5))),
    (5002, Behaviour::FailAtFirst(3)),
    (5003, Behaviour::LoseTheAnswer),
    (5004, Behaviour::ForgetTheCharge),
    (5005, Behaviour::ContradictItself),
    (6001, Behaviour::RefuseTheRefund),
    (6002, Behaviour::LoseTheRefundsAnswer),
    (6003, Behaviour::FailTheRefundAtFirst(3)),
];

/// The simulated gateway.
pub struct Simulated {
    ledger: Ledger,
    latency: Duration,
    remembers: Duration,
}

impl Simulated {
    /// Opens the ledger, or creates it if there is none.
    pub fn open(ledger: &Path, latency: Duration, remembers: Duration) -> rusqlite::Result<Self> {
        Ok(Self { ledger: Ledger::open(ledger)?, latency, remembers })
    }

    async fn answer_to_charge(&self, key: StreamId, money: Money) -> Result<Receipt, NoAnswer> {
        let remembered = SystemTime::now().checked_sub(self.remembers).unwrap_or(SystemTime::UNIX_EPOCH);
        let charge = async |decline| self.ledger.charge(key, money, decline, remembered).await;
        match behaviour(money) {
            Behaviour::Charge
            | Behaviour::RefuseTheRefund
            | Behaviour::LoseTheRefundsAnswer
            | Behaviour::FailTheRefundAtFirst(_) => charge(None).await,
            Behaviour::Decline(code, message) => {
                charge(Some(Decline { code: code.to_owned(), message: message.to_owned() })).await
            }
            Behaviour::Slow(by) => {
                tokio::time::sleep(by).await;
                charge(None).await
            }
            Behaviour::FailAtFirst(calls) => match self.ledger.count("charge", key).await? {
                call if call <= calls => Err(NoAnswer("503 Service Unavailable".to_owned())),
                _ => charge(None).await,
            },
            Behaviour::LoseTheAnswer => {
                let call = self.ledger.count("charge", key).await?;
                let receipt = charge(None).await?;
                if call == 1 { Err(NoAnswer("the connection broke".to_owned())) } else { Ok(receipt) }
            }
            Behaviour::ContradictItself => match self.ledger.find(key).await? {
                None => {
                    charge(None).await?;
                    Err(NoAnswer("the connection broke".to_owned()))
                }
                Some(_) => {
                    let message = "the card was declined".to_owned();
                    Ok(Receipt::Declined(Decline { code: "CARD_DECLINED".to_owned(), message }))
                }
            },
            Behaviour::ForgetTheCharge => {
                charge(None).await?;
                Err(NoAnswer("the connection broke".to_owned()))
            }
        }
    }

    async fn answer_to_refund(&self, key: StreamId, money: Money) -> Result<Refund, NoAnswer> {
        let refund = async || self.ledger.refund(key, money).await;
        match behaviour(money) {
            Behaviour::RefuseTheRefund => match self.ledger.find(key).await? {
                Some((Receipt::Charged { .. }, _)) => {
                    Ok(Refund::Refused("the card does not take money back".to_owned()))
                }
                Some((Receipt::Declined(_), _)) | None => refund().await,
            },
            Behaviour::LoseTheRefundsAnswer => {
                let call = self.ledger.count("refund", key).await?;
                let answer = refund().await?;
                if call == 1 { Err(NoAnswer("the connection broke".to_owned())) } else { Ok(answer) }
            }
            Behaviour::FailTheRefundAtFirst(calls) => match self.ledger.count("refund", key).await? {
                call if call <= calls => Err(NoAnswer("503 Service Unavailable".to_owned())),
                _ => refund().await,
            },
            Behaviour::Slow(by) => {
                tokio::time::sleep(by).await;
                refund().await
            }
            Behaviour::Charge
            | Behaviour::Decline(..)
            | Behaviour::FailAtFirst(_)
            | Behaviour::LoseTheAnswer
            | Behaviour::ContradictItself
            | Behaviour::ForgetTheCharge => refund().await,
        }
    }
}

fn behaviour(money: Money) -> Behaviour {
    let known = AMOUNTS.iter().find(|(amount, _)| *amount == money.amount());
    known.map_or(Behaviour::Charge, |(_, behaviour)| *behaviour)
}

impl Gateway for Simulated {
    fn remembers(&self) -> Duration {
        self.remembers
    }

    async fn charge(&self, key: StreamId, money: Money) -> Result<Receipt, NoAnswer> {
        tokio::time::sleep(self.latency).await;
        self.answer_to_charge(key, money).await
    }

    async fn refund(&self, key: StreamId, money: Money) -> Result<Refund, NoAnswer> {
        tokio::time::sleep(self.latency).await;
        self.answer_to_refund(key, money).await
    }

    async fn find(&self, key: StreamId) -> Result<Found, NoAnswer> {
        tokio::time::sleep(self.latency).await;
        let found = self.ledger.find(key).await?;
        Ok(match found {
            Some((_, amount)) if AMOUNTS.contains(&(amount, Behaviour::ForgetTheCharge)) => Found::Unknown,
            Some((receipt, _)) => Found::Receipt(receipt),
            None => Found::Nothing,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    fn gateway(directory: &tempfile::TempDir, remembers: Duration) -> Simulated {
        Simulated::open(&directory.path().join("charges.db"), Duration::ZERO, remembers).expect("opens")
    }

    fn usd(amount: i64) -> Money {
        Money::new(amount, "USD").expect("valid")
    }

    #[tokio::test]
    async fn a_key_is_charged_once_and_answers_the_same_for_ever_after_a_restart_too() {
        let directory = tempfile::tempdir().expect("a directory");
        let key = StreamId::generate();
        let first = gateway(&directory, DAY).charge(key, usd(500)).await.expect("charged");
        let again = gateway(&directory, DAY);
        assert_eq!(again.charge(key, usd(500)).await.as_ref(), Ok(&first));
        assert_eq!(again.find(key).await, Ok(Found::Receipt(first)));
        assert_eq!(again.find(StreamId::generate()).await, Ok(Found::Nothing));
    }

    #[tokio::test]
    async fn a_forgotten_key_would_be_charged_again_but_is_still_found() {
        let directory = tempfile::tempdir().expect("a directory");
        let gateway = gateway(&directory, Duration::ZERO);
        let key = StreamId::generate();
        let first = gateway.charge(key, usd(500)).await.expect("charged");
        let second = gateway.charge(key, usd(500)).await.expect("charged");
        assert_ne!(first, second);
        assert_eq!(gateway.find(key).await, Ok(Found::Receipt(second)));
    }

    #[tokio::test]
    async fn an_answer_that_is_lost_was_a_charge() {
        let directory = tempfile::tempdir().expect("a directory");
        let gateway = gateway(&directory, DAY);
        let key = StreamId::generate();
        assert!(gateway.charge(key, usd(5003)).await.is_err());
        let found = gateway.find(key).await.expect("answers");
        let receipt = gateway.charge(key, usd(5003)).await.expect("an answer");
        assert_eq!(found, Found::Receipt(receipt));
    }

    #[tokio::test]
    async fn a_gateway_that_fails_at_first_charges_nothing_until_it_answers() {
        let directory = tempfile::tempdir().expect("a directory");
        let gateway = gateway(&directory, DAY);
        let key = StreamId::generate();
        for _ in 0..3 {
            assert!(gateway.charge(key, usd(5002)).await.is_err());
            assert_eq!(gateway.find(key).await, Ok(Found::Nothing));
        }
        assert!(matches!(gateway.charge(key, usd(5002)).await, Ok(Receipt::Charged { .. })));
    }

    #[tokio::test]
    async fn a_decline_is_an_answer_with_its_code() {
        let directory = tempfile::tempdir().expect("a directory");
        let gateway = gateway(&directory, DAY);
        let receipt = gateway.charge(StreamId::generate(), usd(4002)).await.expect("an answer");
        assert!(matches!(receipt, Receipt::Declined(Decline { code, .. }) if code == "INSUFFICIENT_FUNDS"));
    }

    #[tokio::test]
    async fn a_charge_is_given_back_once() {
        let directory = tempfile::tempdir().expect("a directory");
        let gateway = gateway(&directory, DAY);
        let key = StreamId::generate();
        gateway.charge(key, usd(500)).await.expect("charged");
        let refund = gateway.refund(key, usd(500)).await;
        assert!(matches!(refund, Ok(Refund::Refunded { .. })));
        assert_eq!(gateway.refund(key, usd(500)).await, refund);
    }

    #[tokio::test]
    async fn a_refund_without_a_charge_bars_the_key() {
        let directory = tempfile::tempdir().expect("a directory");
        let gateway = gateway(&directory, DAY);
        let key = StreamId::generate();
        assert_eq!(gateway.refund(key, usd(500)).await, Ok(Refund::NothingCharged));
        assert!(matches!(gateway.charge(key, usd(500)).await, Ok(Receipt::Declined(_))), "a call that was late");
        assert_eq!(gateway.refund(key, usd(500)).await, Ok(Refund::NothingCharged));
    }

    #[tokio::test]
    async fn a_gateway_may_refuse_to_give_back_or_lose_the_answer() {
        let directory = tempfile::tempdir().expect("a directory");
        let gateway = gateway(&directory, DAY);
        let key = StreamId::generate();
        gateway.charge(key, usd(6001)).await.expect("charged");
        assert!(matches!(gateway.refund(key, usd(6001)).await, Ok(Refund::Refused(_))));
        let key = StreamId::generate();
        gateway.charge(key, usd(6002)).await.expect("charged");
        assert!(gateway.refund(key, usd(6002)).await.is_err());
        assert!(matches!(gateway.refund(key, usd(6002)).await, Ok(Refund::Refunded { .. })));
    }

    #[tokio::test]
    async fn a_gateway_may_not_know_what_it_did() {
        let directory = tempfile::tempdir().expect("a directory");
        let gateway = gateway(&directory, DAY);
        let key = StreamId::generate();
        assert!(gateway.charge(key, usd(5004)).await.is_err());
        assert!(gateway.charge(key, usd(5004)).await.is_err());
        assert_eq!(gateway.find(key).await, Ok(Found::Unknown));
    }
}
