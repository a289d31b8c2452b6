//! Fans: some hundred scattered IPv4 prefixes of one /16, a cache line for each block of it.
//!
//! A lookup among millions of prefixes waits for memory, so what counts is the lines it touches. A
//! fan of `2^k` lines has one for each value of the `k` bits after the first 16, next to each other:
//! the root's entry says where they begin and the address which one it is, and that line has the
//! answer. A fan is never changed; a new one takes its place.
//!
//! ```text
//! header  count of own | 6 own, 2 words each | count of all | default | -    16 words
//! line    8 keys | 8 masks, 16 bits each | 8 codes                  16 words, 2^k times
//! own     the others, 2 words each: 16 bits of address, length - 16; code
//! ```
//!
//! A line has up to seven prefixes longer than 16 + k, the longest first, and behind them one that
//! matches all: the winner among the fan's own prefixes, those of up to 16 + k bits, or a bucket of up
//! to eight more prefixes. What no slot needs has a key that its mask cannot give.

use super::bucket::{self, CAPACITY, Item};
use super::entry::{Entry, MISS, is_bucket, offset};
use super::trie::{DEFAULT, Trie};
use super::words::Words;

/// Words of a cache line.
pub(crate) const LINE: usize = 16;
/// Most bits that choose a line.
const MOST_BITS: u8 = 7;
/// Slots of a line, the one that matches all among them.
const SLOTS: usize = 8;
/// Prefixes of a line and its bucket.
const MOST_IN_LINE: usize = SLOTS - 1 + CAPACITY;
/// Own prefixes that the header holds.
const IN_HEADER: usize = 6;
/// How far before the lines the header has the count of all prefixes.
const COUNT: usize = 3;
/// Where masks and codes of a line begin.
const MASKS: usize = 4;
const CODES: usize = 8;
/// A key that no address has under mask 0.
const NEVER: u32 = 1;

/// The bits that choose a line among so many prefixes: 5.5 in a line at most, in the mean.
fn bits_for(count: usize) -> Option<u8> {
    (1..=MOST_BITS).find(|bits| count * 2 <= 11 << bits)
}

/// The line of the 16 bits `low` after the first.
#[inline]
pub(crate) const fn line_of(bits: u8, low: u32) -> usize {
    (low >> (16 - bits)) as usize
}

fn low(item: &Item) -> u32 {
    (item.key >> 96) as u32 & 0xffff
}

impl Trie {
    /// A fan for `items` below an IPv4 slot at depth 16, sorted, or nothing if they do not suit one:
    /// too few, too many, or too many in one place.
    pub(crate) fn build_fan(&mut self, default: u32, items: &[Item]) -> Option<u32> {
        let bits = bits_for(items.len())?;
        let is_own = |item: &&Item| item.len <= 16 + bits;
        let lines = |a: &Item, b: &Item| line_of(bits, low(a)) == line_of(bits, low(b));
        let most =
            items.chunk_by(lines).map(|line| line.iter().filter(|i| !is_own(i)).count()).max();
        if most > Some(MOST_IN_LINE) {
            return None;
        }
        let own: Vec<&Item> = items.iter().filter(is_own).collect();
        let at = self.take_lines(size(bits, own.len()))? + LINE;
        self.words.store(at - LINE, own.len() as u32);
        self.words.store(at - COUNT, items.len() as u32);
        self.words.store(at - DEFAULT, default);
        for (i, item) in own.iter().enumerate() {
            let place = own_place(at, bits, i);
            self.words.store(place, low(item) << 16 | u32::from(item.len - 16));
            self.words.store(place + 1, item.code);
        }
        // Sorted: what is inside another comes after it.
        let mut winners = [MISS; 1 << MOST_BITS];
        for item in &own {
            let first = line_of(bits, low(item));
            winners[first..first + (1 << (16 + bits - item.len))].fill(item.code);
        }
        let mut rest = items;
        for (number, winner) in winners[..1 << bits].iter().enumerate() {
            let count = rest.iter().take_while(|i| line_of(bits, low(i)) == number).count();
            let (here, others) = rest.split_at(count);
            rest = others;
            let mut longer: Vec<Item> = here.iter().filter(|i| !is_own(i)).copied().collect();
            longer.sort_by_key(|item| core::cmp::Reverse(item.len));
            self.write_line(at + number * LINE, *winner, &longer);
        }
        Some(Entry::Fan(at, bits).word())
    }

