//! Requests to stop: from a signal, from the supervisor, or from a test.

use std::{future::Future, time::Duration};

use tokio::{
    runtime::Handle,
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;

/// Requests a whole service to stop. Clones are the same request.
pub type Shutdown = CancellationToken;

/// Returns a [`Shutdown`] that SIGINT or SIGTERM triggers. A second signal ends the process at once.
pub fn on_signals() -> std::io::Result<Shutdown> {
    let shutdown = Shutdown::new();
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let first = shutdown.clone();
    #[expect(clippy::disallowed_methods, reason = "outlives the supervisor, for the second signal")]
    tokio::spawn(async move {
        let mut asked = false;
        loop {
            let code = tokio::select! {
                _ = interrupt.recv() => 130,
                _ = terminate.recv() => 143,
            };
            if std::mem::replace(&mut asked, true) {
                std::process::exit(code);
            }
            first.cancel();
        }
    });
    Ok(shutdown)
}

/// Tells one task or thread to stop.
#[derive(Clone, Debug)]
pub struct Stop {
    token: CancellationToken,
    runtime: Handle,
}

impl Stop {
    /// Creates a request that is made when the token is cancelled. Must be called on a tokio runtime.
    pub fn new(token: CancellationToken) -> Self {
        Self { token, runtime: Handle::current() }
    }

    /// Returns the same request as a [`Shutdown`], for a whole service that runs inside this part.
    pub fn shutdown(&self) -> Shutdown {
        self.token.clone()
    }

    /// Returns true once the request was made.
    pub fn is_requested(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Waits until the request is made.
    pub async fn requested(&self) {
        self.token.cancelled().await;
    }

    /// Blocks the thread until the future is ready. Returns `None` if the request comes first.
    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        self.runtime.block_on(self.token.run_until_cancelled(future))
    }

    /// Blocks the thread for a time, or until the request comes.
    pub fn sleep(&self, duration: Duration) {
        if duration.is_zero() {
            return; // the timer's shortest sleep is a millisecond
        }
        self.runtime.block_on(async {
            let _ = tokio::time::timeout(duration, self.token.cancelled()).await;
        });
    }
}
