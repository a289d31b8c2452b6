//! The structure of one family: what it consists of, and how a prefix is put in.
//!
//! ```text
//! words 0 … 65535      an entry for each value of the first 16 bits
//! word  RIPPLE         counts changes of defaults, twice a change (see below)
//! word  NOWHERE …      a page of zeros, never changed
//! page                 [IPv6: key 4 words lowest first, -, depth,] default, meta, 256 entries
//! wide page (IPv4)     default, meta, 65536 codes
//! fan (IPv4)           see there; like a page it has a default, like a bucket it is never changed
//! ```
//!
//! A prefix lives in the level where its length ends: lengths 0 to 16 in the root, depth + 1 to
//! depth + 8 in a page at that depth (a wide page: 17 to 32), any longer one in a bucket. A slot
//! holds the winner of its own level, or where to go on; then the winner moves into the child as its
//! **default**, so that nothing is lost and no level is tracked twice. An IPv6 page skips what all
//! prefixes below it share and keeps it as its key.
//!
//! An answer that comes from a slot or a bucket is one word and thus always current. One that comes
//! from a default was put together from several words, so the writer bumps RIPPLE before and after
//! it changes a default, and a reader that needed one looks again if RIPPLE moved.

use super::alloc::Alloc;
use super::bucket::{self, CAPACITY, Item};
use super::entry::{
    Entry, MAX_WORDS, MISS, NEAR_WORDS, far_code, is_bucket, near_code, near_id, offset,
};
use super::fan::LINE;
use super::jump::Jump;
use super::own::{OwnList, span};
use super::words::Words;
use crate::prefix::mask;

/// Entries of the root, one for each value of the first 16 bits.
pub(crate) const ROOT: usize = 1 << 16;
/// The word that counts changes of defaults.
pub(crate) const RIPPLE: usize = ROOT;
/// Where a page would be that has neither key nor entries: words that stay zero.
pub(crate) const NOWHERE: usize = ROOT + 16;
/// First word that is handed out.
const FIRST: usize = NOWHERE + 256;
/// Words before the entries of an IPv4 page.
pub(crate) const HEAD4: usize = 2;
/// Words before the entries of an IPv6 page.
pub(crate) const HEAD6: usize = 8;
/// How far before its entries a page keeps its default, the number of its meta, and, of IPv6, its
/// depth and key.
pub(crate) const META: usize = 1;
pub(crate) const DEFAULT: usize = 2;
pub(crate) const DEPTH: usize = 3;
pub(crate) const KEY: usize = 8;
/// An IPv4 /16 with this many crowded /24s becomes a wide page: 256 KiB for one step less.
pub(crate) const WIDEN: usize = if cfg!(test) { 3 } else { 96 };
/// A wide page with fewer crowded /24s becomes pages again.
pub(crate) const NARROW: usize = if cfg!(test) { 2 } else { 48 };
/// More words than one change can need: a wide page and what a full bucket unfolds to.
pub(crate) const HEADROOM: usize = ROOT + HEAD4 + 40 * (HEAD6 + 256);

/// What the writer knows of a page beyond what readers see.
#[derive(Clone, Debug, Default)]
pub(crate) struct Meta {
    pub(crate) own: OwnList<8>,
    /// A wide page's prefixes longer than 24, by third byte.
    pub(crate) subs: Vec<OwnList<8>>,
    /// Prefixes in the page and below.
    pub(crate) total: u32,
    /// An IPv4 page: its children that are pages. A wide page: its crowded subs.
    pub(crate) crowded: u16,
}

/// One family's structure with the writer's side of it.
pub(crate) struct Trie {
    pub(crate) v6: bool,
    pub(crate) words: Words,
    pub(crate) alloc: Alloc,
    pub(crate) root: OwnList<16>,
    pub(crate) metas: Vec<Meta>,
    pub(crate) free_metas: Vec<u32>,
    pub(crate) jump: Jump,
    /// Prefixes in all.
    pub(crate) len: usize,
    /// Runs unlinked since the last [`Trie::take_retired`].
    pub(crate) retired: Vec<(usize, usize)>,
    pub(crate) paint: Vec<u32>,
    /// The limit was passed: the structure is of no use. Only happens to one that is being filled,
    /// since changes of a published one ask [`Trie::has_room`] before.
    pub(crate) full: bool,
}

