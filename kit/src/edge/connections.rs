//! Connections: how many may be open, how long each may take to begin a call, and when an idle one is closed.
//!
//! Callers cannot exhaust the file descriptors of the process: some are reserved for the store, Kafka and health. At
//! the limit, a new connection replaces the oldest one that has not begun a call, or else the one that has been idle
//! for longest. There is no limit per address, because all callers behind a load balancer share one.

use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::pin,
    sync::{
        Arc, LazyLock, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{Router, http::Request, response::Response};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, SemaphorePermit},
    task::{AbortHandle, JoinSet},
    time::Instant,
};
use tower::{ServiceExt as _, service_fn};

use super::{bodies, guard::Guard, tls::Tls};
use crate::runtime::stop::Stop;

/// The time that calls in flight may take to finish when the service stops. Without this limit, an idle client could
/// block the stop for ever (hyper #4170).
const DRAIN: Duration = Duration::from_millis(500);

/// After GOAWAY was sent to an idle connection, it is closed when this time has passed.
const GOODBYE: Duration = Duration::from_secs(5);

/// The interval at which a connection with calls in flight is checked.
const LOOK: Duration = Duration::from_secs(5);

/// The interval of HTTP/2 keepalive pings, and the time after which a connection without an answer is closed.
const KEEPALIVE: Duration = Duration::from_secs(20);

/// The time that a connection may take to begin its first call, including the TLS handshake, the HTTP/2 preface and
/// the headers.
const FIRST_CALL: Duration = Duration::from_secs(10);

/// The largest number of open connections, whatever the process may open.
const CONNECTIONS: usize = 10_000;

/// File descriptors for the store, Kafka, and everything else that is not a caller.
const RESERVE: u64 = 192;

/// The number of calls in flight on one HTTP/2 connection.
const STREAMS: u32 = 100;

/// The size of the HTTP/1 read buffer, in bytes. It limits the headers of a request.
const HEADERS: usize = 32 * 1024;

/// The size of the HTTP/2 send buffer of one answer, in bytes. It fills if the caller does not read.
const SEND_BUFFER: usize = 64 * 1024;

/// Places for connections, shared by all listeners of the process.
static PLACES: LazyLock<Semaphore> = LazyLock::new(|| Semaphore::new(limit()));

/// Places on listeners for health and metrics alone. Callers cannot take them.
static OPS_PLACES: Semaphore = Semaphore::const_new(64);

/// Raises the soft limit of file descriptors to the hard limit.
pub(crate) fn raise_descriptor_limit() {
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        tracing::debug!(error = %error, "cannot raise the limit of file descriptors");
    }
}

fn limit() -> usize {
    let descriptors = rlimit::Resource::NOFILE.get_soft().unwrap_or(1024);
    // With a very low limit, callers get half.
    let callers = descriptors.saturating_sub(RESERVE).max(descriptors / 2);
    usize::try_from(callers).unwrap_or(usize::MAX).min(CONNECTIONS)
}

/// How a listener treats its connections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) audience: Audience,
    pub(crate) idle_timeout: Duration,
}

/// The clients of a listener.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Audience {
    /// Callers of the service, whose requests are checked first.
    Callers(Guard),
    /// Probes of health and metrics.
    Probes,
}

/// Serves the routes until a stop is requested. Then it accepts no more calls and finishes those in flight.
pub(crate) async fn serve(
    listener: TcpListener,
    routes: Router,
    tls: Option<Arc<Tls>>,
    settings: Settings,
    stop: Stop,
) -> Result<(), Infallible> {
    let places: &'static Semaphore = match settings.audience {
        Audience::Callers(_) => &PLACES,
        Audience::Probes => &OPS_PLACES,
    };
    let mut connections = JoinSet::new();
    let mut open = Open::default();
    if let Some(tls) = tls.clone() {
        let stop = stop.clone();
        connections.spawn(async move { tls.watch(&stop).await });
    }
    loop {
        let stream = tokio::select! {
            // A refused service must not take one more call, so a stop comes before a caller who waits.
            biased;
            () = stop.requested() => break,
            Some(_) = connections.join_next() => continue,
            accepted = accept(&listener, &mut open) => accepted,
        };
        let place = match places.try_acquire() {
            Ok(place) => place,
            Err(_full) => {
                open.close_one();
                tokio::select! {
                    biased;
                    () = stop.requested() => break,
                    Ok(place) = places.acquire() => place,
                }
            }
        };
        let connection = Connection { activity: Arc::default(), settings, stop: stop.clone(), place };
        let activity = Arc::clone(&connection.activity);
        let (routes, tls) = (routes.clone(), tls.clone());
        let task = connections.spawn(async move {
            match tls {
                None => connection.serve(stream, routes).await,
                Some(tls) => match tokio::time::timeout(FIRST_CALL, tls.accept(stream)).await {
                    Ok(Ok(stream)) => connection.serve(stream, routes).await,
                    Ok(Err(error)) => tracing::debug!(error = %error, "a caller was refused by TLS"),
                    Err(_elapsed) => tracing::debug!("a caller did not finish the TLS handshake in time"),
                },
            }
        });
        open.add(activity, task, connections.len());
    }
    drop(listener);
    let ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN, ended).await.is_err() {
        tracing::debug!(open = connections.len(), "cut off the connections that were still open");
    }
    connections.shutdown().await;
    Ok(())
}

