//! An index over many selectors: which of them does one set of labels satisfy?
//!
//! Each selector is filed under labels of which every matching object must carry at least one:
//! `app == 'web' && !has(canary)` under `app=web`, `has(x) || y == '1'` under `x` and `y=1`. One
//! lookup evaluates only the selectors filed under the object's own labels, and the few that no
//! label anchors (`!has(x)`, `all()`).
//!
//! ```
//! use portcullis_identity_table::selector::{calico, index::SelectorIndex};
//! let mut index = SelectorIndex::default();
//! let web = index.insert(calico::parse("app == 'web'").unwrap());
//! let any = index.insert(calico::parse("all()").unwrap());
//! index.insert(calico::parse("app == 'db'").unwrap());
//! assert_eq!(index.matching(&[("app", "web")].into_iter().collect()), [web, any]);
//! index.remove(any);
//! assert_eq!(index.matching(&[("app", "web")].into_iter().collect()), [web]);
//! ```

use ahash::AHashMap;

use super::Selector;
use crate::Labels;

/// The number of a selector in a [`SelectorIndex`]; given again after removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct SelectorId(u32);

impl SelectorId {
    /// The raw number, dense from 0.
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// Selectors, filed so that a lookup evaluates few of them.
#[derive(Clone, Debug, Default)]
pub struct SelectorIndex {
    selectors: Vec<Option<Selector>>,
    free: Vec<SelectorId>,
    by_pair: AHashMap<Box<str>, AHashMap<Box<str>, Vec<SelectorId>>>,
    by_key: AHashMap<Box<str>, Vec<SelectorId>>,
    unanchored: Vec<SelectorId>,
}

impl SelectorIndex {
    /// Files a selector. The same selector twice gets two numbers. O(size of the selector).
    ///
    /// # Panics
    /// With 2^32 selectors at once.
    pub fn insert(&mut self, selector: Selector) -> SelectorId {
        let id = self.free.pop().unwrap_or_else(|| {
            self.selectors.push(None);
            SelectorId(u32::try_from(self.selectors.len() - 1).expect("fewer than 2^32 selectors"))
        });
        match anchors(&selector) {
            Some(anchors) => {
                for anchor in anchors {
                    self.shelf(anchor).push(id);
                }
            }
            None => self.unanchored.push(id),
        }
        self.selectors[id.0 as usize] = Some(selector);
        id
    }

    /// Takes a selector out. O(selectors filed beside it).
    pub fn remove(&mut self, id: SelectorId) -> Option<Selector> {
        let selector = self.selectors.get_mut(id.0 as usize)?.take()?;
        match anchors(&selector) {
            Some(anchors) => {
                for anchor in anchors {
                    self.shelf(anchor).retain(|&other| other != id);
                }
            }
            None => self.unanchored.retain(|&other| other != id),
        }
        self.free.push(id);
        Some(selector)
    }

    /// The selector of this number.
    pub fn selector(&self, id: SelectorId) -> Option<&Selector> {
        self.selectors.get(id.0 as usize)?.as_ref()
    }

    /// Number of selectors.
    pub fn len(&self) -> usize {
        self.selectors.len() - self.free.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The selectors that `labels` satisfy, in ascending order of their numbers. O(candidates).
    pub fn matching(&self, labels: &Labels) -> Vec<SelectorId> {
        let mut found = self.unanchored.clone();
        for (key, value) in labels.iter() {
            found.extend(
                self.by_pair.get(key).and_then(|values| values.get(value)).into_iter().flatten(),
            );
            found.extend(self.by_key.get(key).into_iter().flatten());
        }
        found.sort_unstable();
        found.dedup();
        found.retain(|&id| self.selector(id).is_some_and(|selector| selector.matches(labels)));
        found
    }

    fn shelf(&mut self, (key, value): Anchor<'_>) -> &mut Vec<SelectorId> {
        match value {
            Some(value) => {
                self.by_pair.entry(key.into()).or_default().entry(value.into()).or_default()
            }
            None => self.by_key.entry(key.into()).or_default(),
        }
    }
}

/// A label, or with no value a key, that a matching object may carry.
pub type Anchor<'a> = (&'a str, Option<&'a str>);

/// Anchors of which every matching object carries at least one; `None` if there is no such list.
///
/// ```
/// use portcullis_identity_table::selector::{calico, index::anchors};
/// let selector = calico::parse("app in {'a', 'b'} && has(tier)").unwrap();
/// assert_eq!(anchors(&selector), Some(vec![("app", Some("a")), ("app", Some("b"))]));
/// assert_eq!(anchors(&calico::parse("!has(tier)").unwrap()), None);
/// ```
pub fn anchors(selector: &Selector) -> Option<Vec<Anchor<'_>>> {
    match selector {
        Selector::Equals(key, value) => Some(vec![(&**key, Some(&**value))]),
        Selector::In(key, values) => {
            Some(values.iter().map(|value| (&**key, Some(&**value))).collect())
        }
        Selector::Has(key)
        | Selector::Contains(key, _)
        | Selector::StartsWith(key, _)
        | Selector::EndsWith(key, _) => Some(vec![(&**key, None)]),
        // Any part will do; labels with a value and short lists discriminate best.
        Selector::And(parts) => parts
            .iter()
            .filter_map(anchors)
            .min_by_key(|list| (list.iter().any(|(_, value)| value.is_none()), list.len())),
        Selector::Or(parts) => {
            let lists: Option<Vec<_>> = parts.iter().map(anchors).collect();
            lists.map(|lists| {
                let mut all = lists.concat();
                all.sort_unstable();
                all.dedup();
                all
            })
        }
        Selector::All
        | Selector::Global
        | Selector::NotEquals(..)
        | Selector::NotIn(..)
        | Selector::Not(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{any_labels, any_selector};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_number_is_given_again() {
        let mut index = SelectorIndex::default();
        let a = index.insert(Selector::Has("a".into()));
        assert_eq!(index.remove(a), Some(Selector::Has("a".into())));
        assert_eq!(index.remove(a), None);
        assert!(index.is_empty());
        assert_eq!(index.insert(Selector::All), a);
        assert_eq!(index.matching(&Labels::default()), [a]);
    }

    proptest! {
        #[test]
        fn finds_what_evaluating_each_would_find(
            selectors in prop::collection::vec((any_selector(), any::<bool>()), 0..20),
            labels in any_labels(),
        ) {
            let mut index = SelectorIndex::default();
            let ids: Vec<_> = selectors.iter().map(|(s, _)| index.insert(s.clone())).collect();
            for (id, (_, removed)) in ids.iter().zip(&selectors) {
                if *removed {
                    index.remove(*id);
                }
            }
            let expected: Vec<_> = ids.iter().zip(&selectors)
                .filter(|(_, (selector, removed))| !removed && selector.matches(&labels))
                .map(|(id, _)| *id)
                .collect();
            prop_assert_eq!(index.matching(&labels), expected);
        }
    }
}
