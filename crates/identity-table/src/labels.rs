//! Label sets.

use std::collections::BTreeMap;
use std::sync::Arc;

/// The labels of one object: keys to values, sorted by key, cheap to clone.
///
/// Values are kept as given; validation belongs to whoever reads documents
/// (see [`crate::selector`] for what Kubernetes would refuse).
///
/// ```
/// use portcullis_identity_table::Labels;
/// let labels: Labels = [("app", "web"), ("tier", "front")].into_iter().collect();
/// assert_eq!(labels.value("app"), Some("web"));
/// assert_eq!(labels.value("none"), None);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Labels(Arc<BTreeMap<Box<str>, Box<str>>>);

impl Labels {
    /// The value of `key`, if the key is there. O(log n).
    pub fn value(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(AsRef::as_ref)
    }

    /// Keys and values, sorted by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(k, v)| (k.as_ref(), v.as_ref()))
    }

    /// Number of labels.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no label.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The same labels with `key` set to `value`.
    pub fn with(&self, key: &str, value: &str) -> Self {
        let mut map = BTreeMap::clone(&self.0);
        map.insert(key.into(), value.into());
        Self(Arc::new(map))
    }
}

impl<K: Into<Box<str>>, V: Into<Box<str>>> FromIterator<(K, V)> for Labels {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        Self(Arc::new(pairs.into_iter().map(|(k, v)| (k.into(), v.into())).collect()))
    }
}