async fn accept(listener: &TcpListener, open: &mut Open) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let _ = stream.set_nodelay(true); // answers are small, and callers wait for them
                return stream;
            }
            Err(error) => {
                // Most likely the process is out of file descriptors, until some connections close.
                tracing::warn!(error = %error, "cannot accept connections for the moment");
                open.close_one();
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

/// The open connections of a listener, the oldest first.
#[derive(Default)]
struct Open(VecDeque<(Arc<Activity>, AbortHandle)>);

impl Open {
    fn add(&mut self, activity: Arc<Activity>, task: AbortHandle, connections: usize) {
        if self.0.len() > 2 * connections {
            self.0.retain(|(_, task)| !task.is_finished());
        }
        self.0.push_back((activity, task));
    }

    /// Closes the oldest connection that has not begun a call, or else the one that has been idle for longest.
    fn close_one(&mut self) {
        self.0.retain(|(_, task)| !task.is_finished());
        let idle = |activity: &Activity| Some((activity.has_begun(), activity.idle_since()?));
        let candidates = self.0.iter().enumerate().filter_map(|(index, (activity, _))| Some((idle(activity)?, index)));
        if let Some((_, index)) = candidates.min()
            && let Some((_, task)) = self.0.remove(index)
        {
            task.abort();
        }
    }
}

/// The calls of a connection so far, for its timeouts.
#[derive(Debug)]
struct Activity {
    has_begun: AtomicBool,
    /// The number of calls in flight. A call ends when its answer was sent.
    calls: AtomicUsize,
    /// The time at which the last call ended.
    idle_since: Mutex<Instant>,
    /// The time until which the caller must read the next part of a large answer, if one waits.
    reads_by: Mutex<Option<Instant>>,
}

impl Default for Activity {
    fn default() -> Self {
        Self {
            has_begun: AtomicBool::new(false),
            calls: AtomicUsize::new(0),
            idle_since: Mutex::new(Instant::now()),
            reads_by: Mutex::default(),
        }
    }
}

impl Activity {
    fn has_begun(&self) -> bool {
        self.has_begun.load(Ordering::Relaxed)
    }

    /// Returns whether a large answer has waited for its caller for too long.
    fn does_not_read(&self, now: Instant) -> bool {
        self.reads_by.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|deadline| deadline < now)
    }

    /// Begins a call. It ends when the guard is dropped.
    fn begin(self: &Arc<Self>) -> CallInFlight {
        self.has_begun.store(true, Ordering::Relaxed);
        self.calls.fetch_add(1, Ordering::Relaxed);
        CallInFlight(Arc::clone(self))
    }

    /// Returns the time at which the last call ended; `None` while a call is in flight.
    fn idle_since(&self) -> Option<Instant> {
        let since = *self.idle_since.lock().unwrap_or_else(PoisonError::into_inner);
        (self.calls.load(Ordering::Relaxed) == 0).then_some(since)
    }

    /// Returns the time until which the connection may stay as it is; `None` while a call is in flight.
    fn deadline(&self, idle_timeout: Duration) -> Option<Instant> {
        let allowed = if self.has_begun() { idle_timeout } else { FIRST_CALL };
        self.idle_since().map(|since| since + allowed)
    }
}

/// A call whose answer was not sent completely.
pub(super) struct CallInFlight(Arc<Activity>);

