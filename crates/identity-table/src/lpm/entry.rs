//! What one word of the structure says: an answer, or where to go on.
//!
//! ```text
//! 0ii iiii…  leaf: identity i
//! 100 oooo…  bucket of a few prefixes at word 2 o
//! 101 oooo…  page, whose 256 entries begin at word 2 o
//! 110 oooo…  leaf: the identity, too large for the first form, stands in word 2 o; or o is 0 and
//!            nothing is said here, so what a shorter prefix said stands
//! 1110 kkk…  fan of 2^k lines, the first at word 16 o (IPv4)
//! 1111 oooo… wide page, whose 65,536 leaves begin at word 2 o (IPv4)
//! ```
//!
//! So the sign bit tells a plain answer from all else. An entry that is a leaf is called a code.

/// No prefix says anything here.
pub(crate) const MISS: u32 = FAR;
/// The first entry that is a bucket, and the first that is no plain answer.
pub(crate) const BUCKET: u32 = 0b100 << 29;
const PAGE: u32 = 0b101 << 29;
const FAR: u32 = 0b110 << 29;
const FAN: u32 = 0b1110 << 28;
/// The first entry that is a wide page.
pub(crate) const WIDE: u32 = 0b1111 << 28;
const KIND: u32 = 0b111 << 29;
/// Where the bits of a fan stand.
const FAN_BITS: u32 = 25;

/// Most words a structure may have: what an entry can point to. 4 GiB.
pub(crate) const MAX_WORDS: usize = 1 << 30;

/// Fans and wide pages lie below this word: their entries have fewer bits for the place. 2 GiB.
pub(crate) const NEAR_WORDS: usize = 1 << 29;

/// An entry, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// A code: MISS, an identity, or where the identity stands.
    Leaf(u32),
    Bucket(usize),
    Page(usize),
    Wide(usize),
    /// Where its lines begin, and how many bits choose one.
    Fan(usize, u8),
}

impl Entry {
    pub(crate) const fn of(word: u32) -> Self {
        match word & KIND {
            BUCKET => Self::Bucket(offset(word)),
            PAGE => Self::Page(offset(word)),
            KIND if word >= WIDE => Self::Wide(wide_offset(word)),
            KIND => Self::Fan(fan_offset(word), fan_bits(word)),
            _ => Self::Leaf(word),
        }
    }

    pub(crate) const fn word(self) -> u32 {
        match self {
            Self::Leaf(code) => code,
            Self::Bucket(at) => BUCKET | (at / 2) as u32,
            Self::Page(at) => PAGE | (at / 2) as u32,
            Self::Wide(at) => WIDE | (at / 2) as u32,
            Self::Fan(at, bits) => FAN | (bits as u32) << FAN_BITS | (at / 16) as u32,
        }
    }
}

/// Where an entry points that is neither a plain answer, a wide page nor a fan.
#[inline]
pub(crate) const fn offset(word: u32) -> usize {
    (word & !KIND) as usize * 2
}

/// Where the codes of a wide page begin.
#[inline]
pub(crate) const fn wide_offset(word: u32) -> usize {
    (word & !WIDE) as usize * 2
}

/// Where the lines of a fan begin.
#[inline]
pub(crate) const fn fan_offset(word: u32) -> usize {
    (word & ((1 << FAN_BITS) - 1)) as usize * 16
}

/// How many bits choose a line of a fan.
#[inline]
pub(crate) const fn fan_bits(word: u32) -> u8 {
    (word >> FAN_BITS) as u8 & 7
}

#[inline]
pub(crate) const fn is_fan(word: u32) -> bool {
    word >> 28 == FAN >> 28
}

#[inline]
pub(crate) const fn is_bucket(word: u32) -> bool {
    word & KIND == BUCKET
}

#[inline]
pub(crate) const fn is_page(word: u32) -> bool {
    word & KIND == PAGE
}

/// The identity of a code that is a plain answer; nothing for all other entries.
#[inline]
pub(crate) const fn near_id(word: u32) -> Option<u32> {
    if word < BUCKET { Some(word) } else { None }
}

/// The code of an identity, or nothing if it must stand elsewhere.
pub(crate) const fn near_code(id: u32) -> Option<u32> {
    near_id(id)
}

/// The code of an identity that stands at word `at` (even).
pub(crate) const fn far_code(at: usize) -> u32 {
    FAR | (at / 2) as u32
}
