//! The compiler: the resolved form to a [`Program`], kept so that a change recompiles what it
//! touches.
//!
//! For each direction, classes to which the same policies apply in the same way share a row; the row
//! holds for each peer class the port tree of the rules between the two. Rows, steps from one tree
//! to the next and trees are remembered by content, so after a change everything that is found again
//! is free.

mod boxes;
pub(crate) mod classset;
mod filing;
#[cfg(test)]
mod flatten;
mod fold;
mod forest;
pub(crate) mod grid;
pub(crate) mod matches;
pub(crate) mod resolve;
pub(crate) mod rows;
pub(crate) mod sources;
pub(crate) mod trees;
pub(crate) mod universe;

use std::sync::Arc;

use portcullis_identity_table::endpoint::Namespace;
use portcullis_identity_table::identity::{ClassId, Identity, Owner};
use portcullis_identity_table::registry::{Delta, Registry};
use portcullis_identity_table::{Generation, IdentityId};

use self::fold::{Folder, Stop};
use self::grid::{GridBuilder, RowId};
use self::resolve::Resolved;
use self::rows::{Row, RowKeys, Rows};
use self::sources::Sources;
use self::trees::{Full, TreeBuilder};
use self::universe::Universe;
use crate::model::{Direction, PolicySet};
use crate::program::{NO_ROW, Program, Record};

/// Limits of a compilation.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// Most bytes that a program may have; more is an error. 1 GiB unless set.
    pub max_program_bytes: usize,
    /// Most cells (intervals of one port times intervals of the other) into which the rules between
    /// two classes may cut one protocol; more is an error. 2^22 unless set.
    pub max_cells: u64,
    /// When to prove a program before it is handed out. Never unless set.
    pub prove: Prove,
    /// Most threads that a proof may use. As many as there are processors, but at most four, unless
    /// set.
    pub proof_threads: usize,
}

/// When to prove programs, see [`crate::prove`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Prove {
    /// Only when asked ([`Engine::prove`](crate::Engine::prove)).
    #[default]
    Never,
    /// Whenever policies change.
    Policies,
    /// Whenever anything is compiled.
    Everything,
}

impl Default for Config {
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, |n| n.get());
        Self {
            max_program_bytes: 1 << 30,
            max_cells: 1 << 22,
            prove: Prove::default(),
            proof_threads: processors.min(4),
        }
    }
}

/// Why policies were not compiled; the program before stays as it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CompileError {
    /// The program would exceed [`Config::max_program_bytes`].
    #[error(
        "the compiled program would take {bytes} bytes, the limit is {limit}: policies tell too \
         many endpoints apart; raise the limit or use fewer distinct selectors"
    )]
    TooLarge {
        /// Bytes it would take, as far as it was compiled.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The rules between two classes exceed [`Config::max_cells`].
    #[error(
        "the rules of {policy} and what applies beside it cut ports into {cells} cells or more, the \
         limit is {limit}: merge port ranges, or raise the limit"
    )]
    TooComplex {
        /// The policy with the rule that is one too many.
        policy: String,
        /// Cells so far.
        cells: u64,
        /// The limit.
        limit: u64,
    },
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Compiler {
    pub(crate) config: Config,
    pub(crate) universe: Universe,
    pub(crate) resolved: Resolved,
    pub(crate) rows: Rows,
    pub(crate) grid: GridBuilder,
    folder: Folder,
    pub(crate) trees: TreeBuilder,
    records: Vec<Record>,
    /// Words of grid and trees after the last compilation from nothing.
    words_when_fresh: usize,
}

impl Compiler {
    /// Over the classes of a registry, without policies.
    pub(crate) fn new(
        config: Config,
        registry: &Registry,
        namespaces: impl IntoIterator<Item = Namespace>,
    ) -> Self {
        let mut universe = Universe::new(namespaces);
        for (id, class) in registry.classes() {
            universe.set(id, Some(class.clone()));
        }
        let folder = Folder::new(config.max_cells, config.max_program_bytes);
        Self {
            config,
            universe,
            resolved: Resolved::new(),
            rows: Rows::default(),
            grid: GridBuilder::default(),
            folder,
            trees: TreeBuilder::default(),
            records: Vec::new(),
            words_when_fresh: 0,
        }
    }

