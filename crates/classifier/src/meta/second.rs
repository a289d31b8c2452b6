//! The second search: which rule that is still there matches a header first. The compiled form need
//! not hold what a rule hides, so a lookup that lands on a deleted rule goes on here, until a rebuild
//! has left the rule out. Nothing is moved when a rule is deleted, so deleting costs the same whatever
//! it hides.
//!
//! Every rule is in a bucket by its addresses, rounded to whole bytes, and lookups try the bucket of
//! each pair of lengths: tuple space search over rules that never change. Where many rules share
//! addresses, exact ports and protocols count too. Buckets lie in one array, in the order of rules,
//! and what a lookup touches at most is counted when it is built.

use std::ops::Range;

use ahash::{HashMap, HashMapExt};

use super::deleted::Deleted;
use crate::header::{Addresses, Header};
use crate::lanes::{Key, LaneBox, WHOLE, blocks, entries};
use crate::rule::{Rule, RuleId, RuleSet};
use crate::tuple::{Shape, keyed_at_random};

/// Buckets longer than this are divided by ports and protocol.
const LONG: usize = 32;

/// Shapes looked up side by side.
const AT_ONCE: usize = 8;

/// Bytes in a cache line.
const LINE: usize = 64;

/// All rules of a set, found without regard to what hides them.
#[derive(Debug)]
pub(super) struct Second {
    v4: Table<1>,
    v6: Table<3>,
}

impl Second {
    /// Files the rules. Time: about a tenth of a microsecond for each.
    ///
    /// # Errors
    /// The cache lines that a lookup could touch, when they are more than `touch_limit`.
    pub(super) fn new(rules: &RuleSet, touch_limit: usize) -> Result<Self, usize> {
        if rules.len() > Filed::MOST {
            return Err(usize::MAX);
        }
        let second = Self { v4: Table::new(rules), v6: Table::new(rules) };
        let touches = second.touches();
        if touches > touch_limit { Err(touches) } else { Ok(second) }
    }

    /// The first rule that matches and is not deleted.
    ///
    /// A rule that is deleted meanwhile may be found or not.
    pub(super) fn lookup(
        &self,
        rules: &RuleSet,
        deleted: &Deleted,
        header: &Header,
    ) -> Option<RuleId> {
        let counts = |candidate: Candidate| {
            (!candidate.asks || rules.rules()[candidate.place].matches(header))
                && !deleted.holds(candidate.place)
        };
        let place = match header.addresses {
            Addresses::V4 { .. } => self.v4.lookup(&Key::new(header)?, counts),
            Addresses::V6 { .. } => self.v6.lookup(&Key::new(header)?, counts),
        };
        place.and_then(RuleId::new)
    }

    /// Cache lines that a lookup touches at most.
    pub(super) fn touches(&self) -> usize {
        self.v4.touches.max(self.v6.touches)
    }

    pub(super) fn memory_usage(&self) -> usize {
        self.v4.memory_usage() + self.v6.memory_usage()
    }
}

/// A rule whose box holds the header.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    place: usize,
    /// Whether the box says less than the rule.
    asks: bool,
}

/// The rules of one address family.
#[derive(Debug)]
struct Table<const B: usize> {
    /// Those with the best rule first.
    shapes: Box<[Bucketed<B>]>,
    /// Where each bucket starts in `bounds` and `rules`; the next one is its end.
    starts: Box<[u32]>,
    bounds: Box<[LaneBox<B>]>,
    rules: Box<[Filed]>,
    hasher: ahash::RandomState,
    touches: usize,
}

/// A rule's place, and in the highest bit whether its box says less than the rule.
#[derive(Clone, Copy, Debug)]
struct Filed(u32);

impl Filed {
    const ASKS: u32 = 1 << 31;
    /// Places that there is room for.
    const MOST: usize = 1 << 31;

    fn place(self) -> u32 {
        self.0 & !Self::ASKS
    }

    fn asks(self) -> bool {
        self.0 & Self::ASKS != 0
    }
}

/// The buckets of a shape.
#[derive(Clone, Copy, Debug)]
struct Bucketed<const B: usize> {
    shape: Shape<B>,
    /// The best rule's place.
    first: u32,
    /// The first bucket in `starts`.
    buckets: u32,
    /// How many there are, less one.
    mask: u32,
}

impl<const B: usize> Table<B> {
    fn new(rules: &RuleSet) -> Self {
        let boxed = boxed(rules);
        let mut filing = Filing::new(&boxed);
        for (shape, members) in by(&boxed, (0..boxed.len()).collect(), Shape::of_addresses) {
            filing.add(shape, members);
        }
        filing.finish(rules.len())
    }