impl Trie {
    /// An empty structure with room for `room` words beyond the fixed ones.
    pub(crate) fn new(v6: bool, room: usize) -> Self {
        let words = Words::zeroed(FIRST + ROOT + room);
        (0..ROOT).for_each(|slot| words.store(slot, MISS));
        Self {
            v6,
            words,
            alloc: Alloc::new(FIRST),
            root: OwnList::default(),
            metas: Vec::new(),
            free_metas: Vec::new(),
            jump: Jump::new(),
            len: 0,
            retired: Vec::new(),
            paint: Vec::new(),
            full: false,
        }
    }

    /// Whether one change of a prefix of `len` bits at `key` stays below the limit for sure.
    pub(crate) fn has_room(&self, key: u128, len: u8) -> bool {
        let mut need = self.alloc.top() + HEADROOM;
        if len < 16 && need + bucket::MAX_WORDS * ROOT > MAX_WORDS {
            // Each bucket in a root slot that the prefix covers is written anew.
            let start = (key >> 112) as usize;
            let slots = start..start + span::<16>(len);
            let buckets = slots.filter(|slot| is_bucket(self.words.load(*slot)));
            need += buckets.count() * bucket::MAX_WORDS;
        }
        need <= MAX_WORDS
    }

    /// A run of words. If the memory is used up, it is copied into twice as much: readers stay with
    /// the old copy until the new one is published.
    pub(crate) fn take(&mut self, len: usize) -> usize {
        let at = self.alloc.take(len);
        if self.alloc.top() > MAX_WORDS {
            self.full = true;
            return FIRST;
        }
        self.grow_to_top(at);
        at
    }

    /// Makes the words reach as far as what was handed out, of which the last begins at `at`.
    fn grow_to_top(&mut self, at: usize) {
        let top = self.alloc.top();
        if top > self.words.len() {
            let len = (self.words.len() * 2).clamp(top, MAX_WORDS);
            self.words = self.words.grown(len, at);
        }
    }

    /// A run of whole lines, if there is one near enough for a fan.
    pub(crate) fn take_lines(&mut self, len: usize) -> Option<usize> {
        if self.alloc.top() + LINE + len > NEAR_WORDS {
            return None;
        }
        let at = self.alloc.take_aligned(len, LINE);
        self.grow_to_top(at);
        Some(at)
    }

    /// Bytes in use, of readers' and writer's side, free lists included.
    pub(crate) fn bytes(&self) -> usize {
        let subs = |meta: &Meta| {
            meta.subs.iter().map(OwnList::overhead).sum::<usize>()
                + meta.subs.capacity() * size_of::<OwnList<8>>()
        };
        let metas: usize = self.metas.iter().map(|meta| meta.own.overhead() + subs(meta)).sum();
        (self.alloc.top() + self.jump.table.len()) * size_of::<u32>()
            + metas
            + self.metas.capacity() * size_of::<Meta>()
            + self.root.overhead()
            + self.alloc.overhead()
    }

    pub(crate) const fn head(&self) -> usize {
        if self.v6 { HEAD6 } else { HEAD4 }
    }

    /// Puts a prefix in and returns the identity that stood there. The caller has made room.
    pub(crate) fn insert(&mut self, key: u128, len: u8, id: u32) -> Option<u32> {
        let code = self.code(id);
        let item = Item { key, len, code };
        let old = if len <= 16 { self.insert_root(item) } else { self.insert_below(item) };
        self.len += usize::from(old.is_none());
        old.map(|code| self.release_code(code))
    }

    fn insert_root(&mut self, item: Item) -> Option<u32> {
        let start = (item.key >> 112) as usize;
        let old = self.root.insert(start, item.len, item.code);
        self.repaint_root(start, item.len);
        old
    }