    /// Compiles these policies, reusing what is already there.
    pub(crate) fn set_policies(
        &mut self,
        set: &PolicySet,
        sources: &Sources,
        registry: &Registry,
    ) -> Result<(), CompileError> {
        self.resolved.update(set, sources, &self.universe);
        let fresh = self.words_when_fresh == 0;
        self.compile_rows()?;
        self.records = vec![Record::ABSENT; IdentityId::FIRST_DYNAMIC.get() as usize];
        for id in IdentityId::RESERVED {
            self.records[id.get() as usize] = Record::WORLD;
        }
        for identity in registry.identities() {
            self.write_record(identity.id, Some(identity));
        }
        if fresh {
            self.words_when_fresh = self.words().max(1);
        }
        self.check_size()
    }

    /// Follows classes and identities that came or went.
    pub(crate) fn follow(
        &mut self,
        delta: &Delta,
        registry: &Registry,
    ) -> Result<(), CompileError> {
        for &id in &delta.classes {
            let before = self.universe.class(id).cloned();
            self.universe.set(id, registry.class(id).cloned());
            self.resolved.matches.update_class(id, before.as_deref(), &self.universe);
        }
        for &id in &delta.classes {
            self.write_column(id)?;
            self.update_rows_of(id)?;
        }
        for &id in &delta.identities {
            self.write_record(id, registry.identity(id));
        }
        self.check_size()
    }

    /// Whether so much is no longer in use that compiling from nothing pays. A change of policies, which
    /// leaves as much behind as it compiles, pays for it sooner than one of an endpoint, which shall be
    /// quick.
    pub(crate) fn is_stale(&self, policies_change: bool) -> bool {
        const SLACK: usize = 1 << 20;
        let (fresh, words) = (self.words_when_fresh, self.words());
        if policies_change {
            words > fresh + fresh / 2 + SLACK / 2
        } else {
            words > 3 * fresh + SLACK
        }
    }

    /// What is compiled, to be read by many. O(identities): the rest is shared.
    pub(crate) fn program(&self, generation: Generation, numbering: u64) -> Program {
        Program {
            generation,
            numbering,
            records: self.records.clone(),
            grid: self.grid.grid.clone(),
            trees: self.trees.trees.clone(),
            rules: self.resolved.rules.clone(),
        }
    }

    /// Finds the row of every workload class anew; builds those not seen before.
    fn compile_rows(&mut self) -> Result<(), CompileError> {
        let count = self.universe.count();
        self.grid.reserve_columns(count);
        for direction in [Direction::Ingress, Direction::Egress] {
            let keys = RowKeys::of_all(direction, &self.resolved, &self.universe);
            let mut used = Vec::with_capacity(self.universe.workloads().len());
            for i in 0..self.universe.workloads().len() {
                let class = ClassId(self.universe.workloads()[i]);
                used.push((class, self.row(direction, class, keys.key(class))?));
            }
            self.rows.replace(direction, used);
        }
        Ok(())
    }

    /// The row of a key, built if need be.
    fn row(
        &mut self,
        direction: Direction,
        class: ClassId,
        key: &[u32],
    ) -> Result<RowId, CompileError> {
        if let Some(row) = self.rows.find(direction, key) {
            return Ok(row);
        }
        let row = Row::new(direction, class, key, &self.resolved, &self.universe);
        let folded = row.trees(&self.resolved, &self.universe, &mut self.folder, &mut self.trees);
        let (default, others) = folded.map_err(|s| stopped(s, &self.config, &self.resolved))?;
        let id = self.rows.insert(row);
        self.grid.write_row(id, default, &others).map_err(|Full| full(&self.config, &self.grid))?;
        if self.words() * size_of::<u32>() > self.config.max_program_bytes {
            self.check_size()?;
        }
        Ok(id)
    }

