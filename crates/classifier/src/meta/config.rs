//! Settings of the `meta` engine.

use crate::{tree, tuple};

/// Settings of the [`Meta`](super::Meta) engine.
///
/// ```
/// use portcullis_classifier::{meta, tree};
///
/// let small = meta::Config::default().tree(tree::Config::default().size_limit(1 << 20));
/// let _ = meta::Builder::new().configure(small);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Config {
    pub(super) tree: tree::Config,
    pub(super) tuple: tuple::Config,
    pub(super) linear_limit: usize,
    pub(super) rebuild_after: usize,
    pub(super) deleted_touch_limit: usize,
}

impl Default for Config {
    /// Defaults of the engines; linear search up to 8 rules by choice and up to 256 when nothing
    /// else takes them; a rebuild after 64 changes; 4,096 cache lines besides while a rule is deleted.
    fn default() -> Self {
        Self {
            tree: tree::Config::default(),
            tuple: tuple::Config::default(),
            linear_limit: 256,
            rebuild_after: 64,
            deleted_touch_limit: 4096,
        }
    }
}

impl Config {
    /// Settings of the trees.
    #[must_use]
    pub fn tree(self, tree: tree::Config) -> Self {
        Self { tree, ..self }
    }

    /// Settings of the delta table.
    #[must_use]
    pub fn tuple(self, tuple: tuple::Config) -> Self {
        Self { tuple, ..self }
    }

    /// Rules at most that linear search takes when no other engine does.
    #[must_use]
    pub fn linear_limit(self, rules: usize) -> Self {
        Self { linear_limit: rules, ..self }
    }

    /// Inserted rules that wait in the delta table before a rebuild starts in the background. A
    /// deleted rule that was compiled starts one at once.
    #[must_use]
    pub fn rebuild_after(self, rules: usize) -> Self {
        Self { rebuild_after: rules.max(1), ..self }
    }

    /// Cache lines that a lookup may touch besides when it lands on a compiled rule that is deleted,
    /// until a rebuild has left that one out. For rules with which that could be more, deleting one
    /// waits for the rebuild instead; [`Meta::choice`](super::Meta::choice) says so then.
    ///
    /// ```
    /// use portcullis_classifier::{Rule, RuleSet, meta};
    ///
    /// let rules = RuleSet::new((0..100).map(|n| Rule::any(n).protocol(n as u8)).collect()).unwrap();
    /// let config = meta::Config::default().deleted_touch_limit(0);
    /// let waiting = meta::Builder::new().configure(config).build(&rules).unwrap();
    /// assert!(waiting.choice().why.contains("waits for a rebuild"));
    /// ```
    #[must_use]
    pub fn deleted_touch_limit(self, lines: usize) -> Self {
        Self { deleted_touch_limit: lines, ..self }
    }
}
