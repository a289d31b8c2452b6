//! Keys in the table: packed into words, in an array of their own.
//!
//! A look-up has to compare one key with the one it asks for. Kept apart from the states, a million
//! IPv4 keys take 16 MB instead of every fourth word of 64 MB.

use super::hash::Hashing;
use super::memory::Zeroed;
use super::sync::{AtomicU64, Ordering};
use crate::connection::Key;
use crate::connection::key::{KeyV4, KeyV6};
use crate::prefetch::prefetch_at;

/// A packed key.
pub(super) trait Packed: Copy + Eq + std::fmt::Debug {
    /// Where the table keeps one.
    type Cell: Zeroed;

    /// Of a key.
    fn pack(key: &Key) -> Self;

    /// The key back.
    fn unpack(&self) -> Key;

    /// Its hash.
    fn hash(&self, hashing: &impl Hashing) -> u64;

    /// Whether `cell` holds it, as far as a look without a lock can tell.
    fn is_in(&self, cell: &Self::Cell) -> bool;

    /// Puts it into `cell`.
    fn put(&self, cell: &Self::Cell);

    /// Fetches a cell into the cache, if there is such a one.
    fn fetch(cells: &[Self::Cell], index: usize);

    /// What is in `cell`.
    fn get(cell: &Self::Cell) -> Self;
}

/// Memory of an IPv4 key: never across two cache lines.
#[derive(Debug)]
#[repr(C, align(16))]
pub(super) struct CellV4([AtomicU64; 2]);

/// Memory of an IPv6 key.
#[derive(Debug)]
#[repr(C)]
pub(super) struct CellV6([AtomicU64; 5]);

const _: () = assert!(cfg!(loom) || size_of::<CellV4>() == 16);

// SAFETY: atomics only.
#[allow(unsafe_code)]
unsafe impl Zeroed for CellV4 {
    fn zero() -> Self {
        Self(zeros())
    }
}

// SAFETY: atomics only.
#[allow(unsafe_code)]
unsafe impl Zeroed for CellV6 {
    fn zero() -> Self {
        Self(zeros())
    }
}

fn zeros<const N: usize>() -> [AtomicU64; N] {
    std::array::from_fn(|_| AtomicU64::new(0))
}

#[inline(always)]
fn equal<const N: usize>(cell: &[AtomicU64; N], words: &[u64; N]) -> bool {
    // Without a branch for each word.
    let difference = |(cell, word): (&AtomicU64, &u64)| cell.load(Ordering::Relaxed) ^ word;
    cell.iter().zip(words).map(difference).fold(0, |all, one| all | one) == 0
}

fn store<const N: usize>(cell: &[AtomicU64; N], words: &[u64; N]) {
    for (cell, word) in cell.iter().zip(words) {
        cell.store(*word, Ordering::Relaxed);
    }
}

fn load<const N: usize>(cell: &[AtomicU64; N]) -> [u64; N] {
    std::array::from_fn(|n| cell[n].load(Ordering::Relaxed))
}

impl Packed for KeyV4 {
    type Cell = CellV4;

    #[inline(always)]
    fn pack(key: &Key) -> Self {
        Self::new(key)
    }

    fn unpack(&self) -> Key {
        self.key()
    }

    #[inline(always)]
    fn hash(&self, hashing: &impl Hashing) -> u64 {
        hashing.two(self.0[0], self.0[1])
    }

    #[inline(always)]
    fn is_in(&self, cell: &CellV4) -> bool {
        equal(&cell.0, &self.0)
    }

    #[inline(always)]
    fn put(&self, cell: &CellV4) {
        store(&cell.0, &self.0);
    }

    #[inline(always)]
    fn fetch(cells: &[CellV4], index: usize) {
        prefetch_at(cells, index);
    }

    fn get(cell: &CellV4) -> Self {
        Self(load(&cell.0))
    }
}

impl Packed for KeyV6 {
    type Cell = CellV6;

    #[inline(always)]
    fn pack(key: &Key) -> Self {
        Self::new(key)
    }

    fn unpack(&self) -> Key {
        self.key()
    }

    #[inline(always)]
    fn hash(&self, hashing: &impl Hashing) -> u64 {
        let [a, b, c, d, e] = self.0;
        hashing.five(a, b, c, d, e)
    }

    #[inline(always)]
    fn is_in(&self, cell: &CellV6) -> bool {
        equal(&cell.0, &self.0)
    }

    #[inline(always)]
    fn put(&self, cell: &CellV6) {
        store(&cell.0, &self.0);
    }

    #[inline(always)]
    fn fetch(cells: &[CellV6], index: usize) {
        // Half of them cross a line. Where the next one begins, this one ends.
        prefetch_at(cells, index);
        prefetch_at(cells, index + 1);
    }

    fn get(cell: &CellV6) -> Self {
        Self(load(&cell.0))
    }
}
