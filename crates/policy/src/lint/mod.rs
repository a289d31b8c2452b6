//! What is probably a mistake, although it is allowed to be written: rules that never have a say,
//! policies that select nothing, doors left open, workloads cut off from what they need.
//!
//! What is said about a cluster is exact: "matches nobody" and "never decides" are found over all
//! classes of addresses and all regions of headers, not over samples.

mod fates;
mod reachability;
mod rules;
mod written;

use std::fmt;

use portcullis_identity_table::ClusterState;
use portcullis_identity_table::registry;

use crate::atlas::Atlas;
use crate::diagnostic::Diagnostic;
use crate::group::Census;
use crate::model::{Direction, Origin, PolicySet};
use crate::view::{Sources, View};

/// How much a [`Finding`] weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Worth knowing.
    Note,
    /// Probably a mistake.
    Warning,
    /// Certainly wrong.
    Error,
}

impl Level {
    /// `note`, `warning` or `error`, as SARIF and compilers spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// What was found; each has a name for people to filter by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Code {
    /// Something that reading the documents warned of.
    Document,
    /// A policy selects no pod of the cluster.
    SelectsNothing,
    /// A rule names nobody of the cluster.
    MatchesNobody,
    /// A rule never has a say, because rules before it do something else.
    Shadowed,
    /// A rule never has a say, because rules before it do the same.
    Redundant,
    /// A rule allows everything.
    AllowAll,
    /// A rule has two peers where one with both conditions may have been meant.
    SplitPeer,
    /// A workload cannot resolve names.
    DnsCut,
    /// A workload of the control plane is cut off from one of its ports.
    ControlPlaneCut,
    /// A workload cannot reach the API server.
    ApiServerCut,
    /// A workload can reach the metadata service of the cloud.
    MetadataReachable,
    /// The compiled program does not say what the policies say.
    Proof,
}

impl Code {
    /// Every code.
    pub const ALL: [Self; 12] = [
        Self::Document,
        Self::SelectsNothing,
        Self::MatchesNobody,
        Self::Shadowed,
        Self::Redundant,
        Self::AllowAll,
        Self::SplitPeer,
        Self::DnsCut,
        Self::ControlPlaneCut,
        Self::ApiServerCut,
        Self::MetadataReachable,
        Self::Proof,
    ];

    /// The name, such as `selects-nothing`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Document => "document",
            Self::SelectsNothing => "selects-nothing",
            Self::MatchesNobody => "matches-nobody",
            Self::Shadowed => "shadowed",
            Self::Redundant => "redundant",
            Self::AllowAll => "allow-all",
            Self::SplitPeer => "split-peer",
            Self::DnsCut => "dns-cut",
            Self::ControlPlaneCut => "control-plane-cut",
            Self::ApiServerCut => "api-server-cut",
            Self::MetadataReachable => "metadata-reachable",
            Self::Proof => "proof",
        }
    }

    /// One sentence about it.
    pub const fn describe(self) -> &'static str {
        match self {
            Self::Document => "Reading the documents raised a doubt.",
            Self::SelectsNothing => "A policy selects no pod of the cluster.",
            Self::MatchesNobody => "A rule names nobody of the cluster.",
            Self::Shadowed => "A rule never has a say: rules before it do something else.",
            Self::Redundant => "A rule never has a say: rules before it do the same.",
            Self::AllowAll => "A rule allows everything.",
            Self::SplitPeer => "Two peers where one with both conditions may have been meant.",
            Self::DnsCut => "Workloads cannot resolve names.",
            Self::ControlPlaneCut => "System workloads are cut off from a control plane port.",
            Self::ApiServerCut => "Workloads cannot reach the API server.",
            Self::MetadataReachable => "Workloads can reach the cloud's metadata service.",
            Self::Proof => "The compiled program does not say what the policies say.",
        }
    }
}

/// One thing found; prints as `file:line:col: warning: message [code]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// How much it weighs.
    pub level: Level,
    /// What it is.
    pub code: Code,
    /// Where; `None` if the reason is that something is nowhere written.
    pub origin: Option<Origin>,
    /// What, and what to do.
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(origin) = &self.origin {
            write!(f, "{origin}: ")?;
        }
        write!(f, "{}: {} [{}]", self.level.as_str(), self.message, self.code.as_str())
    }
}

impl From<&Diagnostic> for Finding {
    fn from(diagnostic: &Diagnostic) -> Self {
        Self {
            level: Level::Warning,
            code: Code::Document,
            origin: Some(diagnostic.origin.clone()),
            message: diagnostic.message.clone(),
        }
    }
}

/// Looks for probable mistakes; without a cluster only for those that show in the documents alone.
///
/// Findings come by place, those without one last. Cost: with a cluster, pairs of classes of addresses
/// times the rules between them.
///
/// # Errors
/// If the cluster contradicts itself.
pub fn lint(
    policies: &PolicySet,
    cluster: Option<&ClusterState>,
) -> Result<Vec<Finding>, registry::Error> {
    let mut findings = Vec::new();
    written::check(policies, &mut findings);
    if let Some(cluster) = cluster {
        let sources = Sources::of(&[policies]);
        let regions = sources.regions();
        let views = [View::new(cluster, policies, &sources, 0, regions.clone())?];
        let atlas = Atlas::new(&views, &regions);
        let census = Census::of(&atlas, &views);
        let scene = Scene { policies, view: &views[0], views: &views, atlas, census };
        rules::check(&scene, &mut findings);
        reachability::check(&scene, &mut findings);
    }
    findings.sort_by(|a, b| {
        let place = |f: &Finding| (f.origin.is_none(), f.origin.clone());
        place(a).cmp(&place(b)).then_with(|| a.code.cmp(&b.code))
    });
    Ok(findings)
}

/// Everything that checks of a cluster look at.
struct Scene<'a> {
    policies: &'a PolicySet,
    view: &'a View<'a>,
    views: &'a [View<'a>],
    atlas: Atlas<'a>,
    census: Census,
}

/// Both directions, with their names.
fn directions() -> [(Direction, &'static str); 2] {
    [(Direction::Ingress, "ingress"), (Direction::Egress, "egress")]
}
