//! The fault points of payment-service: see [`oncelog::runtime::fault`].

use oncelog::runtime::fault::Disturbance;

/// A step of charging.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// The service calls the gateway to charge.
    Charge,
    /// The service looks a charge up at the gateway.
    Find,
    /// The service calls the gateway to refund.
    Refund,
    /// The simulated gateway syncs its ledger to disk.
    Ledger,
    /// The service commits the gateway's answer to the store.
    Outcome,
    /// The service stores the time of the next attempt.
    Postpone,
}

impl Step {
    /// All steps.
    pub const ALL: [Self; 6] = [Self::Charge, Self::Find, Self::Refund, Self::Ledger, Self::Outcome, Self::Postpone];

    /// The disturbances that are possible at a step.
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
