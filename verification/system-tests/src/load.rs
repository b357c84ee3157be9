//! Places orders over HTTP, and records the order that answered each request id.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

/// The number of concurrent callers. Each waits for its answer.
const CALLERS: u64 = 8;

/// The pause of a caller between two calls. Together they place some 350 orders a second, so the load lasts long enough
/// for every fault.
const PAUSE: Duration = Duration::from_millis(20);

/// A caller retries a call for this time.
const PATIENCE: Duration = Duration::from_secs(120);

/// The order ids of all answers, by request id.
pub(crate) type Books = HashMap<String, String>;

pub(crate) struct Load {
    callers: Vec<JoinHandle<anyhow::Result<()>>>,
    placed: Arc<AtomicU64>,
    books: Arc<Mutex<Books>>,
}

impl Load {
    /// Starts the callers, which place this many orders.
    #[expect(clippy::disallowed_methods, reason = "the tests have no supervisor")]
    pub(crate) fn start(url: &str, orders: u64) -> Self {
        let (placed, books) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(Books::new())));
        let callers = (0..CALLERS)
            .map(|caller| {
                let (url, placed, books) = (url.to_owned(), Arc::clone(&placed), Arc::clone(&books));
                thread::spawn(move || {
                    let agent = agent();
                    for number in (caller..orders).step_by(CALLERS as usize) {
                        let request_id = format!("order-{number}");
                        let order_id = place_until_answered(&agent, &url, &request_id)?;
                        books.lock().unwrap_or_else(PoisonError::into_inner).insert(request_id, order_id);
                        placed.fetch_add(1, Ordering::Relaxed);
                        thread::sleep(PAUSE);
                    }
                    Ok(())
                })
            })
            .collect();
        Self { callers, placed, books }
    }

    pub(crate) fn placed(&self) -> u64 {
        self.placed.load(Ordering::Relaxed)
    }

    /// Waits until this many orders are placed.
    #[expect(clippy::disallowed_methods, reason = "a short pause between two polls")]
    pub(crate) fn wait_for(&self, orders: u64) -> anyhow::Result<()> {
        while self.placed() < orders {
            if self.callers.iter().all(JoinHandle::is_finished) {
                bail!("all callers have stopped after {} orders", self.placed());
            }
            thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Waits for the last order, and returns the recorded answers.
    pub(crate) fn finish(self) -> anyhow::Result<Books> {
        for caller in self.callers {
            caller.join().map_err(|_panic| anyhow::anyhow!("a caller panicked"))??;
        }
        Ok(std::mem::take(&mut self.books.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// Places orders one after the other, retrying each until it is answered, and returns their ids.
pub(crate) fn place_some(url: &str, request_ids: impl IntoIterator<Item = String>) -> anyhow::Result<Vec<String>> {
    let agent = agent();
    request_ids.into_iter().map(|request_id| place_until_answered(&agent, url, &request_id)).collect()
}

/// Places orders at a steady rate, and returns the time of each answer.
#[expect(clippy::disallowed_methods, reason = "the rate")]
pub(crate) fn place_at(url: &str, name: &str, rate: u64, orders: u64) -> anyhow::Result<Vec<(String, Instant)>> {
    let began = Instant::now();
    let caller = |caller: u64| {
        let agent = agent();
        let numbers = (caller..orders).step_by(CALLERS as usize);
        let place = |number: u64| {
            thread::sleep(
                (began + Duration::from_secs(1) * number as u32 / rate as u32)
                    .saturating_duration_since(Instant::now()),
            );
            Ok((place(&agent, url, &format!("{name}-{number}"))?, Instant::now()))
        };
        numbers.map(place).collect::<anyhow::Result<Vec<_>>>()
    };
    thread::scope(|scope| {
        let callers: Vec<_> = (0..CALLERS).map(|number| scope.spawn(move || caller(number))).collect();
        let placed =
            callers.into_iter().map(|caller| caller.join().map_err(|_panic| anyhow::anyhow!("a caller panicked"))?);
        Ok(placed.collect::<anyhow::Result<Vec<_>>>()?.concat())
    })
}

/// Places an order with a single call.
pub(crate) fn place_once(url: &str, request_id: &str) -> anyhow::Result<String> {
    place(&agent(), url, request_id)
}

/// Returns the status and the body of an answer.
pub(crate) fn get(url: &str) -> anyhow::Result<(u16, String)> {
    let mut answer = agent().get(url).config().http_status_as_error(false).build().call()?;
    Ok((answer.status().as_u16(), answer.body_mut().read_to_string()?))
}

/// Returns the value of a metric without labels, or with any.
pub(crate) fn metric(url: &str, name: &str) -> anyhow::Result<f64> {
    let text = agent().get(url).call()?.body_mut().read_to_string()?;
    let line = text.lines().find(|line| line.split(['{', ' ']).next() == Some(name));
    let value = line.and_then(|line| line.rsplit(' ').next()).with_context(|| format!("{url} has no {name}"))?;
    Ok(value.parse()?)
}

/// Places orders until `stop` is set, and ignores failures.
pub(crate) fn place_until(url: &str, name: &str, stop: &AtomicBool) {
    let agent = agent();
    let numbers = (0..).take_while(|_: &u64| !stop.load(Ordering::Relaxed));
    numbers.for_each(|number| drop(place(&agent, url, &format!("{name}-{number}"))));
}

/// Repeats some answered calls. Returns their number, and a finding for each answer that differs.
pub(crate) fn repeat(url: &str, books: &Books, calls: usize) -> anyhow::Result<(usize, Vec<String>)> {
    let agent = agent();
    let mut findings = Vec::new();
    for (request_id, order_id) in books.iter().take(calls) {
        let again = place_until_answered(&agent, url, request_id)?;
        if again != *order_id {
            findings.push(format!("{request_id} was answered with {order_id}, and now with {again}"));
        }
    }
    Ok((calls.min(books.len()), findings))
}

/// Returns an HTTP client with a timeout of 5 seconds.
pub(crate) fn agent() -> ureq::Agent {
    ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(5))).build().into()
}

fn place_until_answered(agent: &ureq::Agent, url: &str, request_id: &str) -> anyhow::Result<String> {
    order_id(&until_answered(agent, url, &order(request_id))?)
}

fn place(agent: &ureq::Agent, url: &str, request_id: &str) -> anyhow::Result<String> {
    order_id(&call(agent, url, &order(request_id))?)
}

fn order(request_id: &str) -> Value {
    json!({"amount": 500, "requestId": request_id})
}

/// Retries a call with the same body until it is answered.
#[expect(clippy::disallowed_methods, reason = "a short pause between two attempts")]
pub(crate) fn until_answered(agent: &ureq::Agent, url: &str, body: &Value) -> anyhow::Result<Value> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match call(agent, url, body) {
            Ok(answer) => return Ok(answer),
            Err(error) if Instant::now() > deadline => return Err(error.context(format!("{url} with {body}"))),
            Err(_) => thread::sleep(Duration::from_millis(10)),
        }
    }
}

fn call(agent: &ureq::Agent, url: &str, body: &Value) -> anyhow::Result<Value> {
    Ok(agent.post(url).send_json(body)?.body_mut().read_json()?)
}

pub(crate) fn order_id(order: &Value) -> anyhow::Result<String> {
    order["orderId"].as_str().map(str::to_owned).context("the answer has no order id")
}
