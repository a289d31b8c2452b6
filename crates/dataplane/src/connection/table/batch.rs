//! Work on many connections at once: what all of them will touch is fetched before the first of them
//! is looked at.

use super::hash::{Hashing, Work};
use super::packed::Packed;
use super::part::{Guess, Inserted, Part, Spot, TOGETHER, View};
use super::sync::Ordering;
use super::{Table, weight};
use crate::connection::{Ended, KeyV4, KeyV6, Probe, Tracked};
use crate::packet::Version;

/// Probes that are looked up together.
const BATCH: usize = 64;

/// Keys that are looked up together: of a call with no more than these, and of one with more.
const FEW: usize = 32;
const MANY: usize = 64;

/// Some of the members of a batch: a bit for each.
#[derive(Clone, Copy, Default)]
struct Few(u64);

const _: () = assert!(FEW <= 64 && MANY <= 64 && TOGETHER <= 64);

impl Few {
    /// Member `n` is one if `is`.
    #[inline(always)]
    fn note(&mut self, n: usize, is: bool) {
        self.0 |= u64::from(is) << n;
    }

    /// Those that are not `true`.
    #[inline(always)]
    fn not(members: &[bool]) -> Self {
        let mut few = Self::default();
        let (eights, rest) = members.as_chunks::<8>();
        for (n, eight) in eights.iter().enumerate() {
            // Of eight bytes that are 0 or 1, the multiplication gathers the bits.
            let bytes = u64::from_le_bytes(eight.map(u8::from));
            few.0 |= (bytes.wrapping_mul(0x0102_0408_1020_4080) >> 56 ^ 0xff) << (8 * n);
        }
        for (n, member) in rest.iter().enumerate() {
            few.note(8 * eights.len() + n, !*member);
        }
        few
    }

    /// How many.
    #[inline(always)]
    fn len(self) -> usize {
        self.0.count_ones() as usize
    }
}

impl Iterator for Few {
    type Item = usize;

    #[inline(always)]
    fn next(&mut self) -> Option<usize> {
        let first = self.0.trailing_zeros() as usize;
        self.0 &= self.0.wrapping_sub(1);
        (first < 64).then_some(first)
    }
}

/// [`Table::contains_v4`] and [`Table::contains_v6`].
pub(super) struct Contains<'a, K: Packed> {
    pub(super) part: &'a Part<K>,
    pub(super) keys: &'a [K],
    pub(super) found: &'a mut [bool],
}

impl<K: Packed> Work for Contains<'_, K> {
    type Output = ();

    #[inline(always)]
    fn run(self, hashing: &impl Hashing) {
        let Self { part, keys, found } = self;
        let (view, len) = (part.view(), keys.len().min(found.len()));
        // Few keys should not pay for room for many.
        if len <= FEW {
            let (mut spots, mut guesses) = ([Spot::NOWHERE; FEW], [Guess::NOWHERE; FEW]);
            let (keys, found) = (&keys[..len], &mut found[..len]);
            hash(&view, hashing, keys, &mut spots);
            guess(&view, &spots[..len], &mut guesses);
            return confirm(part, keys, &spots, &guesses, found);
        }
        // While the buckets of some keys and the places of those before are on their way, others are
        // hashed.
        let chunk = |n: usize| (n * MANY).min(len)..(n * MANY + MANY).min(len);
        let (mut spots, mut guesses) = ([[Spot::NOWHERE; MANY]; 3], [[Guess::NOWHERE; MANY]; 2]);
        for n in 0..len.div_ceil(MANY) + 2 {
            hash(&view, hashing, &keys[chunk(n)], &mut spots[n % 3]);
            if let Some(n) = n.checked_sub(1) {
                guess(&view, &spots[n % 3][..chunk(n).len()], &mut guesses[n % 2]);
            }
            if let Some(n) = n.checked_sub(2) {
                let found = &mut found[chunk(n)];
                confirm(part, &keys[chunk(n)], &spots[n % 3], &guesses[n % 2], found);
            }
        }
    }
}

/// First pass: where keys belong. One loop after another, so that the compiler finds vectors.
#[inline(always)]
fn hash<K: Packed, const N: usize>(
    view: &View<'_, K>,
    hashing: &impl Hashing,
    keys: &[K],
    spots: &mut [Spot; N],
) {
    let mut hashes = [0; N];
    for (key, hash) in keys.iter().zip(&mut hashes) {
        *hash = key.hash(hashing);
    }
    for (hash, spot) in hashes.iter().zip(&mut *spots) {
        *spot = view.spot(*hash);
    }
    for (spot, _) in spots.iter().zip(keys) {
        view.prefetch_bucket(*spot);
    }
}

/// Second pass: in which slots they most likely are.
#[inline(always)]
fn guess<K: Packed>(view: &View<'_, K>, spots: &[Spot], guesses: &mut [Guess]) {
    for (spot, guess) in spots.iter().zip(guesses) {
        *guess = view.guess(*spot);
        view.prefetch_key(*guess);
    }
}

/// Third pass: whether they are there, or anywhere else.
#[inline(always)]
fn confirm<K: Packed>(
    part: &Part<K>,
    keys: &[K],
    spots: &[Spot],
    guesses: &[Guess],
    found: &mut [bool],
) {
    let view = part.view();
    for ((key, guess), found) in keys.iter().zip(guesses).zip(&mut *found) {
        *found = view.confirms(*guess, key);
    }
    for n in Few::not(found) {
        found[n] = part.contains(&keys[n], spots[n]);
    }
}

