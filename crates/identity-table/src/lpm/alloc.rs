//! Which words are free: the writer's side of the memory.

/// Sizes up to this have a free list each, found by index.
const SMALL: usize = 64;

/// Hands out runs of an even number of words: freed runs of the same size first, else new ones.
///
/// Runs are never split or joined. The structure uses few sizes (a bucket of each count, two kinds
/// of page), so what is freed is soon used again; a rebuild starts from fresh memory.
#[derive(Clone, Debug)]
pub(crate) struct Alloc {
    /// First word never handed out.
    top: usize,
    free_small: Vec<Vec<u32>>,
    /// Free runs of other sizes, a list a size.
    free_large: Vec<(usize, Vec<u32>)>,
    free_words: usize,
}

impl Alloc {
    /// Everything from word `first` on is free.
    pub(crate) fn new(first: usize) -> Self {
        let free_small = vec![Vec::new(); SMALL / 2 + 1];
        Self { top: first, free_small, free_large: Vec::new(), free_words: 0 }
    }

    /// A run of at least `len` words. The caller has made sure of room.
    pub(crate) fn take(&mut self, len: usize) -> usize {
        let len = round(len);
        if let Some(at) = self.list(len).pop() {
            self.free_words -= len;
            return at as usize;
        }
        let at = self.top;
        self.top += len;
        at
    }

    /// A run of `len` words that begins at a multiple of `align`. All runs of this length must be
    /// taken so. The caller has made sure of room.
    pub(crate) fn take_aligned(&mut self, len: usize, align: usize) -> usize {
        if let Some(at) = self.list(len).pop() {
            self.free_words -= len;
            return at as usize;
        }
        let skipped = self.top.next_multiple_of(align) - self.top;
        if skipped > 0 {
            let at = self.top;
            self.top += skipped;
            self.give(at, skipped);
        }
        let at = self.top;
        self.top += len;
        at
    }

    /// Gives back a run that [`Alloc::take`] gave for the same `len`.
    pub(crate) fn give(&mut self, at: usize, len: usize) {
        let len = round(len);
        self.free_words += len;
        self.list(len).push(at as u32);
    }

    /// First word never handed out.
    pub(crate) fn top(&self) -> usize {
        self.top
    }

    /// Bytes of the lists themselves.
    pub(crate) fn overhead(&self) -> usize {
        let small = self.free_small.iter().map(Vec::capacity).sum::<usize>();
        let large = self.free_large.iter().map(|(_, list)| list.capacity()).sum::<usize>();
        (small + large) * size_of::<u32>()
    }

    fn list(&mut self, len: usize) -> &mut Vec<u32> {
        if len <= SMALL {
            return &mut self.free_small[len / 2];
        }
        let known = self.free_large.iter().position(|(size, _)| *size == len);
        let i = known.unwrap_or_else(|| {
            self.free_large.push((len, Vec::new()));
            self.free_large.len() - 1
        });
        &mut self.free_large[i].1
    }
}

const fn round(len: usize) -> usize {
    len.next_multiple_of(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_back_is_used_again() {
        let mut alloc = Alloc::new(10);
        let (a, b) = (alloc.take(3), alloc.take(258));
        assert_eq!((a, b, alloc.top()), (10, 14, 272));
        alloc.give(a, 3);
        alloc.give(b, 258);
        assert_eq!((alloc.take(258), alloc.take(4), alloc.take(4)), (14, 10, 272));
    }
}
