//! Taking a prefix out, and folding what has become sparse.

use super::bucket::{self, CAPACITY, Item};
use super::entry::{Entry, MISS};
use super::own::span;
use super::trie::{DEFAULT, NARROW, Path, Trie, byte};

/// A page with this many prefixes below folds into a bucket. Half of what a bucket holds, so that
/// one prefix that comes and goes does not fold and unfold.
const FOLD: u32 = CAPACITY as u32 / 2;

impl Trie {
    /// Takes a prefix out and returns the identity that stood there. The caller has made room.
    pub(crate) fn remove(&mut self, key: u128, len: u8) -> Option<u32> {
        let code = if len <= 16 { self.remove_root(key, len) } else { self.remove_below(key, len) };
        let id = self.release_code(code?);
        self.len -= 1;
        Some(id)
    }

    fn remove_root(&mut self, key: u128, len: u8) -> Option<u32> {
        let start = (key >> 112) as usize;
        let code = self.root.remove(start, len)?;
        self.repaint_root(start, len);
        Some(code)
    }

    fn remove_below(&mut self, key: u128, len: u8) -> Option<u32> {
        let item = Item { key, len, code: 0 };
        let (mut slot, mut depth) = ((key >> 112) as usize, 16);
        let mut path = Path::default();
        let code = loop {
            match Entry::of(self.words.load(slot)) {
                Entry::Leaf(_) => return None,
                Entry::Bucket(at) => break self.remove_bucket(slot, at, depth, key, len)?,
                Entry::Fan(at, bits) => break self.remove_fan(slot, at, bits, key, len)?,
                Entry::Wide(at) => {
                    path.push(at);
                    break self.remove_wide(at, key, len)?;
                }
                Entry::Page(at) => {
                    depth = self.reaches(at, depth, &item)?;
                    path.push(at);
                    let start = byte(key, depth);
                    if len <= depth + 8 {
                        let code = self.meta_mut(at).own.remove(start, len - depth)?;
                        self.repaint_page(at, depth, start, len - depth, key);
                        break code;
                    }
                    slot = at + start;
                    depth += 8;
                }
            }
        };
        for at in path.pages() {
            self.meta_mut(*at).total -= 1;
        }
        self.fold(key, &path);
        Some(code)
    }

    fn remove_bucket(
        &mut self,
        slot: usize,
        at: usize,
        depth: u8,
        key: u128,
        len: u8,
    ) -> Option<u32> {
        let mut items = Vec::with_capacity(CAPACITY);
        let (default, size) = bucket::decode(self.v6, &self.words, at, depth, key, &mut items);
        let i = items.iter().position(|item| item.key == key && item.len == len)?;
        let code = items.remove(i).code;
        let entry = self.build(depth, default, &items);
        self.words.store(slot, entry);
        self.retire(at, size);
        Some(code)
    }

    fn remove_fan(&mut self, slot: usize, at: usize, bits: u8, key: u128, len: u8) -> Option<u32> {
        let mut items = Vec::with_capacity(8 << bits);
        let default = self.decode_fan(at, bits, key, &mut items);
        let i = items.iter().position(|item| item.key == key && item.len == len)?;
        let code = items.remove(i).code;
        let entry = self.build(16, default, &items);
        self.words.store(slot, entry);
        self.retire_fan(at, bits);
        Some(code)
    }

    fn remove_wide(&mut self, at: usize, key: u128, len: u8) -> Option<u32> {
        let (sub, start) = (byte(key, 16), byte(key, 24));
        if len <= 24 {
            let code = self.meta_mut(at).own.remove(sub, len - 16)?;
            for covered in sub..sub + span::<8>(len - 16) {
                self.repaint_wide(at, covered, 0, 0);
            }
            return Some(code);
        }
        let meta = self.meta_mut(at);
        let code = meta.subs[sub].remove(start, len - 24)?;
        if meta.subs[sub].len() == CAPACITY {
            meta.crowded -= 1;
        }
        self.repaint_wide(at, sub, start, len - 24);
        Some(code)
    }

    /// Gives the pages on the way to a removed prefix the form that suits what is left.
    fn fold(&mut self, key: u128, path: &Path) {
        let (mut slot, mut depth) = ((key >> 112) as usize, 16);
        for (level, at) in path.pages().iter().copied().enumerate() {
            let meta = self.meta(at);
            let wide = Entry::of(self.words.load(slot)) == Entry::Wide(at);
            if meta.total <= FOLD || wide && usize::from(meta.crowded) < NARROW {
                self.rebuild_slot(slot, depth, key);
                if level == 1 && !self.v6 {
                    self.meta_mut(path.pages()[0]).crowded -= 1;
                }
                return;
            }
            if wide {
                return;
            }
            if self.v6 && self.skip_page(slot, at) {
                return;
            }
            let page_depth = if self.v6 { self.page_key(at).0 } else { depth };
            slot = at + byte(key, page_depth);
            depth = page_depth + 8;
        }
    }

    /// Takes an IPv6 page out of the way if all it does is lead to one other page.
    fn skip_page(&mut self, slot: usize, at: usize) -> bool {
        if !self.meta(at).own.is_empty() {
            return false;
        }
        let mut children = (0..256)
            .map(|i| Entry::of(self.words.load(at + i)))
            .filter(|e| *e != Entry::Leaf(MISS));
        let (Some(Entry::Page(child)), None) = (children.next(), children.next()) else {
            return false;
        };
        self.set_default(child, self.words.load(at - DEFAULT));
        self.words.store(slot, Entry::Page(child).word());
        self.retire_page(at);
        true
    }
}
