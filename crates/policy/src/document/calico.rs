//! projectcalico.org/v3: Tier, GlobalNetworkPolicy, NetworkPolicy, the staged kinds, and network
//! sets.

use portcullis_identity_table::Selector;

use super::assemble::{self, BUILT_IN, Draft, Place, TierDraft};
use super::calico_rule::{self, Surroundings};
use super::calico_scope::{self, NamedSet, Of};
use super::decode::{Fields, Reader};
use super::kubernetes;
use super::object::{self, Header, PrefixForm, Scope, all};
use super::tree::Node;
use crate::model::{
    CidrSet, Direction, Enforcement, Kind, Match, Policy, PolicyName, Rule, TierDefault,
};

pub(crate) fn tier(document: &Node, reader: &mut Reader<'_>) -> Option<TierDraft> {
    let (header, spec) = object::object(document, Scope::Cluster, reader)?;
    let mut draft = TierDraft {
        name: header.name,
        order: None,
        default_action: TierDefault::Deny,
        origin: header.origin,
    };
    let built_in = BUILT_IN.iter().find(|(name, ..)| **name == *draft.name);
    if let Some((_, _, default_action)) = built_in {
        draft.default_action = *default_action;
    }
    if let Some(spec) = spec {
        let mut fields = reader.fields(spec, "spec")?;
        let order = order(&mut fields, reader);
        let action = fields.take("defaultAction");
        fields.finish(reader);
        draft.order = order?;
        if let Some(node) = action {
            draft.default_action = match reader.word(node, "defaultAction", &["Deny", "Pass"])? {
                "Deny" => TierDefault::Deny,
                _ => TierDefault::Pass,
            };
        }
    }
    Some(draft)
}

/// A GlobalNetworkSet or NetworkSet, which becomes the set at `index`.
pub(crate) fn network_set(
    document: &Node,
    scope: Scope,
    index: usize,
    reader: &mut Reader<'_>,
) -> Option<(NamedSet, CidrSet)> {
    let (header, spec) = object::object(document, scope, reader)?;
    let mut prefixes = Vec::new();
    if let Some(spec) = spec {
        let mut fields = reader.fields(spec, "spec")?;
        if let Some(node) = fields.take("allowedEgressDomains") {
            reader.error(node.at, "allowedEgressDomains is not supported: packets do not tell");
        }
        let nets = fields.take("nets");
        fields.finish(reader);
        if let Some(node) = nets {
            let items = reader.list(node, "nets")?;
            prefixes.reserve_exact(items.len());
            let mut refused = false;
            for item in items {
                match object::prefix(item, PrefixForm::CidrOrAddress, reader) {
                    Some(prefix) => prefixes.push(prefix.trunc()),
                    None => refused = true,
                }
            }
            if refused {
                return None;
            }
        }
    }
    let name = match &header.namespace {
        Some(namespace) => format!("NetworkSet/{namespace}/{}", header.name),
        None => format!("GlobalNetworkSet//{}", header.name),
    };
    Some((
        NamedSet {
            index: u32::try_from(index).ok()?,
            namespace: header.namespace,
            labels: header.labels,
        },
        CidrSet { name: name.into(), origin: header.origin, prefixes: prefixes.into() },
    ))
}

/// What differs between the kinds of Calico policy.
pub(crate) struct Sort {
    kind: Kind,
    scope: Scope,
    enforcement: Enforcement,
}

/// The kinds of Calico policy whose spec is Calico's own, by the name documents use.
pub(crate) fn sort_of(kind: &str) -> Option<Sort> {
    let sort = |kind, scope, enforcement| Some(Sort { kind, scope, enforcement });
    match kind {
        "GlobalNetworkPolicy" => {
            sort(Kind::GlobalNetworkPolicy, Scope::Cluster, Enforcement::Enforced)
        }
        "NetworkPolicy" => {
            sort(Kind::CalicoNetworkPolicy, Scope::Namespaced, Enforcement::Enforced)
        }
        "StagedGlobalNetworkPolicy" => {
            sort(Kind::StagedGlobalNetworkPolicy, Scope::Cluster, Enforcement::Staged)
        }
        "StagedNetworkPolicy" => {
            sort(Kind::StagedNetworkPolicy, Scope::Namespaced, Enforcement::Staged)
        }
        _ => None,
    }
}

/// Any policy with Calico's own spec. `None` also for a policy that no pod is subject to.
pub(crate) fn policy(
    document: &Node,
    sort: &Sort,
    sets: &[NamedSet],
    reader: &mut Reader<'_>,
) -> Option<Draft> {
    let (header, spec) = object::object(document, sort.scope, reader)?;
    let Some(spec) = spec else {
        reader.error(document.at, "the object has no spec");
        return None;
    };
    let mut fields = reader.fields(spec, "spec")?;
    let place = place(&mut fields, reader);
    let evaluated = sort.enforcement == Enforcement::Enforced || staged(&mut fields, reader);
    let subject = subject(&mut fields, &header, reader);
    let host_only = match sort.scope {
        Scope::Cluster => host_endpoint_fields(&mut fields, reader),
        Scope::Namespaced => false,
    };
    fields.take("performanceHints");
    let directions = directions(&mut fields, &header, sets, reader);
    fields.finish(reader);
    let (place, subject, (ingress, egress)) = (place?, subject?, directions?);
    if host_only {
        reader.warn(
            document.at,
            "doNotTrack and preDNAT policies apply to host endpoints: no pod is subject to this one",
        );
        return None;
    }
    if !evaluated {
        return None;
    }
    Some(Draft {
        place,
        policy: Policy {
            name: PolicyName { kind: sort.kind, namespace: header.namespace, name: header.name },
            origin: header.origin,
            enforcement: sort.enforcement,
            subject,
            ingress,
            egress,
        },
    })
}

