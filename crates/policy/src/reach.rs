//! Who can reach a workload, and what a workload can reach: every party there is, with the traffic
//! that passes, exactly.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use portcullis_identity_table::ClusterState;
use portcullis_identity_table::endpoint::{Endpoint, EndpointName};
use portcullis_identity_table::identity::ClassId;
use portcullis_identity_table::registry;

use crate::atlas::{AddressClass, Atlas};
use crate::diff::{By, DecidedBy, Side, decided_by, example, regions_of};
use crate::flow::{Flow, Verdict};
use crate::group::{Census, Group};
use crate::judge::Exemption;
use crate::model::{IpVersion, PolicySet};
use crate::space::{self, Region};
use crate::view::{Sources, View};
use crate::words;

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Who can reach the workload.
    To,
    /// What the workload can reach.
    From,
}

/// All traffic that passes to or from one workload. Its [`Display`](fmt::Display) is a table.
#[derive(Clone, Debug, PartialEq)]
pub struct Reach {
    /// The workload.
    pub endpoint: EndpointName,
    /// Which way.
    pub way: Way,
    /// What passes; parties in no row are cut off.
    pub rows: Vec<Row>,
    /// Whether the workload has addresses of both families.
    pub dual_stack: bool,
}

/// Parties that pass alike.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The parties at the other end.
    pub peers: Group,
    /// The traffic that passes.
    pub regions: Vec<Region>,
    /// The families over which it passes.
    pub families: BTreeSet<IpVersion>,
    /// Why.
    pub why: Why,
    /// One of the flows.
    pub example: Flow,
}

/// Why traffic passes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// A rule allows it.
    Rule(DecidedBy),
    /// No policy decides about it.
    NoPolicy,
    /// No policy is asked.
    Exempt(Exemption),
}

/// Traffic, what allows it, and whether over IPv4.
type How = (Vec<Region>, Option<By>, bool);

/// Finds out who can reach `endpoint`, or what it can reach.
///
/// # Errors
/// If the cluster contradicts itself.
pub fn reach(
    cluster: &ClusterState,
    policies: &PolicySet,
    endpoint: &Endpoint,
    way: Way,
) -> Result<Reach, registry::Error> {
    let sources = Sources::of(&[policies]);
    let regions = sources.regions();
    let views = [View::new(cluster, policies, &sources, 0, regions.clone())?];
    let atlas = Atlas::new(&views, &regions);
    let census = Census::of(&atlas, &views);
    let exempt = atlas.exempt(&views[0]);
    let mut found: BTreeMap<How, Vec<(AddressClass, Flow)>> = BTreeMap::new();
    let mut exempted = BTreeSet::new();
    for &own in &endpoint.addresses {
        let Some(own_class) = atlas.host(own).and_then(|i| atlas.classes.get(i)) else { continue };
        let pair = |peer: IpAddr| match way {
            Way::To => (peer, own),
            Way::From => (own, peer),
        };
        for peer in atlas.classes.iter().filter(|class| class.is_v4() == own.is_ipv4()) {
            let (always, ordinary): (Vec<_>, Vec<_>) =
                peer.hosts.iter().copied().partition(|peer| exempt.contains(&pair(*peer)));
            exempted.extend(always.into_iter().map(|peer| (peer, own)));
            let Some(some_peer) = ordinary.first().copied().or(peer.outside) else { continue };
            let ids = match way {
                Way::To => (peer.ids[0], own_class.ids[0]),
                Way::From => (own_class.ids[0], peer.ids[0]),
            };
            for (by, regions) in allowed(&views[0], ids, own.is_ipv4()) {
                let (source, destination) = pair(some_peer);
                let example = example(source, destination, &regions);
                let peers = AddressClass { hosts: ordinary.clone(), ..peer.clone() };
                found.entry((regions, by, own.is_ipv4())).or_default().push((peers, example));
            }
        }
    }
    let ordinary = found.into_iter().filter_map(|((regions, by, _), peers)| {
        let why = by.and_then(|by| decided_by(policies, by)).map_or(Why::NoPolicy, Why::Rule);
        let example = peers.first()?.1;
        let families = [example.header.ip_version].into();
        let peers = Group::of(peers.iter().map(|(class, _)| class), &views, &census);
        Some(Row { peers, regions, families, why, example })
    });
    let exempted = exempted.into_iter().filter(|(peer, _)| !endpoint.addresses.contains(peer)).map(
        |(peer, own)| {
            let mut peers = Group::default();
            peers.add_host(peer, &views, &census);
            let regions = space::regions([], [&[], &[]]);
            let example = example(peer, own, &regions);
            let families = [example.header.ip_version].into();
            Row { peers, regions, families, why: Why::Exempt(Exemption::OwnNode), example }
        },
    );
    let mut rows: Vec<Row> = ordinary.chain(exempted).collect();
    let key = |row: &Row| (row.peers.clone(), row.regions.clone(), row.why.clone());
    rows.sort_by_cached_key(key);
    rows.dedup_by(|gone, kept| {
        let same = key(gone) == key(kept);
        if same {
            kept.families.append(&mut gone.families);
        }
        same
    });
    let families = endpoint.addresses.iter().map(|a| a.is_ipv4()).collect::<BTreeSet<_>>();
    Ok(Reach { endpoint: endpoint.key(), way, rows, dual_stack: families.len() > 1 })
}

