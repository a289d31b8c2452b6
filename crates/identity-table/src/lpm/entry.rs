//! What one word of the structure says: an answer, or where to go on.
//!
//! ```text
//! 00 cccc…  leaf: code 0 says nothing here, so what a shorter prefix said stands
//!             code c < 2^29: identity c - 1
//!             else: the identity stands in the word at 2 (c - 2^29)
//! 01 oooo…  bucket of a few prefixes at word o
//! 10 oooo…  page of 256 entries at word o
//! 11 oooo…  wide page of 65,536 leaves at word o (IPv4)
//! ```

/// No prefix says anything here.
pub(crate) const MISS: u32 = 0;
/// The first code whose identity stands elsewhere.
pub(crate) const FAR: u32 = 1 << 29;
/// The first entry that is no leaf.
pub(crate) const BUCKET: u32 = 1 << 30;
/// The first entry that is a page.
pub(crate) const PAGE: u32 = 2 << 30;
/// The first entry that is a wide page.
pub(crate) const WIDE: u32 = 3 << 30;

const OFFSET: u32 = BUCKET - 1;
/// Most words a structure may have: what an entry can point to.
pub(crate) const MAX_WORDS: usize = 1 << 30;

/// An entry, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    Leaf(u32),
    Bucket(usize),
    Page(usize),
    Wide(usize),
}

impl Entry {
    pub(crate) const fn of(word: u32) -> Self {
        match word >> 30 {
            0 => Self::Leaf(word),
            1 => Self::Bucket(offset(word)),
            2 => Self::Page(offset(word)),
            _ => Self::Wide(offset(word)),
        }
    }

    pub(crate) const fn word(self) -> u32 {
        match self {
            Self::Leaf(code) => code,
            Self::Bucket(at) => BUCKET | at as u32,
            Self::Page(at) => PAGE | at as u32,
            Self::Wide(at) => WIDE | at as u32,
        }
    }
}

/// Where an entry that is no leaf points.
#[inline]
pub(crate) const fn offset(word: u32) -> usize {
    (word & OFFSET) as usize
}

/// The code of an identity that fits, or nothing if it must stand elsewhere.
pub(crate) const fn near_code(id: u32) -> Option<u32> {
    if id < FAR - 1 { Some(id + 1) } else { None }
}

/// The code of an identity that stands at word `at` (even).
pub(crate) const fn far_code(at: usize) -> u32 {
    FAR | (at / 2) as u32
}

/// Where the identity of a far code stands.
#[inline]
pub(crate) const fn far_offset(code: u32) -> usize {
    (code - FAR) as usize * 2
}
