//! From the rules of a row to the trees of all its peers at once, from the last rule to the first.
//!
//! Before the first rule stands the tree of all rules after it, so each rule is one if-then-else on
//! trees (see [`super::forest`]). Peers that have come to the same trees share a state; a rule moves
//! the states of the peers that it matches. The work is a step for each rule and state, and one table
//! entry for each rule and peer, however many different sequences of rules there are.

use std::hash::{Hash, Hasher};

use ahash::AHashMap;
use portcullis_identity_table::identity::ClassId;

use super::boxes::boxes;
use super::classset::ClassSet;
use super::forest::{Forest, Half, TooManyCells, Tree};
use super::resolve::RuleId;
use super::trees::{Full, Ref, SLOTS, TreeBuilder};
use super::universe::PortList;
use crate::flow::Verdict;
use crate::model::{Action, IpVersion, TierDefault, Traffic};

/// A rule of a row, as folding sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FoldRule<'a> {
    pub(crate) id: RuleId,
    pub(crate) action: Action,
    pub(crate) staged: bool,
    pub(crate) traffic: &'a [Traffic],
    /// Whether it looks up ports by name at the source, and at the destination.
    pub(crate) names: [bool; 2],
}

/// Where the rules after some place lead: with enforced policies, and with staged ones too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct State {
    /// From the next tier on.
    next: [Tree; 2],
    /// From the next rule on.
    rest: [Tree; 2],
}

impl Hash for State {
    /// Two words instead of four: states are looked up more often than anything else.
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(Tree::both(self.next));
        state.write_u64(Tree::both(self.rest));
    }
}

/// Why folding stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// A rule needs too many cells.
    Cells(RuleId, u64),
    /// References have run out.
    Full,
}

impl From<Full> for Stop {
    fn from(_: Full) -> Self {
        Self::Full
    }
}

/// What folding remembers from one row to the next.
#[derive(Debug)]
pub(crate) struct Folder {
    max_cells: u64,
    max_bytes: usize,
    forest: Forest,
    /// What rules mean that look up no port by name, by number.
    conditions: Vec<Option<Tree>>,
    /// What the others mean, for the numbers of the ports at both ends.
    named_conditions: AHashMap<(RuleId, [u32; 2]), Tree>,
    /// Taken by one row after the other.
    places: Places,
}

/// Classes of peers in the order in which they were met.
#[derive(Debug, Default)]
pub(crate) struct Places {
    pub(crate) classes: Vec<u32>,
    /// One more than the place, by class; 0: none.
    of: Vec<u32>,
}

impl Places {
    /// The place of a class that has one.
    pub(crate) fn of(&self, class: u32) -> usize {
        self.of[class as usize] as usize - 1
    }

    /// Whether the peer at this place is a member; the one behind the last stands for all others.
    pub(crate) fn holds(&self, place: usize, set: &ClassSet) -> bool {
        match self.classes.get(place) {
            Some(&class) => set.contains(ClassId(class)),
            None => set.is_complement(),
        }
    }
}

/// Bytes that the forest may take before it is begun anew.
const MOST_BYTES: usize = 128 << 20;

impl Folder {
    pub(crate) fn new(max_cells: u64, max_bytes: usize) -> Self {
        Self {
            max_cells,
            max_bytes,
            forest: Forest::new(max_cells),
            conditions: Vec::new(),
            named_conditions: AHashMap::new(),
            places: Places::default(),
        }
    }

    /// Numbers the classes of peers; to be given back.
    pub(crate) fn places(&mut self, classes: impl Iterator<Item = u32>) -> Places {
        let mut places = std::mem::take(&mut self.places);
        for &class in &places.classes {
            places.of[class as usize] = 0;
        }
        places.classes.clear();
        for class in classes {
            let index = class as usize;
            if index >= places.of.len() {
                places.of.resize(index + 1, 0);
            }
            if places.of[index] == 0 {
                places.classes.push(class);
                places.of[index] = places.classes.len() as u32;
            }
        }
        places
    }

    /// Lets the next row use the memory.
    pub(crate) fn take_back(&mut self, places: Places) {
        self.places = places;
    }

    /// Where nothing follows: allowed, and no tier decided. No state from before may be used after.
    pub(crate) fn begin(&mut self) -> State {
        if self.forest.memory_usage() > MOST_BYTES {
            *self = Self::new(self.max_cells, self.max_bytes);
        }
        let (verdict, rule) = (Verdict::Allow, RuleId::NONE);
        let tree = self.forest.uniform(Half { verdict, rule, log: false });
        State { next: [tree; 2], rest: [tree; 2] }
    }

    /// The end of a tier, before its last rule.
    pub(crate) fn tier(
        &mut self,
        state: State,
        default_action: TierDefault,
        ends: [Option<RuleId>; 2],
    ) -> State {
        let mut rest = state.rest;
        for (tree, end) in rest.iter_mut().zip(ends) {
            if let Some(rule) = end
                && default_action == TierDefault::Deny
            {
                *tree = self.forest.uniform(Half { verdict: Verdict::Deny, rule, log: false });
            }
        }
        State { next: state.rest, rest }
    }

