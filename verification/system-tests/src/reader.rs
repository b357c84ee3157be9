//! Runs the reader in Python. It uses Confluent's client, and shares no code with the services.

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::ensure;
use serde::Deserialize;

use crate::tools;

/// A record that the reader has decoded.
#[derive(Debug, Deserialize)]
pub(crate) struct Record {
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) key: String,
    /// The header `ce_id`.
    pub(crate) id: String,
    /// The header `ce_sequence`.
    pub(crate) sequence: u64,
    pub(crate) event_id: String,
    pub(crate) order_id: String,
    pub(crate) version: u64,
    /// The name of the field that is set in the `oneof`.
    pub(crate) event: Option<String>,
}

/// Timeout for events to be published.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Reader {
    python: PathBuf,
    classes: PathBuf,
}

impl Reader {
    /// Creates a virtual environment unless it exists, and generates the protobuf classes from the contracts.
    pub(crate) fn prepare(kept: &Path) -> anyhow::Result<Self> {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let environment = kept.join("venv");
        let python = environment.join("bin/python");
        if !environment.join("complete").exists() {
            tools::run(Command::new("python3").args(["-m", "venv"]).arg(&environment))?;
            let requirements = here.join("reader/requirements.txt");
            tools::run(Command::new(&python).args(["-m", "pip", "install", "-q", "-r"]).arg(requirements))?;
            fs::write(environment.join("complete"), "")?;
        }
        let (proto, classes) = (here.join("../../proto"), kept.join("classes"));
        fs::create_dir_all(&classes)?;
        tools::run(
            Command::new(&python)
                .args(["-m", "grpc_tools.protoc", "-I"])
                .arg(&proto)
                .arg(format!("--python_out={}", classes.display()))
                .args(["orders/events/v1/order_event.proto", "payments/events/v1/payment_event.proto"]),
        )?;
        Ok(Self { python, classes })
    }

    /// Returns all records of the topic that a `read_committed` reader sees now.
    pub(crate) fn read(&self, brokers: &str, topic: &str) -> anyhow::Result<Vec<Record>> {
        let (module, message) = match topic {
            "order-events" => ("orders.events.v1.order_event_pb2", "OrderEvent"),
            _ => ("payments.events.v1.payment_event_pb2", "PaymentEvent"),
        };
        let lines = self.run(&[brokers, topic, module, message])?;
        lines.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }

    /// Reads the topic repeatedly until `enough` returns true.
    pub(crate) fn wait_until(
        &self,
        brokers: &str,
        topic: &str,
        enough: impl Fn(&[Record]) -> bool,
    ) -> anyhow::Result<Vec<Record>> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let records = self.read(brokers, topic)?;
            if enough(&records) {
                return Ok(records);
            }
            ensure!(Instant::now() < deadline, "after {PATIENCE:?}, {topic} has {} records", records.len());
        }
    }

    /// Reads the topic repeatedly until it has a record of each order.
    pub(crate) fn wait_for(&self, brokers: &str, topic: &str, orders: &[String]) -> anyhow::Result<Vec<Record>> {
        self.wait_until(brokers, topic, |records| {
            let seen: HashSet<_> = records.iter().map(|record| &record.order_id).collect();
            orders.iter().all(|order| seen.contains(order))
        })
    }

    /// Returns all values of a topic whose values are text.
    pub(crate) fn read_values(&self, brokers: &str, topic: &str) -> anyhow::Result<Vec<String>> {
        Ok(self.run(&[brokers, topic])?.lines().map(str::to_owned).collect())
    }

    fn run(&self, args: &[&str]) -> anyhow::Result<String> {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("reader/read_topic.py");
        tools::run(Command::new(&self.python).arg(program).args(args).env("PYTHONPATH", &self.classes))
    }
}
