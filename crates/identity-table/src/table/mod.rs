//! The table from addresses to identities: one writer, any number of readers.
//!
//! ```
//! use portcullis_identity_table::{IdentityId, Writer};
//! let mut writer = Writer::new();
//! let reader = writer.reader(); // one for each thread: clone it
//! writer.insert("10.244.0.0/16".parse()?, IdentityId::new(300))?;
//! writer.insert("10.244.1.7".parse()?, IdentityId::new(301))?;
//!
//! let guard = reader.pin(); // once a batch
//! assert_eq!(guard.lookup("10.244.1.7".parse()?).get(), 301);
//! let mut ids = [IdentityId::UNKNOWN; 2];
//! guard.lookup_v4_batch(&[0x0af4_0108, 0x0808_0808], &mut ids);
//! assert_eq!(ids, [IdentityId::new(300), IdentityId::UNKNOWN]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What readers see
//! A change is visible to every guard pinned after [`Writer::insert`] or [`Writer::remove`] returns,
//! and mostly to guards pinned before. Every answer under a guard was the right one at some moment
//! since the pin. A prefix that covers many addresses changes address by address, in
//! microseconds; [`Writer::load`], [`Writer::replace_set`] and [`Replacement`](crate::Replacement)
//! change all at once, at the readers' next [`Reader::pin`].
//!
//! # Performance
//! A lookup takes no lock and writes nothing; a pin writes one word that no other reader touches.
//! See `docs/performance/lpm.md` for nanoseconds and bytes. The writer never waits for readers: what
//! they may still hold is set aside and used again later.
//!
//! # Limitations
//! A reader that stays pinned keeps the memory of everything that changes meanwhile. A structure
//! grows to at most 4 GiB a family ([`TableError::Full`]), and grows by copying, which takes the
//! writer about a millisecond for each 10 MB but disturbs no reader.

mod publish;
mod reader;

use std::collections::VecDeque;
use std::sync::{Mutex, Weak};

pub(crate) use self::publish::{CatchUp, Replaced};
pub use self::reader::{Guard, Reader};
use crate::content::{Change, Content};
use crate::lpm::jump::Seed;
use crate::lpm::reclaim::{Domain, Published, Stamp, Unlinked};
use crate::lpm::words::Words;
use crate::sync::Arc;
use crate::{IdentityId, Prefix};

/// Unlinked runs after which the writer looks for some to use again.
const COLLECT_EVERY: usize = 64;
/// Words of the structures of an empty table, beyond the fixed ones; not resident until used.
/// A fuzzer makes thousands of tables a second, and should see them grow.
const ROOM: usize = if cfg!(fuzzing) { 1 << 8 } else { 1 << 20 };

/// The one who may change the table. Not `Clone`: changes have one order. `Send`.
pub struct Writer {
    shared: Arc<Shared>,
    pub(crate) content: Content,
    /// Changes noted for a replacement that is being built.
    following: Option<Following>,
    /// How often another content took the place of this one.
    #[cfg(test)]
    pub(crate) exchanges: u64,
    unlinked: VecDeque<UnlinkedRun>,
    old: Vec<(Stamp, Unlinked<Snapshot>)>,
    since_collect: usize,
}

/// Why a change of the table was refused. Nothing was changed then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TableError {
    /// The structure for one family has reached its limit of 4 GiB.
    #[error("the {family} table has reached its limit of 4 GiB: remove prefixes first")]
    Full {
        /// `IPv4` or `IPv6`.
        family: &'static str,
    },
    /// The rows for a set give one prefix two identities.
    #[error("{prefix} is given two identities, {} and {}: keep one", .ids[0], .ids[1])]
    Conflict {
        /// The prefix.
        prefix: Prefix,
        /// The two identities.
        ids: [IdentityId; 2],
    },
}

struct Shared {
    domain: Domain,
    current: Published<Snapshot>,
    /// What a writer left behind while readers were pinned.
    left: Mutex<Vec<Unlinked<Snapshot>>>,
}

/// What readers hold: the memory of both families. Its words change in place.
struct Snapshot {
    v4: Words,
    v6: Words,
    jump: Words,
    seed: Seed,
}

struct Following {
    /// Held by the replacement; gone with it.
    token: Weak<()>,
    changes: Vec<Change>,
}

struct UnlinkedRun {
    stamp: Stamp,
    v6: bool,
    at: u32,
    len: u32,
}

impl Writer {
    /// An empty table.
    pub fn new() -> Self {
        let content = Content::new(ROOM);
        let current = Published::new(Snapshot::of(&content));
        let shared = Arc::new(Shared { domain: Domain::new(), current, left: Mutex::default() });
        Self {
            shared,
            content,
            following: None,
            #[cfg(test)]
            exchanges: 0,
            unlinked: VecDeque::new(),
            old: Vec::new(),
            since_collect: 0,
        }
    }

    /// A handle for looking up.
    pub fn reader(&self) -> Reader {
        Reader::of(&self.shared)
    }

    /// Puts `prefix` in, or replaces its identity; returns the identity that stood there.
    ///
    /// Readers see it before this returns. Cost: a microsecond for a host's prefix; a short prefix
    /// touches each slot that it covers, up to 65,536.
    pub fn insert(
        &mut self,
        prefix: Prefix,
        id: IdentityId,
    ) -> Result<Option<IdentityId>, TableError> {
        let old = self.content.insert(prefix, id)?;
        self.finish((prefix, Some(id)));
        Ok(old)
    }

    /// Takes `prefix` out; returns the identity that stood there. What belongs to a named set only
    /// is not taken out this way; if a set has the prefix too, its identity comes back.
    ///
    /// Readers see it before this returns. Cost: as [`Writer::insert`].
    pub fn remove(&mut self, prefix: &Prefix) -> Result<Option<IdentityId>, TableError> {
        let old = self.content.remove(prefix)?;
        self.finish((*prefix, None));
        Ok(old)
    }

    /// The identity that stands at exactly `prefix`.
    pub fn get(&self, prefix: &Prefix) -> Option<IdentityId> {
        self.content.get(prefix)
    }

    /// Number of prefixes.
    pub fn len(&self) -> usize {
        self.content.len()
    }

    /// Whether there is no prefix.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes in use: what readers walk, what the writer keeps beside it (the members of named sets
    /// among it), and what is free inside.
    pub fn memory_usage(&self) -> usize {
        self.content.bytes()
    }
}

impl Default for Writer {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Readers live on and may hold these.
        let mut left = self.shared.left.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        left.extend(self.old.drain(..).map(|(_, old)| old));
    }
}

impl core::fmt::Debug for Writer {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Writer").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl Snapshot {
    fn of(content: &Content) -> Self {
        let (v4, v6) = (&content.v4, &content.v6);
        Self {
            v4: v4.words.clone(),
            v6: v6.words.clone(),
            jump: v6.jump.table.clone(),
            seed: v6.jump.seed,
        }
    }
}

#[cfg(test)]
mod tests;