/// The traffic that passes between two classes, by what allows it.
fn allowed(
    view: &View<'_>,
    ids: (ClassId, ClassId),
    v4: bool,
) -> BTreeMap<Option<By>, Vec<Region>> {
    let side = Side::new(view, ids, false);
    let version = if v4 { IpVersion::V4 } else { IpVersion::V6 };
    let cells = regions_of(std::slice::from_ref(&side))
        .into_iter()
        .filter_map(|region| {
            let (verdict, by) = side.decide(&region.example(version));
            (verdict == Verdict::Allow).then_some((region, by))
        })
        .collect();
    let mut by_rule: BTreeMap<_, Vec<Region>> = BTreeMap::new();
    for (region, by) in space::merge(cells) {
        by_rule.entry(by).or_default().push(region);
    }
    by_rule
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule(by) => by.fmt(f),
            Self::NoPolicy => f.write_str("no policy decides"),
            Self::Exempt(Exemption::OwnNode) => f.write_str("its own node, always"),
            Self::Exempt(Exemption::SamePod) => f.write_str("itself, always"),
        }
    }
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (title, head) = match self.way {
            Way::To => ("What can reach", "FROM"),
            Way::From => ("What can be reached from", "TO"),
        };
        writeln!(f, "{title} {}:\n", self.endpoint)?;
        if self.rows.is_empty() {
            return writeln!(f, "Nothing.");
        }
        let mut lines = vec![[head.to_owned(), "TRAFFIC".to_owned(), "WHY".to_owned()]];
        lines.extend(
            self.rows
                .iter()
                .map(|row| [row.peers.to_string(), self.traffic(row), row.why.to_string()]),
        );
        let width = |column: usize| {
            lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0).min(60)
        };
        let (first, second) = (width(0), width(1));
        for [peers, traffic, why] in &lines {
            writeln!(f, "{peers:first$}  {traffic:second$}  {why}")?;
        }
        writeln!(f, "\nEverything else is denied.")
    }
}

impl Reach {
    fn traffic(&self, row: &Row) -> String {
        let families = if self.dual_stack { words::families(&row.families) } else { "" };
        space::phrase(&row.regions) + families
    }

    /// The same as a graph in the language of Graphviz.
    pub fn dot(&self) -> String {
        let quote = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
        let own = quote(&self.endpoint.to_string());
        let mut text = String::from("digraph reach {\n  rankdir=LR;\n  node [shape=box];\n");
        text += &format!("  {own} [style=bold];\n");
        for row in &self.rows {
            let peers = quote(&row.peers.to_string());
            let label = quote(&self.traffic(row));
            let (from, to) = match self.way {
                Way::To => (&peers, &own),
                Way::From => (&own, &peers),
            };
            text += &format!("  {from} -> {to} [label={label}];\n");
        }
        text += "}\n";
        text
    }
}