    fn insert_below(&mut self, item: Item) -> Option<u32> {
        let mut slot = (item.key >> 112) as usize;
        let mut depth = 16;
        let mut path = Path::default();
        let old = loop {
            match Entry::of(self.words.load(slot)) {
                Entry::Leaf(default) => {
                    let bucket = self.new_bucket(depth, default, &[item]);
                    self.words.store(slot, bucket);
                    break None;
                }
                Entry::Bucket(at) => break self.insert_bucket(slot, at, depth, item, &path),
                Entry::Fan(at, bits) => break self.insert_fan(slot, at, bits, item),
                Entry::Wide(at) => {
                    path.push(at);
                    break self.insert_wide(at, item);
                }
                Entry::Page(at) => {
                    let Some(page_depth) = self.reaches(at, depth, &item) else {
                        self.put_page_between(slot, at, depth, &item);
                        continue;
                    };
                    path.push(at);
                    if item.len <= page_depth + 8 {
                        let start = byte(item.key, page_depth);
                        let own = &mut self.meta_mut(at).own;
                        let old = own.insert(start, item.len - page_depth, item.code);
                        self.repaint_page(at, page_depth, start, item.len - page_depth, item.key);
                        break old;
                    }
                    slot = at + byte(item.key, page_depth);
                    depth = page_depth + 8;
                }
            }
        };
        if old.is_none() {
            for at in path.pages() {
                self.meta_mut(*at).total += 1;
            }
            self.widen_if_crowded(item.key, &path);
        }
        old
    }

    /// Puts an item into the bucket at `at`, which `slot` points to.
    fn insert_bucket(
        &mut self,
        slot: usize,
        at: usize,
        depth: u8,
        item: Item,
        path: &Path,
    ) -> Option<u32> {
        let mut items = Vec::with_capacity(CAPACITY + 1);
        let (default, size) = bucket::decode(self.v6, &self.words, at, depth, item.key, &mut items);
        let old = put(&mut items, item);
        let entry = self.build(depth, default, &items);
        self.words.store(slot, entry);
        self.retire(at, size);
        if let (false, Entry::Page(_), [parent]) = (self.v6, Entry::of(entry), path.pages()) {
            self.meta_mut(*parent).crowded += 1;
        }
        old
    }

    /// Puts an item into the fan at `at`, which the root's `slot` points to.
    fn insert_fan(&mut self, slot: usize, at: usize, bits: u8, item: Item) -> Option<u32> {
        let prefix = (item.key, item.len);
        if let Some(old) = self.change_line(slot, (at, bits), prefix, Some(item.code)) {
            return old;
        }
        let mut items = Vec::with_capacity(8 << bits);
        let default = self.decode_fan(at, bits, item.key, &mut items);
        let old = put(&mut items, item);
        let entry = self.build(16, default, &items);
        self.words.store(slot, entry);
        self.retire_fan(at, bits);
        old
    }

    fn insert_wide(&mut self, at: usize, item: Item) -> Option<u32> {
        if item.len <= 24 {
            let start = byte(item.key, 16);
            let old = self.meta_mut(at).own.insert(start, item.len - 16, item.code);
            for sub in start..start + span::<8>(item.len - 16) {
                self.repaint_wide(at, sub, 0, 0);
            }
            return old;
        }
        let (sub, start) = (byte(item.key, 16), byte(item.key, 24));
        let meta = self.meta_mut(at);
        let old = meta.subs[sub].insert(start, item.len - 24, item.code);
        if old.is_none() && meta.subs[sub].len() == CAPACITY + 1 {
            meta.crowded += 1;
        }
        self.repaint_wide(at, sub, start, item.len - 24);
        old
    }

    /// The depth of the page at `at` if `item` belongs into it or below; nothing if the item leaves
    /// the skipped path before.
    pub(crate) fn reaches(&self, at: usize, depth: u8, item: &Item) -> Option<u8> {
        if !self.v6 {
            return Some(depth);
        }
        let (page_depth, key) = self.page_key(at);
        let same = (key ^ item.key) & mask(page_depth) == 0;
        (same && item.len > page_depth).then_some(page_depth)
    }

    /// Depth and key of an IPv6 page.
    pub(crate) fn page_key(&self, at: usize) -> (u8, u128) {
        let word = |i: usize| u128::from(self.words.load(at - KEY + i)) << (32 * i);
        (self.words.load(at - DEPTH) as u8, (0..4).map(word).sum())
    }

