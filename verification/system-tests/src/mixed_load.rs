//! Load of every kind: orders whose payments are charged, declined, fail at first, lose their answers; repeats; and
//! cancellations at any time. Its books say what was answered.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::ensure;
use serde_json::{Value, json};

use crate::load;

/// Callers at the same time; each waits for its answer.
const CALLERS: u64 = 6;

/// The longest pause of a caller between two orders, in milliseconds.
const PAUSE: u64 = 80;

/// Amounts, how often of a hundred, and what becomes of their orders unless they are cancelled.
const AMOUNTS: [(i64, u32, &str); 8] = [
    (500, 64, "order_paid"),
    (4001, 8, "order_payment_failed"),
    (5001, 2, "order_paid"),
    (5002, 6, "order_paid"),
    (5003, 8, "order_paid"),
    (5005, 4, "order_paid"),
    (6002, 4, "order_paid"),
    (6003, 4, "order_paid"),
];

/// How often of a hundred an order is cancelled, and how often the same call is made again.
const CANCELLED: u32 = 20;
const REPEATED: u32 = 10;

/// An order that was answered.
#[derive(Clone, Debug)]
pub(crate) struct Placed {
    pub(crate) amount: i64,
    /// Whether a cancellation was answered.
    pub(crate) cancelled: bool,
}

impl Placed {
    /// Whether an order may end so.
    pub(crate) fn may_end(&self, event: &str) -> bool {
        let uncancelled = AMOUNTS.iter().find(|(amount, ..)| *amount == self.amount).map(|(_, _, end)| *end);
        if !self.cancelled {
            return uncancelled == Some(event);
        }
        // Of one that had failed before, the cancellation changes nothing.
        match event {
            "order_cancelled" => true,
            "order_refunded" => self.amount != 4001,
            "order_payment_failed" => self.amount == 4001,
            _ => false,
        }
    }
}

/// The answered orders by their ids.
pub(crate) type Books = HashMap<String, Placed>;

/// Callers that go on until they are stopped.
pub(crate) struct MixedLoad {
    callers: Vec<JoinHandle<anyhow::Result<()>>>,
    stop: Arc<AtomicBool>,
    placed: Arc<AtomicU64>,
    books: Arc<Mutex<Books>>,
}

impl MixedLoad {
    /// Starts the callers. `name` keeps their request ids apart from those of others, `seed` says what they do.
    #[expect(clippy::disallowed_methods, reason = "the tests have no supervisor")]
    pub(crate) fn start(url: &str, name: &str, seed: u64) -> Self {
        let (stop, placed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let books = Arc::new(Mutex::new(Books::new()));
        let callers = (0..CALLERS)
            .map(|caller| {
                let (stop, placed, books) = (Arc::clone(&stop), Arc::clone(&placed), Arc::clone(&books));
                let mut calls = Caller {
                    agent: load::agent(),
                    url: url.to_owned(),
                    chance: fastrand::Rng::with_seed(seed.wrapping_mul(CALLERS).wrapping_add(caller)),
                };
                let name = format!("{name}-{caller}");
                thread::spawn(move || {
                    for number in 0.. {
                        if stop.load(Ordering::Relaxed) {
                            break;
                        }
                        let (order, answered) = calls.one(&format!("{name}-{number}"))?;
                        books.lock().unwrap_or_else(PoisonError::into_inner).insert(order, answered);
                        placed.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(())
                })
            })
            .collect();
        Self { callers, stop, placed, books }
    }

    pub(crate) fn placed(&self) -> u64 {
        self.placed.load(Ordering::Relaxed)
    }

    /// Waits for the last answers, and returns the books.
    pub(crate) fn finish(self) -> anyhow::Result<Books> {
        self.stop.store(true, Ordering::Relaxed);
        for caller in self.callers {
            caller.join().map_err(|_panic| anyhow::anyhow!("a caller panicked"))??;
        }
        Ok(std::mem::take(&mut self.books.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

struct Caller {
    agent: ureq::Agent,
    url: String,
    chance: fastrand::Rng,
}

impl Caller {
    /// Places one order, perhaps again, perhaps cancels it, and returns what was answered.
    #[expect(clippy::disallowed_methods, reason = "a caller takes its time")]
    fn one(&mut self, request_id: &str) -> anyhow::Result<(String, Placed)> {
        let amount = self.amount();
        let body = json!({"amount": amount, "requestId": request_id});
        let url = self.url.clone();
        let first = load::until_answered(&self.agent, &url, &body)?;
        if self.chance.u32(..100) < REPEATED {
            let again = load::until_answered(&self.agent, &url, &body)?;
            ensure!(
                as_taken(&again) == as_taken(&first),
                "{request_id} was answered with {first}, and then with {again}"
            );
        }
        let order = load::order_id(&first)?;
        let cancelled = self.chance.u32(..100) < CANCELLED;
        if cancelled {
            if self.chance.bool() {
                thread::sleep(Duration::from_millis(self.chance.u64(..300)));
            }
            let again =
                load::order_id(&load::until_answered(&self.agent, &format!("{url}/{order}/cancel"), &json!({}))?)?;
            ensure!(again == order, "the cancellation of {order} was answered with {again}");
        }
        thread::sleep(Duration::from_millis(self.chance.u64(..PAUSE)));
        Ok((order, Placed { amount, cancelled }))
    }

    fn amount(&mut self) -> i64 {
        let mut chance = self.chance.u32(..100);
        for (amount, share, _) in AMOUNTS {
            match chance.checked_sub(share) {
                None => return amount,
                Some(rest) => chance = rest,
            }
        }
        AMOUNTS[0].0
    }
}

/// The part of an answer that says how the order was taken; what has become of it since may differ.
fn as_taken(order: &Value) -> [&Value; 4] {
    ["orderId", "amount", "currencyCode", "createTime"].map(|field| &order[field])
}
