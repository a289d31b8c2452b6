//! Generations of the registry, and who had which identity and address in each.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;

use ahash::AHashMap;

use crate::IdentityId;
use crate::endpoint::Endpoint;
use crate::identity::Identity;

/// The number of a committed state of the registry; 0 is the empty state before the first commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Generation(u64);

impl Generation {
    /// Wraps a raw number.
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }

    /// The raw number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The generation after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// Answers for logs: a flow record carries identities and the generation under which it was judged,
/// and is written when the pod may long be gone and its address be another's.
///
/// Cost: one entry a change, until [`Registry::reclaim`](crate::registry::Registry::reclaim)
/// forgets it.
#[derive(Debug, Default)]
pub struct History {
    identities: AHashMap<IdentityId, Timeline<Identity>>,
    endpoints: AHashMap<IpAddr, Timeline<Endpoint>>,
    /// What to tidy when a generation is forgotten, oldest first.
    changes: VecDeque<(Generation, Subject)>,
}

/// Values, each with the generation from which on it held; ascending.
type Timeline<T> = Vec<(Generation, Option<Arc<T>>)>;

#[derive(Debug)]
enum Subject {
    Identity(IdentityId),
    Endpoint(IpAddr),
}

impl History {
    /// The identity that had this number at `generation`. O(changes of it that are remembered).
    pub fn identity_at(&self, id: IdentityId, generation: Generation) -> Option<&Arc<Identity>> {
        at(self.identities.get(&id)?, generation)
    }

    /// The endpoint that owned this address at `generation`.
    pub fn endpoint_at(&self, address: IpAddr, generation: Generation) -> Option<&Arc<Endpoint>> {
        at(self.endpoints.get(&address)?, generation)
    }

    pub(crate) fn identity(
        &mut self,
        generation: Generation,
        id: IdentityId,
        value: Option<Arc<Identity>>,
    ) {
        if note(self.identities.entry(id).or_default(), generation, value) {
            self.changes.push_back((generation, Subject::Identity(id)));
        }
    }

    pub(crate) fn endpoint(
        &mut self,
        generation: Generation,
        address: IpAddr,
        value: Option<Arc<Endpoint>>,
    ) {
        if note(self.endpoints.entry(address).or_default(), generation, value) {
            self.changes.push_back((generation, Subject::Endpoint(address)));
        }
    }

    /// Forgets what was superseded by `oldest`.
    pub(crate) fn forget(&mut self, oldest: Generation) {
        while let Some((generation, subject)) = self.changes.front()
            && *generation <= oldest
        {
            match subject {
                Subject::Identity(id) => tidy(&mut self.identities, id, oldest),
                Subject::Endpoint(address) => tidy(&mut self.endpoints, address, oldest),
            }
            self.changes.pop_front();
        }
    }
}

fn at<T>(timeline: &Timeline<T>, generation: Generation) -> Option<&Arc<T>> {
    let past = timeline.iter().rev().find(|(since, _)| *since <= generation)?;
    past.1.as_ref()
}

/// Notes a value; false if it is what already held.
fn note<T>(timeline: &mut Timeline<T>, generation: Generation, value: Option<Arc<T>>) -> bool {
    let same = match (timeline.last().and_then(|(_, last)| last.as_ref()), &value) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (None, None) => true,
        _ => false,
    };
    if same {
        return false;
    }
    match timeline.last_mut() {
        Some((since, last)) if *since == generation => *last = value,
        _ => timeline.push((generation, value)),
    }
    true
}

fn tidy<K: Eq + std::hash::Hash, T>(
    timelines: &mut AHashMap<K, Timeline<T>>,
    key: &K,
    oldest: Generation,
) {
    let Some(timeline) = timelines.get_mut(key) else { return };
    // The last value that began by `oldest` still answers for `oldest`; what is before it does not.
    let current = timeline.iter().rposition(|(since, _)| *since <= oldest).unwrap_or(0);
    timeline.drain(..current);
    if let [(since, None)] = timeline[..]
        && since <= oldest
    {
        timelines.remove(key);
    }
}
