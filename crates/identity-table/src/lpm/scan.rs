//! Reading a structure back piece by piece, while it changes between the pieces.

use super::bucket::{self, Item};
use super::entry::Entry;
use super::trie::{ROOT, Trie, byte};
use crate::prefix::mask;

/// Slots without a prefix that are as much work as a prefix; more in tests, so that pieces are few.
const SLOTS: usize = if cfg!(test) { 1 << 13 } else { 4 };

impl Trie {
    /// Adds the prefixes with keys from `from` on to `out`, sorted by key, then length, until finding
    /// them was as much work as `enough` prefixes are and the slot they stand in ends. Returns the
    /// key to go on from; `None` at the end.
    ///
    /// Keys, unlike places, mean the same whatever the writer does to the structure in between.
    /// O(`enough` + a page).
    pub(crate) fn scan(&self, from: u128, enough: usize, out: &mut Vec<Item>) -> Option<u128> {
        let mut scan =
            Scan { trie: self, from, enough: enough.saturating_mul(SLOTS), work: 0, out };
        scan.root()
    }
}

/// One piece being read.
struct Scan<'a> {
    trie: &'a Trie,
    from: u128,
    /// In slots.
    enough: usize,
    work: usize,
    out: &'a mut Vec<Item>,
}

impl Scan<'_> {
    fn root(&mut self) -> Option<u128> {
        let from = self.from;
        let first = (from >> 112) as usize;
        let mut own = self.trie.root.iter().skip_while(|(start, ..)| *start < first).peekable();
        for slot in first..ROOT {
            let base = (slot as u128) << 112;
            while let Some((_, len, code)) = own.next_if(|(start, ..)| *start == slot) {
                self.take(Item { key: base, len, code });
            }
            let entry = Entry::of(self.trie.words.load(slot));
            if let Some(next) = self.below(entry, 16, base) {
                return Some(next);
            }
            if self.is_enough() {
                return after(base, 16);
            }
        }
        None
    }

    /// Counts a slot, and tells whether that was enough.
    fn is_enough(&mut self) -> bool {
        self.work += 1;
        self.work >= self.enough
    }

    fn take(&mut self, item: Item) {
        self.work += SLOTS;
        if item.key >= self.from {
            self.out.push(item);
        }
    }

    fn below(&mut self, entry: Entry, depth: u8, base: u128) -> Option<u128> {
        let from = self.from;
        match entry {
            Entry::Leaf(_) => {}
            Entry::Bucket(at) => {
                let begin = self.out.len();
                bucket::decode(self.trie.v6, &self.trie.words, at, depth, base, self.out);
                let seen = self.out[begin..].iter().take_while(|item| item.key < from).count();
                self.work += (self.out.len() - begin) * SLOTS;
                self.out.drain(begin..begin + seen);
            }
            Entry::Fan(at, bits) => {
                let begin = self.out.len();
                self.trie.decode_fan(at, bits, base, self.out);
                let seen = self.out[begin..].iter().take_while(|item| item.key < from).count();
                self.work += (self.out.len() - begin) * SLOTS;
                self.out.drain(begin..begin + seen);
            }
            Entry::Page(at) => {
                let (depth, base) =
                    if self.trie.v6 { self.trie.page_key(at) } else { (depth, base) };
                if from > base | !mask(depth) {
                    return None;
                }
                let first = if from > base { byte(from, depth) } else { 0 };
                let own = self.trie.meta(at).own.iter();
                let mut own = own.skip_while(|(start, ..)| *start < first).peekable();
                for slot in first..256 {
                    let inside = base | (slot as u128) << (120 - depth);
                    while let Some((_, len, code)) = own.next_if(|(start, ..)| *start == slot) {
                        self.take(Item { key: inside, len: depth + len, code });
                    }
                    let child = Entry::of(self.trie.words.load(at + slot));
                    let next = self.below(child, depth + 8, inside);
                    if next.is_some() {
                        return next;
                    }
                    if self.is_enough() {
                        return after(inside, depth + 8);
                    }
                }
            }
            Entry::Wide(at) => {
                let meta = self.trie.meta(at);
                let first = if from > base { byte(from, 16) } else { 0 };
                let mut own = meta.own.iter().skip_while(|(start, ..)| *start < first).peekable();
                for (sub, longer) in meta.subs.iter().enumerate().skip(first) {
                    let inside = base | (sub as u128) << 104;
                    while let Some((_, len, code)) = own.next_if(|(start, ..)| *start == sub) {
                        self.take(Item { key: inside, len: 16 + len, code });
                    }
                    for (start, len, code) in longer.iter() {
                        let key = inside | (start as u128) << 96;
                        self.take(Item { key, len: 24 + len, code });
                    }
                    if self.is_enough() {
                        return after(inside, 24);
                    }
                }
            }
        }
        None
    }
}

/// The first key after the slot of `depth` bits at `base`; `None` if it is the last.
fn after(base: u128, depth: u8) -> Option<u128> {
    base.checked_add(1 << (128 - depth))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pieces_make_the_whole(
            v6 in any::<bool>(),
            picks in prop::collection::vec((any::<u64>(), 0..129_u8), 0..400),
            enough in 1..40_usize,
        ) {
            let mut trie = Trie::new(v6, 1 << 12);
            let mut expected = std::collections::BTreeMap::new();
            let bits = if v6 { 128 } else { 32 };
            for (i, (pick, len)) in picks.iter().enumerate() {
                // Crowded below 10.0.0.0/14, with some up to the very last address.
                let high = if pick % 5 == 0 { u64::MAX << (pick % 64) } else { 0x0a00_0000 << 32 };
                let number = u128::from(high | pick >> 30 & 0x3_ffff << 32 & !0x7) << 64
                    | if v6 { u128::from(*pick) } else { 0 };
                // Many of the longest, so that pages fill up.
                let len = if pick % 3 == 0 { bits } else { len % (bits + 1) };
                let key = number & mask(len);
                trie.insert(key, len, i as u32);
                expected.insert((key, len), i as u32);
            }
            let mut found = Vec::new();
            let mut from = Some(0);
            while let Some(key) = from {
                let mut piece = Vec::new();
                from = trie.scan(key, enough, &mut piece);
                prop_assert!(from.is_none_or(|next| next > key));
                found.extend(piece.iter().map(|i| ((i.key, i.len), trie.id(i.code))));
            }
            prop_assert_eq!(found, expected.into_iter().collect::<Vec<_>>());
        }
    }
}