    /// The lowest place of a candidate that counts.
    fn lookup(&self, key: &Key<B>, counts: impl Fn(Candidate) -> bool) -> Option<u32> {
        let mut best = u32::MAX;
        for some in self.shapes.chunks(AT_ONCE) {
            if some.first().is_none_or(|bucketed| bucketed.first >= best) {
                break;
            }
            // Where the buckets are, for a few shapes side by side: memory answers all at once.
            let mut buckets = [(0, 0); AT_ONCE];
            for (bucketed, bucket) in some.iter().zip(&mut buckets) {
                let hash = bucketed.shape.hash(&key.0, &self.hasher);
                let at = bucketed.buckets as usize + (hash as usize & bucketed.mask as usize);
                *bucket = (self.starts[at], self.starts[at + 1]);
            }
            for (start, end) in buckets {
                best = best.min(self.search(start as usize..end as usize, key, best, &counts));
            }
        }
        (best != u32::MAX).then_some(best)
    }

    /// The first candidate of a bucket that counts and is better than `best`, or `u32::MAX`.
    #[inline]
    fn search(
        &self,
        bucket: Range<usize>,
        key: &Key<B>,
        best: u32,
        counts: impl Fn(Candidate) -> bool,
    ) -> u32 {
        for (bounds, filed) in self.bounds[bucket.clone()].iter().zip(&self.rules[bucket]) {
            let place = filed.place();
            if place >= best {
                break;
            }
            let candidate = Candidate { place: place as usize, asks: filed.asks() };
            if bounds.contains(key) && counts(candidate) {
                return place;
            }
        }
        u32::MAX
    }

    fn memory_usage(&self) -> usize {
        size_of_val(&*self.shapes)
            + size_of_val(&*self.starts)
            + size_of_val(&*self.bounds)
            + size_of_val(&*self.rules)
    }
}

/// The rules of the family, in order.
fn boxed<const B: usize>(rules: &RuleSet) -> Vec<(LaneBox<B>, Filed)> {
    let mut parts = Vec::new();
    let mut boxed = Vec::new();
    for (id, rule) in rules.iter() {
        entries::<B>(id.as_u32(), rule, WHOLE, &mut parts);
        for entry in parts.drain(..) {
            let asks = entry.residual.is_some() || needs_more_than::<B>(rule);
            let filed = Filed(id.as_u32() | if asks { Filed::ASKS } else { 0 });
            boxed.push((entry.bounds, filed));
        }
    }
    boxed
}

/// Whether the layout of `B` blocks leaves out something that the rule asks for.
fn needs_more_than<const B: usize>(rule: &Rule) -> bool {
    let (v4, v6) = blocks(rule);
    let needed = if B <= 2 { v4 } else { v6 };
    needed.is_some_and(|blocks| blocks > B)
}

/// Members by the shape of their boxes, each in order.
fn by<const B: usize>(
    boxed: &[(LaneBox<B>, Filed)],
    members: Vec<usize>,
    shape: impl Fn(&LaneBox<B>) -> Shape<B>,
) -> HashMap<Shape<B>, Vec<usize>> {
    let mut groups: HashMap<Shape<B>, Vec<usize>> = HashMap::new();
    for member in members {
        groups.entry(shape(&boxed[member].0)).or_default().push(member);
    }
    groups
}

/// A table that is being filled.
struct Filing<'a, const B: usize> {
    boxed: &'a [(LaneBox<B>, Filed)],
    hasher: ahash::RandomState,
    shapes: Vec<Bucketed<B>>,
    starts: Vec<u32>,
    order: Vec<usize>,
    touches: usize,
    /// Rules in the longest bucket of each shape, together.
    longest: usize,
}

impl<'a, const B: usize> Filing<'a, B> {
    fn new(boxed: &'a [(LaneBox<B>, Filed)]) -> Self {
        let order = Vec::with_capacity(boxed.len());
        let (shapes, starts) = (Vec::new(), Vec::new());
        Self { boxed, hasher: keyed_at_random(), shapes, starts, order, touches: 0, longest: 0 }
    }

    /// Files `members`, whose addresses are of `shape`; by ports and protocol as well if many share
    /// a bucket.
    fn add(&mut self, shape: Shape<B>, members: Vec<usize>) {
        let sorted = self.sorted(&shape, &members);
        if longest(&sorted) <= LONG {
            return self.file(shape, &sorted);
        }
        for (shape, members) in by(self.boxed, members, Shape::of) {
            let sorted = self.sorted(&shape, &members);
            self.file(shape, &sorted);
        }
    }

    /// Members by bucket, and in order in each.
    fn sorted(&self, shape: &Shape<B>, members: &[usize]) -> Vec<(usize, usize)> {
        let mask = buckets(members.len()) - 1;
        let bucket =
            |member: usize| shape.hash(&self.boxed[member].0.low, &self.hasher) as usize & mask;
        let mut sorted: Vec<_> = members.iter().map(|&member| (bucket(member), member)).collect();
        sorted.sort_unstable();
        sorted
    }

