//! Questions to a compiled classifier: which rules can never match, which headers reach a rule, and
//! where two classifiers differ. The answers are exact and come as regions with an example each.
//!
//! The compiled form narrows down which rules can meet; what they leave of each other is then
//! worked out box by box. Hostile rule sets can make that explode, so the work is bounded by
//! [`Config::max_cuts`].

mod region;

pub use region::HeaderRange;

use crate::Error;
use crate::header::Header;
use crate::rule::RuleId;
use crate::tree::Tree;
use region::{boxes, subtract};

/// Limits of a query.
///
/// ```
/// use portcullis_classifier::{Rule, RuleSet, query, tree};
///
/// let rules = RuleSet::new(vec![Rule::any(0), Rule::any(1).protocol(6)]).unwrap();
/// let tree = tree::Builder::new().build(&rules).unwrap();
/// let config = query::Config::default().max_cuts(1_000).max_regions(10);
/// assert_eq!(tree.shadowed(&config).unwrap().len(), 1);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Config {
    max_cuts: usize,
    max_regions: usize,
}

impl Default for Config {
    /// A million cuts a rule, 100,000 regions in an answer.
    fn default() -> Self {
        Self { max_cuts: 1_000_000, max_regions: 100_000 }
    }
}

impl Config {
    /// Boxes that may be cut for one rule before the query gives up.
    #[must_use]
    pub fn max_cuts(self, limit: usize) -> Self {
        Self { max_cuts: limit, ..self }
    }

    /// Regions that an answer may have.
    #[must_use]
    pub fn max_regions(self, limit: usize) -> Self {
        Self { max_regions: limit, ..self }
    }
}

/// A region in which two classifiers answer with different actions.
///
/// ```
/// use portcullis_classifier::{Rule, RuleSet, query, tree};
///
/// let build = |rules| tree::Builder::new().build(&RuleSet::new(rules).unwrap()).unwrap();
/// let (old, new) = (build(vec![Rule::any(0)]), build(vec![Rule::any(1).protocol(6), Rule::any(0)]));
/// let differences = old.diff(&new, &query::Config::default()).unwrap();
/// assert!(differences.iter().all(|difference| difference.example.protocol == 6));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Where.
    pub region: HeaderRange,
    /// What the first finds there.
    pub here: Option<RuleId>,
    /// What the second finds there.
    pub there: Option<RuleId>,
    /// A header there.
    pub example: Header,
}

/// Rules that can meet a rule, by classifier and in order, as boxes.
type Candidates = Vec<(RuleId, Vec<HeaderRange>)>;

impl Tree {
    /// Rules that no header reaches, because earlier rules take all that they match, or because
    /// their own conditions contradict each other.
    ///
    /// # Errors
    /// [`Error::TooManyRegions`] at a limit.
    ///
    /// ```
    /// use portcullis_classifier::{Rule, RuleSet, query, tree};
    ///
    /// let rules = RuleSet::new(vec![
    ///     Rule::any(0).from_v4("0.0.0.0/1".parse().unwrap()),
    ///     Rule::any(1).from_v4("128.0.0.0/1".parse().unwrap()),
    ///     Rule::any(2).from_v4("10.0.0.0/8".parse().unwrap()),
    ///     Rule::any(3).from_v4("0.0.0.0/0".parse().unwrap()),
    /// ]).unwrap();
    /// let tree = tree::Builder::new().build(&rules).unwrap();
    /// let shadowed = tree.shadowed(&query::Config::default()).unwrap();
    /// assert_eq!(shadowed.iter().map(|id| id.index()).collect::<Vec<_>>(), [2, 3]);
    /// ```
    pub fn shadowed(&self, config: &Config) -> Result<Vec<RuleId>, Error> {
        let mut shadowed = Vec::new();
        for (id, _) in self.rules().iter() {
            let mut reached = false;
            self.each_region(id, config, &mut |_| {
                reached = true;
                false
            })?;
            if !reached {
                shadowed.push(id);
            }
        }
        Ok(shadowed)
    }

    /// The headers that reach rule `id`: those that it matches and no earlier rule does, as
    /// disjoint regions. Empty for a shadowed rule and for an id of another set.
    ///
    /// # Errors
    /// [`Error::TooManyRegions`] at a limit.
    pub fn reach(&self, id: RuleId, config: &Config) -> Result<Vec<HeaderRange>, Error> {
        let mut regions = Vec::new();
        self.each_region(id, config, &mut |region| {
            regions.push(region);
            regions.len() <= config.max_regions
        })?;
        within(regions, id, config)
    }

