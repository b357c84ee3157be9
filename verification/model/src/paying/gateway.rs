//! As much of a payment gateway as the promise rests on: what it has charged, by key, and which keys it remembers.

use payment_service::{
    gateway::Found,
    payment::{Decline, Receipt, Refund},
};

use super::Defence;

/// The gateway's books on one order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Gateway {
    /// What it said of each charge that was new to it. The first is the oldest.
    pub receipts: Vec<Receipt>,
    /// Whether it remembers the key of the newest one, and so gives the same answer again.
    pub remembers: bool,
    /// How often it has given the charge back.
    pub refunds: usize,
    /// Whether it refuses that, for good.
    pub refuses: bool,
    /// How often a person has, by other means.
    pub transfers: usize,
}

impl Gateway {
    /// Charges, or repeats what it said before under the same key.
    pub fn charge(&mut self, declines: bool) -> Receipt {
        if let Some(receipt) = self.receipts.last().filter(|_| self.remembers) {
            return receipt.clone();
        }
        let reference = format!("ch_{}", self.receipts.len());
        self.add(if declines { declined("CARD_DECLINED") } else { Receipt::Charged { reference } })
    }

    /// Gives back what was charged, once under a key. Where nothing was, it bars the key: every later charge is declined.
    pub fn refund(&mut self, off: Option<Defence>) -> Refund {
        match self.receipts.last() {
            Some(Receipt::Charged { .. }) if self.refuses => Refund::Refused(String::new()),
            Some(Receipt::Charged { .. }) => {
                if self.refunds == 0 || off == Some(Defence::IdempotencyKey) {
                    self.refunds += 1;
                }
                Refund::Refunded { reference: "re".to_owned() }
            }
            Some(Receipt::Declined(_)) => Refund::NothingCharged,
            None => {
                if off != Some(Defence::RefundBarsTheKey) {
                    self.bar();
                }
                Refund::NothingCharged
            }
        }
    }

    /// Declines every later charge.
    pub fn bar(&mut self) {
        self.add(declined("CANCELLED"));
    }

    /// What became of the charge.
    pub fn find(&self) -> Found {
        self.receipts.last().cloned().map_or(Found::Nothing, Found::Receipt)
    }

    /// How often the order was charged.
    pub fn charges(&self) -> usize {
        self.receipts.iter().filter(|receipt| matches!(receipt, Receipt::Charged { .. })).count()
    }

    /// How many charges it holds.
    pub fn keeps(&self) -> usize {
        self.charges().saturating_sub(self.refunds + self.transfers)
    }

    fn add(&mut self, receipt: Receipt) -> Receipt {
        self.remembers = true;
        self.receipts.push(receipt.clone());
        receipt
    }
}

pub(super) fn declined(code: &str) -> Receipt {
    Receipt::Declined(Decline { code: code.to_owned(), message: String::new() })
}
