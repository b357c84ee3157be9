//! A proxy before a broker that knows the requests of Kafka's protocol well enough to hold back the end of a
//! transaction (`EndTxn`), which no general proxy can.

use std::{
    io::{self, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
    time::Duration,
};

use anyhow::{Context as _, bail};

/// The number of `EndTxn` in Kafka's protocol.
const END_TXN: i16 = 26;

/// From this version on, answers to `EndTxn` have a header with tags.
const FLEXIBLE: i16 = 3;

const PATIENCE: Duration = Duration::from_secs(30);

/// What becomes of the next `EndTxn`.
#[derive(Default)]
enum Plan {
    #[default]
    Forward,
    /// It is kept, and its connection is cut, as if it were still under way somewhere.
    Keep,
    /// It waits here until released, with its connection open.
    Stall,
}

#[derive(Default)]
struct State {
    plan: Plan,
    kept: Option<Vec<u8>>,
    stalled: bool,
}

/// The proxy. Its threads end with their connections, or with the process.
#[derive(Clone)]
pub(crate) struct Proxy {
    address: SocketAddr,
    broker: SocketAddr,
    shared: Arc<(Mutex<State>, Condvar)>,
}

impl Proxy {
    /// Carries every connection of a free port to the broker.
    #[expect(clippy::disallowed_methods, reason = "no supervisor here")]
    pub(crate) fn start(broker: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let proxy = Self { address: listener.local_addr()?, broker, shared: Arc::default() };
        let own = proxy.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let own = own.clone();
                thread::spawn(move || {
                    let _ = own.carry(client); // a broken connection is the client's to mend
                });
            }
        });
        Ok(proxy)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Keeps the next `EndTxn` and cuts its connection.
    pub(crate) fn keep_next_end(&self) {
        self.change(|state| state.plan = Plan::Keep);
    }

    /// Lets the next `EndTxn` wait until [`release`](Self::release).
    pub(crate) fn stall_next_end(&self) {
        self.change(|state| state.plan = Plan::Stall);
    }

    /// Waits until an `EndTxn` waits here.
    pub(crate) fn wait_until_stalled(&self) -> anyhow::Result<()> {
        let (state, changed) = &*self.shared;
        let state = state.lock().unwrap_or_else(PoisonError::into_inner);
        let (state, _) =
            changed.wait_timeout_while(state, PATIENCE, |state| !state.stalled).unwrap_or_else(PoisonError::into_inner);
        if state.stalled { Ok(()) } else { bail!("no EndTxn came within {PATIENCE:?}") }
    }

    pub(crate) fn release(&self) {
        self.change(|state| state.stalled = false);
    }

    /// Delivers the kept `EndTxn` now, and returns the broker's error code: 0 if it ended a transaction.
    pub(crate) fn deliver_kept(&self) -> anyhow::Result<i16> {
        let kept = self.shared.0.lock().unwrap_or_else(PoisonError::into_inner).kept.take();
        let request = kept.context("no EndTxn was kept")?;
        let version = i16::from_be_bytes([request[2], request[3]]);
        let mut broker = TcpStream::connect(self.broker)?;
        broker.set_read_timeout(Some(PATIENCE))?;
        send(&mut broker, &request)?;
        let answer = receive(&mut broker)?;
        // The correlation id (4), tags if flexible (1), the throttle time (4), the error code (2).
        let at = if version >= FLEXIBLE { 9 } else { 8 };
        let code = answer.get(at..at + 2).context("a short answer")?;
        Ok(i16::from_be_bytes([code[0], code[1]]))
    }

    #[expect(clippy::disallowed_methods, reason = "no supervisor here")]
    fn carry(&self, mut client: TcpStream) -> io::Result<()> {
        let mut broker = TcpStream::connect(self.broker)?;
        client.set_nodelay(true)?;
        broker.set_nodelay(true)?;
        let (mut answers, mut back) = (broker.try_clone()?, client.try_clone()?);
        thread::spawn(move || {
            let _ = io::copy(&mut answers, &mut back);
            let _ = back.shutdown(Shutdown::Both);
        });
        loop {
            let request = receive(&mut client)?;
            if request.get(..2) == Some(END_TXN.to_be_bytes().as_slice()) && self.intercept(&request) {
                client.shutdown(Shutdown::Both)?;
                return broker.shutdown(Shutdown::Both);
            }
            send(&mut broker, &request)?;
        }
    }

    /// Follows the plan for an `EndTxn`; true: its connection is to be cut.
    fn intercept(&self, request: &[u8]) -> bool {
        let (state, changed) = &*self.shared;
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        match std::mem::take(&mut state.plan) {
            Plan::Forward => false,
            Plan::Keep => {
                state.kept = Some(request.to_vec());
                true
            }
            Plan::Stall => {
                state.stalled = true;
                changed.notify_all();
                let released = changed.wait_timeout_while(state, PATIENCE, |state| state.stalled);
                drop(released);
                false
            }
        }
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let (state, changed) = &*self.shared;
        change(&mut state.lock().unwrap_or_else(PoisonError::into_inner));
        changed.notify_all();
    }
}

fn receive(from: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let mut frame = vec![0; u32::from_be_bytes(length) as usize];
    from.read_exact(&mut frame)?;
    Ok(frame)
}

fn send(to: &mut TcpStream, frame: &[u8]) -> io::Result<()> {
    let length = u32::try_from(frame.len()).map_err(io::Error::other)?;
    to.write_all(&length.to_be_bytes())?;
    to.write_all(frame)
}