    /// Where `self` and `other` answer with different actions, as disjoint regions. Finding
    /// nothing differs from finding any rule.
    ///
    /// # Errors
    /// [`Error::TooManyRegions`] at a limit.
    ///
    /// ```
    /// use portcullis_classifier::{Rule, RuleSet, query, tree};
    ///
    /// let build = |rules| tree::Builder::new().build(&RuleSet::new(rules).unwrap()).unwrap();
    /// let old = build(vec![Rule::any(0).protocol(6)]);
    /// let new = build(vec![Rule::any(1).protocol(6).to_v4("10.0.0.0/8".parse().unwrap()), Rule::any(0).protocol(6)]);
    /// let differences = old.diff(&new, &query::Config::default()).unwrap();
    /// assert_eq!(differences.len(), 1);
    /// assert!(old.lookup(&differences[0].example) == differences[0].here);
    /// ```
    pub fn diff(&self, other: &Self, config: &Config) -> Result<Vec<Difference>, Error> {
        let mut differences = Vec::new();
        for (here, rule) in self.rules().iter() {
            let mine = earlier(self.candidates(here, self)?, here);
            let theirs = self.candidates(here, other)?;
            for whole in boxes(here.index(), rule)? {
                for (place, (there, boxes)) in theirs.iter().enumerate() {
                    let action = other.rules().rule(*there).map(|rule| rule.action);
                    if action == Some(rule.action) {
                        continue;
                    }
                    let before = holes(&mine).chain(holes(&theirs[..place]));
                    let before: Vec<&HeaderRange> = before.collect();
                    for both in boxes.iter().filter_map(|other| whole.intersection(other)) {
                        let pair = (Some(here), Some(*there));
                        collect(both, &before, pair, config, &mut differences)?;
                    }
                }
                let before: Vec<&HeaderRange> = holes(&mine).chain(holes(&theirs)).collect();
                collect(whole, &before, (Some(here), None), config, &mut differences)?;
            }
        }
        for (there, rule) in other.rules().iter() {
            let theirs = earlier(other.candidates(there, other)?, there);
            let mine = other.candidates(there, self)?;
            let before: Vec<&HeaderRange> = holes(&mine).chain(holes(&theirs)).collect();
            for whole in boxes(there.index(), rule)? {
                collect(whole, &before, (None, Some(there)), config, &mut differences)?;
            }
        }
        Ok(differences)
    }

    fn each_region(
        &self,
        id: RuleId,
        config: &Config,
        piece: &mut impl FnMut(HeaderRange) -> bool,
    ) -> Result<(), Error> {
        let Some(rule) = self.rules().rule(id) else { return Ok(()) };
        let before = earlier(self.candidates(id, self)?, id);
        let before: Vec<&HeaderRange> = holes(&before).collect();
        let mut work = config.max_cuts;
        for whole in boxes(id.index(), rule)? {
            match subtract(whole, &before, &mut work, piece) {
                Some(true) => {}
                Some(false) => break,
                None => return Err(too_many(id, config.max_cuts)),
            }
        }
        Ok(())
    }

    /// Rules of `of` that can be found where rule `id` of `self` matches, in order.
    fn candidates(&self, id: RuleId, of: &Self) -> Result<Candidates, Error> {
        let Some(rule) = self.rules().rule(id) else { return Ok(Vec::new()) };
        let ids = of.meeting(rule);
        ids.into_iter()
            .filter_map(|id| of.rules().rule(id).map(|rule| Ok((id, boxes(id.index(), rule)?))))
            .collect()
    }
}

fn earlier(mut candidates: Candidates, id: RuleId) -> Candidates {
    candidates.retain(|(other, _)| *other < id);
    candidates
}

fn holes(candidates: &[(RuleId, Vec<HeaderRange>)]) -> impl Iterator<Item = &HeaderRange> {
    candidates.iter().flat_map(|(_, boxes)| boxes)
}

fn collect(
    whole: HeaderRange,
    before: &[&HeaderRange],
    (here, there): (Option<RuleId>, Option<RuleId>),
    config: &Config,
    into: &mut Vec<Difference>,
) -> Result<(), Error> {
    let mut work = config.max_cuts;
    let done = subtract(whole, before, &mut work, &mut |region| {
        let example = region.example();
        into.push(Difference { region, here, there, example });
        into.len() <= config.max_regions
    });
    match done {
        Some(true) => Ok(()),
        Some(false) => Err(too_many_of(here.or(there), config.max_regions)),
        None => Err(too_many_of(here.or(there), config.max_cuts)),
    }
}

fn within(
    regions: Vec<HeaderRange>,
    id: RuleId,
    config: &Config,
) -> Result<Vec<HeaderRange>, Error> {
    if regions.len() > config.max_regions {
        Err(too_many(id, config.max_regions))
    } else {
        Ok(regions)
    }
}

fn too_many(id: RuleId, limit: usize) -> Error {
    Error::TooManyRegions { rule: id.index(), limit }
}

fn too_many_of(id: Option<RuleId>, limit: usize) -> Error {
    Error::TooManyRegions { rule: id.map_or(0, RuleId::index), limit }
}
