//! Expressions, filed by what a class must have for them to hold, so that a new class need not be
//! shown to each of thousands.
//!
//! An expression stands on shelves of which every class that satisfies it is sent to at least one: a
//! label with its value, a namespace, a service account, a source of prefixes, or, where nothing
//! better is known, all workloads or all nodes. One that no shelf can hold (`!has(x)` of an address
//! outside the cluster, anything) is a candidate for every class.

use ahash::{AHashMap, RandomState};
use portcullis_identity_table::identity::{Class, Owner};
use portcullis_identity_table::selector::index::anchors;
use portcullis_identity_table::{Labels, Selector};

use super::matches::MatchId;
use crate::model::Match;

/// Where an expression stands, to take it away again.
#[derive(Debug)]
pub(crate) enum Filed {
    /// It may hold for any class.
    Anywhere,
    /// On these shelves.
    On(Vec<Shelf>),
}

/// The hash of what a shelf is for. Two that share one only make candidates more.
type Shelf = u64;

/// What a shelf may be for.
#[derive(Clone, Copy, Debug, Hash)]
enum Subject<'a> {
    Workload,
    Node,
    Namespace(&'a str),
    Account(&'a str),
    Source(u32),
    /// A label of one kind of object: its key, and its value unless any will do.
    Label(Object, &'a str, Option<&'a str>),
}

/// What has labels.
#[derive(Clone, Copy, Debug, Hash)]
enum Object {
    Pod,
    Namespace,
    Account,
    Node,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Filing {
    shelves: AHashMap<Shelf, Vec<MatchId>>,
    anywhere: Vec<MatchId>,
    hasher: RandomState,
}

impl Filing {
    /// Files a canonical expression. O(its size).
    pub(crate) fn file(&mut self, id: MatchId, expression: &Match) -> Filed {
        let Some(shelves) = self.shelves_of(expression) else {
            self.anywhere.push(id);
            return Filed::Anywhere;
        };
        for &shelf in &shelves {
            self.shelves.entry(shelf).or_default().push(id);
        }
        Filed::On(shelves)
    }

    /// Takes an expression away. O(expressions filed beside it).
    pub(crate) fn take(&mut self, id: MatchId, filed: &Filed) {
        match filed {
            Filed::Anywhere => self.anywhere.retain(|&other| other != id),
            Filed::On(shelves) => {
                for shelf in shelves {
                    let Some(ids) = self.shelves.get_mut(shelf) else { continue };
                    ids.retain(|&other| other != id);
                    if ids.is_empty() {
                        self.shelves.remove(shelf);
                    }
                }
            }
        }
    }

    /// Adds the expressions that may hold for `class`, some twice. O(its labels and sources, and the
    /// candidates).
    pub(crate) fn candidates(&self, class: &Class, out: &mut Vec<MatchId>) {
        out.extend(&self.anywhere);
        for source in class.cover.iter() {
            self.add(Subject::Source(source.0), out);
        }
        match &class.owner {
            Owner::World => {}
            Owner::Node { labels, .. } => {
                self.add(Subject::Node, out);
                self.add_labels(Object::Node, labels, out);
            }
            Owner::Workload(workload) => {
                self.add(Subject::Workload, out);
                self.add(Subject::Namespace(&workload.namespace.name), out);
                self.add(Subject::Account(&workload.service_account.name), out);
                self.add_labels(Object::Pod, &workload.labels, out);
                self.add_labels(Object::Namespace, &workload.namespace.labels, out);
                self.add_labels(Object::Account, &workload.service_account.labels, out);
            }
        }
    }

    pub(crate) fn memory_usage(&self) -> usize {
        let ids: usize = self.shelves.values().map(Vec::capacity).sum();
        (ids + self.anywhere.capacity()) * size_of::<MatchId>() + self.shelves.capacity() * 40
    }

    fn add(&self, subject: Subject<'_>, out: &mut Vec<MatchId>) {
        out.extend(self.shelves.get(&self.hasher.hash_one(subject)).into_iter().flatten());
    }

    fn add_labels(&self, object: Object, labels: &Labels, out: &mut Vec<MatchId>) {
        for (key, value) in labels.iter() {
            self.add(Subject::Label(object, key, Some(value)), out);
            self.add(Subject::Label(object, key, None), out);
        }
    }

    /// Shelves of which every class that satisfies the expression is sent to one; `None` if there is
    /// no such list.
    fn shelves_of(&self, expression: &Match) -> Option<Vec<Shelf>> {
        let one = |subject: Subject<'_>| Some(vec![self.hasher.hash_one(subject)]);
        match expression {
            // Canonical expressions name no prefix; see `Universe`.
            Match::Nothing | Match::Cidr(_) => Some(Vec::new()),
            Match::Pod => one(Subject::Workload),
            Match::PodLabels(selector) => self.labelled(Object::Pod, selector),
            Match::Namespace(name) => one(Subject::Namespace(name)),
            Match::NamespaceLabels(selector) => self.labelled(Object::Namespace, selector),
            Match::ServiceAccount(name) => one(Subject::Account(name)),
            Match::ServiceAccountLabels(selector) => self.labelled(Object::Account, selector),
            Match::NodeLabels(selector) => self.labelled(Object::Node, selector),
            Match::InSet(source) => one(Subject::Source(*source)),
            // Any part will do: the one with the fewest expressions beside it now.
            Match::All(parts) => {
                let lists = parts.iter().filter_map(|part| self.shelves_of(part));
                lists.min_by_key(|list| list.iter().map(|shelf| self.crowd(*shelf)).sum::<usize>())
            }
            Match::OneOf(parts) => {
                let lists: Option<Vec<_>> =
                    parts.iter().map(|part| self.shelves_of(part)).collect();
                let mut all = lists?.concat();
                all.sort_unstable();
                all.dedup();
                Some(all)
            }
            Match::Any | Match::NamespaceHas(..) | Match::Not(_) => None,
        }
    }

    fn labelled(&self, object: Object, selector: &Selector) -> Option<Vec<Shelf>> {
        let all = match object {
            Object::Node => Subject::Node,
            Object::Pod | Object::Namespace | Object::Account => Subject::Workload,
        };
        let Some(anchors) = anchors(selector) else { return Some(vec![self.hasher.hash_one(all)]) };
        let subject = |anchor| {
            let (key, value) = anchor;
            self.hasher.hash_one(Subject::Label(object, key, value))
        };
        Some(anchors.into_iter().map(subject).collect())
    }

    /// How many expressions a class that is sent to this shelf meets, and one more. Everybody of a
    /// kind is sent to the widest shelves, so that those are the last choice.
    fn crowd(&self, shelf: Shelf) -> usize {
        let wide = [Subject::Workload, Subject::Node];
        if wide.iter().any(|subject| self.hasher.hash_one(subject) == shelf) {
            return 1 << 40;
        }
        self.shelves.get(&shelf).map_or(0, Vec::len) + 1
    }
}
