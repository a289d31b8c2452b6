//! The writer's dealings with readers: what it publishes, what it keeps for them, and how another
//! content takes the place of its own.

use std::ops::Bound;
use std::sync::Arc;

use super::{COLLECT_EVERY, Following, Shared, Snapshot, UnlinkedRun};
use crate::content::{Change, Content, Place, Row, Sets};
use crate::lpm::reclaim::{Stamp, Unlinked};
use crate::{Prefix, TableError, Writer};

/// Noted changes that may be replayed while the writer is held: some 20 us.
const FEW: usize = if cfg!(test) { 2 } else { 32 };

/// A content that was replaced, and the snapshot through which readers may still be in it.
pub(crate) struct Replaced {
    content: Content,
    snapshot: (Stamp, Unlinked<Snapshot>),
    shared: crate::sync::Arc<Shared>,
}

/// What a replacement is to do next.
pub(crate) enum CatchUp {
    /// Replay these and ask again.
    Replay(Vec<Change>),
    /// Nothing: the new content is in place.
    Done(Box<Replaced>),
    /// Begin anew: the table was built anew meanwhile.
    Overtaken,
}

impl Writer {
    /// Ends a change: notes it, publishes memory that moved, stamps what was unlinked, and now and
    /// then finds what may be used again.
    pub(super) fn finish(&mut self, change: Change) {
        let v6 = change.0.is_v6();
        if let Some(following) = &mut self.following {
            if following.token.strong_count() > 0 {
                following.changes.push(change);
            } else {
                self.following = None;
            }
        }
        if !self.is_published() {
            self.publish();
        }
        let stamp = self.shared.domain.stamp();
        let trie = self.content.trie(v6);
        self.since_collect += trie.retired.len();
        let run = |(at, len)| UnlinkedRun { stamp, v6, at: at as u32, len: len as u32 };
        self.unlinked.extend(trie.retired.drain(..).map(run));
        if self.since_collect >= COLLECT_EVERY {
            self.collect();
        }
    }

    /// Puts another content in the place of this one. Whoever builds one aside begins anew.
    pub(crate) fn swap(&mut self, content: Content) -> Replaced {
        self.following = None;
        #[cfg(test)]
        {
            self.exchanges += 1;
        }
        let old = std::mem::replace(&mut self.content, content);
        // What was unlinked in the old structures goes with them.
        self.unlinked.clear();
        let snapshot = self.exchange();
        Replaced { content: old, snapshot, shared: crate::sync::Arc::clone(&self.shared) }
    }

    /// Whether no reader is in the old content any more.
    pub(crate) fn is_free(&self, replaced: &Replaced) -> bool {
        self.is_of(replaced) && replaced.snapshot.0 < self.shared.domain.advance()
    }

    /// Takes it on itself to free an old content when its readers have left.
    pub(crate) fn keep(&mut self, replaced: Replaced) {
        if self.is_of(&replaced) {
            self.old.push(replaced.snapshot);
            self.collect();
            return;
        }
        // The table of another writer, which keeps it until its last reader is gone.
        let left = replaced.shared.left.lock();
        left.unwrap_or_else(|poisoned| poisoned.into_inner()).push(replaced.snapshot.1);
        drop(replaced.content);
    }

    /// Notes changes from now on for whoever holds `token`, and says what the sets are; `None` while
    /// somebody else is followed.
    pub(crate) fn follow(&mut self, token: &Arc<()>) -> Option<Sets> {
        if self.following.as_ref().is_some_and(|other| other.token.strong_count() > 0) {
            return None;
        }
        self.following = Some(Following { token: Arc::downgrade(token), changes: Vec::new() });
        Some(self.content.sets.clone())
    }

    /// Up to `most` of the prefixes that win over a set, in order; `None` if overtaken.
    pub(crate) fn overriding_after(
        &self,
        token: &Arc<()>,
        after: Option<Prefix>,
        most: usize,
    ) -> Option<Vec<Prefix>> {
        self.follows(token)?;
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let rest = self.content.overriding.range((from, Bound::Unbounded));
        Some(rest.take(most).copied().collect())
    }

    /// As [`Content::scan`]; `None` if overtaken.
    pub(crate) fn scan(
        &self,
        token: &Arc<()>,
        from: Place,
        enough: usize,
        out: &mut Vec<Row>,
    ) -> Option<Option<Place>> {
        self.follows(token)?;
        Some(self.content.scan(from, enough, out))
    }

    /// Hands out the changes noted for `token`; if they are few, or `at_once`, replays them on
    /// `content` and puts that in place.
    pub(crate) fn catch_up(
        &mut self,
        token: &Arc<()>,
        content: &mut Option<Content>,
        at_once: bool,
    ) -> Result<CatchUp, TableError> {
        if self.follows(token).is_none() {
            return Ok(CatchUp::Overtaken);
        }
        let noted = self.following.as_mut().map(|following| &mut following.changes);
        let changes = noted.map(std::mem::take).unwrap_or_default();
        if changes.len() > FEW && !at_once {
            return Ok(CatchUp::Replay(changes));
        }
        let Some(mut content) = content.take() else { return Ok(CatchUp::Overtaken) };
        content.replay(&changes)?;
        Ok(CatchUp::Done(Box::new(self.swap(content))))
    }

    fn follows(&self, token: &Arc<()>) -> Option<()> {
        let following = self.following.as_ref()?;
        std::ptr::eq(following.token.as_ptr(), Arc::as_ptr(token)).then_some(())
    }

    fn is_of(&self, replaced: &Replaced) -> bool {
        crate::sync::Arc::ptr_eq(&self.shared, &replaced.shared)
    }

    fn is_published(&self) -> bool {
        let Content { v4, v6, .. } = &self.content;
        // SAFETY: the writer alone frees snapshots, and does not meanwhile.
        let current = unsafe { self.shared.current.load() };
        current.v4.is(&v4.words) && current.v6.is(&v6.words) && current.jump.is(&v6.jump.table)
    }

    fn publish(&mut self) {
        let old = self.exchange();
        self.old.push(old);
    }

    /// Publishes what is there now; returns what was published before.
    fn exchange(&mut self) -> (Stamp, Unlinked<Snapshot>) {
        let old = self.shared.current.replace(Snapshot::of(&self.content));
        (self.shared.domain.stamp(), old)
    }

    fn collect(&mut self) {
        self.since_collect = 0;
        let free = self.shared.domain.advance();
        self.old.retain(|(stamp, _)| *stamp >= free);
        let count = self.unlinked.partition_point(|run| run.stamp < free);
        for run in self.unlinked.drain(..count) {
            self.content.trie(run.v6).alloc.give(run.at as usize, run.len as usize);
        }
    }
}
