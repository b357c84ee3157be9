//! Watching orders: who waits for an order's next event is woken by it, and by nothing else.
//!
//! A watcher is woken and reads what came from the store, at its own pace: a slow one holds up nobody, and skips nothing.

use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
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

/// How many events are looked through at a time for orders that are watched.
const BATCH: usize = 500;

/// Who watches which order. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Watchers(Arc<Mutex<Watched>>);

#[derive(Default)]
struct Watched {
    orders: HashMap<StreamId, watch::Sender<()>>,
    /// Set when the service stops: nobody would be woken any more.
    closed: bool,
}

impl Watchers {
    /// Wakes watchers until asked to stop.
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
                    Err(_) => self.wake_all(), // each of them reads, and says so to its caller
                }
            }
            position = newest;
        }
        let mut watched = self.lock();
        watched.closed = true;
        watched.orders.clear();
        Ok(())
    }

    /// The order as it stands, and then after each event, until nothing more happens by itself. With a version, only
    /// what comes after it; nothing at all, if that was the end.
    pub(crate) async fn watch(
        &self,
        store: Store,
        order: StreamId,
        after: Version,
    ) -> Result<impl Stream<Item = Result<Loaded<Order>, CallError>> + use<>, CallError> {
        let watcher = self.add(order); // before the first look, so that nothing falls in between
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
            watch::Sender::new(()).subscribe() // closed at once
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

/// One caller's place among the watchers, given up when dropped.
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

/// One caller, and what it has seen.
struct Watching {
    store: Store,
    order: StreamId,
    watcher: Watcher,
    state: Loaded<Order>,
    /// What is read and not shown yet.
    ahead: VecDeque<Event>,
}

impl Watching {
    /// The order after its next event; `None` once there will be none by itself.
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
