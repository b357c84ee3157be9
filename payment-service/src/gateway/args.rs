//! The command-line flags about the gateway.

use std::{path::PathBuf, str::FromStr, time::Duration};

use clap::Args;
use oncelog::runtime::Failure;

use super::simulated::Simulated;

const DEFAULT: &str = "simulated:charges.db";

/// The gateway of payment-service, and the settings of the simulated one.
#[derive(Args, Clone, Debug)]
pub struct GatewayArgs {
    /// The gateway: simulated:PATH, a simulated gateway with its ledger in a file
    #[arg(long, env, default_value = DEFAULT, value_name = "URL")]
    pub gateway: GatewayLocation,

    /// The time that the simulated gateway takes for each answer, in milliseconds
    #[arg(long, env, default_value = "0", value_name = "MS", value_parser = millis)]
    pub gateway_latency: Duration,

    /// The time that the simulated gateway remembers an idempotency key, in seconds
    #[arg(long, env, default_value = "86400", value_name = "S", value_parser = seconds)]
    pub gateway_key_memory: Duration,
}

impl GatewayArgs {
    /// Opens the gateway.
    pub(crate) fn open(&self) -> Result<Simulated, Failure> {
        let GatewayLocation::Simulated(ledger) = &self.gateway;
        tracing::info!(gateway = ?self.gateway, "charging through a simulated gateway: no money moves");
        Simulated::open(ledger, self.gateway_latency, self.gateway_key_memory)
            .map_err(|error| Failure::configuration(format!("cannot open the ledger {}: {error}", ledger.display())))
    }
}

/// The audit's flag about the gateway.
#[derive(Args, Clone, Debug)]
pub struct LedgerArgs {
    /// The gateway whose ledger the audit compares with the payments
    #[arg(long, env, default_value = DEFAULT, value_name = "URL")]
    pub gateway: GatewayLocation,
}

/// The location of a gateway: `simulated:PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GatewayLocation {
    /// A simulated gateway, with its ledger in this file.
    Simulated(PathBuf),
}

impl FromStr for GatewayLocation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix("simulated:") {
            Some(path) if !path.is_empty() => Ok(Self::Simulated(path.into())),
            _ => Err("a gateway is given as simulated:PATH".to_owned()),
        }
    }
}

fn millis(text: &str) -> Result<Duration, String> {
    text.parse().map(Duration::from_millis).map_err(|_error| "must be a whole number of milliseconds".to_owned())
}

fn seconds(text: &str) -> Result<Duration, String> {
    text.parse().map(Duration::from_secs).map_err(|_error| "must be a whole number of seconds".to_owned())
}