/// StagedKubernetesNetworkPolicy: a Kubernetes spec, staged.
pub(crate) fn staged_kubernetes(document: &Node, reader: &mut Reader<'_>) -> Option<Draft> {
    let (header, spec) = object::object(document, Scope::Namespaced, reader)?;
    let Some(spec) = spec else {
        reader.error(document.at, "the object has no spec");
        return None;
    };
    let mut fields = reader.fields(spec, "spec")?;
    let evaluated = staged(&mut fields, reader);
    let body = kubernetes::body(&mut fields, &header, reader);
    fields.finish(reader);
    let body = body?;
    evaluated.then(|| Draft {
        place: Place::default_tier(Some(kubernetes::ORDER)),
        policy: body.into_policy(Kind::StagedKubernetesNetworkPolicy, Enforcement::Staged, header),
    })
}

/// Takes `stagedAction`; answers whether the policy is evaluated beside the enforced ones.
fn staged(fields: &mut Fields<'_>, reader: &mut Reader<'_>) -> bool {
    let Some(node) = fields.take("stagedAction") else { return true };
    match reader.word(node, "stagedAction", &["Set", "Delete", "Learn", "Ignore"]) {
        Some("Set") | None => true,
        Some(other) => {
            reader.warn(node.at, format!("stagedAction {other}: this policy is not evaluated"));
            false
        }
    }
}

fn place(fields: &mut Fields<'_>, reader: &mut Reader<'_>) -> Option<Place> {
    let tier_node = fields.take("tier");
    let order = order(fields, reader);
    let (tier, tier_origin) = match tier_node {
        None => (assemble::DEFAULT.into(), None),
        Some(node) => {
            let name = object::object_name(node, "tier", reader)?;
            if matches!(&*name, assemble::ADMIN | assemble::BASELINE) {
                reader.error(
                    node.at,
                    format!("tier {name} is for ClusterNetworkPolicy and AdminNetworkPolicy only"),
                );
                return None;
            }
            (name, Some(reader.origin(node.at)))
        }
    };
    Some(Place { tier, tier_origin, order: order? })
}

fn order(fields: &mut Fields<'_>, reader: &mut Reader<'_>) -> Option<Option<f64>> {
    match fields.take("order") {
        None => Some(None),
        Some(node) => reader.number(node, "order").map(Some),
    }
}

fn subject(fields: &mut Fields<'_>, header: &Header, reader: &mut Reader<'_>) -> Option<Match> {
    let mut read = |name, of| match fields.take(name) {
        Some(node) if !calico_rule::is_empty(node) => {
            let selector: Selector = calico_scope::selector(node, of, reader)?;
            Some(calico_scope::pods(&selector, of))
        }
        _ => Some(Match::Any),
    };
    let own = read("selector", Of::Itself);
    let accounts = read("serviceAccountSelector", Of::ServiceAccount);
    let namespaces = match &header.namespace {
        Some(name) => Some(Match::Namespace(name.clone())),
        None => read("namespaceSelector", Of::Namespace),
    };
    Some(all([Match::Pod, namespaces?, own?, accounts?]))
}

/// Takes the fields that only host endpoints heed; answers whether pods are left out.
fn host_endpoint_fields(fields: &mut Fields<'_>, reader: &mut Reader<'_>) -> bool {
    let mut flag = |name| {
        let node = fields.take(name)?;
        reader.boolean(node, name)?.then_some(node)
    };
    let untracked = flag("doNotTrack");
    let before_nat = flag("preDNAT");
    let forwarded = flag("applyOnForward");
    if let (Some(_), Some(node)) = (untracked, before_nat) {
        reader.error(node.at, "doNotTrack and preDNAT cannot both be true");
    }
    if let (Some(node), None) = (untracked.or(before_nat), forwarded) {
        reader.error(node.at, "doNotTrack and preDNAT need applyOnForward: true");
    }
    untracked.or(before_nat).is_some()
}

type Directions = (Option<Vec<Rule>>, Option<Vec<Rule>>);

/// `types`, `ingress` and `egress`. Without types: the directions that have rules, or ingress if
/// none has.
fn directions(
    fields: &mut Fields<'_>,
    header: &Header,
    sets: &[NamedSet],
    reader: &mut Reader<'_>,
) -> Option<Directions> {
    let around = Surroundings { namespace: header.namespace.as_deref(), sets };
    let types = match fields.take("types") {
        None => Some(Vec::new()),
        Some(node) => {
            let read: Vec<_> = reader
                .list(node, "types")?
                .iter()
                .map(|item| kubernetes::direction(item, "types", reader))
                .collect();
            read.into_iter().collect::<Option<Vec<_>>>()
        }
    };
    let mut read = |name| match fields.take(name) {
        None => Some(Vec::new()),
        Some(node) => calico_rule::rules(node, name, &around, reader),
    };
    let (ingress, egress) = (read("ingress"), read("egress"));
    let (types, ingress, egress) = (types?, ingress?, egress?);
    let says = |direction| match (types.is_empty(), direction) {
        (false, direction) => types.contains(&direction),
        (true, Direction::Ingress) => !ingress.is_empty() || egress.is_empty(),
        (true, Direction::Egress) => !egress.is_empty(),
    };
    let (says_ingress, says_egress) = (says(Direction::Ingress), says(Direction::Egress));
    if !says_ingress && !ingress.is_empty() {
        reader.warn(fields.place("ingress"), "ingress rules do nothing: types has no Ingress");
    }
    if !says_egress && !egress.is_empty() {
        reader.warn(fields.place("egress"), "egress rules do nothing: types has no Egress");
    }
    Some((says_ingress.then_some(ingress), says_egress.then_some(egress)))
}