    /// Writes what each row says of one class of peers.
    fn write_column(&mut self, class: ClassId) -> Result<(), CompileError> {
        let Self { grid, rows, resolved, universe, folder, trees, config, .. } = self;
        grid.reserve_columns(universe.count());
        if universe.class(class).is_none() {
            // No identity refers to it; whoever takes the number writes it anew.
            return Ok(());
        }
        for (id, row) in rows.iter() {
            let tree = row.tree(class, resolved, universe, folder, trees);
            let tree = tree.map_err(|s| stopped(s, config, resolved))?;
            grid.write(id, class.0, tree).map_err(|Full| full(config, grid))?;
        }
        Ok(())
    }

    /// Finds the rows of one class.
    fn update_rows_of(&mut self, class: ClassId) -> Result<(), CompileError> {
        let workload =
            self.universe.class(class).is_some_and(|c| matches!(c.owner, Owner::Workload(_)));
        for direction in [Direction::Ingress, Direction::Egress] {
            let row = if workload {
                let key = RowKeys::of_one(direction, class, &self.resolved, &self.universe);
                Some(self.row(direction, class, &key)?)
            } else {
                None
            };
            self.rows.assign(direction, class, row);
        }
        Ok(())
    }

    fn write_record(&mut self, id: IdentityId, identity: Option<&Arc<Identity>>) {
        let index = id.get() as usize;
        if index >= self.records.len() {
            self.records.resize(index + 1, Record::ABSENT);
        }
        self.records[index] = identity.map_or(Record::ABSENT, |i| record(i, &self.rows));
    }

    fn words(&self) -> usize {
        (self.grid.grid.memory_usage() + self.trees.trees.memory_usage()) / size_of::<u32>()
    }

    fn check_size(&self) -> Result<(), CompileError> {
        let bytes = self.words() * size_of::<u32>() + size_of_val(&self.records[..]);
        let limit = self.config.max_program_bytes;
        if bytes > limit { Err(CompileError::TooLarge { bytes, limit }) } else { Ok(()) }
    }

    /// Bytes on the heap that compiling holds, the program not counted.
    pub(crate) fn memory_usage(&self) -> usize {
        self.universe.memory_usage()
            + self.resolved.memory_usage()
            + self.rows.memory_usage()
            + self.folder.memory_usage()
            + self.words() * size_of::<u32>()
    }
}

/// Why the rules of a row could not be folded.
fn stopped(stop: Stop, config: &Config, resolved: &Resolved) -> CompileError {
    match stop {
        // References cannot number more than this.
        Stop::Full => CompileError::TooLarge {
            bytes: config.max_program_bytes.saturating_add(1),
            limit: config.max_program_bytes.min(1 << 30),
        },
        Stop::Cells(rule, cells) => CompileError::TooComplex {
            policy: resolved.rules[rule.0 as usize].policy.name.to_string(),
            cells,
            limit: config.max_cells,
        },
    }
}

/// Numbers of the grid that have run out.
fn full(config: &Config, grid: &GridBuilder) -> CompileError {
    let bytes = grid.grid.memory_usage();
    CompileError::TooLarge { bytes, limit: config.max_program_bytes.min(bytes) }
}

/// What the program knows of an identity whose class has these rows.
pub(crate) fn record(identity: &Identity, rows: &Rows) -> Record {
    let row = |direction| rows.of(direction, identity.class_id).map_or(NO_ROW, |row| row.0);
    let node = identity.node.as_ref().map_or(0, |(number, _)| number.0.get() as i32);
    Record {
        ingress: row(Direction::Ingress),
        egress: row(Direction::Egress),
        class: identity.class_id.0,
        node: if matches!(identity.class.owner, Owner::Node { .. }) { -node } else { node },
        pod: identity.pod.as_ref().map_or(0, |(number, _)| number.0.get()),
    }
}
