//! Deciding flows without compiling: each pair of classes is walked when a flow between them is first
//! asked for. For a run over some thousand flows that is sooner done than a program for all flows that
//! there could be; for packets it is not.

use ahash::AHashMap;
use portcullis_identity_table::ClusterState;
use portcullis_identity_table::identity::{ClassId, Owner};
use portcullis_identity_table::registry;

use crate::diff::Side;
use crate::flow::{Flow, Verdict};
use crate::model::{PolicyName, PolicySet};
use crate::view::{Sources, View};

/// Decides flows; see [`with_evaluator`].
pub struct Evaluator<'v> {
    view: &'v View<'v>,
    sides: AHashMap<(ClassId, ClassId), Side<'v>>,
}

/// Runs `ask` with an evaluator for these policies over this cluster.
///
/// ```
/// use portcullis_policy::{Flow, Verdict, on_demand::with_evaluator};
/// use portcullis_policy::model::PolicySet;
/// let flow = Flow::new("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap(), 6, (40000, 80));
/// let (verdict, policy) = with_evaluator(&Default::default(), &PolicySet::default(), |evaluator| {
///     let (verdict, policy) = evaluator.decide(&flow);
///     (verdict, policy.cloned())
/// }).unwrap();
/// assert_eq!((verdict, policy), (Verdict::Allow, None));
/// ```
///
/// # Errors
/// If the cluster contradicts itself.
pub fn with_evaluator<R>(
    cluster: &ClusterState,
    policies: &PolicySet,
    ask: impl FnOnce(&mut Evaluator<'_>) -> R,
) -> Result<R, registry::Error> {
    let sources = Sources::of(&[policies]);
    let view = View::new(cluster, policies, &sources, 0, sources.regions())?;
    Ok(ask(&mut Evaluator { view: &view, sides: AHashMap::default() }))
}

impl<'v> Evaluator<'v> {
    /// The verdict, and the policy that decided: for a deny, one of a denying direction; for an allow,
    /// one that allowed, ingress preferred; `None` if no policy decided.
    pub fn decide(&mut self, flow: &Flow) -> (Verdict, Option<&'v PolicyName>) {
        if self.is_exempt(flow) {
            return (Verdict::Allow, None);
        }
        let view = self.view;
        let ids = (view.class_id(flow.source), view.class_id(flow.destination));
        let side = self.sides.entry(ids).or_insert_with(|| Side::new(view, ids, false));
        let (verdict, by) = side.decide(&flow.header);
        let policy = by.and_then(|(_, decider)| decider.policy(view.policies));
        (verdict, policy.map(|policy| &policy.name))
    }

    /// A pod reaches itself, a node its own pods.
    fn is_exempt(&self, flow: &Flow) -> bool {
        let registry = &self.view.registry;
        let Some(destination) = registry.owner(flow.destination) else { return false };
        if let Some(source) = registry.owner(flow.source) {
            return source.key() == destination.key();
        }
        self.view.identity(flow.source).is_some_and(|identity| match &identity.class.owner {
            Owner::Node { name, .. } => destination.node.as_deref() == Some(name),
            _ => false,
        })
    }
}
