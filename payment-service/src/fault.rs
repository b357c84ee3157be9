//! The steps of payment-service at which a test may end the process, have the step done twice, or lose its answer: see
//! [`oncelog::runtime::fault`].

use oncelog::runtime::fault::Disturbance;

/// A step of charging.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// The gateway is asked to charge.
    Charge,
    /// The gateway is asked what became of a charge.
    Find,
    /// The gateway is asked to give back.
    Refund,
    /// The simulated gateway syncs its ledger.
    Ledger,
    /// What the gateway said is handed to the store.
    Outcome,
    /// The next attempt is set.
    Postpone,
}

impl Step {
    /// Each of them.
    pub const ALL: [Self; 6] = [Self::Charge, Self::Find, Self::Refund, Self::Ledger, Self::Outcome, Self::Postpone];

    /// What can happen to it.
    pub const fn disturbances(self) -> &'static [Disturbance] {
        use Disturbance::{CrashAfter, CrashBefore, Fail, LoseAnswer, Repeat};
        match self {
            Self::Charge | Self::Find | Self::Refund | Self::Outcome => {
                &[CrashBefore, CrashAfter, Repeat, LoseAnswer, Fail]
            }
            Self::Ledger | Self::Postpone => &[CrashBefore, CrashAfter, LoseAnswer, Fail],
        }
    }
}
