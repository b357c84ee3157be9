//! Watching orders: a watcher is woken by the next event of its order, and not by events of other orders.
//!
//! A woken watcher reads the new events from the store at its own pace. So a slow watcher delays no other one, and
//! skips no event.

use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{Stream, stream};
use oncelog::{
    aggregate::Loaded,
    edge::CallError,
    event::{Event, StreamId, Version},
    runtime::Stop,
    store::{ReadError, Store},
};
use tokio::sync::watch;

use crate::order::Order;

/// The number of events that are read at a time to find those of watched orders.
const BATCH: usize = 500;

/// The pause after the store could not be read.
const PAUSE: Duration = Duration::from_millis(200);

/// The watchers of all orders. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Watchers(Arc<Mutex<Watched>>);

#[derive(Default)]
struct Watched {
    orders: HashMap<StreamId, watch::Sender<()>>,
    /// Set when the service stops, because no watcher is woken after that.
    closed: bool,
}

impl Watchers {
    /// Wakes watchers until a stop is requested.
    pub(crate) async fn run(self, store: Store, stop: Stop) -> Result<(), Infallible> {
        let mut head = store.head();
        let mut position = *head.borrow();
        loop {
            tokio::select! {
                () = stop.requested() => break,
                changed = head.changed() => if changed.is_err() { break },
            }
            let newest = *head.borrow_and_update();
            while position < newest && !self.lock().orders.is_empty() {
                match store.read_all(position, BATCH).await {
                    Ok(events) => {
                        position = events.last().map_or(newest, |last| last.position);
                        self.wake(&events);
                    }
                    Err(_) => {
                        self.wake_all(); // each of them reads, and reports the error to its caller
                        tokio::select! {
                            () = stop.requested() => break,
                            () = tokio::time::sleep(PAUSE) => {}
                        }
                    }
                }
            }
            position = newest;
        }
        let mut watched = self.lock();
        watched.closed = true;
        watched.orders.clear();
        Ok(())
    }

    /// Streams the current order, and then the order after each event, until it is settled: until no event follows
    /// without another call. With a version, streams only the order after each later event. That is nothing if the
    /// order was settled at that version.
    pub(crate) async fn watch(
        &self,
        store: Store,
        order: StreamId,
        after: Version,
    ) -> Result<impl Stream<Item = Result<Loaded<Order>, CallError>> + use<>, CallError> {
        let watcher = self.add(order); // before the first read, so that no event is missed
        let events = store.read_stream(order).await?;
        if events.is_empty() {
            return Err(CallError::NotFound { what: "order", id: order.to_string() });
        }
        let (seen, ahead) = events.split_at(usize::try_from(after.0).unwrap_or(usize::MAX).min(events.len()));
        let mut watching = Watching { store, order, watcher, state: Loaded::fold(seen)?, ahead: VecDeque::new() };
        let first = if after == Version::NONE {
            watching.state = Loaded::fold(&events)?;
            Some(watching.state.clone())
        } else {
            watching.ahead = ahead.to_vec().into();
            None
        };
        Ok(stream::unfold((Some(watching), first), async |(watching, first)| {
            let mut watching = watching?;
            match first {
                Some(first) => Some((Ok(first), (Some(watching), None))),
                None => match watching.next().await {
                    Ok(Some(state)) => Some((Ok(state), (Some(watching), None))),
                    Ok(None) => None,
                    Err(error) => Some((Err(error), (None, None))),
                },
            }
        }))
    }

    fn add(&self, order: StreamId) -> Watcher {
        let mut watched = self.lock();
        let wakes = if watched.closed {
            watch::Sender::new(()).subscribe() // a channel that is closed at once
        } else {
            watched.orders.entry(order).or_insert_with(|| watch::Sender::new(())).subscribe()
        };
        Watcher { watchers: self.clone(), order, wakes }
    }

    fn wake(&self, events: &[Event]) {
        let watched = self.lock();
        for event in events {
            if let Some(wakes) = watched.orders.get(&event.stream) {
                wakes.send_replace(());
            }
        }
    }

    fn wake_all(&self) {
        self.lock().orders.values().for_each(|wakes| wakes.send_replace(()));
    }

    fn lock(&self) -> MutexGuard<'_, Watched> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The registration of one caller among the watchers. Dropping it removes the registration.
struct Watcher {
    watchers: Watchers,
    order: StreamId,
    wakes: watch::Receiver<()>,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let mut watched = self.watchers.lock();
        if watched.orders.get(&self.order).is_some_and(|wakes| wakes.receiver_count() == 1) {
            watched.orders.remove(&self.order);
        }
    }
}

/// The state of one caller's stream.
struct Watching {
    store: Store,
    order: StreamId,
    watcher: Watcher,
    state: Loaded<Order>,
    /// The events that are read but not sent yet.
    ahead: VecDeque<Event>,
}

impl Watching {
    /// Waits for the next event and returns the order after it, or `None` if the order is settled.
    async fn next(&mut self) -> Result<Option<Loaded<Order>>, CallError> {
        loop {
            if let Some(event) = self.ahead.pop_front() {
                self.state.apply(&event)?;
                return Ok(Some(self.state.clone()));
            }
            if matches!(&self.state.state, Order::Known { state, .. } if state.is_settled()) {
                return Ok(None);
            }
            self.watcher.wakes.changed().await.map_err(|_stopping| CallError::Stopping)?;
            self.read().await?;
        }
    }

    async fn read(&mut self) -> Result<(), ReadError> {
        let seen = self.state.version;
        let events = self.store.read_stream(self.order).await?;
        self.ahead.extend(events.into_iter().filter(|event| event.version > seen));
        Ok(())
    }
}
