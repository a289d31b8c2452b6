//! The `tree` engine: rules compiled to a few decision trees.

mod batch;
mod build;
mod config;
mod cross;
mod cut;
mod forest;
mod meeting;
mod region;
mod subset;
mod verify;
mod walk;

pub use config::Config;

use std::time::Instant;

use crate::Error;
use crate::header::{Addresses, Header, TupleV4};
use crate::lanes::{self, Entry, Key};
use crate::rule::{Rule, RuleId, RuleSet};
use crate::simd::{Instructions, Scalar};
use batch::CHUNK;
use config::Tuning;
use forest::{Forest, NOTHING};
use walk::Backend;

/// Builds a [`Tree`].
///
/// ```
/// use portcullis_classifier::{Rule, RuleSet, tree};
///
/// let config = tree::Config::default().touch_limit(40);
/// let rules = RuleSet::new(vec![Rule::any(0).protocol(6)]).unwrap();
/// let tree = tree::Builder::new().configure(config).build(&rules).unwrap();
/// assert!(tree.worst_case_touches() <= 40);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Builder {
    config: Config,
}

impl Builder {
    /// A builder with default settings.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes settings.
    #[must_use]
    pub fn configure(self, config: Config) -> Self {
        Self { config }
    }

    /// Compiles the rules.
    ///
    /// # Errors
    /// [`Error::TooLarge`], [`Error::BuildTime`], [`Error::TooEntangled`] or
    /// [`Error::TooManyTouches`] when the rules cannot be compiled within the limits.
    pub fn build(&self, rules: &RuleSet) -> Result<Tree, Error> {
        let started = Instant::now();
        let (mut v4, mut v6) = (1, 3);
        for rule in rules.rules() {
            let (four, six) = lanes::blocks(rule);
            v4 = v4.max(four.unwrap_or(0));
            v6 = v6.max(six.unwrap_or(0));
        }
        let v4 = if v4 == 1 {
            ForestV4::Short(self.forest(rules, started)?)
        } else {
            ForestV4::Long(self.forest(rules, started)?)
        };
        let v6 = if v6 == 3 {
            ForestV6::Short(self.forest(rules, started)?)
        } else {
            ForestV6::Long(self.forest(rules, started)?)
        };
        Ok(Tree { v4, v6, backend: backend(self.config.instructions), rules: rules.clone() })
    }

    fn forest<const B: usize>(
        &self,
        rules: &RuleSet,
        started: Instant,
    ) -> Result<Forest<B>, Error> {
        let entries = entries(rules);
        let maker = build::Maker::new(&entries, &self.config, Tuning::default(), started);
        let forest = maker.forest()?;
        if forest.touches > self.config.touch_limit {
            return Err(Error::TooManyTouches {
                touches: forest.touches,
                limit: self.config.touch_limit,
            });
        }
        Ok(forest)
    }
}

#[derive(Clone, Debug)]
enum ForestV4 {
    Short(Forest<1>),
    Long(Forest<2>),
}

#[derive(Clone, Debug)]
enum ForestV6 {
    Short(Forest<3>),
    Long(Forest<4>),
}

/// Rules compiled to decision trees. Immutable: share it between threads by reference or `Arc`.
///
/// ```
/// use portcullis_classifier::{Header, Rule, RuleSet, tree};
///
/// let rules = RuleSet::new(vec![Rule::any(1).protocol(6), Rule::any(0)]).unwrap();
/// let tree = tree::Builder::new().build(&rules).unwrap();
/// let headers = [6, 17].map(|protocol| Header::v4([10, 0, 0, 1], [10, 0, 0, 2], protocol, 1, 2));
/// let mut found = [None; 2];
/// tree.lookup_batch(&headers, &mut tree::Scratch::default(), &mut found);
/// assert_eq!(found.map(|id| id.unwrap().index()), [0, 1]);
/// ```
#[derive(Clone, Debug)]
pub struct Tree {
    v4: ForestV4,
    v6: ForestV6,
    backend: Backend,
    rules: RuleSet,
}

/// What a thread keeps between batches, so that lookups allocate nothing.
///
/// ```
/// use portcullis_classifier::{Header, Rule, RuleSet, tree};
///
/// let rules = RuleSet::new(vec![Rule::any(3)]).unwrap();
/// let engine = tree::Builder::new().build(&rules).unwrap();
/// let mut scratch = tree::Scratch::default();
/// let header = Header::v4([10, 0, 0, 1], [10, 0, 0, 2], 6, 1, 2);
/// for batch in [[header; 8], [header; 8]] {
///     let mut found = [None; 8];
///     engine.lookup_batch(&batch, &mut scratch, &mut found);
///     assert!(found.iter().all(Option::is_some));
/// }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Scratch {}

