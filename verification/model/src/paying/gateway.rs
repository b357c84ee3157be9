//! A minimal payment gateway: the charges of one order, and whether their idempotency key is still remembered.

use payment_service::{
    gateway::Found,
    payment::{Decline, Receipt, Refund},
};

use super::Defence;

/// The gateway's records of one order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Gateway {
    /// The results of all charges, oldest first. A repeated charge under a remembered key adds none.
    pub receipts: Vec<Receipt>,
    /// True while the key of the newest charge is remembered: a repeat returns the same receipt.
    pub remembers: bool,
    /// Number of refunds that the gateway made.
    pub refunds: usize,
    /// True if the gateway refuses refunds for good.
    pub refuses: bool,
    /// Number of refunds that a person made by other means.
    pub transfers: usize,
}

impl Gateway {
    /// Charges, or returns the earlier receipt of the same key.
    pub fn charge(&mut self, declines: bool) -> Receipt {
        if let Some(receipt) = self.receipts.last().filter(|_| self.remembers) {
            return receipt.clone();
        }
        let reference = format!("ch_{}", self.receipts.len());
        self.add(if declines { declined("CARD_DECLINED") } else { Receipt::Charged { reference } })
    }

    /// Refunds the charge, once for each key. If nothing was charged, bars the key: every later charge is declined.
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

    /// Looks up the result of the charge.
    pub fn find(&self) -> Found {
        self.receipts.last().cloned().map_or(Found::Nothing, Found::Receipt)
    }

    /// Returns the number of charges.
    pub fn charges(&self) -> usize {
        self.receipts.iter().filter(|receipt| matches!(receipt, Receipt::Charged { .. })).count()
    }

    /// Returns the number of charges that are not refunded.
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
