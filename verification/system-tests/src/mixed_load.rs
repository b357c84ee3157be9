//! Places a mixed load, and records all answers: payments that are charged, are declined, fail at first, or lose their
//! answers, repeated requests, and cancellations at any time.

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

/// The number of concurrent callers. Each waits for its answer.
const CALLERS: u64 = 6;

/// The maximum pause of a caller between two orders, in milliseconds.
const PAUSE: u64 = 80;

/// Amounts, their percentage of all orders, and the last event of such an order unless it is cancelled.
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

/// The percentage of orders that are cancelled.
const CANCELLED: u32 = 20;
/// The percentage of orders whose call is repeated.
const REPEATED: u32 = 10;

/// An order that was answered.
#[derive(Clone, Debug)]
pub(crate) struct Placed {
    pub(crate) amount: i64,
    /// True if a cancellation was answered.
    pub(crate) cancelled: bool,
}

impl Placed {
    /// Returns true if this event may be the last one of the order.
    pub(crate) fn may_end(&self, event: &str) -> bool {
        let uncancelled = AMOUNTS.iter().find(|(amount, ..)| *amount == self.amount).map(|(_, _, end)| *end);
        if !self.cancelled {
            return uncancelled == Some(event);
        }
        // A cancellation after a failed payment changes nothing.
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

/// Callers that place orders until they are stopped.
pub(crate) struct MixedLoad {
    callers: Vec<JoinHandle<anyhow::Result<()>>>,
    stop: Arc<AtomicBool>,
    placed: Arc<AtomicU64>,
    books: Arc<Mutex<Books>>,
}

impl MixedLoad {
    /// Starts the callers. `name` makes their request ids unique, and `seed` determines their calls.
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

    /// Waits for the last answers, and returns the recorded answers.
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
    /// Places one order, sometimes repeats the call or cancels the order, and returns what was answered.
    #[expect(clippy::disallowed_methods, reason = "callers pause between calls")]
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

/// Returns the fields of an answer that never change. The state of the order may differ between two answers.
fn as_taken(order: &Value) -> [&Value; 4] {
    ["orderId", "amount", "currencyCode", "createTime"].map(|field| &order[field])
}
