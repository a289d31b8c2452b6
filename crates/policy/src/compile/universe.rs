//! The classes of a cluster, filed so that an expression finds its members without looking at all.

use std::borrow::Cow;
use std::sync::Arc;

use ahash::AHashMap;
use portcullis_identity_table::endpoint::{NamedPort, Namespace};
use portcullis_identity_table::identity::{Class, ClassId, Owner, Workload};
use portcullis_identity_table::region::SourceId;
use portcullis_identity_table::{Labels, Selector};

use super::classset::ClassSet;
use crate::model::Match;

/// Class numbers, ascending.
type Posting = Vec<u32>;

/// All classes, by number and by what expressions ask for.
///
/// Expressions here are canonical: [`Match::InSet`] carries a [`SourceId`], and [`Match::Cidr`] has
/// become such a set (see [`super::sources`]).
#[derive(Debug, Default)]
pub(crate) struct Universe {
    classes: Vec<Option<Arc<Class>>>,
    /// Labels of the cluster's namespaces, for [`Match::NamespaceHas`].
    namespaces: AHashMap<Box<str>, Labels>,
    workloads: Posting,
    nodes: Posting,
    by_label: AHashMap<Box<str>, ByValue>,
    by_namespace: AHashMap<Box<str>, Posting>,
    by_namespace_labels: AHashMap<Namespace, Posting>,
    by_account: AHashMap<Box<str>, Posting>,
    by_source: AHashMap<SourceId, Posting>,
    by_port_name: AHashMap<Box<str>, Posting>,
    port_lists: PortLists,
}

/// Lists of named ports by number; a number always means the same list. 0 is the empty one.
#[derive(Debug, Default)]
struct PortLists {
    numbers: AHashMap<Arc<[NamedPort]>, u32>,
    last: u32,
    /// By class.
    of: Vec<u32>,
}

impl PortLists {
    fn set(&mut self, id: ClassId, ports: &[NamedPort]) {
        if self.numbers.len() > 2 * self.of.len() + 64 {
            self.numbers.retain(|_, number| self.of.contains(number));
        }
        let number = if ports.is_empty() { 0 } else { self.number(ports) };
        let index = id.0 as usize;
        if index >= self.of.len() {
            self.of.resize(index + 1, 0);
        }
        self.of[index] = number;
    }

    fn number(&mut self, ports: &[NamedPort]) -> u32 {
        if let Some(&known) = self.numbers.get(ports) {
            return known;
        }
        self.last = self.last.checked_add(1).expect("fewer than 2^32 changes of ports");
        self.numbers.insert(ports.into(), self.last);
        self.last
    }
}

/// Named ports, and the number that means them as long as the universe lives.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PortList<'a> {
    pub(crate) number: u32,
    pub(crate) ports: &'a [NamedPort],
}

impl PortList<'_> {
    pub(crate) const EMPTY: Self = Self { number: 0, ports: &[] };
}

#[derive(Debug, Default)]
struct ByValue {
    any: Posting,
    values: AHashMap<Box<str>, Posting>,
}

impl Universe {
    pub(crate) fn new(namespaces: impl IntoIterator<Item = Namespace>) -> Self {
        let namespaces = namespaces.into_iter().map(|n| (n.name, n.labels)).collect();
        Self { namespaces, ..Self::default() }
    }

    /// One more than the highest class number so far.
    pub(crate) fn count(&self) -> u32 {
        self.classes.len() as u32
    }

    pub(crate) fn class(&self, id: ClassId) -> Option<&Arc<Class>> {
        self.classes.get(id.0 as usize)?.as_ref()
    }

    pub(crate) fn workloads(&self) -> &[u32] {
        &self.workloads
    }

    /// Classes with a port of this name.
    pub(crate) fn with_port_name(&self, name: &str) -> &[u32] {
        self.by_port_name.get(name).map_or(&[], Vec::as_slice)
    }

    /// The numbers that a port name means, on some class and for some protocol; some more than once.
    pub(crate) fn numbers_of(&self, name: &str) -> impl Iterator<Item = u16> {
        let lists = self.with_port_name(name).iter().map(|&class| self.named_ports(ClassId(class)));
        lists.flatten().filter(move |port| *port.name == *name).map(|port| port.port)
    }