    /// Puts a page between `slot` and the page at `at`, where `item` leaves the skipped path.
    fn put_page_between(&mut self, slot: usize, at: usize, depth: u8, item: &Item) {
        let (page_depth, key) = self.page_key(at);
        let shared = ((key ^ item.key).leading_zeros() as u8).min(item.len - 1).min(page_depth - 8);
        let new_depth = shared & !7;
        debug_assert!(depth <= new_depth && new_depth < page_depth);
        let default = self.words.load(at - DEFAULT);
        let total = self.meta(at).total;
        let new = self.new_page(new_depth, key, default, Meta { total, ..Meta::default() });
        self.words.store(new + byte(key, new_depth), Entry::Page(at).word());
        self.words.store(slot, Entry::Page(new).word());
        // The default stands in the new page now; the old one must not hide a later change of it.
        self.set_default(at, MISS);
    }

    /// Writes the winners of the root again where the prefix (`start`, `len`) covers.
    pub(crate) fn repaint_root(&mut self, start: usize, len: u8) {
        let mut paint = core::mem::take(&mut self.paint);
        self.root.paint(start, len, &mut paint);
        for (i, code) in paint.iter().enumerate() {
            self.set_winner(start + i, 16, (start as u128 + i as u128) << 112, *code);
        }
        self.paint = paint;
    }

    /// The same for the page at `at`, whose slots lie on the way to `key`.
    pub(crate) fn repaint_page(&mut self, at: usize, depth: u8, start: usize, len: u8, key: u128) {
        let mut paint = core::mem::take(&mut self.paint);
        self.meta(at).own.paint(start, len, &mut paint);
        let path = key & mask(depth);
        for (i, code) in paint.iter().enumerate() {
            let slot = start + i;
            let inside = path | (slot as u128) << (120 - depth);
            self.set_winner(at + slot, depth + 8, inside, *code);
        }
        self.paint = paint;
    }

    /// The same for the /24 number `sub` of a wide page.
    pub(crate) fn repaint_wide(&mut self, at: usize, sub: usize, start: usize, len: u8) {
        let mut paint = core::mem::take(&mut self.paint);
        let meta = self.meta(at);
        meta.own.paint(sub, 8, &mut paint);
        let default = paint[0];
        meta.subs[sub].paint(start, len, &mut paint);
        for (i, code) in paint.iter().enumerate() {
            let slot = at + (sub << 8 | (start + i));
            let code = if *code == MISS { default } else { *code };
            if self.words.load(slot) != code {
                self.words.store(slot, code);
            }
        }
        self.paint = paint;
    }

    /// Says who wins in a slot of a level: in the slot itself, or as default of what is below.
    /// `depth` is where the slot's children start, `inside` any key in the slot.
    fn set_winner(&mut self, slot: usize, depth: u8, inside: u128, code: u32) {
        match Entry::of(self.words.load(slot)) {
            Entry::Leaf(old) if old == code => {}
            Entry::Leaf(_) => self.words.store(slot, code),
            Entry::Page(at) | Entry::Wide(at) | Entry::Fan(at, _) => self.set_default(at, code),
            Entry::Bucket(at) => {
                let mut items = Vec::with_capacity(CAPACITY);
                let (old, size) =
                    bucket::decode(self.v6, &self.words, at, depth, inside, &mut items);
                if old != code {
                    let bucket = self.new_bucket(depth, code, &items);
                    self.words.store(slot, bucket);
                    self.retire(at, size);
                }
            }
        }
    }

    pub(crate) fn set_default(&mut self, at: usize, code: u32) {
        if self.words.load(at - DEFAULT) != code {
            self.bump_ripple();
            self.words.store(at - DEFAULT, code);
            self.bump_ripple();
        }
    }

    fn bump_ripple(&self) {
        self.words.store(RIPPLE, self.words.load(RIPPLE).wrapping_add(1));
    }

    /// Turns an IPv4 page at depth 16 into a wide page if it has become crowded.
    fn widen_if_crowded(&mut self, key: u128, path: &Path) {
        let [at, ..] = *path.pages() else { return };
        let slot = (key >> 112) as usize;
        let narrow = Entry::of(self.words.load(slot)) == Entry::Page(at);
        if !self.v6 && narrow && usize::from(self.meta(at).crowded) >= WIDEN {
            self.rebuild_slot(slot, 16, key);
        }
    }

