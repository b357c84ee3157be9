//! A gateway that behaves like a real one and keeps a real ledger. The amount says what it does, as the test
//! cards of payment providers do; any amount that is not listed is charged.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use event_sourcing::{event::StreamId, money::Money};

use super::{Gateway, NoAnswer, ledger::Ledger};
use crate::payment::{Decline, Receipt};

/// What an amount makes the gateway do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// Charge at once.
    Charge,
    /// Refuse for good, with a code and a message.
    Decline(&'static str, &'static str),
    /// Charge after a while.
    Slow(Duration),
    /// Fail this many calls without charging, then charge.
    FailAtFirst(u32),
    /// Charge at the first call, and lose the answer.
    LoseTheAnswer,
}

/// The amounts that make the gateway do something else than charge, in any currency's minor unit.
pub const AMOUNTS: [(i64, Behaviour); 6] = [
    (4001, Behaviour::Decline("CARD_DECLINED", "the card was declined")),
    (4002, Behaviour::Decline("INSUFFICIENT_FUNDS", "the account does not cover the amount")),
    (4003, Behaviour::Decline("EXPIRED_CARD", "the card has expired")),
    (5001, Behaviour::Slow(Duration::from_secs(5))),
    (5002, Behaviour::FailAtFirst(3)),
    (5003, Behaviour::LoseTheAnswer),
];

/// The simulated gateway.
pub struct Simulated {
    ledger: Ledger,
    latency: Duration,
    remembers: Duration,
}

impl Simulated {
    /// Opens the ledger, or makes it where there is none.
    pub fn open(ledger: &Path, latency: Duration, remembers: Duration) -> rusqlite::Result<Self> {
        Ok(Self { ledger: Ledger::open(ledger)?, latency, remembers })
    }

    async fn answer(&self, key: StreamId, money: Money) -> Result<Receipt, NoAnswer> {
        let remembered = SystemTime::now().checked_sub(self.remembers).unwrap_or(SystemTime::UNIX_EPOCH);
        let charge = async |decline| self.ledger.charge(key, money, decline, remembered).await;
        let behaviour = AMOUNTS.iter().find(|(amount, _)| *amount == money.amount()).map(|(_, behaviour)| *behaviour);
        match behaviour.unwrap_or(Behaviour::Charge) {
            Behaviour::Charge => charge(None).await,
            Behaviour::Decline(code, message) => {
                charge(Some(Decline { code: code.to_owned(), message: message.to_owned() })).await
            }
            Behaviour::Slow(by) => {
                tokio::time::sleep(by).await;
                charge(None).await
            }
            Behaviour::FailAtFirst(calls) => match self.ledger.count(key).await? {
                call if call <= calls => Err(NoAnswer("503 Service Unavailable".to_owned())),
                _ => charge(None).await,
            },
            Behaviour::LoseTheAnswer => {
                let call = self.ledger.count(key).await?;
                let receipt = charge(None).await?;
                if call == 1 { Err(NoAnswer("the connection broke".to_owned())) } else { Ok(receipt) }
            }
        }
    }
}

impl Gateway for Simulated {
    fn remembers(&self) -> Duration {
        self.remembers
    }

    async fn charge(&self, key: StreamId, money: Money) -> Result<Receipt, NoAnswer> {
        tokio::time::sleep(self.latency).await;
        self.answer(key, money).await
    }

    async fn find(&self, key: StreamId) -> Result<Option<Receipt>, NoAnswer> {
        tokio::time::sleep(self.latency).await;
        self.ledger.find(key).await
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
        assert_eq!(again.find(key).await, Ok(Some(first)));
        assert_eq!(again.find(StreamId::generate()).await, Ok(None));
    }

    #[tokio::test]
    async fn a_forgotten_key_would_be_charged_again_but_is_still_found() {
        let directory = tempfile::tempdir().expect("a directory");
        let gateway = gateway(&directory, Duration::ZERO);
        let key = StreamId::generate();
        let first = gateway.charge(key, usd(500)).await.expect("charged");
        let second = gateway.charge(key, usd(500)).await.expect("charged");
        assert_ne!(first, second);
        assert_eq!(gateway.find(key).await, Ok(Some(second)));
    }

    #[tokio::test]
    async fn an_answer_that_is_lost_was_a_charge() {
        let directory = tempfile::tempdir().expect("a directory");
        let gateway = gateway(&directory, DAY);
        let key = StreamId::generate();
        assert!(gateway.charge(key, usd(5003)).await.is_err());
        let found = gateway.find(key).await.expect("answers").expect("charged");
        assert_eq!(gateway.charge(key, usd(5003)).await, Ok(found));
    }

    #[tokio::test]
    async fn a_gateway_that_fails_at_first_charges_nothing_until_it_answers() {
        let directory = tempfile::tempdir().expect("a directory");
        let gateway = gateway(&directory, DAY);
        let key = StreamId::generate();
        for _ in 0..3 {
            assert!(gateway.charge(key, usd(5002)).await.is_err());
            assert_eq!(gateway.find(key).await, Ok(None));
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
}