    /// The named ports of a class, with a number that stands for them.
    pub(crate) fn port_list(&self, id: ClassId) -> PortList<'_> {
        let number = self.port_lists.of.get(id.0 as usize).copied().unwrap_or(0);
        PortList { number, ports: self.named_ports(id) }
    }

    /// The named ports of a class; none unless it is a workload.
    pub(crate) fn named_ports(&self, id: ClassId) -> &[NamedPort] {
        match self.class(id).map(|class| &class.owner) {
            Some(Owner::Workload(workload)) => &workload.named_ports,
            _ => &[],
        }
    }

    /// Replaces what stands at a number: a class, or nothing.
    pub(crate) fn set(&mut self, id: ClassId, class: Option<Arc<Class>>) {
        let index = id.0 as usize;
        if index >= self.classes.len() {
            self.classes.resize(index + 1, None);
        }
        if let Some(old) = self.classes[index].take() {
            self.file(id, &old, |posting, id| {
                if let Ok(at) = posting.binary_search(&id) {
                    posting.remove(at);
                }
            });
        }
        if let Some(new) = &class {
            self.file(id, new, |posting, id| {
                if let Err(at) = posting.binary_search(&id) {
                    posting.insert(at, id);
                }
            });
        }
        self.classes[index] = class;
        let class = self.classes[index].clone();
        self.port_lists.set(
            id,
            match class.as_ref().map(|class| &class.owner) {
                Some(Owner::Workload(workload)) => &workload.named_ports,
                _ => &[],
            },
        );
    }

    fn file(&mut self, id: ClassId, class: &Class, change: impl Fn(&mut Posting, u32)) {
        for source in class.cover.iter() {
            change(self.by_source.entry(*source).or_default(), id.0);
        }
        match &class.owner {
            Owner::World => {}
            Owner::Node { .. } => change(&mut self.nodes, id.0),
            Owner::Workload(workload) => {
                change(&mut self.workloads, id.0);
                for (key, value) in workload.labels.iter() {
                    let by_value = entry(&mut self.by_label, key);
                    change(&mut by_value.any, id.0);
                    change(entry(&mut by_value.values, value), id.0);
                }
                let namespace = &workload.namespace;
                change(entry(&mut self.by_namespace, &namespace.name), id.0);
                if !self.by_namespace_labels.contains_key(namespace) {
                    self.by_namespace_labels.insert(namespace.clone(), Posting::new());
                }
                if let Some(posting) = self.by_namespace_labels.get_mut(namespace) {
                    change(posting, id.0);
                }
                change(entry(&mut self.by_account, &workload.service_account.name), id.0);
                for port in workload.named_ports.iter() {
                    change(entry(&mut self.by_port_name, &port.name), id.0);
                }
            }
        }
    }

    /// The classes for which a canonical expression holds. O(the shortest posting that must contain
    /// them all), or O(classes) if there is none.
    pub(crate) fn members(&self, expression: &Match) -> ClassSet {
        let holds = |c: &u32| self.holds_for(expression, ClassId(*c));
        let members = match self.candidates(expression) {
            Some(candidates) => candidates.iter().copied().filter(holds).collect(),
            None => (0..self.count()).filter(holds).collect(),
        };
        ClassSet::from_members(members, self.count())
    }

    /// Whether a canonical expression holds for the class of this number; never if there is none.
    pub(crate) fn holds_for(&self, expression: &Match, id: ClassId) -> bool {
        self.class(id).is_some_and(|class| self.holds(expression, class))
    }

    fn holds(&self, expression: &Match, class: &Class) -> bool {
        let workload = |holds: &dyn Fn(&Workload) -> bool| match &class.owner {
            Owner::Workload(workload) => holds(workload),
            _ => false,
        };
        match expression {
            Match::Any => true,
            Match::Nothing => false,
            Match::Pod => workload(&|_| true),
            Match::PodLabels(selector) => workload(&|w| selector.matches(&w.labels)),
            Match::Namespace(name) => workload(&|w| w.namespace.name == *name),
            Match::NamespaceLabels(selector) => {
                workload(&|w| selector.matches(&w.namespace.labels))
            }
            Match::ServiceAccount(name) => workload(&|w| w.service_account.name == *name),
            Match::ServiceAccountLabels(selector) => {
                workload(&|w| selector.matches(&w.service_account.labels))
            }
            Match::NodeLabels(selector) => match &class.owner {
                Owner::Node { labels, .. } => selector.matches(labels),
                _ => false,
            },
            // Canonical expressions name no prefix; one that does means the region around it, which
            // is nobody's.
            Match::Cidr(_) => false,
            Match::InSet(source) => class.cover.binary_search(&SourceId(*source)).is_ok(),
            Match::NamespaceHas(name, selector) => match self.namespaces.get(name) {
                Some(labels) => selector.matches(labels),
                None => selector.matches(&Namespace::new(name, Labels::default()).labels),
            },
            Match::Not(part) => !self.holds(part, class),
            Match::All(parts) => parts.iter().all(|part| self.holds(part, class)),
            Match::OneOf(parts) => parts.iter().any(|part| self.holds(part, class)),
        }
    }

    /// Classes among which all members are; `None` if any class may be one.
    fn candidates(&self, expression: &Match) -> Option<Cow<'_, [u32]>> {
        fn filed<
            'a,
            K: ?Sized + std::hash::Hash + Eq,
            Q: std::borrow::Borrow<K> + std::hash::Hash + Eq,
        >(
            map: &'a AHashMap<Q, Posting>,
            key: &K,
        ) -> Option<Cow<'a, [u32]>> {
            Some(map.get(key).map_or(&[][..], Vec::as_slice).into())
        }
        match expression {
            Match::Nothing | Match::Cidr(_) => Some(Cow::Borrowed(&[])),
            Match::Pod | Match::ServiceAccountLabels(_) => Some((&self.workloads[..]).into()),
            Match::PodLabels(selector) => {
                Some(self.labelled(selector).unwrap_or((&self.workloads[..]).into()))
            }
            Match::Namespace(name) => filed(&self.by_namespace, &**name),
            Match::NamespaceLabels(selector) => {
                let namespaces = self.by_namespace_labels.iter();
                let postings: Vec<_> = namespaces
                    .filter(|(namespace, _)| selector.matches(&namespace.labels))
                    .map(|(_, posting)| Cow::Borrowed(&posting[..]))
                    .collect();
                Some(union(postings))
            }
            Match::ServiceAccount(name) => filed(&self.by_account, &**name),
            Match::NodeLabels(_) => Some((&self.nodes[..]).into()),
            Match::InSet(source) => filed(&self.by_source, &SourceId(*source)),
            Match::All(parts) => {
                parts.iter().filter_map(|part| self.candidates(part)).min_by_key(|list| list.len())
            }
            Match::OneOf(parts) => {
                let lists: Option<Vec<_>> =
                    parts.iter().map(|part| self.candidates(part)).collect();
                lists.map(union)
            }
            Match::Any | Match::NamespaceHas(..) | Match::Not(_) => None,
        }
    }

    fn labelled(&self, selector: &Selector) -> Option<Cow<'_, [u32]>> {
        let none = Cow::Borrowed(&[][..]);
        let value = |key: &str, value: &str| {
            let posting = self.by_label.get(key).and_then(|by_value| by_value.values.get(value));
            posting.map_or(none.clone(), |posting| (&posting[..]).into())
        };
        match selector {
            Selector::Equals(key, v) => Some(value(key, v)),
            Selector::In(key, values) => {
                Some(union(values.iter().map(|v| value(key, v)).collect()))
            }
            Selector::Has(key)
            | Selector::Contains(key, _)
            | Selector::StartsWith(key, _)
            | Selector::EndsWith(key, _) => {
                Some(self.by_label.get(key).map_or(none, |by_value| (&by_value.any[..]).into()))
            }
            Selector::And(parts) => {
                parts.iter().filter_map(|part| self.labelled(part)).min_by_key(|list| list.len())
            }
            Selector::Or(parts) => {
                let lists: Option<Vec<_>> = parts.iter().map(|part| self.labelled(part)).collect();
                lists.map(union)
            }
            _ => None,
        }
    }

    pub(crate) fn memory_usage(&self) -> usize {
        // Postings dominate: each class stands in one for each of its labels and a few more.
        let per_class = |class: &Arc<Class>| match &class.owner {
            Owner::Workload(w) => 8 * w.labels.len() + 4 * w.named_ports.len() + 16,
            _ => 4,
        };
        self.classes.iter().flatten().map(|class| per_class(class) + 4 * class.cover.len()).sum()
    }
}

/// The entry of a key, made if it is not there; allocates only then.
fn entry<'a, V: Default>(map: &'a mut AHashMap<Box<str>, V>, key: &str) -> &'a mut V {
    if !map.contains_key(key) {
        map.insert(key.into(), V::default());
    }
    map.get_mut(key).expect("just made")
}

fn union<'a>(mut lists: Vec<Cow<'a, [u32]>>) -> Cow<'a, [u32]> {
    if lists.len() == 1 {
        return lists.remove(0);
    }
    let mut all = lists.concat();
    all.sort_unstable();
    all.dedup();
    all.into()
}