    /// Builds what `slot` points to anew, in the form that suits its prefixes now.
    pub(crate) fn rebuild_slot(&mut self, slot: usize, depth: u8, key: u128) {
        let old = Entry::of(self.words.load(slot));
        let mut items = Vec::new();
        let default = self.gather(old, depth, key & mask(depth), &mut items);
        let new = self.build(depth, default, &items);
        self.words.store(slot, new);
        self.retire_below(old, depth);
    }

    pub(crate) fn meta(&self, page: usize) -> &Meta {
        &self.metas[self.words.load(page - META) as usize]
    }

    pub(crate) fn meta_mut(&mut self, page: usize) -> &mut Meta {
        &mut self.metas[self.words.load(page - META) as usize]
    }

    pub(crate) fn new_bucket(&mut self, depth: u8, default: u32, items: &[Item]) -> u32 {
        let encoded = bucket::encode(self.v6, depth, default, items);
        let at = self.take(encoded.words().len());
        for (i, word) in encoded.words().iter().enumerate() {
            self.words.store(at + i, *word);
        }
        Entry::Bucket(at).word()
    }

    /// A page without entries, not yet linked.
    pub(crate) fn new_page(&mut self, depth: u8, key: u128, default: u32, meta: Meta) -> usize {
        let at = self.take(self.head() + 256) + self.head();
        for slot in 0..256 {
            self.words.store(at + slot, MISS);
        }
        self.head_page(at, default, meta);
        if self.v6 {
            self.words.store(at - DEPTH, depth.into());
            for word in 0..4 {
                self.words.store(at - KEY + word, ((key & mask(depth)) >> (32 * word)) as u32);
            }
            if depth == 120 {
                self.jump.insert(&self.words, at as u32);
            }
        }
        at
    }

    pub(crate) fn head_page(&mut self, at: usize, default: u32, meta: Meta) {
        let number = self.free_metas.pop().unwrap_or(self.metas.len() as u32);
        match self.metas.get_mut(number as usize) {
            Some(free) => *free = meta,
            None => self.metas.push(meta),
        }
        self.words.store(at - DEFAULT, default);
        self.words.store(at - META, number);
    }

    pub(crate) fn retire(&mut self, at: usize, len: usize) {
        self.retired.push((at, len));
    }

    /// Retires the page at `at` with its meta, not what is below.
    pub(crate) fn retire_page(&mut self, at: usize) {
        if self.v6 && self.words.load(at - DEPTH) == 120 {
            self.jump.remove(&self.words, at as u32);
        }
        self.free_meta(at);
        self.retire(at - self.head(), self.head() + 256);
    }

    pub(crate) fn free_meta(&mut self, at: usize) {
        let number = self.words.load(at - META);
        self.metas[number as usize] = Meta::default();
        self.free_metas.push(number);
    }

    pub(crate) fn code(&mut self, id: u32) -> u32 {
        near_code(id).unwrap_or_else(|| {
            let at = self.take(1);
            self.words.store(at, id);
            far_code(at)
        })
    }

    /// The identity of a code.
    pub(crate) fn id(&self, code: u32) -> u32 {
        near_id(code).unwrap_or_else(|| self.words.load(offset(code)))
    }

    /// The identity of a code that no slot holds any more; its word is retired.
    pub(crate) fn release_code(&mut self, code: u32) -> u32 {
        if near_id(code).is_none() {
            self.retire(offset(code), 1);
        }
        self.id(code)
    }
}

/// The pages from the root to a prefix.
#[derive(Default)]
pub(crate) struct Path {
    pages: [usize; 14],
    len: usize,
}

impl Path {
    pub(crate) fn push(&mut self, page: usize) {
        self.pages[self.len] = page;
        self.len += 1;
    }

    pub(crate) fn pages(&self) -> &[usize] {
        &self.pages[..self.len]
    }
}

/// Puts an item where it belongs among sorted ones, and returns the code that stood there.
fn put(items: &mut Vec<Item>, item: Item) -> Option<u32> {
    match items.binary_search_by_key(&(item.key, item.len), |i| (i.key, i.len)) {
        Ok(i) => Some(core::mem::replace(&mut items[i], item).code),
        Err(i) => {
            items.insert(i, item);
            None
        }
    }
}

/// The byte of a key at `depth` bits.
pub(crate) const fn byte(key: u128, depth: u8) -> usize {
    (key >> (120 - depth) & 0xff) as usize
}