    /// One line, of prefixes that are sorted from the longest to the shortest.
    fn write_line(&mut self, at: usize, winner: u32, longer: &[Item]) {
        let (here, others) = longer.split_at(longer.len().min(SLOTS - 1));
        let last = if others.is_empty() { winner } else { self.new_bucket(16, winner, others) };
        let mut slots = [(NEVER, 0, MISS); SLOTS];
        for (slot, item) in slots.iter_mut().zip(here) {
            *slot = (low(item), mask16(item.len), item.code);
        }
        slots[here.len()] = (0, 0, last);
        for (i, pair) in slots.chunks(2).enumerate() {
            self.words.store(at + i, pair[0].0 | pair[1].0 << 16);
            self.words.store(at + MASKS + i, pair[0].1 | pair[1].1 << 16);
        }
        for (i, (_, _, code)) in slots.iter().enumerate() {
            self.words.store(at + CODES + i, *code);
        }
    }

    /// Adds the prefixes of the fan at `at`, sorted; `base` is any key inside its /16. Returns the
    /// default.
    pub(crate) fn decode_fan(&self, at: usize, bits: u8, base: u128, out: &mut Vec<Item>) -> u32 {
        let first = out.len();
        let base = base >> 112 << 112;
        for i in 0..self.words.load(at - LINE) as usize {
            let place = own_place(at, bits, i);
            let own = self.words.load(place);
            let key = base | u128::from(own >> 16) << 96;
            out.push(Item { key, len: 16 + own as u8, code: self.words.load(place + 1) });
        }
        for line in 0..1 << bits {
            self.decode_line(at + line * LINE, base, out);
        }
        out[first..].sort_unstable_by_key(|item| (item.key, item.len));
        self.words.load(at - DEFAULT)
    }

    /// Adds the prefixes of the line at `at`, in no order; returns what it has for all others: a code,
    /// and the bucket that it stands in, with its size.
    fn decode_line(
        &self,
        at: usize,
        base: u128,
        out: &mut Vec<Item>,
    ) -> (u32, Option<(usize, usize)>) {
        for slot in 0..SLOTS {
            let half = |at: usize| self.words.load(at + slot / 2) >> (slot % 2 * 16) & 0xffff;
            let (key, mask) = (half(at), half(at + MASKS));
            let code = self.words.load(at + CODES + slot);
            if mask != 0 {
                let len = 16 + mask.count_ones() as u8;
                out.push(Item { key: base | u128::from(key) << 96, len, code });
            } else if is_bucket(code) {
                let bucket = offset(code);
                let (winner, size) = bucket::decode(false, &self.words, bucket, 16, base, out);
                return (winner, Some((bucket, size)));
            } else {
                return (code, None);
            }
        }
        (MISS, None)
    }

    /// Puts a fan in the place of the one at `at`, which the root's `slot` points to, with `code` at a
    /// prefix of it or, without a code, without that prefix: a copy of which one line is written anew.
    /// Answers with the code that stood there; or with nothing done if the change is not that small.
    pub(crate) fn change_line(
        &mut self,
        slot: usize,
        (at, bits): (usize, u8),
        (key, len): (u128, u8),
        code: Option<u32>,
    ) -> Option<Option<u32>> {
        if len <= 16 + bits {
            return None;
        }
        let item = Item { key, len, code: code.unwrap_or(MISS) };
        let line = line_of(bits, low(&item)) * LINE;
        let mut items = Vec::with_capacity(MOST_IN_LINE + 1);
        let (winner, bucket) = self.decode_line(at + line, key >> 112 << 112, &mut items);
        let place = items.iter().position(|item| item.key == key && item.len == len);
        let old = match (place, code) {
            (Some(place), Some(code)) => Some(core::mem::replace(&mut items[place].code, code)),
            (Some(place), None) => Some(items.swap_remove(place).code),
            (None, Some(_)) => {
                items.push(item);
                None
            }
            (None, None) => return Some(None),
        };
        let count = self.words.load(at - COUNT) as usize;
        let count = count + usize::from(old.is_none()) - usize::from(code.is_none());
        // One that could do with half of its lines stays, so that it does not come and go.
        let suits = bits_for(count).is_some_and(|wanted| (bits - 1..=bits).contains(&wanted));
        if items.len() > MOST_IN_LINE || count <= CAPACITY || !suits {
            return None;
        }
        items.sort_unstable_by_key(|item| (core::cmp::Reverse(item.len), item.key));
        let size = size(bits, self.words.load(at - LINE) as usize);
        let new = self.take_lines(size)? + LINE;
        self.words.copy(at - LINE, new - LINE, size);
        self.words.store(new - COUNT, count as u32);
        self.write_line(new + line, winner, &items);
        self.words.store(slot, Entry::Fan(new, bits).word());
        self.retire(at - LINE, size);
        if let Some((at, size)) = bucket {
            self.retire(at, size);
        }
        Some(old)
    }

