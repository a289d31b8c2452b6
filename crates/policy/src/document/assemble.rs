//! Policies, tiers and sets in the order in which they decide.
//!
//! The Kubernetes standard and Calico are one walk: the Admin tier, `default` with every
//! NetworkPolicy, the Baseline tier, and Calico's tiers sorted among them by order and name.

use std::cmp::Ordering;

use ahash::AHashMap;

use crate::diagnostic::Report;
use crate::model::{CidrSet, Kind, Origin, Policy, PolicySet, Tier, TierDefault};

/// Where ClusterNetworkPolicy of tier Admin and AdminNetworkPolicy stand.
pub(crate) const ADMIN: &str = "kube-admin";
/// Where every NetworkPolicy, and Calico's policies without tier, stand.
pub(crate) const DEFAULT: &str = "default";
/// Where ClusterNetworkPolicy of tier Baseline and BaselineAdminNetworkPolicy stand.
pub(crate) const BASELINE: &str = "kube-baseline";

/// The tiers that are always there: name, order, what their end means.
pub(crate) const BUILT_IN: [(&str, f64, TierDefault); 3] = [
    (ADMIN, 1_000.0, TierDefault::Pass),
    (DEFAULT, 1_000_000.0, TierDefault::Deny),
    (BASELINE, 10_000_000.0, TierDefault::Pass),
];

/// A policy and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    pub(crate) place: Place,
    pub(crate) policy: Policy,
}

/// A tier by name, and an order in it; without order, last.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) tier: Box<str>,
    /// Where the tier is named, if it is.
    pub(crate) tier_origin: Option<Origin>,
    pub(crate) order: Option<f64>,
}

impl Place {
    pub(crate) fn default_tier(order: Option<f64>) -> Self {
        Self { tier: DEFAULT.into(), tier_origin: None, order }
    }
}

/// A declared tier.
#[derive(Clone, Debug)]
pub(crate) struct TierDraft {
    pub(crate) name: Box<str>,
    pub(crate) order: Option<f64>,
    pub(crate) default_action: TierDefault,
    pub(crate) origin: Origin,
}

/// Everything read, in the order in which it was read.
#[derive(Debug, Default)]
pub(crate) struct Drafts {
    pub(crate) policies: Vec<Draft>,
    pub(crate) tiers: Vec<TierDraft>,
    pub(crate) sets: Vec<CidrSet>,
}

/// Sorts everything into tiers; reports duplicates, unknown tiers and open questions of order.
pub(crate) fn assemble(drafts: Drafts, report: &mut Report) -> PolicySet {
    let Drafts { mut policies, tiers: declared, sets } = drafts;
    refuse_duplicates(&policies, &sets, report);
    let mut tiers = ordered_tiers(declared, report);
    policies.sort_by(compare);
    warn_of_ties(&policies, report);

    let index: AHashMap<Box<str>, usize> =
        tiers.iter().enumerate().map(|(i, tier)| (tier.name.clone(), i)).collect();
    for Draft { place, policy } in policies {
        match index.get(&place.tier).and_then(|i| tiers.get_mut(*i)) {
            Some(tier) => tier.policies.push(policy),
            None => report.error(
                place.tier_origin.unwrap_or_else(|| policy.origin.clone()),
                format!("tier {} is not declared: add a Tier of that name", place.tier),
            ),
        }
    }
    tiers.retain(|tier| tier.origin.is_some() || !tier.policies.is_empty());
    PolicySet { tiers, sets }
}

fn refuse_duplicates(policies: &[Draft], sets: &[CidrSet], report: &mut Report) {
    let mut seen = AHashMap::default();
    for Draft { policy, .. } in policies {
        if let Some(first) = seen.insert(&policy.name, &policy.origin) {
            let message = format!("{} is already defined at {first}", policy.name);
            report.error(policy.origin.clone(), message);
        }
    }
    let mut seen = AHashMap::default();
    for set in sets {
        if let Some(first) = seen.insert(&set.name, &set.origin) {
            let message = format!("{} is already defined at {first}", set.name);
            report.error(set.origin.clone(), message);
        }
    }
}

fn ordered_tiers(declared: Vec<TierDraft>, report: &mut Report) -> Vec<Tier> {
    let mut all: Vec<(Option<f64>, Tier)> = BUILT_IN
        .iter()
        .map(|(name, order, default_action)| {
            let tier = Tier {
                name: (*name).into(),
                default_action: *default_action,
                policies: Vec::new(),
                origin: None,
            };
            (Some(*order), tier)
        })
        .collect();
    for draft in declared {
        match all.iter_mut().find(|(_, tier)| tier.name == draft.name) {
            None => all.push((
                draft.order,
                Tier {
                    name: draft.name,
                    default_action: draft.default_action,
                    policies: Vec::new(),
                    origin: Some(draft.origin),
                },
            )),
            Some((_, Tier { origin: Some(first), .. })) => {
                report.error(
                    draft.origin,
                    format!("tier {} is already declared at {first}", draft.name),
                );
            }
            // An exported cluster holds the built-in tiers as well: fine, if unchanged.
            Some((order, tier)) => {
                if *order == draft.order && tier.default_action == draft.default_action {
                    tier.origin = Some(draft.origin);
                } else {
                    report.error(
                        draft.origin,
                        format!(
                            "the built-in tier {} has order {} and defaultAction {:?}, and that \
                             cannot be changed",
                            draft.name,
                            order.unwrap_or_default(),
                            tier.default_action,
                        ),
                    );
                }
            }
        }
    }
    all.sort_by(|(a_order, a), (b_order, b)| {
        compare_orders(*a_order, *b_order).then_with(|| a.name.cmp(&b.name))
    });
    all.into_iter().map(|(_, tier)| tier).collect()
}

/// By order, then by `name/namespace/kind` as Calico's policy sorter does.
fn compare(a: &Draft, b: &Draft) -> Ordering {
    compare_orders(a.place.order, b.place.order)
        .then_with(|| tie_break(&a.policy).cmp(&tie_break(&b.policy)))
}

fn tie_break(policy: &Policy) -> String {
    let name = &policy.name;
    let namespace = name.namespace.as_deref().unwrap_or_default();
    format!("{}/{namespace}/{}", name.name, name.kind.as_str())
}

/// No order is after every order.
fn compare_orders(a: Option<f64>, b: Option<f64>) -> Ordering {
    match (a, b) {
        // Zero is zero, whatever its sign.
        (Some(a), Some(b)) => (a + 0.0).total_cmp(&(b + 0.0)),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => Ordering::Equal,
    }
}

/// The standard leaves open which of two policies with equal priority decides.
fn warn_of_ties(sorted: &[Draft], report: &mut Report) {
    let standard = |draft: &&Draft| {
        matches!(draft.policy.name.kind, Kind::ClusterNetworkPolicy | Kind::AdminNetworkPolicy)
    };
    let mut last: AHashMap<&str, &Draft> = AHashMap::default();
    for draft in sorted.iter().filter(standard) {
        if let Some(before) = last.insert(&draft.place.tier, draft)
            && before.place.order == draft.place.order
        {
            report.warn(
                draft.policy.origin.clone(),
                format!(
                    "{} has the same priority as {} ({}): where both match, the standard does not \
                     say which decides; here it is the one whose name sorts first",
                    draft.policy.name, before.policy.name, before.policy.origin
                ),
            );
        }
    }
}