    /// What the rule means, for ends with these named ports.
    pub(crate) fn condition(
        &mut self,
        rule: &FoldRule<'_>,
        ports: [PortList<'_>; 2],
    ) -> Result<Tree, Stop> {
        let number = rule.id.0 as usize;
        let by_name = rule.names != [false; 2];
        if !by_name && let Some(&Some(known)) = self.conditions.get(number) {
            return Ok(known);
        }
        let ports = [0, 1].map(|end| if rule.names[end] { ports[end] } else { PortList::EMPTY });
        let key = (rule.id, ports.map(|list| list.number));
        if by_name && let Some(&known) = self.named_conditions.get(&key) {
            return Ok(known);
        }
        let ports = ports.map(|list| list.ports);
        let boxes = |at: usize| {
            let version = if at < SLOTS { IpVersion::V4 } else { IpVersion::V6 };
            let traffic = rule.traffic.iter();
            traffic.flat_map(|t| boxes(t, ports, version, at % SLOTS)).collect()
        };
        let condition =
            self.forest.condition(boxes).map_err(|TooManyCells(n)| Stop::Cells(rule.id, n))?;
        if by_name {
            self.named_conditions.insert(key, condition);
        } else {
            if number >= self.conditions.len() {
                self.conditions.resize(number + 1, None);
            }
            self.conditions[number] = Some(condition);
        }
        Ok(condition)
    }

    /// The state before a rule that matches the peer.
    pub(crate) fn rule(
        &mut self,
        state: State,
        rule: &FoldRule<'_>,
        condition: Tree,
    ) -> Result<State, Stop> {
        if self.forest.memory_usage() > self.max_bytes + MOST_BYTES {
            return Err(Stop::Full);
        }
        let State { next, mut rest } = state;
        let first = usize::from(rule.staged);
        for walk in first..2 {
            // Where staged policies change nothing both walks are one.
            if walk == 1 && first == 0 && state.rest[0] == state.rest[1] && next[0] == next[1] {
                rest[1] = rest[0];
                break;
            }
            let then = match rule.action {
                Action::Allow | Action::Deny => {
                    let allow = rule.action == Action::Allow;
                    let verdict = if allow { Verdict::Allow } else { Verdict::Deny };
                    self.forest.uniform(Half { verdict, rule: rule.id, log: false })
                }
                Action::Pass => next[walk],
                Action::Log => self.forest.logged(rest[walk]),
            };
            let chosen = self.forest.choose(condition, then, rest[walk]);
            rest[walk] = chosen.map_err(|TooManyCells(n)| Stop::Cells(rule.id, n))?;
        }
        Ok(State { next, rest })
    }

    /// The tree as lookups read it.
    pub(crate) fn finish(&mut self, state: State, builder: &mut TreeBuilder) -> Result<Ref, Full> {
        self.forest.export(state.rest[0], state.rest[1], builder)
    }

    pub(crate) fn memory_usage(&self) -> usize {
        self.forest.memory_usage()
            + (self.conditions.capacity() + self.named_conditions.capacity()) * 16
    }
}

/// The states of all peers of a row while it is folded.
#[derive(Debug)]
pub(crate) struct States {
    numbers: AHashMap<State, u32>,
    states: Vec<State>,
    /// The state of each peer, by its place.
    of: Vec<u32>,
    /// What a step makes of each state, with the number of the step that last asked.
    moved: Vec<(u32, u32)>,
    step: u32,
}

impl States {
    /// So many peers in one state.
    pub(crate) fn new(begin: State, peers: usize) -> Self {
        Self {
            numbers: [(begin, 0)].into_iter().collect(),
            states: vec![begin],
            of: vec![0; peers],
            moved: Vec::new(),
            step: 0,
        }
    }

    pub(crate) fn of(&self, place: usize) -> State {
        self.states[self.of[place] as usize]
    }

    /// Number of the state, for who keeps something by state.
    pub(crate) fn number(&self, place: usize) -> usize {
        self.of[place] as usize
    }

    pub(crate) fn count(&self) -> usize {
        self.states.len()
    }

    /// Moves some peers; `step` is asked once a state.
    pub(crate) fn step(
        &mut self,
        places: impl IntoIterator<Item = usize>,
        mut step: impl FnMut(State) -> Result<State, Stop>,
    ) -> Result<(), Stop> {
        self.step += 1;
        let now = self.step;
        self.moved.resize(self.states.len(), (0, 0));
        for place in places {
            let from = self.of[place] as usize;
            if self.moved[from].0 != now {
                self.moved[from] = (now, self.intern(step(self.states[from])?));
            }
            self.of[place] = self.moved[from].1;
        }
        Ok(())
    }

    /// Moves one peer by itself.
    pub(crate) fn put(&mut self, place: usize, state: State) {
        self.of[place] = self.intern(state);
    }

    fn intern(&mut self, state: State) -> u32 {
        *self.numbers.entry(state).or_insert_with(|| {
            self.states.push(state);
            u32::try_from(self.states.len() - 1).expect("fewer states than peers and rules")
        })
    }
}
