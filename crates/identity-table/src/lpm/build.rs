//! Building a subtree from sorted prefixes, and reading one back.

use super::bucket::{self, CAPACITY, Item};
use super::entry::{Entry, MISS, NEAR_WORDS};
use super::own::OwnList;
use super::trie::{DEFAULT, HEAD4, HEADROOM, Meta, ROOT, Trie, WIDEN, byte};

impl Trie {
    /// Fills an empty structure with prefixes that are sorted by key, then length, without doubles.
    /// Codes in `items` belong to this structure.
    /// [`Trie::full`] says afterwards if it was too much.
    pub(crate) fn fill(&mut self, items: &[Item]) {
        self.len = items.len();
        for item in items.iter().filter(|item| item.len <= 16) {
            self.root.push((item.key >> 112) as usize, item.len, item.code);
        }
        self.repaint_root(0, 0);
        for group in items.chunk_by(|a, b| a.key >> 112 == b.key >> 112) {
            let below =
                &group[group.partition_point(|item| item.len <= 16 && item.key == group[0].key)..];
            let slot = (group[0].key >> 112) as usize;
            if !below.is_empty() {
                let entry = self.build(16, self.words.load(slot), below);
                self.words.store(slot, entry);
            }
        }
    }

    /// The entry of a subtree at `depth` that holds `items`: sorted, all inside one slot, all longer
    /// than `depth`.
    pub(crate) fn build(&mut self, depth: u8, default: u32, items: &[Item]) -> u32 {
        let (Some(first), Some(last)) = (items.first(), items.last()) else {
            return default;
        };
        if items.len() <= CAPACITY {
            return self.new_bucket(depth, default, items);
        }
        if !self.v6 {
            let crowded = crowded(depth, items);
            if depth == 16 && crowded >= WIDEN && self.alloc.top() + HEADROOM <= NEAR_WORDS {
                return self.build_wide(default, crowded, items);
            }
            if depth == 16
                && let Some(fan) = self.build_fan(default, items)
            {
                return fan;
            }
            return self.build_page(depth, default, crowded, items);
        }
        let shared = (first.key ^ last.key).leading_zeros() as u8;
        let shortest = items.iter().map(|item| item.len).min().unwrap_or(128);
        let page_depth = shared.min(shortest - 1).min(120) & !7;
        self.build_page(page_depth, default, 0, items)
    }

    fn build_page(&mut self, depth: u8, default: u32, crowded: usize, items: &[Item]) -> u32 {
        let mut own = OwnList::default();
        for item in items.iter().filter(|item| item.len <= depth + 8) {
            own.push(byte(item.key, depth), item.len - depth, item.code);
        }
        own.shrink();
        let mut paint = core::mem::take(&mut self.paint);
        own.paint(0, 0, &mut paint);
        let meta =
            Meta { own, total: items.len() as u32, crowded: crowded as u16, subs: Vec::new() };
        let at = self.new_page(depth, items[0].key, default, meta);
        for (slot, code) in paint.iter().enumerate() {
            self.words.store(at + slot, *code);
        }
        self.paint = paint;
        for group in items.chunk_by(|a, b| byte(a.key, depth) == byte(b.key, depth)) {
            // What ends in this level sorts before what lies below its first address.
            let below = &group[group.partition_point(|item| item.len <= depth + 8)..];
            if !below.is_empty() {
                let slot = at + byte(group[0].key, depth);
                let entry = self.build(depth + 8, self.words.load(slot), below);
                self.words.store(slot, entry);
            }
        }
        Entry::Page(at).word()
    }

    fn build_wide(&mut self, default: u32, crowded: usize, items: &[Item]) -> u32 {
        let mut meta =
            Meta { total: items.len() as u32, crowded: crowded as u16, ..Meta::default() };
        meta.subs.resize_with(256, OwnList::default);
        for item in items {
            let (sub, start) = (byte(item.key, 16), byte(item.key, 24));
            if item.len <= 24 {
                meta.own.push(sub, item.len - 16, item.code);
            } else {
                meta.subs[sub].push(start, item.len - 24, item.code);
            }
        }
        meta.own.shrink();
        meta.subs.iter_mut().for_each(OwnList::shrink);
        let at = self.take(HEAD4 + ROOT) + HEAD4;
        for slot in 0..ROOT {
            self.words.store(at + slot, MISS);
        }
        self.head_page(at, default, meta);
        for sub in 0..256 {
            self.repaint_wide(at, sub, 0, 0);
        }
        Entry::Wide(at).word()
    }

