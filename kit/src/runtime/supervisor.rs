//! Runs the parts of a service: tasks and threads that have a name, are watched, and stop in order.

use std::{
    collections::HashSet,
    error::Error,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    thread,
    time::Duration,
};

use futures_util::FutureExt as _;
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::runtime::{
    failure::Failure,
    stop::{Shutdown, Stop},
};

/// The time that all parts together may take to stop. The rest is cut off, which is no worse than a crash. A request to
/// a cluster that is away can take that long.
const DEADLINE: Duration = Duration::from_secs(2);

type Outcome = Result<(), Box<dyn Error + Send + Sync>>;

/// Runs the tasks and threads of one service. A part that ends without a request to stop ends the service.
pub struct Supervisor {
    shutdown: Shutdown,
    parts: Vec<(&'static str, CancellationToken)>,
    ended: mpsc::UnboundedReceiver<(&'static str, Outcome)>,
    report: mpsc::UnboundedSender<(&'static str, Outcome)>,
}

impl Supervisor {
    /// Creates a supervisor without parts. `shutdown` stops the service.
    pub fn new(shutdown: Shutdown) -> Self {
        let (report, ended) = mpsc::unbounded_channel();
        Self { shutdown, parts: Vec::new(), ended, report }
    }

    /// Starts an async part. Parts stop in the order in which they were started.
    pub fn task<F, E>(&mut self, name: &'static str, part: impl FnOnce(Stop) -> F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        let running = AssertUnwindSafe(part(self.add(name))).catch_unwind();
        let report = self.report.clone();
        #[expect(clippy::disallowed_methods, reason = "the supervisor is the one place that starts tasks")]
        tokio::spawn(async move {
            let outcome = match running.await {
                Ok(outcome) => outcome.map_err(Into::into),
                Err(_panic) => Err(panicked()),
            };
            let _ = report.send((name, outcome));
        });
    }

    /// Starts a blocking part on a thread of its own.
    pub fn thread<E>(&mut self, name: &'static str, part: impl FnOnce(&Stop) -> Result<(), E> + Send + 'static)
    where
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        let stop = self.add(name);
        let report = self.report.clone();
        let run = move || {
            let outcome = match catch_unwind(AssertUnwindSafe(|| part(&stop))) {
                Ok(outcome) => outcome.map_err(Into::into),
                Err(_panic) => Err(panicked()),
            };
            let _ = report.send((name, outcome));
        };
        if let Err(error) = thread::Builder::new().name(name.to_owned()).spawn(run) {
            let _ = self.report.send((name, Err(error.into())));
        }
    }

    fn add(&mut self, name: &'static str) -> Stop {
        let token = CancellationToken::new();
        self.parts.push((name, token.clone()));
        Stop::new(token)
    }

    /// Runs until the shutdown is requested or a part ends, then stops every part in order.
    pub async fn run(mut self) -> Result<(), Failure> {
        let mut ended = HashSet::new();
        let early = tokio::select! {
            () = self.shutdown.cancelled() => None,
            early = self.ended.recv() => early,
        };
        let result = early.map_or(Ok(()), |(part, outcome)| {
            ended.insert(part);
            let source = outcome.err().unwrap_or_else(|| "it had nothing more to do".into());
            Err(Failure::Part { part, source })
        });
        let deadline = Instant::now() + DEADLINE;
        for (name, token) in std::mem::take(&mut self.parts) {
            token.cancel();
            while !ended.contains(name) {
                match tokio::time::timeout_at(deadline, self.ended.recv()).await {
                    Ok(Some((part, outcome))) => {
                        ended.insert(part);
                        if let Err(error) = outcome {
                            tracing::error!(part, error = %error, "failed while stopping");
                        }
                    }
                    Ok(None) => break,
                    Err(_elapsed) => {
                        tracing::warn!(part = name, "did not stop in time and is cut off");
                        break;
                    }
                }
            }
        }
        result
    }
}

fn panicked() -> Box<dyn Error + Send + Sync> {
    "it panicked; the panic was printed above".into()
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        sync::{Arc, Mutex},
    };

    use super::*;

    #[tokio::test]
    async fn parts_stop_one_after_the_other_in_the_order_of_their_start() {
        let shutdown = Shutdown::new();
        let mut supervisor = Supervisor::new(shutdown.clone());
        let stopped = Arc::new(Mutex::new(Vec::new()));
        for (name, takes) in [("first", 30), ("second", 0)] {
            let stopped = Arc::clone(&stopped);
            supervisor.task(name, async move |stop| {
                stop.requested().await;
                tokio::time::sleep(Duration::from_millis(takes)).await;
                stopped.lock().expect("no panic").push(name);
                Ok::<(), Infallible>(())
            });
        }
        let last = Arc::clone(&stopped);
        supervisor.thread("third", move |stop| {
            stop.sleep(Duration::from_secs(60));
            last.lock().expect("no panic").push("third");
            Ok::<(), Infallible>(())
        });
        shutdown.cancel();
        supervisor.run().await.expect("a clean stop");
        assert_eq!(*stopped.lock().expect("no panic"), ["first", "second", "third"]);
    }

    #[tokio::test]
    async fn a_part_that_ends_fails_or_panics_stops_the_service_by_its_name() {
        type Part = fn() -> Result<(), String>;
        let cases: [(Part, &str); 3] = [
            (|| Ok(()), "part ended: it had nothing more to do"),
            (|| Err("broken".to_owned()), "part ended: broken"),
            (|| panic!("as the test wants it"), "part ended: it panicked; the panic was printed above"),
        ];
        for (end, message) in cases {
            let mut supervisor = Supervisor::new(Shutdown::new());
            supervisor.task("part", async move |_stop| end());
            assert_eq!(supervisor.run().await.expect_err("it ended").to_string(), message);

            let mut supervisor = Supervisor::new(Shutdown::new());
            supervisor.thread("part", move |_stop| end());
            assert_eq!(supervisor.run().await.expect_err("it ended").to_string(), message);
        }
    }
}
