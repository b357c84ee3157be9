//! Runs the example service beside both others. It follows both topics, is killed under load, and must prepare exactly
//! the shipments of paid orders.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};

use crate::{
    Ground, Table,
    kafka::Kafka,
    services::{Kind, Service, Services},
};

/// The number of orders in each part of the load.
const ORDERS: usize = 150;

/// Timeout for all shipments to have their final state.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn run(ground: &Ground) -> anyhow::Result<Table> {
    let directory = tempfile::tempdir()?;
    let kafka = Kafka::start(&ground.jars, directory.path())?;
    let brokers = kafka.address();
    let mut services = Services::start(&ground.programs, directory.path(), &brokers)?;
    let mut shipping = Service::start(&ground.programs, directory.path(), &brokers, Kind::Shipping, &[])?;

    // Every third order is cancelled at once, before or after its payment. The service is killed in the middle.
    let mut orders = Vec::new();
    for part in 0..3 {
        let placed = services.orders.place(&format!("part-{part}"), ORDERS)?;
        for order in placed.iter().step_by(3) {
            post(&format!("{}/{order}/cancel", services.orders.orders_url()), &json!({}))?;
        }
        orders.extend(placed);
        shipping.kill_and_start()?;
    }
    let (prepared, called_off) = wait_until_final(&services.orders, &shipping, &orders)?;
    println!("    {} orders, 3 kills: {} prepared, {} called off", orders.len(), prepared.len(), called_off.len());
    ensure!(prepared.len() >= ORDERS && called_off.len() == ORDERS, "the load had no cancellations, or nothing else");

    for order in &prepared {
        let ship = format!("{}/{order}/ship", shipping.url("shipments"));
        for _ in 0..2 {
            let (status, answer) = post(&ship, &json!({"trackingCode": order}))?;
            ensure!(status == 200 && answer["state"] == "SHIPPED", "{order} was not shipped: {status} {answer}");
        }
    }
    let (status, answer) =
        post(&format!("{}/{}/ship", shipping.url("shipments"), called_off[0]), &json!({"trackingCode": "late"}))?;
    ensure!(status == 409 && answer["reason"] == "CALLED_OFF", "a shipment that was called off: {status} {answer}");
    println!("    shipped, each twice; a shipment that was called off is refused");

    let (code, output) = shipping.subcommand(&["audit", "--kafka-brokers", &brokers])?;
    ensure!(code == Some(0), "the audit of shipping-service exited with {code:?}:\n{output}");
    println!("    its audit covers both followed topics, and has no findings");
    shipping.stop()?;
    services.stop()?;
    let compared = orders.len() + prepared.len();
    Ok(vec![("shipments", (compared, Vec::new()))])
}

/// Waits until every order and its shipment have their final state, and returns the orders whose shipment is prepared,
/// and those whose shipment was called off.
#[expect(clippy::disallowed_methods, reason = "a short pause between two polls")]
fn wait_until_final(
    orders: &Service,
    shipping: &Service,
    ids: &[String],
) -> anyhow::Result<(Vec<String>, Vec<String>)> {
    let deadline = Instant::now() + PATIENCE;
    let (mut prepared, mut called_off) = (Vec::new(), Vec::new());
    for id in ids {
        loop {
            let order = state(&format!("{}/{id}", orders.orders_url()))?;
            let shipment = state(&format!("{}/{id}", shipping.url("shipments")))?;
            match (order.as_str(), shipment.as_str()) {
                ("PAID", "PREPARED") => prepared.push(id.clone()),
                ("CANCELLED" | "REFUNDED", "CALLED_OFF") => called_off.push(id.clone()),
                _ if Instant::now() > deadline => {
                    bail!("after {PATIENCE:?}, order {id} is {order} and its shipment is {shipment:?}")
                }
                _ => {
                    thread::sleep(Duration::from_millis(20));
                    continue;
                }
            }
            break;
        }
    }
    Ok((prepared, called_off))
}

/// Returns the state of an order or a shipment. Empty if it does not exist yet.
fn state(url: &str) -> anyhow::Result<String> {
    let mut answer = agent().get(url).call().with_context(|| format!("cannot get {url}"))?;
    let body: Value = answer.body_mut().read_json()?;
    Ok(body["state"].as_str().unwrap_or_default().to_owned())
}

fn post(url: &str, body: &Value) -> anyhow::Result<(u16, Value)> {
    let mut answer = agent().post(url).send_json(body).with_context(|| format!("cannot post to {url}"))?;
    Ok((answer.status().as_u16(), answer.body_mut().read_json()?))
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder().http_status_as_error(false).build().into()
}