    /// Adds the prefixes below `entry`, sorted, to `out`; returns the default. `base` is the key of
    /// the slot at `depth`.
    pub(crate) fn gather(&self, entry: Entry, depth: u8, base: u128, out: &mut Vec<Item>) -> u32 {
        match entry {
            Entry::Leaf(default) => default,
            Entry::Bucket(at) => bucket::decode(self.v6, &self.words, at, depth, base, out).0,
            Entry::Fan(at, bits) => self.decode_fan(at, bits, base, out),
            Entry::Page(at) => {
                let (depth, base) = if self.v6 { self.page_key(at) } else { (depth, base) };
                let mut own = self.meta(at).own.iter().peekable();
                for slot in 0..256 {
                    let inside = base | (slot as u128) << (120 - depth);
                    while let Some((_, len, code)) = own.next_if(|(start, ..)| *start == slot) {
                        out.push(Item { key: inside, len: depth + len, code });
                    }
                    let child = Entry::of(self.words.load(at + slot));
                    self.gather(child, depth + 8, inside, out);
                }
                self.words.load(at - DEFAULT)
            }
            Entry::Wide(at) => {
                let meta = self.meta(at);
                let mut own = meta.own.iter().peekable();
                for (sub, longer) in meta.subs.iter().enumerate() {
                    let inside = base | (sub as u128) << 104;
                    while let Some((_, len, code)) = own.next_if(|(start, ..)| *start == sub) {
                        out.push(Item { key: inside, len: 16 + len, code });
                    }
                    out.extend(longer.iter().map(|(start, len, code)| Item {
                        key: inside | (start as u128) << 96,
                        len: 24 + len,
                        code,
                    }));
                }
                self.words.load(at - DEFAULT)
            }
        }
    }

    /// Retires everything below `entry`.
    pub(crate) fn retire_below(&mut self, entry: Entry, depth: u8) {
        match entry {
            Entry::Leaf(_) => {}
            Entry::Bucket(at) => {
                let (_, size) = bucket::decode(self.v6, &self.words, at, depth, 0, &mut Vec::new());
                self.retire(at, size);
            }
            Entry::Fan(at, bits) => self.retire_fan(at, bits),
            Entry::Page(at) => {
                let depth = if self.v6 { self.page_key(at).0 } else { depth };
                for slot in 0..256 {
                    let child = Entry::of(self.words.load(at + slot));
                    self.retire_below(child, depth + 8);
                }
                self.retire_page(at);
            }
            Entry::Wide(at) => {
                self.free_meta(at);
                self.retire(at - HEAD4, HEAD4 + ROOT);
            }
        }
    }

    /// What stands at exactly (`key`, `len`).
    pub(crate) fn get(&self, key: u128, len: u8) -> Option<u32> {
        self.find(key, len).map(|code| self.id(code))
    }

    fn find(&self, key: u128, len: u8) -> Option<u32> {
        if len <= 16 {
            return self.root.get((key >> 112) as usize, len);
        }
        let item = Item { key, len, code: 0 };
        let (mut slot, mut depth) = ((key >> 112) as usize, 16);
        loop {
            match Entry::of(self.words.load(slot)) {
                Entry::Leaf(_) => return None,
                Entry::Bucket(at) => {
                    let mut items = Vec::with_capacity(CAPACITY);
                    bucket::decode(self.v6, &self.words, at, depth, key, &mut items);
                    return items.iter().find(|i| i.key == key && i.len == len).map(|i| i.code);
                }
                Entry::Fan(at, bits) => {
                    let mut items = Vec::with_capacity(8 << bits);
                    self.decode_fan(at, bits, key, &mut items);
                    return items.iter().find(|i| i.key == key && i.len == len).map(|i| i.code);
                }
                Entry::Page(at) => {
                    depth = self.reaches(at, depth, &item)?;
                    if len <= depth + 8 {
                        return self.meta(at).own.get(byte(key, depth), len - depth);
                    }
                    slot = at + byte(key, depth);
                    depth += 8;
                }
                Entry::Wide(at) if len <= 24 => {
                    return self.meta(at).own.get(byte(key, 16), len - 16);
                }
                Entry::Wide(at) => {
                    return self.meta(at).subs[byte(key, 16)].get(byte(key, 24), len - 24);
                }
            }
        }
    }
}

/// How many /24s under an IPv4 slot at depth 16 need a page of their own.
fn crowded(depth: u8, items: &[Item]) -> usize {
    if depth != 16 {
        return 0;
    }
    let groups = items.chunk_by(|a, b| byte(a.key, 16) == byte(b.key, 16));
    groups.filter(|group| group.iter().filter(|item| item.len > 24).count() > CAPACITY).count()
}
