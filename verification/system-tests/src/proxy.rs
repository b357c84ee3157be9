//! A proxy before a broker that knows the requests of Kafka's protocol well enough to disturb just one kind of them, or
//! to hold back the end of a transaction (`EndTxn`), which no general proxy can.

use std::{
    io::{self, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, bail};
use socket2::SockRef;

/// The number of `EndTxn` in Kafka's protocol.
const END_TXN: i16 = 26;

/// From this version on, answers to `EndTxn` have a header with tags.
const FLEXIBLE: i16 = 3;

const PATIENCE: Duration = Duration::from_secs(30);

/// A kind of request, by its number in Kafka's protocol.
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

/// What the wire does to requests of a kind, or to their answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wire {
    /// The connection ends, and the request with it.
    Cut,
    /// The same with a reset.
    Reset,
    /// The request arrives; its answer does not, and the connection ends.
    LoseTheAnswer,
    /// The request comes late, and everything behind it.
    Slow,
    /// Neither the request nor anything after it arrives, and the connection stays open.
    BlackHole,
    /// The connection ends; the request arrives all the same, when everybody has gone on.
    Late,
}

impl Wire {
    pub(crate) const ALL: [Self; 6] =
        [Self::Cut, Self::Reset, Self::LoseTheAnswer, Self::Slow, Self::BlackHole, Self::Late];
}

/// How late a slow request comes: more than a commit may take, and less than a time-out.
const SLOW: Duration = Duration::from_millis(700);

/// When a late one arrives: its sender has given it up.
const LATE: Duration = Duration::from_secs(3);

/// A disturbance of the next requests of a kind.
struct Rule {
    request: i16,
    wire: Wire,
    /// How many are yet to come.
    times: u32,
}

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
    rules: Vec<Rule>,
    /// Whether a rule was followed.
    has_disturbed: bool,
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
    #[expect(clippy::disallowed_methods, reason = "the tests have no supervisor")]
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

    /// Disturbs the next requests of a kind.
    pub(crate) fn disturb(&self, request: i16, wire: Wire, times: u32) {
        self.change(|state| state.rules.push(Rule { request, wire, times }));
    }

    /// Takes back what has not come by now, and says whether anything has since the last time.
    pub(crate) fn heal(&self) -> bool {
        let mut has_disturbed = false;
        self.change(|state| {
            state.rules.clear();
            has_disturbed = std::mem::take(&mut state.has_disturbed);
        });
        has_disturbed
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

    #[expect(clippy::disallowed_methods, reason = "the tests have no supervisor")]
    fn carry(&self, mut client: TcpStream) -> io::Result<()> {
        let mut broker = TcpStream::connect(self.broker)?;
        client.set_nodelay(true)?;
        broker.set_nodelay(true)?;
        let (mut answers, mut back) = (broker.try_clone()?, client.try_clone()?);
        let (answered, reset) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
        let (lost, is_reset) = (Arc::clone(&answered), Arc::clone(&reset));
        thread::spawn(move || {
            // Whole answers, so that one that is to be lost is lost whole.
            while let Ok(answer) = receive(&mut answers) {
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
                    // With the last end that is dropped, and with no farewell before it.
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

    /// What is to become of a request of a kind.
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
