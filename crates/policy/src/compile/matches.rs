//! The expressions that policies use, each once, and the classes for which each holds.

use std::sync::Arc;

use ahash::AHashMap;
use portcullis_identity_table::identity::{Class, ClassId};

use super::classset::ClassSet;
use super::filing::{Filed, Filing};
use super::universe::Universe;
use crate::model::Match;

/// The number of an expression in [`Matches`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct MatchId(u32);

impl MatchId {
    /// [`Match::Any`].
    pub(crate) const ANY: Self = Self(0);
}

/// See the [module](self). Expressions are canonical, as [`Universe`] wants them.
#[derive(Debug)]
pub(crate) struct Matches {
    entries: Vec<Entry>,
    by_expression: AHashMap<Arc<Match>, MatchId>,
    filing: Filing,
    /// Expressions whose members are kept as a complement: a class that comes is one of them until
    /// it is said not to be.
    complements: Vec<MatchId>,
    free: Vec<MatchId>,
}

#[derive(Debug)]
struct Entry {
    expression: Arc<Match>,
    members: ClassSet,
    filed: Filed,
    users: u32,
}

impl Matches {
    pub(crate) fn new() -> Self {
        let any = Arc::new(Match::Any);
        let members = ClassSet::from_members(vec![0], 1);
        debug_assert!(members.is_complement(), "every class, those to come included");
        let entry = Entry { expression: any.clone(), members, filed: Filed::Anywhere, users: 1 };
        Self {
            entries: vec![entry],
            by_expression: [(any, MatchId::ANY)].into_iter().collect(),
            filing: Filing::default(),
            complements: vec![MatchId::ANY],
            free: Vec::new(),
        }
    }

    /// The classes for which an expression holds.
    pub(crate) fn members(&self, id: MatchId) -> &ClassSet {
        &self.entries[id.0 as usize].members
    }

    /// One more user of an expression.
    pub(crate) fn intern(&mut self, expression: Match, universe: &Universe) -> MatchId {
        if let Some(&id) = self.by_expression.get(&expression) {
            self.entries[id.0 as usize].users += 1;
            return id;
        }
        let members = universe.members(&expression);
        let expression = Arc::new(expression);
        let id = self.free.pop().unwrap_or_else(|| {
            MatchId(u32::try_from(self.entries.len()).expect("fewer than 2^32 matches"))
        });
        let filed = self.filing.file(id, &expression);
        if members.is_complement() {
            self.complements.push(id);
        }
        let entry = Entry { expression: expression.clone(), members, filed, users: 1 };
        match self.entries.get_mut(id.0 as usize) {
            Some(free) => *free = entry,
            None => self.entries.push(entry),
        }
        self.by_expression.insert(expression, id);
        id
    }

    /// One user of an expression less.
    pub(crate) fn release(&mut self, id: MatchId) {
        let entry = &mut self.entries[id.0 as usize];
        entry.users -= 1;
        if entry.users > 0 {
            return;
        }
        if std::mem::take(&mut entry.members).is_complement() {
            self.complements.retain(|&other| other != id);
        }
        self.by_expression.remove(&entry.expression);
        self.filing.take(id, &entry.filed);
        self.free.push(id);
    }

    /// Says what the class of this number now satisfies; `before` is what stood there until now.
    /// Evaluates the expressions that may hold for either, and those that hold for most classes.
    pub(crate) fn update_class(
        &mut self,
        id: ClassId,
        before: Option<&Class>,
        universe: &Universe,
    ) {
        let mut candidates = self.complements.clone();
        for class in before.into_iter().chain(universe.class(id).map(|class| &**class)) {
            self.filing.candidates(class, &mut candidates);
        }
        candidates.sort_unstable();
        candidates.dedup();
        for candidate in candidates {
            let entry = &mut self.entries[candidate.0 as usize];
            entry.members.set(id, universe.holds_for(&entry.expression, id));
        }
        // Anything is also what has no class yet.
        self.entries[0].members.set(id, true);
    }

