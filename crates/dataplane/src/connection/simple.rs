//! The slow, obvious connection table: a hash map under a lock.
//!
//! It is the model that the real table is tested against. It knows no limits of identities and
//! always refuses new connections when it is full.

use std::collections::HashMap;
use std::sync::Mutex;

use super::snapshot::UNJUDGED;
use super::state::{Connection, Grant};
use super::tcp::Step;
use super::{Config, Direction, Ended, Key, OnPolicyChange, Probe, Settled, Tracked};
use crate::clock::Time;
use crate::reason::Reason;

/// A connection table that favours being right over being fast.
#[derive(Debug)]
pub struct SimpleTable {
    config: Config,
    connections: Mutex<HashMap<Key, Connection, ahash::RandomState>>,
}

impl SimpleTable {
    /// An empty table.
    pub fn new(config: Config) -> Self {
        Self { config, connections: Mutex::default() }
    }

    /// Looks up the connections of `probes` and takes the packets of known ones into account, in
    /// order. A packet of a connection that an earlier packet of the batch leaves to be judged is
    /// left to be judged too.
    pub fn track(&self, now: Time, generation: u32, probes: &[Probe], out: &mut [Tracked]) {
        let now = now.as_millis() as u32;
        let mut connections = self.lock();
        for (n, probe) in probes.iter().enumerate() {
            let judged = |(earlier, tracked): (&Probe, &Tracked)| {
                earlier.key == probe.key && matches!(tracked, Tracked::Judge { .. })
            };
            out[n] = if probes[..n].iter().zip(&out[..n]).any(judged) {
                let opened = connections.get(&probe.key).map_or(probe.direction, |c| c.opened);
                Tracked::Judge { opened }
            } else {
                match track_one(&self.config, &mut connections, now, generation, probe) {
                    Found::Member { grant } => Tracked::Member { grant },
                    Found::Lapsed { opened } => Tracked::Judge { opened },
                    Found::Unknown => Tracked::Judge { opened: probe.direction },
                    Found::Invalid(reason) => Tracked::Invalid(reason),
                }
            };
        }
    }

    /// Settles a packet that [`Self::track`] could not: `decision` is what the policy says of a flow
    /// opened in direction `opened`.
    pub fn settle(
        &self,
        now: Time,
        generation: u32,
        probe: &Probe,
        opened: Direction,
        decision: Result<Grant, Reason>,
        ended: &mut Option<Ended>,
    ) -> Settled {
        let now = now.as_millis() as u32;
        let mut connections = self.lock();
        match track_one(&self.config, &mut connections, now, generation, probe) {
            Found::Member { grant } => Settled::Member { grant },
            Found::Invalid(reason) => Settled::Dropped(reason),
            Found::Lapsed { opened: actual } if actual != opened => {
                Settled::Again { opened: actual }
            }
            Found::Lapsed { .. } => match decision {
                Ok(grant) => {
                    let mut other = false;
                    if let Some(connection) = connections.get_mut(&probe.key) {
                        connection.generation = generation;
                        other = connection.grant != grant;
                        connection.grant = grant;
                    }
                    match track_one(&self.config, &mut connections, now, generation, probe) {
                        Found::Member { grant } if other => Settled::Renewed { grant },
                        Found::Member { grant } => Settled::Member { grant },
                        Found::Invalid(reason) => Settled::Dropped(reason),
                        _ => Settled::Again { opened: probe.direction },
                    }
                }
                Err(reason) => {
                    let connection = connections.remove(&probe.key);
                    *ended = connection.map(|connection| Ended { key: probe.key, connection });
                    Settled::Dropped(reason)
                }
            },
            Found::Unknown if probe.direction != opened => {
                Settled::Again { opened: probe.direction }
            }
            Found::Unknown => {
                self.insert(&mut connections, now, generation, probe, decision, ended)
            }
        }
    }

    fn insert(
        &self,
        connections: &mut HashMap<Key, Connection, ahash::RandomState>,
        now: u32,
        generation: u32,
        probe: &Probe,
        decision: Result<Grant, Reason>,
        ended: &mut Option<Ended>,
    ) -> Settled {
        // What may not open is invalid whatever the policy says of it.
        let grant = decision.unwrap_or_default();
        let opened = match Connection::open(probe, now, generation, grant, self.config.pick_up) {
            Ok(opened) => opened,
            Err(reason) => return Settled::Dropped(reason),
        };
        if let Err(reason) = decision {
            return Settled::Dropped(reason);
        }
        if connections.len() >= self.config.capacity && !connections.contains_key(&probe.key) {
            return Settled::Dropped(Reason::TableFull);
        }
        let replaced = connections.insert(probe.key, opened);
        *ended = replaced.map(|connection| Ended { key: probe.key, connection });
        Settled::Opened { grant }
    }

    /// Forgets connections that were silent for too long; answers how many.
    pub fn expire(&self, now: Time, mut on_end: impl FnMut(Ended)) -> usize {
        let now = now.as_millis() as u32;
        let mut connections = self.lock();
        let before = connections.len();
        connections.retain(|key, connection| {
            let expired = connection.expired(key, now, &self.config.timeouts);
            if expired {
                on_end(Ended { key: *key, connection: *connection });
            }
            !expired
        });
        before - connections.len()
    }

    /// Number of connections.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Connection, ahash::RandomState>> {
        self.connections.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// What a look at the table finds.
enum Found {
    Member { grant: Grant },
    Lapsed { opened: Direction },
    Unknown,
    Invalid(Reason),
}

fn track_one(
    config: &Config,
    connections: &mut HashMap<Key, Connection, ahash::RandomState>,
    now: u32,
    generation: u32,
    probe: &Probe,
) -> Found {
    let Some(connection) = connections.get_mut(&probe.key) else { return Found::Unknown };
    if connection.expired(&probe.key, now, &config.timeouts) {
        return Found::Unknown;
    }
    if let Some(lapsed) = lapsed(config, connection, generation) {
        return lapsed;
    }
    match connection.step(probe, now) {
        Step::Pass => Found::Member { grant: connection.grant },
        Step::Reopen => Found::Unknown,
        Step::Invalid(reason) => Found::Invalid(reason),
    }
}

/// What a connection of an older generation needs; `None` if nothing.
fn lapsed(config: &Config, connection: &Connection, generation: u32) -> Option<Found> {
    if connection.generation == generation {
        return None;
    }
    match config.on_policy_change {
        OnPolicyChange::Keep if connection.generation != UNJUDGED => None,
        OnPolicyChange::Cut => Some(Found::Unknown),
        _ => Some(Found::Lapsed { opened: connection.opened }),
    }
}