    /// Retires the fan at `at` with its buckets.
    pub(crate) fn retire_fan(&mut self, at: usize, bits: u8) {
        for line in 0..1 << bits {
            let (_, bucket) = self.decode_line(at + line * LINE, 0, &mut Vec::new());
            if let Some((at, size)) = bucket {
                self.retire(at, size);
            }
        }
        self.retire(at - LINE, size(bits, self.words.load(at - LINE) as usize));
    }
}

/// Words of a fan with so many own prefixes.
const fn size(bits: u8, own: usize) -> usize {
    let tail = own.saturating_sub(IN_HEADER) * 2;
    LINE + (LINE << bits) + tail.next_multiple_of(LINE)
}

/// Where own prefix number `i` stands.
const fn own_place(at: usize, bits: u8, i: usize) -> usize {
    match i.checked_sub(IN_HEADER) {
        None => at - LINE + 1 + 2 * i,
        Some(i) => at + (LINE << bits) + 2 * i,
    }
}

/// The bits after the first 16 that a prefix of `len` bits gives.
const fn mask16(len: u8) -> u32 {
    0xffff_0000 >> (len - 16) & 0xffff
}

/// What the line at `at` says to the 16 bits `low` of an address: a code, MISS, or a bucket of depth
/// 16.
///
/// # Safety
/// A fan must have been published with this line, and the reader pinned since.
#[inline]
pub(crate) unsafe fn search(words: &Words, at: usize, low: u32) -> u32 {
    // SAFETY: a line has sixteen words, and nobody writes a published one.
    let keys = unsafe { words.load_four(at) };
    // SAFETY: as above.
    let masks = unsafe { words.load_four(at + MASKS) };
    let slot = first_match(keys, masks, low as u16);
    // SAFETY: as above; a slot is below 8.
    unsafe { words.load_unchecked(at + CODES + slot) }
}

/// The first of eight keys that `low` has under its mask. There is always one.
#[inline]
#[cfg(target_arch = "x86_64")]
fn first_match(keys: u128, masks: u128, low: u16) -> usize {
    // SAFETY: every x86-64 has SSE2.
    unsafe { first_match_sse2(keys, masks, low) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "sse2")]
#[inline]
fn first_match_sse2(keys: u128, masks: u128, low: u16) -> usize {
    use core::arch::x86_64::*;
    let vector = |number: u128| _mm_set_epi64x((number >> 64) as i64, number as i64);
    let masked = _mm_and_si128(_mm_set1_epi16(low as i16), vector(masks));
    let same = _mm_movemask_epi8(_mm_cmpeq_epi16(masked, vector(keys)));
    (same as u32 | 1 << 15).trailing_zeros() as usize / 2
}