/// Where to look for a probe's connection.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) spot: Spot,
    pub(super) guess: Guess,
}

impl Place {
    const NOWHERE: Self = Self { spot: Spot::NOWHERE, guess: Guess::NOWHERE };
}

/// [`Table::track`].
pub(super) struct Track<'a> {
    pub(super) table: &'a Table,
    pub(super) now: u32,
    pub(super) generation: u32,
    pub(super) probes: &'a [Probe],
    pub(super) out: &'a mut [Tracked],
}

impl Work for Track<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self, hashing: &impl Hashing) {
        let Self { table, now, generation, probes, out } = self;
        // Connections that must be settled: one bit of 256 for each, so that a later packet of the
        // same one waits for its turn. Two that share a bit cost a detour, nothing else.
        let mut waiting = [0u64; 4];
        for (probes, out) in probes.chunks(BATCH).zip(out.chunks_mut(BATCH)) {
            let mut places = [Place::NOWHERE; BATCH];
            prefetch(table, hashing, probes, &mut places);
            for ((probe, place), out) in probes.iter().zip(&places).zip(out) {
                let bits = place.spot.low_bits();
                let bit = 1 << (bits & 63);
                let word = &mut waiting[bits >> 6 & 3];
                let waits = *word & bit != 0;
                *out = match probe.key.version {
                    Version::V4 => table.track_one(&table.v4, now, generation, probe, place, waits),
                    Version::V6 => table.track_one(&table.v6, now, generation, probe, place, waits),
                };
                if matches!(out, Tracked::Judge { .. }) {
                    *word |= bit;
                }
            }
        }
    }
}

/// Fetches what looking up a batch of probes will touch, and leaves where that is.
#[inline(always)]
fn prefetch(table: &Table, hashing: &impl Hashing, probes: &[Probe], places: &mut [Place; BATCH]) {
    let (v4, v6) = (table.v4.view(), table.v6.view());
    for (Probe { key, .. }, place) in probes.iter().zip(&mut *places) {
        match key.version {
            Version::V4 => {
                place.spot = v4.spot(KeyV4::new(key).hash(hashing));
                v4.prefetch_bucket(place.spot);
            }
            Version::V6 => {
                place.spot = v6.spot(KeyV6::new(key).hash(hashing));
                v6.prefetch_bucket(place.spot);
            }
        }
    }
    for (probe, place) in probes.iter().zip(places) {
        match probe.key.version {
            Version::V4 => {
                place.guess = v4.guess(place.spot);
                table.v4.prefetch(place.guess);
            }
            Version::V6 => {
                place.guess = v6.guess(place.spot);
                table.v6.prefetch(place.guess);
            }
        }
    }
}

/// [`Table::insert_all`].
pub(super) struct InsertAll<'a> {
    pub(super) table: &'a Table,
    pub(super) connections: &'a [Ended],
}

impl Work for InsertAll<'_> {
    type Output = usize;

    #[inline(always)]
    fn run(self, hashing: &impl Hashing) -> usize {
        let mut inserted = 0;
        // A loop, as a closure would not be inlined.
        for batch in self.connections.chunks(TOGETHER) {
            inserted += insert(self.table, hashing, batch);
        }
        inserted
    }
}

/// Inserts at most [`TOGETHER`].
#[inline(always)]
fn insert(table: &Table, hashing: &impl Hashing, batch: &[Ended]) -> usize {
    let weights = batch.iter().map(|ended| weight(ended.connection.half_open())).sum();
    let before = table.occupancy.fetch_add(weights, Ordering::Relaxed) as u32 as usize;
    if before + batch.len() <= table.config.capacity {
        return insert_of(table, &table.v4, hashing, Version::V4, batch)
            + insert_of(table, &table.v6, hashing, Version::V6, batch);
    }
    table.occupancy.fetch_sub(weights, Ordering::Relaxed);
    match batch {
        // No room for all: see how many fit.
        [_, _, ..] => batch.chunks(1).map(|one| table.insert_all(one)).sum(),
        _ => 0,
    }
}

/// Inserts those of `batch` that have this version. All are counted already.
#[inline(always)]
fn insert_of<K: Packed>(
    table: &Table,
    part: &Part<K>,
    hashing: &impl Hashing,
    version: Version,
    batch: &[Ended],
) -> usize {
    let mut members = Few::default();
    for (n, ended) in batch.iter().enumerate() {
        members.note(n, ended.key.version == version);
    }
    let mut slots = [0; TOGETHER];
    let taken = part.reserve(&mut slots[..members.len()]);
    let (mut spots, view) = ([Spot::NOWHERE; TOGETHER], part.view());
    for (n, spot) in members.zip(&mut spots) {
        *spot = view.spot(K::pack(&batch[n].key).hash(hashing));
        view.prefetch_bucket(*spot);
    }
    for (n, slot) in members.zip(&slots[..taken]) {
        part.fill(*slot, &K::pack(&batch[n].key), &batch[n].connection);
    }
    let mut inserted = 0;
    for (at, n) in members.enumerate() {
        let connection = &batch[n].connection;
        let done = at < taken && {
            let key = K::pack(&batch[n].key);
            matches!(part.publish_or_free(&key, spots[at], slots[at]), Inserted::Done)
        };
        if done {
            if table.quotas.active() {
                table.quotas.adopt(connection.grant.source, connection.half_open());
            }
            inserted += 1;
        } else {
            table.occupancy.fetch_sub(weight(connection.half_open()), Ordering::Relaxed);
        }
    }
    inserted
}
