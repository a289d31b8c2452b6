//! Who gets records: bounded queues, each with a count of what it had no room for.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::record::FlowRecord;

/// Where a [`Recorder`](super::Recorder) hands its records to. Cheap to clone; any thread.
#[derive(Clone, Debug, Default)]
pub struct Hub(Arc<Mutex<Vec<Arc<Queue>>>>);

/// Records for one consumer, in order. Dropping it ends the subscription.
#[derive(Debug)]
pub struct Subscription {
    hub: Hub,
    queue: Arc<Queue>,
}

/// A record, and what its consumer missed before it.
#[derive(Clone, Debug)]
pub struct Received {
    /// The record, shared with other consumers.
    pub record: Arc<FlowRecord>,
    /// Records that did not fit into this subscription's queue so far.
    pub lost: u64,
}

impl std::ops::Deref for Received {
    type Target = FlowRecord;

    fn deref(&self) -> &FlowRecord {
        &self.record
    }
}

/// A number, or several, that somebody else keeps up to date.
#[derive(Debug, Default)]
pub struct Watch<T>(Arc<Mutex<T>>);

impl<T> Clone for Watch<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: Clone> Watch<T> {
    /// What it is now.
    pub fn now(&self) -> T {
        self.0.lock().clone()
    }
}

impl<T> Watch<T> {
    pub(super) fn lock(&self) -> parking_lot::MutexGuard<'_, T> {
        self.0.lock()
    }
}

#[derive(Debug)]
struct Queue {
    capacity: usize,
    /// Whether it gets what is not kept too.
    all: bool,
    content: Mutex<Content>,
    ready: Condvar,
}

#[derive(Debug, Default)]
struct Content {
    records: VecDeque<Arc<FlowRecord>>,
    lost: u64,
}

impl Hub {
    /// A queue for `capacity` records (one at least), about 1 KiB each, which are all records made
    /// from now on. If it is full, further records are counted and lost to this consumer alone.
    pub fn subscribe(&self, capacity: usize) -> Subscription {
        self.add(capacity, false)
    }

    /// As [`Hub::subscribe`], with the records too that [`super::Config::keep`] and
    /// [`super::Config::policies`] leave out: for live views, which need everything.
    pub fn subscribe_to_all(&self, capacity: usize) -> Subscription {
        self.add(capacity, true)
    }

    fn add(&self, capacity: usize, all: bool) -> Subscription {
        let capacity = capacity.max(1);
        let queue = Queue { capacity, all, content: Mutex::default(), ready: Condvar::new() };
        let queue = Arc::new(queue);
        self.0.lock().push(Arc::clone(&queue));
        Subscription { hub: self.clone(), queue }
    }

    /// How many consumers there are.
    pub fn consumers(&self) -> usize {
        self.0.lock().len()
    }

    /// Whether somebody wants what is not kept.
    pub(super) fn wants_all(&self) -> bool {
        self.0.lock().iter().any(|queue| queue.all)
    }

    /// Hands out records, each with whether it is kept.
    pub(super) fn publish(&self, records: &[(Arc<FlowRecord>, bool)]) {
        for queue in &*self.0.lock() {
            let mut content = queue.content.lock();
            for (record, _) in records.iter().filter(|(_, kept)| *kept || queue.all) {
                if content.records.len() < queue.capacity {
                    content.records.push_back(Arc::clone(record));
                } else {
                    content.lost += 1;
                }
            }
            drop(content);
            queue.ready.notify_one();
        }
    }
}

impl Subscription {
    /// The next record, if one waits.
    pub fn next(&self) -> Option<Received> {
        self.queue.content.lock().next()
    }

    /// The next record; waits for one, `patience` at most.
    pub fn wait(&self, patience: Duration) -> Option<Received> {
        let until = Instant::now() + patience;
        let mut content = self.queue.content.lock();
        loop {
            if let Some(received) = content.next() {
                return Some(received);
            }
            if self.queue.ready.wait_until(&mut content, until).timed_out() {
                return content.next();
            }
        }
    }

    /// Records that wait.
    pub fn len(&self) -> usize {
        self.queue.content.lock().records.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Records that did not fit so far: exact.
    pub fn lost(&self) -> u64 {
        self.queue.content.lock().lost
    }
}

impl Content {
    fn next(&mut self) -> Option<Received> {
        let record = self.records.pop_front()?;
        Some(Received { record, lost: self.lost })
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.hub.0.lock().retain(|queue| !Arc::ptr_eq(queue, &self.queue));
    }
}
