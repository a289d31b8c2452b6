//! Which pods belong together, and how to select them and no others.

use std::collections::{BTreeMap, BTreeSet};

/// Pods of one namespace with the same labels, those left out that differ between replicas.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Workload {
    pub(super) namespace: String,
    pub(super) labels: BTreeMap<String, String>,
}

/// Labels that controllers put on pods to tell revisions and replicas apart, and that change with
/// every release.
const UNSTABLE: [&str; 14] = [
    "pod-template-hash",
    "controller-revision-hash",
    "pod-template-generation",
    "rollouts-pod-template-hash",
    "statefulset.kubernetes.io/pod-name",
    "apps.kubernetes.io/pod-index",
    "batch.kubernetes.io/job-completion-index",
    "batch.kubernetes.io/controller-uid",
    "batch.kubernetes.io/job-name",
    "controller-uid",
    "job-name",
    "helm.sh/chart",
    "app.kubernetes.io/version",
    "app.kubernetes.io/managed-by",
];

/// Labels that say what a workload is; if there is one of them, the others are left out.
const TELLING: [&str; 9] = [
    "app.kubernetes.io/name",
    "app.kubernetes.io/instance",
    "app.kubernetes.io/component",
    "app",
    "k8s-app",
    "component",
    "tier",
    "role",
    "name",
];

impl Workload {
    pub(super) fn of(namespace: &str, labels: &BTreeMap<String, String>) -> Self {
        let telling = labels.keys().any(|key| TELLING.contains(&&**key));
        let kept = labels.iter().filter(|(key, _)| match telling {
            true => TELLING.contains(&&***key),
            false => !UNSTABLE.contains(&&***key),
        });
        let labels = kept.map(|(key, value)| (key.clone(), value.clone())).collect();
        Self { namespace: namespace.to_owned(), labels }
    }

    /// A name for its policy: what it is called by, as far as a name may hold it.
    pub(super) fn name(&self) -> String {
        let telling = TELLING.iter().filter_map(|key| self.labels.get(*key));
        let words: BTreeSet<&String> = match self.labels.keys().any(|k| TELLING.contains(&&**k)) {
            true => telling.collect(),
            false => self.labels.values().collect(),
        };
        let words: Vec<String> = words.into_iter().map(|word| word.to_lowercase()).collect();
        let name: String = words
            .join("-")
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
            .take(50)
            .collect();
        let name = name.trim_matches('-');
        if name.is_empty() { "pods".to_owned() } else { name.to_owned() }
    }
}

/// The workloads of each namespace.
#[derive(Default)]
pub(super) struct Workloads(BTreeMap<String, BTreeSet<BTreeMap<String, String>>>);

impl Workloads {
    pub(super) fn note(&mut self, workload: &Workload) {
        if !self.0.get(&workload.namespace).is_some_and(|all| all.contains(&workload.labels)) {
            let all = self.0.entry(workload.namespace.clone()).or_default();
            all.insert(workload.labels.clone());
        }
    }

    /// Keys that pods of the workload lack, and that tell others from it which have all its labels.
    pub(super) fn absent(&self, workload: &Workload) -> BTreeSet<&str> {
        let others = self.0.get(&workload.namespace).into_iter().flatten();
        let mine = &workload.labels;
        let contain_mine = others.filter(|other| {
            other.len() > mine.len() && mine.iter().all(|(k, v)| other.get(k) == Some(v))
        });
        // One key is enough for each; any will do.
        contain_mine
            .filter_map(|other| other.keys().find(|key| !mine.contains_key(*key)))
            .map(String::as_str)
            .collect()
    }
}