impl CallInFlight {
    /// Sets the deadline by which the caller must read the next part of an answer.
    pub(super) fn reads_by(&self, deadline: Instant) {
        *self.0.reads_by.lock().unwrap_or_else(PoisonError::into_inner) = Some(deadline);
    }

    /// Notes that the whole answer is handed to the connection.
    pub(super) fn has_read(&self) {
        *self.0.reads_by.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Drop for CallInFlight {
    fn drop(&mut self) {
        self.has_read();
        *self.0.idle_since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.0.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One connection.
struct Connection {
    activity: Arc<Activity>,
    settings: Settings,
    stop: Stop,
    /// Returned when the connection ends.
    place: SemaphorePermit<'static>,
}

impl Connection {
    /// Answers the calls of the connection until its caller closes it, it is idle for too long, or the service stops.
    async fn serve(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, routes: Router) {
        let Self { activity, settings: Settings { audience, idle_timeout }, stop, place } = self;
        let calls = Arc::clone(&activity);
        let service = service_fn(move |request: Request<_>| {
            let (call, routes) = (calls.begin(), routes.clone());
            async move {
                if let Audience::Callers(guard) = audience
                    && let Some(refusal) = guard.refusal(&request)
                {
                    return Ok(refusal);
                }
                let answer = routes.oneshot(bodies::limited(request)).await;
                answer.map(|answer: Response| bodies::paced(answer, call))
            }
        });
        let server = server(idle_timeout);
        let mut connection =
            pin!(server.serve_connection_with_upgrades(TokioIo::new(stream), TowerToHyperService::new(service)));
        let first = activity.deadline(idle_timeout).unwrap_or_else(Instant::now);
        let (mut is_closing, mut check) = (false, first);
        loop {
            tokio::select! {
                biased;
                () = stop.requested(), if !is_closing => {
                    connection.as_mut().graceful_shutdown();
                    (is_closing, check) = (true, Instant::now() + DRAIN);
                }
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!(error = %error, "a connection broke");
                    }
                    break;
                }
                () = tokio::time::sleep_until(check) => {
                    let now = Instant::now();
                    match activity.deadline(idle_timeout) {
                        _ if is_closing && stop.is_requested() => break,
                        // The caller began a call before it received GOAWAY. That call may finish.
                        None if is_closing => check = now + GOODBYE,
                        Some(_) if is_closing => break,
                        None if activity.does_not_read(now) => {
                            tracing::debug!("a caller does not read its answer");
                            break;
                        }
                        // A call is in flight.
                        None => check = now + LOOK.min(idle_timeout),
                        Some(deadline) if deadline > now => check = deadline,
                        Some(_) if !activity.has_begun() => {
                            tracing::debug!("a caller did not begin a call in time");
                            break;
                        }
                        Some(_) => {
                            connection.as_mut().graceful_shutdown();
                            (is_closing, check) = (true, now + GOODBYE);
                        }
                    }
                }
            }
        }
        drop(place);
    }
}

fn server(idle_timeout: Duration) -> auto::Builder<TokioExecutor> {
    let mut server = auto::Builder::new(TokioExecutor::new());
    // Between two calls this is the time that a connection may be idle.
    server.http1().timer(TokioTimer::new()).header_read_timeout(idle_timeout).max_buf_size(HEADERS);
    server
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .max_concurrent_streams(STREAMS)
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(16 * 1024);
    server
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net,
    };

    use axum::routing::get;

    use super::*;
    use crate::runtime::stop::Shutdown;

    /// The relay refuses a store while callers wait: the service then stops, and must not take one call of theirs.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_caller_who_waits_when_the_service_is_stopped_is_not_served() {
        for _ in 0..100 {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let mut caller = net::TcpStream::connect(listener.local_addr().expect("bound")).expect("connects");
            caller.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").expect("sent");
            let routes = Router::new().route("/", get(async || "served"));
            let settings = Settings { audience: Audience::Probes, idle_timeout: Duration::from_secs(75) };
            let shutdown = Shutdown::new();
            shutdown.cancel();
            let _ = serve(listener, routes, None, settings, Stop::new(shutdown)).await;
            let mut answer = String::new();
            let _ = caller.read_to_string(&mut answer); // refused or reset
            assert_eq!(answer, "");
        }
    }
}