#[inline]
#[cfg(not(target_arch = "x86_64"))]
fn first_match(keys: u128, masks: u128, low: u16) -> usize {
    let same = |slot: &usize| (low & (masks >> (16 * slot)) as u16) == (keys >> (16 * slot)) as u16;
    (0..SLOTS - 1).find(same).unwrap_or(SLOTS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lpm::walk4;
    use proptest::prelude::*;

    fn sorted(picks: Vec<(u16, u8, u32)>) -> Vec<Item> {
        let item = |(low, len, code): (u16, u8, u32)| {
            let low = u32::from(low) & mask16(len);
            Item { key: 0x0a01 << 112 | u128::from(low) << 96, len, code }
        };
        let mut items: Vec<Item> = picks.into_iter().map(item).collect();
        items.sort_by_key(|item| (item.key, item.len));
        items.dedup_by_key(|item| (item.key, item.len));
        items
    }

    proptest! {
        #[test]
        fn a_fan_answers_as_its_prefixes_and_reads_back(
            picks in prop::collection::vec((any::<u16>(), 17..=32_u8, 1..9_u32), 2..500),
            default in prop_oneof![Just(MISS), Just(77_u32)],
            lows in prop::collection::vec(any::<u16>(), 100),
        ) {
            let items = sorted(picks);
            let mut trie = Trie::new(false, 1 << 16);
            let Some(entry) = trie.build_fan(default, &items) else { return Ok(()) };
            let Entry::Fan(at, bits) = Entry::of(entry) else { panic!("{entry:x}") };
            prop_assert_eq!(at % LINE, 0);
            let mut back = Vec::new();
            prop_assert_eq!(trie.decode_fan(at, bits, 0x0a01 << 112, &mut back), default);
            prop_assert_eq!(&back, &items);
            trie.words.store(0x0a01, entry);
            let near = items.iter().map(|item| low(item) as u16);
            for low in near.flat_map(|low| [low, low ^ 1, low.wrapping_sub(1)]).chain(lows) {
                let key = 0x0a01 << 112 | u128::from(low) << 96;
                let inside = |item: &&Item| (key ^ item.key) >> (128 - item.len) == 0;
                let longest = items.iter().filter(inside).max_by_key(|item| item.len);
                let want = longest.map_or(default, |item| item.code);
                // SAFETY: nobody else has the structure.
                let got = unsafe { walk4::lookup(&trie.words, 0x0a01 << 16 | u32::from(low)) };
                prop_assert_eq!(got.get(), if want == MISS { 0 } else { want }, "{:x}", low);
            }
            let top = trie.alloc.top();
            trie.retire_fan(at, bits);
            let retired: usize = trie.retired.iter().map(|(_, len)| len.next_multiple_of(2)).sum();
            let first = trie.retired.iter().map(|(at, _)| *at).min();
            prop_assert_eq!(retired, top - first.unwrap());
        }
    }

    /// Prefixes come and go under one /16, and around it: from a leaf to a bucket, a fan, a page, and
    /// back.
    #[test]
    fn changes_of_a_fan_agree_with_a_list() {
        let mut seed = 7_u64;
        let mut random = move |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % below
        };
        let mut trie = Trie::new(false, 1 << 16);
        let mut list = std::collections::BTreeMap::new();
        let mut fans = 0;
        for step in 0..6000_u32 {
            // Grows for a while, shrinks for a while; now and then all in one place.
            let grows = step / 1000 % 2 == 0;
            let spread = if step / 500 % 3 == 2 { 64 } else { 1 << 16 };
            let key = 0x0a01 << 112 | u128::from(random(spread)) << 96;
            if grows == (random(10) < 7) {
                let len = [8, 15, 16, 17, 20, 24, 30, 32, 32, 32][random(10) as usize];
                let key = key & crate::prefix::mask(len);
                assert_eq!(trie.insert(key, len, step + 1), list.insert((key, len), step + 1));
            } else if !list.is_empty() {
                let gone = *list.keys().nth(random(list.len() as u64) as usize).unwrap();
                assert_eq!(trie.remove(gone.0, gone.1), list.remove(&gone));
                assert_eq!(trie.remove(gone.0, gone.1), None);
            }
            fans += u32::from(matches!(Entry::of(trie.words.load(0x0a01)), Entry::Fan(..)));
            for _ in 0..20 {
                let low = random(spread) as u32;
                let key = 0x0a01 << 112 | u128::from(low) << 96;
                let covers = |(prefix, len): &(u128, u8)| (key ^ prefix) >> (128 - len) == 0;
                let longest = list.iter().filter(|(at, _)| covers(at)).max_by_key(|(at, _)| at.1);
                // SAFETY: nobody else has the structure.
                let got = unsafe { walk4::lookup(&trie.words, 0x0a01 << 16 | low) };
                assert_eq!(got.get(), longest.map_or(0, |(_, id)| *id), "step {step}, {low:x}");
            }
        }
        assert!((1000..5500).contains(&fans), "a fan after {fans} of 6000 steps");
        let mut items = Vec::new();
        assert_eq!(trie.scan(0, usize::MAX, &mut items), None);
        let all: Vec<_> = items.iter().map(|i| ((i.key, i.len), trie.id(i.code))).collect();
        assert_eq!(all, list.into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn what_does_not_suit_is_refused() {
        let mut trie = Trie::new(false, 1 << 16);
        let crowd = |count: u16| sorted((0..count).map(|low| (low, 32, 1)).collect());
        assert!(trie.build_fan(MISS, &crowd(MOST_IN_LINE as u16)).is_some());
        assert!(trie.build_fan(MISS, &crowd(MOST_IN_LINE as u16 + 1)).is_none());
        let spread = |count: u32| sorted((0..count).map(|i| ((i * 90) as u16, 32, 1)).collect());
        assert!(trie.build_fan(MISS, &spread(700)).is_some());
        assert!(trie.build_fan(MISS, &spread(720)).is_none());
    }
}
