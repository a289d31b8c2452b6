//! The prefixes that end inside one level, and which of them wins in each slot.

/// One prefix of a level: `len` bits from the level's first bit, at slot `start`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Own {
    start: u16,
    len: u8,
    code: u32,
}

/// The prefixes that end inside a level of `BITS` bits, sorted so that each stands before what is
/// inside it. A level has `2^BITS` slots; a prefix of `len` bits covers `2^(BITS - len)` of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct OwnList<const BITS: u8> {
    list: Vec<Own>,
}

impl<const BITS: u8> OwnList<BITS> {
    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(crate) fn overhead(&self) -> usize {
        self.list.capacity() * size_of::<Own>()
    }

    /// Adds one that sorts after all that are there.
    pub(crate) fn push(&mut self, start: usize, len: u8, code: u32) {
        self.list.push(Own { start: start as u16, len, code });
    }

    pub(crate) fn shrink(&mut self) {
        self.list.shrink_to_fit();
    }

    /// Puts a prefix in and returns the code that stood there.
    pub(crate) fn insert(&mut self, start: usize, len: u8, code: u32) -> Option<u32> {
        let own = Own { start: start as u16, len, code };
        match self.find(start, len) {
            Ok(i) => Some(core::mem::replace(&mut self.list[i], own).code),
            Err(i) => {
                self.list.insert(i, own);
                None
            }
        }
    }

    /// Takes a prefix out and returns its code.
    pub(crate) fn remove(&mut self, start: usize, len: u8) -> Option<u32> {
        let i = self.find(start, len).ok()?;
        let code = self.list.remove(i).code;
        if self.list.capacity() > 8 && self.list.len() * 4 < self.list.capacity() {
            self.list.shrink_to(self.list.len() * 2);
        }
        Some(code)
    }

    /// The code at exactly this prefix.
    pub(crate) fn get(&self, start: usize, len: u8) -> Option<u32> {
        self.find(start, len).ok().map(|i| self.list[i].code)
    }

    /// All as (start, len, code), sorted.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, u8, u32)> {
        self.list.iter().map(|own| (own.start.into(), own.len, own.code))
    }

    /// The winner, or MISS, in each slot that the prefix (`start`, `len`) covers; clears `out` first.
    pub(crate) fn paint(&self, start: usize, len: u8, out: &mut Vec<u32>) {
        let slots = span::<BITS>(len);
        out.clear();
        out.resize(slots, self.covering(start, len));
        let first = self.list.partition_point(|own| usize::from(own.start) < start);
        for own in &self.list[first..] {
            let from = usize::from(own.start) - start;
            if from >= slots {
                break;
            }
            if own.len >= len {
                out[from..from + span::<BITS>(own.len)].fill(own.code);
            }
        }
    }

    /// The code of the longest prefix shorter than `len` that contains (`start`, `len`), or MISS.
    fn covering(&self, start: usize, len: u8) -> u32 {
        let shorter = (0..len).rev().take_while(|_| !self.list.is_empty());
        shorter
            .filter_map(|l| self.get(start & !(span::<BITS>(l) - 1), l))
            .next()
            .unwrap_or(crate::lpm::entry::MISS)
    }

    fn find(&self, start: usize, len: u8) -> Result<usize, usize> {
        self.list.binary_search_by_key(&(start as u16, len), |own| (own.start, own.len))
    }
}

/// How many slots a prefix of `len` bits covers.
pub(crate) const fn span<const BITS: u8>(len: u8) -> usize {
    1 << (BITS - len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longer_covers_the_shorter() {
        let mut own = OwnList::<4>::default();
        own.insert(0, 0, 1);
        own.insert(8, 1, 2);
        own.insert(9, 4, 3);
        let mut out = Vec::new();
        own.paint(8, 2, &mut out);
        assert_eq!(out, [2, 3, 2, 2]);
        assert_eq!((own.remove(8, 1), own.remove(8, 1)), (Some(2), None));
        own.paint(0, 0, &mut out);
        assert_eq!(out, [1, 1, 1, 1, 1, 1, 1, 1, 1, 3, 1, 1, 1, 1, 1, 1]);
    }
}