impl Tree {
    /// The first rule that matches. For many headers, [`lookup_batch`](Self::lookup_batch) is
    /// several times cheaper a header.
    #[must_use]
    pub fn lookup(&self, header: &Header) -> Option<RuleId> {
        let best = match header.addresses {
            Addresses::V4 { .. } => match &self.v4 {
                ForestV4::Short(forest) => self.find(forest, header),
                ForestV4::Long(forest) => self.find(forest, header),
            },
            Addresses::V6 { .. } => match &self.v6 {
                ForestV6::Short(forest) => self.find(forest, header),
                ForestV6::Long(forest) => self.find(forest, header),
            },
        };
        RuleId::new(best)
    }

    fn find<const B: usize>(&self, forest: &Forest<B>, header: &Header) -> u32 {
        Key::new(header).map_or(NOTHING, |key| self.backend.find(forest, &key))
    }

    /// The first rule that matches, for each header.
    ///
    /// # Panics
    /// When `headers` and `found` differ in length.
    pub fn lookup_batch(
        &self,
        headers: &[Header],
        _scratch: &mut Scratch,
        found: &mut [Option<RuleId>],
    ) {
        assert_eq!(headers.len(), found.len(), "one answer a header");
        for (headers, found) in headers.chunks(CHUNK).zip(found.chunks_mut(CHUNK)) {
            match &self.v4 {
                ForestV4::Short(forest) => self.family(forest, headers, found),
                ForestV4::Long(forest) => self.family(forest, headers, found),
            }
            match &self.v6 {
                ForestV6::Short(forest) => self.family(forest, headers, found),
                ForestV6::Long(forest) => self.family(forest, headers, found),
            }
        }
    }

    /// The first rule that matches, for each IPv4 5-tuple: [`lookup_batch`](Self::lookup_batch)
    /// without the work of packing headers.
    ///
    /// # Panics
    /// When `tuples` and `found` differ in length.
    pub fn lookup_tuples(
        &self,
        tuples: &[TupleV4],
        _scratch: &mut Scratch,
        found: &mut [Option<RuleId>],
    ) {
        assert_eq!(tuples.len(), found.len(), "one answer a tuple");
        for (tuples, found) in tuples.chunks(CHUNK).zip(found.chunks_mut(CHUNK)) {
            let mut best = [NOTHING; CHUNK];
            match &self.v4 {
                ForestV4::Short(forest) => {
                    self.backend.walk(forest, TupleV4::keys(tuples), &mut best);
                }
                ForestV4::Long(forest) => {
                    let mut keys = [Key([[0; 8]; 2]); CHUNK];
                    for (key, tuple) in keys.iter_mut().zip(tuples) {
                        *key = tuple.0.widened();
                    }
                    self.backend.walk(forest, &keys[..tuples.len()], &mut best);
                }
            }
            for (found, best) in found.iter_mut().zip(best) {
                *found = RuleId::new(best);
            }
        }
    }

    /// Looks up those headers that are of the forest's family.
    fn family<const B: usize>(
        &self,
        forest: &Forest<B>,
        headers: &[Header],
        found: &mut [Option<RuleId>],
    ) {
        let mut keys = [Key([[0; 8]; B]); CHUNK];
        let mut who = [0usize; CHUNK];
        let mut len = 0;
        for (index, header) in headers.iter().enumerate() {
            if let Some(key) = Key::new(header) {
                keys[len] = key;
                who[len] = index;
                len += 1;
            }
        }
        if len == 0 {
            return;
        }
        let mut best = [NOTHING; CHUNK];
        self.backend.walk(forest, &keys[..len], &mut best);
        for (who, best) in who[..len].iter().zip(best) {
            found[*who] = RuleId::new(best);
        }
    }

    /// Proves that this tree answers, for every header there is, as its rules do: walks all
    /// regions of the compiled form and shows that each holds every rule that can win there. Not
    /// by sampling.
    ///
    /// Takes about as long as the build, and as much memory again.
    ///
    /// # Errors
    /// [`Mismatch`], with a header for which the proof fails.
    ///
    /// ```
    /// use portcullis_classifier::{tree, Rule, RuleSet};
    ///
    /// let rules = RuleSet::new(vec![Rule::any(1).protocol(6), Rule::any(0)]).unwrap();
    /// tree::Builder::new().build(&rules).unwrap().verify().unwrap();
    /// ```
    pub fn verify(&self) -> Result<(), Mismatch> {
        match &self.v4 {
            ForestV4::Short(forest) => self.verify_forest(forest)?,
            ForestV4::Long(forest) => self.verify_forest(forest)?,
        }
        match &self.v6 {
            ForestV6::Short(forest) => self.verify_forest(forest),
            ForestV6::Long(forest) => self.verify_forest(forest),
        }
    }

    fn verify_forest<const B: usize>(&self, forest: &Forest<B>) -> Result<(), Mismatch> {
        verify::verify(forest, &entries(&self.rules)).map_err(|flaw| {
            let header = match flaw {
                verify::Flaw::At(key) => Some(key.header()),
                verify::Flaw::Table => None,
            };
            let linear = |header: &Header| {
                self.rules.iter().find(|(_, rule)| rule.matches(header)).map(|(id, _)| id)
            };
            Mismatch {
                expected: header.as_ref().and_then(linear),
                found: header.as_ref().and_then(|header| self.lookup(header)),
                header,
            }
        })
    }

