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

#[derive(Debug)]
struct Queue {
    capacity: usize,
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
        let capacity = capacity.max(1);
        let queue = Queue { capacity, content: Mutex::default(), ready: Condvar::new() };
        let queue = Arc::new(queue);
        self.0.lock().push(Arc::clone(&queue));
        Subscription { hub: self.clone(), queue }
    }

    /// How many consumers there are.
    pub fn consumers(&self) -> usize {
        self.0.lock().len()
    }

    pub(super) fn publish(&self, records: &[Arc<FlowRecord>]) {
        for queue in &*self.0.lock() {
            let mut content = queue.content.lock();
            let room = queue.capacity - content.records.len();
            let fit = records.len().min(room);
            content.records.extend(records[..fit].iter().cloned());
            content.lost += (records.len() - fit) as u64;
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
