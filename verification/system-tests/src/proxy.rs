//! A proxy in front of a broker that parses Kafka's requests far enough to disturb a single kind, or to delay the end
//! of a transaction (`EndTxn`). A general proxy cannot do this.

use std::{
    io::{self, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use socket2::SockRef;

/// The API key of `EndTxn` in Kafka's protocol.
const END_TXN: i16 = 26;

/// From this version on, responses to `EndTxn` have a header with tagged fields.
const FLEXIBLE: i16 = 3;

const PATIENCE: Duration = Duration::from_secs(30);

/// Kinds of requests, with their API keys in Kafka's protocol.
pub(crate) const REQUESTS: [(&str, i16); 9] = [
    ("Produce", 0),
    ("Fetch", 1),
    ("ListOffsets", 2),
    ("Metadata", 3),
    ("OffsetCommit", 8),
    ("FindCoordinator", 10),
    ("InitProducerId", 22),
    ("AddPartitionsToTxn", 24),
    ("EndTxn", END_TXN),
];

/// A disturbance of requests of one kind, or of their answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wire {
    /// The connection is closed, and the request is lost.
    Cut,
    /// The connection is reset, and the request is lost.
    Reset,
    /// The request arrives. Its answer is lost, and the connection is closed.
    LoseTheAnswer,
    /// The request is delayed, and everything behind it.
    Slow,
    /// Neither the request nor anything after it arrives, and the connection stays open.
    BlackHole,
    /// The connection is closed. The request arrives later, after its sender's timeout.
    Late,
}

impl Wire {
    pub(crate) const ALL: [Self; 6] =
        [Self::Cut, Self::Reset, Self::LoseTheAnswer, Self::Slow, Self::BlackHole, Self::Late];
}

/// The delay of a slow request: longer than a commit may take, and shorter than a timeout.
const SLOW: Duration = Duration::from_millis(700);

/// The delay of a late request. Its sender has given up by then.
const LATE: Duration = Duration::from_secs(3);

/// A disturbance of the next requests of a kind.
struct Rule {
    request: i16,
    wire: Wire,
    /// The number of requests that are still to be disturbed.
    times: u32,
}

/// The handling of the next `EndTxn`.
#[derive(Default)]
enum Plan {
    #[default]
    Forward,
    /// It is kept and its connection is closed, as if the request were still in flight.
    Keep,
    /// It waits until it is released, and its connection stays open.
    Stall,
}

#[derive(Default)]
struct State {
    plan: Plan,
    kept: Option<Vec<u8>>,
    stalled: bool,
    rules: Vec<Rule>,
    /// True if a rule was applied since the last call of [`Proxy::heal`].
    has_disturbed: bool,
    /// The delay of every answer.
    round_trip: Duration,
}

/// A running proxy. Its threads end with their connections, or with the process.
#[derive(Clone)]
pub(crate) struct Proxy {
    address: SocketAddr,
    broker: SocketAddr,
    shared: Arc<(Mutex<State>, Condvar)>,
}

impl Proxy {
    /// Listens on a free port, and forwards every connection to the broker.
    #[expect(clippy::disallowed_methods, reason = "the tests have no supervisor")]
    pub(crate) fn start(broker: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let proxy = Self { address: listener.local_addr()?, broker, shared: Arc::default() };
        let own = proxy.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let own = own.clone();
                thread::spawn(move || {
                    let _ = own.carry(client); // the client reconnects after an error
                });
            }
        });
        Ok(proxy)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Delays every answer, as a link with this round trip does. Holds for connections that are opened later.
    pub(crate) fn set_round_trip(&self, round_trip: Duration) {
        self.change(|state| state.round_trip = round_trip);
    }

    /// Disturbs the next requests of a kind.
    pub(crate) fn disturb(&self, request: i16, wire: Wire, times: u32) {
        self.change(|state| state.rules.push(Rule { request, wire, times }));
    }

    /// Removes the remaining rules. Returns true if any was applied since the last call.
    pub(crate) fn heal(&self) -> bool {
        let mut has_disturbed = false;
        self.change(|state| {
            state.rules.clear();
            has_disturbed = std::mem::take(&mut state.has_disturbed);
        });
        has_disturbed
    }

    /// Keeps the next `EndTxn` and closes its connection.
    pub(crate) fn keep_next_end(&self) {
        self.change(|state| state.plan = Plan::Keep);
    }

    /// Lets the next `EndTxn` wait until [`release`](Self::release).
    pub(crate) fn stall_next_end(&self) {
        self.change(|state| state.plan = Plan::Stall);
    }

    /// Waits until an `EndTxn` is stalled.
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

    /// Delivers the kept `EndTxn`, and returns the broker's error code. 0 means that it ended a transaction.
    pub(crate) fn deliver_kept(&self) -> anyhow::Result<i16> {
        let kept = self.shared.0.lock().unwrap_or_else(PoisonError::into_inner).kept.take();
        let request = kept.context("no EndTxn was kept")?;
        let version = i16::from_be_bytes([request[2], request[3]]);
        let mut broker = TcpStream::connect(self.broker)?;
        broker.set_read_timeout(Some(PATIENCE))?;
        send(&mut broker, &request)?;
        let answer = receive(&mut broker)?;
        // Response: correlation id (4 bytes), tagged fields if flexible (1), throttle time (4), error code (2).
        let at = if version >= FLEXIBLE { 9 } else { 8 };
        let code = answer.get(at..at + 2).context("the answer is too short")?;
        Ok(i16::from_be_bytes([code[0], code[1]]))
    }

    #[expect(clippy::disallowed_methods, reason = "the tests have no supervisor")]
    fn carry(&self, mut client: TcpStream) -> io::Result<()> {
        let mut broker = TcpStream::connect(self.broker)?;
        client.set_nodelay(true)?;
        broker.set_nodelay(true)?;
        let (mut answers, mut back) = (broker.try_clone()?, client.try_clone()?);
        let (answered, reset) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
        let (lost, is_reset) = (Arc::clone(&answered), Arc::clone(&reset));
        let round_trip = self.shared.0.lock().unwrap_or_else(PoisonError::into_inner).round_trip;
        let (queue, delayed) = mpsc::channel();
        thread::spawn(move || {
            // Forward complete answers only, so that an answer is lost as a whole.
            while let Ok(answer) = receive(&mut answers) {
                if queue.send((Instant::now() + round_trip, answer)).is_err() {
                    break;
                }
            }
        });
        thread::spawn(move || {
            for (due, answer) in delayed {
                thread::sleep(due.saturating_duration_since(Instant::now()));
                if !lost.load(Ordering::Relaxed) || send(&mut back, &answer).is_err() {
                    break;
                }
            }
            if !is_reset.load(Ordering::Relaxed) {
                let _ = back.shutdown(Shutdown::Both);
            }
        });
        loop {
            let request = receive(&mut client)?;
            let kind = i16::from_be_bytes([request[0], request[1]]);
            let cut = || client.shutdown(Shutdown::Both).and(broker.shutdown(Shutdown::Both));
            if kind == END_TXN && self.intercept(&request) {
                return cut();
            }
            match self.disturbance(kind) {
                None => {}
                Some(Wire::Cut) => return cut(),
                Some(Wire::Reset) => {
                    // With a linger of zero, dropping the last handle sends a reset. Do not shut down before it.
                    SockRef::from(&client).set_linger(Some(Duration::ZERO))?;
                    reset.store(true, Ordering::Relaxed);
                    return broker.shutdown(Shutdown::Both);
                }
                Some(Wire::LoseTheAnswer) => answered.store(false, Ordering::Relaxed),
                Some(Wire::Slow) => thread::sleep(SLOW),
                Some(Wire::BlackHole) => {
                    answered.store(false, Ordering::Relaxed);
                    while receive(&mut client).is_ok() {}
                    return broker.shutdown(Shutdown::Both);
                }
                Some(Wire::Late) => {
                    let to = self.broker;
                    thread::spawn(move || {
                        thread::sleep(LATE);
                        let _ = TcpStream::connect(to).and_then(|mut to| send(&mut to, &request).and(receive(&mut to)));
                    });
                    return cut();
                }
            }
            send(&mut broker, &request)?;
        }
    }

    /// Returns the disturbance for a request of this kind, and counts it.
    fn disturbance(&self, kind: i16) -> Option<Wire> {
        let mut state = self.shared.0.lock().unwrap_or_else(PoisonError::into_inner);
        let index = state.rules.iter().position(|rule| rule.request == kind)?;
        state.has_disturbed = true;
        let rule = &mut state.rules[index];
        let wire = rule.wire;
        rule.times -= 1;
        if rule.times == 0 {
            state.rules.remove(index);
        }
        Some(wire)
    }

    /// Applies the plan to an `EndTxn`. Returns true if its connection must be closed.
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