    fn file(&mut self, shape: Shape<B>, sorted: &[(usize, usize)]) {
        let buckets = buckets(sorted.len());
        let places = sorted.iter().map(|&(_, member)| self.boxed[member].1.place());
        self.shapes.push(Bucketed {
            shape,
            first: places.min().unwrap_or(u32::MAX),
            buckets: number(self.starts.len()),
            mask: number(buckets - 1),
        });
        let mut filed = 0;
        for bucket in 0..buckets {
            self.starts.push(number(self.order.len() + filed));
            filed += sorted[filed..].iter().take_while(|&&(of, _)| of == bucket).count();
        }
        self.order.extend(sorted.iter().map(|&(_, member)| member));
        // The end of the last bucket.
        self.starts.push(number(self.order.len()));
        // The shape itself, and two neighbours in `starts`.
        self.touches += lines(size_of::<Bucketed<B>>()) + 2;
        self.touches += by_bucket(sorted).map(|bucket| self.touched(bucket)).max().unwrap_or(0);
        self.longest += longest(sorted);
    }

    /// Cache lines of a bucket, and of the rules that have to be asked.
    fn touched(&self, bucket: &[(usize, usize)]) -> usize {
        let asks = |&&(_, member): &&(usize, usize)| self.boxed[member].1.asks();
        lines(size_of::<LaneBox<B>>() * bucket.len())
            + lines(size_of::<Filed>() * bucket.len())
            + lines(size_of::<Rule>()) * bucket.iter().filter(asks).count()
    }

    fn finish(mut self, rules: usize) -> Table<B> {
        self.shapes.sort_by_key(|bucketed| bucketed.first);
        // Marks of deleted rules: a line for each rule asked about, but no more than there are.
        let marks = self.longest.min(rules.div_ceil(LINE * 8));
        Table {
            shapes: self.shapes.into(),
            starts: self.starts.into(),
            bounds: self.order.iter().map(|&member| self.boxed[member].0).collect(),
            rules: self.order.iter().map(|&member| self.boxed[member].1).collect(),
            hasher: self.hasher,
            touches: self.touches + marks,
        }
    }
}

/// Buckets for so many rules.
fn buckets(members: usize) -> usize {
    (members * 2).next_power_of_two()
}

fn by_bucket(sorted: &[(usize, usize)]) -> impl Iterator<Item = &[(usize, usize)]> {
    sorted.chunk_by(|one, next| one.0 == next.0)
}

fn longest(sorted: &[(usize, usize)]) -> usize {
    by_bucket(sorted).map(<[_]>::len).max().unwrap_or(0)
}

/// Cache lines that so many bytes lie in at most, wherever they start.
fn lines(bytes: usize) -> usize {
    if bytes == 0 { 0 } else { bytes.div_ceil(LINE) + 1 }
}

/// A place in an array. A rule set too long for that is refused before.
fn number(place: usize) -> u32 {
    u32::try_from(place).unwrap_or(u32::MAX)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::rule::{Ipv4Prefix, PortRange};

    /// Rules that share addresses are told apart by ports, and the bound counts what is left.
    #[test]
    fn long_buckets_are_divided() {
        let rule = |port: u16| Rule::any(port.into()).destination_ports(PortRange::exact(port));
        let one_by_one = RuleSet::new((0..1000).map(rule).collect()).unwrap();
        assert!(Second::new(&one_by_one, 40).is_ok());
        let from = |port: u16| PortRange::new(port, u16::MAX).unwrap();
        let rule = |port: u16| Rule::any(port.into()).destination_ports(from(port));
        let nested = RuleSet::new((0..1000).map(rule).collect()).unwrap();
        let touches = Second::new(&nested, 40).unwrap_err();
        assert!(touches > 500, "ranges are compared one by one: {touches}");
    }

    /// What is deleted is passed over, in any bucket, and nothing else.
    #[test]
    fn finds_the_first_that_is_left() {
        let host = |len: u8| {
            let bits = u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0) & 0x0a01_0203;
            Rule::any(len.into()).to_v4(Ipv4Prefix::new(bits.into(), len).unwrap())
        };
        let last = Rule::any(33);
        let rules = (0..=32).rev().map(host).chain([last]).collect();
        let rules = RuleSet::new(rules).unwrap();
        let second = Second::new(&rules, 1000).unwrap();
        let deleted = Deleted::none(rules.len());
        let header = Header::v4([1, 2, 3, 4], [10, 1, 2, 3], 6, 1, 2);
        let other = Header::v4([1, 2, 3, 4], [10, 1, 2, 99], 6, 1, 2);
        let v6 = Header::v6([0; 8], [0; 8], 6, 1, 2);
        for place in 0..=33 {
            let found = |header| second.lookup(&rules, &deleted, header).map(RuleId::index);
            assert_eq!(found(&header), Some(place));
            assert_eq!(found(&other), Some(place.max(7)), "25 bits are the same");
            assert_eq!(found(&v6), Some(33), "a rule for both families");
            deleted.mark(place);
        }
        assert_eq!(second.lookup(&rules, &deleted, &header), None);
        assert_eq!(second.lookup(&rules, &deleted, &v6), None);
    }
}