    /// Rules that can be found where `rule` matches, ascending. Not all of them need to overlap it.
    pub(crate) fn meeting(&self, rule: &Rule) -> Vec<RuleId> {
        let mut ids = Vec::new();
        match &self.v4 {
            ForestV4::Short(forest) => forest.meeting(rule, &mut ids),
            ForestV4::Long(forest) => forest.meeting(rule, &mut ids),
        }
        match &self.v6 {
            ForestV6::Short(forest) => forest.meeting(rule, &mut ids),
            ForestV6::Long(forest) => forest.meeting(rule, &mut ids),
        }
        ids.sort_unstable();
        ids.dedup();
        ids.into_iter().filter_map(RuleId::new).collect()
    }

    /// Bytes of heap.
    #[must_use]
    pub fn memory_usage(&self) -> usize {
        let v4 = match &self.v4 {
            ForestV4::Short(forest) => forest.memory_usage(),
            ForestV4::Long(forest) => forest.memory_usage(),
        };
        let v6 = match &self.v6 {
            ForestV6::Short(forest) => forest.memory_usage(),
            ForestV6::Long(forest) => forest.memory_usage(),
        };
        v4 + v6
    }

    /// Cache lines (64 bytes) that a lookup of `header` touches, residual conditions apart. Never
    /// more than [`worst_case_touches`](Self::worst_case_touches).
    #[must_use]
    pub fn touches(&self, header: &Header) -> usize {
        fn of<const B: usize>(forest: &Forest<B>, header: &Header) -> usize {
            Key::new(header).map_or(0, |key| walk::touches(forest, &key))
        }
        let v4 = match &self.v4 {
            ForestV4::Short(forest) => of(forest, header),
            ForestV4::Long(forest) => of(forest, header),
        };
        let v6 = match &self.v6 {
            ForestV6::Short(forest) => of(forest, header),
            ForestV6::Long(forest) => of(forest, header),
        };
        v4 + v6
    }

    /// Cache lines (64 bytes) that a lookup touches in the worst case, whatever the header: tables,
    /// groups, ids and residual conditions of all trees of the family that needs more.
    #[must_use]
    pub fn worst_case_touches(&self) -> usize {
        let v4 = match &self.v4 {
            ForestV4::Short(forest) => forest.touches,
            ForestV4::Long(forest) => forest.touches,
        };
        let v6 = match &self.v6 {
            ForestV6::Short(forest) => forest.touches,
            ForestV6::Long(forest) => forest.touches,
        };
        v4.max(v6)
    }

    /// The instructions that lookups use.
    #[must_use]
    pub fn instructions(&self) -> Instructions {
        self.backend.instructions()
    }

    /// The rules it was built from.
    #[must_use]
    pub fn rules(&self) -> &RuleSet {
        &self.rules
    }
}

/// A place where a compiled form differs from its rules, or where the proof does not go through.
///
/// ```
/// use portcullis_classifier::tree::Mismatch;
/// use portcullis_classifier::{Header, RuleId};
///
/// let header = Header::v4([10, 0, 0, 1], [10, 0, 0, 2], 6, 1, 2);
/// let mismatch = Mismatch { header: Some(header), expected: RuleId::new(3), found: None };
/// assert!(mismatch.to_string().contains("RuleId(3)"), "{mismatch}");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the compiled form differs from its rules: {expected:?} expected, {found:?} found for {header:?}"
)]
pub struct Mismatch {
    /// A header there, or `None` when the compiled form itself is malformed.
    pub header: Option<Header>,
    /// What a linear search finds for the header.
    pub expected: Option<RuleId>,
    /// What a lookup finds.
    pub found: Option<RuleId>,
}

/// One rule in lanes.
fn entries_of<const B: usize>(rule: &Rule) -> Vec<Entry<B>> {
    let mut entries = Vec::new();
    lanes::entries(0, rule, lanes::SPLIT, &mut entries);
    entries
}

/// The rules in lanes, in priority order.
fn entries<const B: usize>(rules: &RuleSet) -> Vec<Entry<B>> {
    let mut entries = Vec::with_capacity(rules.len());
    for (id, rule) in rules.iter() {
        lanes::entries(id.as_u32(), rule, lanes::SPLIT, &mut entries);
    }
    entries
}

/// The token of the instructions wished for, or of the best there are.
fn backend(wish: Option<Instructions>) -> Backend {
    #[cfg(target_arch = "x86_64")]
    {
        use crate::simd::{Avx2, Avx512};
        let wish = wish.unwrap_or(Instructions::Avx512);
        if wish == Instructions::Avx512
            && let Some(simd) = Avx512::detect()
        {
            return Backend::Avx512(simd);
        }
        if wish >= Instructions::Avx2
            && let Some(simd) = Avx2::detect()
        {
            return Backend::Avx2(simd);
        }
    }
    let _ = wish;
    Backend::Scalar(Scalar)
}