    pub(crate) fn memory_usage(&self) -> usize {
        let entries: usize = self.entries.iter().map(|e| e.members.memory_usage() + 128).sum();
        entries + self.filing.memory_usage()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_identity_table::endpoint::{Namespace, ServiceAccount};
    use portcullis_identity_table::identity::{Owner, Workload};
    use portcullis_identity_table::region::SourceId;
    use portcullis_identity_table::{Labels, Selector};
    use proptest::prelude::*;

    impl Matches {
        /// The slow twin of [`Matches::update_class`]: shows the class to every expression.
        fn update_class_slowly(&mut self, id: ClassId, universe: &Universe) {
            for entry in self.entries.iter_mut().filter(|entry| entry.users > 0) {
                entry.members.set(id, universe.holds_for(&entry.expression, id));
            }
            self.entries[0].members.set(id, true);
        }
    }

    fn words() -> impl Strategy<Value = Box<str>> + Clone {
        prop::sample::select(vec!["a", "b", "c"]).prop_map(Box::from)
    }

    fn labels() -> impl Strategy<Value = Labels> {
        prop::collection::vec((words(), words()), 0..3)
            .prop_map(|pairs| pairs.into_iter().collect())
    }

    fn selectors() -> impl Strategy<Value = Selector> {
        let set = || prop::collection::btree_set(words(), 0..3);
        let leaf = prop_oneof![
            Just(Selector::All),
            words().prop_map(Selector::Has),
            (words(), words()).prop_map(|(k, v)| Selector::Equals(k, v)),
            (words(), words()).prop_map(|(k, v)| Selector::NotEquals(k, v)),
            (words(), set()).prop_map(|(k, v)| Selector::In(k, v)),
            (words(), set()).prop_map(|(k, v)| Selector::NotIn(k, v)),
            (words(), words()).prop_map(|(k, v)| Selector::StartsWith(k, v)),
        ];
        leaf.prop_recursive(2, 6, 3, |inner| {
            prop_oneof![
                inner.clone().prop_map(|s| Selector::Not(Box::new(s))),
                prop::collection::vec(inner.clone(), 0..3).prop_map(Selector::And),
                prop::collection::vec(inner, 0..3).prop_map(Selector::Or),
            ]
        })
    }

    fn expressions() -> impl Strategy<Value = Match> {
        let leaf = prop_oneof![
            1 => Just(Match::Any),
            1 => Just(Match::Nothing),
            1 => Just(Match::Pod),
            4 => selectors().prop_map(Match::PodLabels),
            2 => words().prop_map(Match::Namespace),
            2 => selectors().prop_map(Match::NamespaceLabels),
            2 => words().prop_map(Match::ServiceAccount),
            2 => selectors().prop_map(Match::ServiceAccountLabels),
            2 => selectors().prop_map(Match::NodeLabels),
            2 => (0..3_u32).prop_map(Match::InSet),
            1 => (words(), selectors()).prop_map(|(n, s)| Match::NamespaceHas(n, s)),
        ];
        leaf.prop_recursive(3, 8, 3, |inner| {
            prop_oneof![
                inner.clone().prop_map(|m| Match::Not(Box::new(m))),
                prop::collection::vec(inner.clone(), 0..4).prop_map(Match::All),
                prop::collection::vec(inner, 0..4).prop_map(Match::OneOf),
            ]
        })
    }

    fn classes() -> impl Strategy<Value = Class> {
        let workload = ((words(), labels()), labels(), (words(), labels())).prop_map(
            |((namespace, of_namespace), labels, (account, of_account))| {
                Owner::Workload(Workload {
                    namespace: Namespace::new(&namespace, of_namespace),
                    labels,
                    service_account: ServiceAccount {
                        namespace: namespace.clone(),
                        name: account,
                        labels: of_account,
                    },
                    named_ports: Arc::new([]),
                })
            },
        );
        let node = (words(), labels())
            .prop_map(|(name, labels)| Owner::Node { name: (*name).into(), labels });
        let owner = prop_oneof![6 => workload, 2 => node, 1 => Just(Owner::World)];
        let cover = prop::collection::btree_set((0..3_u32).prop_map(SourceId), 0..3);
        (owner, cover)
            .prop_map(|(owner, cover)| Class { owner, cover: cover.into_iter().collect() })
    }

    #[derive(Clone, Debug)]
    enum Step {
        Intern(Match),
        /// Of those interned, counted round.
        Release(usize),
        Class(u32, Option<Class>),
    }

    fn steps() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => expressions().prop_map(Step::Intern),
            1 => any::<usize>().prop_map(Step::Release),
            4 => (0..12_u32, prop::option::weighted(0.8, classes()))
                .prop_map(|(id, class)| Step::Class(id, class)),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 300 } else { 20_000 }))]

        #[test]
        fn the_index_leaves_out_only_what_does_not_change(
            steps in prop::collection::vec(steps(), 1..60),
        ) {
            let mut universe = Universe::new([]);
            let (mut fast, mut slow) = (Matches::new(), Matches::new());
            let mut interned = Vec::new();
            for step in steps {
                match step {
                    Step::Intern(expression) => {
                        let id = fast.intern(expression.clone(), &universe);
                        prop_assert_eq!(slow.intern(expression, &universe), id);
                        interned.push(id);
                    }
                    Step::Release(at) if !interned.is_empty() => {
                        let id = interned.swap_remove(at % interned.len());
                        fast.release(id);
                        slow.release(id);
                    }
                    Step::Release(_) => {}
                    Step::Class(id, class) => {
                        let id = ClassId(id);
                        let before = universe.class(id).cloned();
                        universe.set(id, class.map(Arc::new));
                        fast.update_class(id, before.as_deref(), &universe);
                        slow.update_class_slowly(id, &universe);
                    }
                }
                for (entry, twin) in fast.entries.iter().zip(&slow.entries) {
                    prop_assert_eq!(&entry.members, &twin.members, "{:?}", entry.expression);
                }
            }
        }
    }

    type Update = fn(&mut Matches, ClassId, Option<&Class>, &Universe);

    /// `cargo test --release -p portcullis-policy --lib ten_thousand -- --ignored --nocapture`
    #[test]
    #[ignore = "a measurement"]
    fn ten_thousand_expressions() {
        let pair = |k: &str, v: String| Selector::Equals(k.into(), v.into());
        let pod = |n: u32| Class {
            owner: Owner::Workload(Workload {
                namespace: Namespace::new(&format!("ns-{}", n % 100), Labels::default()),
                labels: [("app", &*format!("app-{n}")), ("tier", "front")].into_iter().collect(),
                service_account: ServiceAccount {
                    namespace: format!("ns-{}", n % 100).into(),
                    name: "default".into(),
                    labels: Labels::default(),
                },
                named_ports: Arc::new([]),
            }),
            cover: Arc::new([]),
        };
        let mut universe = Universe::new([]);
        for n in 0..1000 {
            universe.set(ClassId(n), Some(Arc::new(pod(n))));
        }
        let mut matches = Matches::new();
        for n in 0..10_000_u32 {
            let labels = match n % 100 {
                // One in a hundred names no label that a pod must have.
                0 => Selector::NotIn("app".into(), [format!("app-{n}").into()].into()),
                1..10 => Selector::And(vec![
                    pair("app", format!("app-{n}")),
                    Selector::Has("tier".into()),
                ]),
                _ => pair("app", format!("app-{n}")),
            };
            let namespace = Match::Namespace(format!("ns-{}", n % 100).into());
            matches.intern(
                Match::All(vec![Match::Pod, namespace, Match::PodLabels(labels)]),
                &universe,
            );
        }
        let mut time = |update: Update| {
            let started = std::time::Instant::now();
            for n in 0..200 {
                let before = universe.class(ClassId(n)).cloned();
                universe.set(ClassId(n), Some(Arc::new(pod(n + 5_000))));
                update(&mut matches, ClassId(n), before.as_deref(), &universe);
            }
            started.elapsed() / 200
        };
        let slow = time(|matches: &mut Matches, id, _, universe| {
            matches.update_class_slowly(id, universe)
        });
        let fast = time(Matches::update_class);
        println!("a class: every expression {slow:?}, candidates {fast:?}");
        assert!(fast < slow);
    }
}
