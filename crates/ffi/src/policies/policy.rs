//! A policy and its rules, made in code.

#![allow(non_camel_case_types, reason = "the names are C's")]

use core::ffi::c_char;

use portcullis_core::policy::model::{
    Action, Enforcement, Kind, Origin, Policy, PolicyName, Rule, Traffic,
};

use super::expression::{Reader, portcullis_match, portcullis_traffic};
use super::{Draft, portcullis_policies, wrong};
use crate::handle::{self, lock};
use crate::raw::{self, Growable};
use crate::rule::{PORTCULLIS_EGRESS, PORTCULLIS_INGRESS, read_direction};
use crate::status::Failure;
use crate::types::flag;

/// networking.k8s.io/v1 NetworkPolicy.
pub const PORTCULLIS_KIND_NETWORK_POLICY: u8 = 0;
/// policy.networking.k8s.io/v1alpha2 ClusterNetworkPolicy.
pub const PORTCULLIS_KIND_CLUSTER_NETWORK_POLICY: u8 = 1;
/// policy.networking.k8s.io/v1alpha1 AdminNetworkPolicy.
pub const PORTCULLIS_KIND_ADMIN_NETWORK_POLICY: u8 = 2;
/// policy.networking.k8s.io/v1alpha1 BaselineAdminNetworkPolicy.
pub const PORTCULLIS_KIND_BASELINE_ADMIN_NETWORK_POLICY: u8 = 3;
/// projectcalico.org/v3 NetworkPolicy; named like the Kubernetes kind.
pub const PORTCULLIS_KIND_CALICO_NETWORK_POLICY: u8 = 4;
/// projectcalico.org/v3 GlobalNetworkPolicy.
pub const PORTCULLIS_KIND_GLOBAL_NETWORK_POLICY: u8 = 5;
/// projectcalico.org/v3 StagedNetworkPolicy.
pub const PORTCULLIS_KIND_STAGED_NETWORK_POLICY: u8 = 6;
/// projectcalico.org/v3 StagedGlobalNetworkPolicy.
pub const PORTCULLIS_KIND_STAGED_GLOBAL_NETWORK_POLICY: u8 = 7;
/// projectcalico.org/v3 StagedKubernetesNetworkPolicy.
pub const PORTCULLIS_KIND_STAGED_KUBERNETES_NETWORK_POLICY: u8 = 8;

/// Where something was written, for `portcullis_engine_explain` and records. All zero: made in code. This
/// one never grows.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct portcullis_origin {
    /// The file, NUL-terminated UTF-8; NULL is `<code>`.
    pub file: *const c_char,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
}

/// A policy without its rules. Set all of it to zero, then `struct_size` to `sizeof`. Texts are
/// NUL-terminated UTF-8.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct portcullis_policy {
    /// `sizeof(portcullis_policy)`.
    pub struct_size: usize,
    /// The tier that it is the last of: the number that `portcullis_policies_add_tier` answered.
    pub tier: u32,
    /// `PORTCULLIS_KIND_...`: how it is named. It means nothing else: what a policy of a namespace
    /// selects and names must say the namespace itself (`PORTCULLIS_MATCH_NAMESPACE`).
    pub kind: u8,
    /// 1: it decides nothing, and is told of.
    pub staged: u8,
    /// Directions that it says something about, `PORTCULLIS_INGRESS` plus `PORTCULLIS_EGRESS`: what none
    /// of its rules decides there is left to the others and to the end of its tier.
    pub directions: u8,
    /// The namespace in its name; NULL: none.
    pub namespace_name: *const c_char,
    /// Its name.
    pub name: *const c_char,
    /// The endpoints that it applies to: pods only, never host-networked ones.
    pub subject: *const portcullis_match,
    /// Where it was written.
    pub origin: portcullis_origin,
}

/// The direction allows the flow.
pub const PORTCULLIS_ACTION_ALLOW: u8 = 1;
/// The direction denies the flow.
pub const PORTCULLIS_ACTION_DENY: u8 = 2;
/// Leave this tier, go on with the next.
pub const PORTCULLIS_ACTION_PASS: u8 = 3;
/// Note the flow, go on with the next rule.
pub const PORTCULLIS_ACTION_LOG: u8 = 4;

/// A rule: it matches a flow when source, destination and any of its traffic match. Set all of it to
/// zero, then `struct_size` to `sizeof`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct portcullis_rule {
    /// `sizeof(portcullis_rule)`.
    pub struct_size: usize,
    /// The policy that it is the last of: the number that `portcullis_policies_add_policy` answered.
    pub policy: u32,
    /// `PORTCULLIS_INGRESS` or `PORTCULLIS_EGRESS`, one of the policy's.
    pub direction: u8,
    /// `PORTCULLIS_ACTION_...`; 0 is refused.
    pub action: u8,
    /// 1: whatever is sent, and there is no `traffic`.
    pub all_traffic: u8,
    /// A name of its own, NUL-terminated UTF-8; NULL: none.
    pub name: *const c_char,
    /// Who sends the first packet of the flow.
    pub source: *const portcullis_match,
    /// Who receives it.
    pub destination: *const portcullis_match,
    /// What is sent: any of these.
    pub traffic: *const portcullis_traffic,
    /// How many.
    pub traffic_count: usize,
    /// Where it was written.
    pub origin: portcullis_origin,
}

// SAFETY: `repr(C)`, the size first, integers and raw pointers only.
unsafe impl Growable for portcullis_policy {
    const FIRST: usize = size_of::<Self>();
}
// SAFETY: `repr(C)`, the size first, integers and raw pointers only.
unsafe impl Growable for portcullis_rule {
    const FIRST: usize = size_of::<Self>();
}

/// Adds a policy behind the others of its tier.
///
/// `number`: by which rules name it. What is wrong names the policy and the field in the error text.
///
/// # Safety
/// `policy` begins with its size, its pointers are NULL or point to what is described there; `number`
/// points to room for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_policies_add_policy(
    policies: *const portcullis_policies,
    policy: *const portcullis_policy,
    number: *mut u32,
) -> i32 {
    handle::with::<Draft>(policies, |held| {
        raw::required(number)?;
        raw::required(policy)?;
        // SAFETY: by this function's contract.
        let given = unsafe { raw::read_growable(policy, portcullis_policy::EMPTY) }?;
        let mut made = lock(&held.object.0);
        // SAFETY: by this function's contract.
        let policy = unsafe { given.read(made.set.sets.len()) }?;
        let mut all = made.set.tiers.iter().flat_map(|tier| &tier.policies);
        if all.any(|other| other.name == policy.name) {
            return wrong(format_args!("{}: there is one of this name", policy.name));
        }
        let tier = given.tier as usize;
        let count = made.set.tiers.len();
        let Some(of) = made.set.tiers.get_mut(tier) else {
            return wrong(format_args!("{}: tier {tier}: there are {count}", policy.name));
        };
        of.policies.push(policy);
        let place = of.policies.len() - 1;
        made.policies.push((tier, place));
        // SAFETY: by this function's contract.
        unsafe { raw::write(number, made.policies.len() as u32 - 1) };
        Ok(())
    })
}

/// Adds a rule behind the others of its policy and direction. What is wrong names the policy, the rule and
/// the field in the error text.
///
/// # Safety
/// `rule` begins with its size, its pointers are NULL or point to what is described there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_policies_add_rule(
    policies: *const portcullis_policies,
    rule: *const portcullis_rule,
) -> i32 {
    handle::with::<Draft>(policies, |held| {
        raw::required(rule)?;
        // SAFETY: by this function's contract.
        let given = unsafe { raw::read_growable(rule, portcullis_rule::EMPTY) }?;
        let mut made = lock(&held.object.0);
        let Some(&(tier, place)) = made.policies.get(given.policy as usize) else {
            let count = made.policies.len();
            return wrong(format_args!("rule: policy {}: there are {count}", given.policy));
        };
        let sets = made.set.sets.len();
        let policy = &mut made.set.tiers[tier].policies[place];
        let ingress = read_direction(given.direction)? == read_direction(PORTCULLIS_INGRESS)?;
        let (rules, direction) = match ingress {
            true => (&mut policy.ingress, "ingress"),
            false => (&mut policy.egress, "egress"),
        };
        let Some(rules) = rules else {
            return wrong(format_args!(
                "{}: {direction} rule: {direction} is not one of its directions",
                policy.name
            ));
        };
        let of = format!("{}: {direction} rule {}", policy.name, rules.len());
        // SAFETY: by this function's contract.
        rules.push(unsafe { given.read(&mut Reader::new(sets, &of)) }?);
        Ok(())
    })
}

impl portcullis_policy {
    const EMPTY: Self = Self {
        struct_size: size_of::<Self>(),
        tier: 0,
        kind: 0,
        staged: 0,
        directions: 0,
        namespace_name: core::ptr::null(),
        name: core::ptr::null(),
        subject: core::ptr::null(),
        origin: portcullis_origin::EMPTY,
    };

    /// # Safety
    /// Its pointers are NULL or point to what is described there.
    unsafe fn read(&self, sets: usize) -> Result<Policy, Failure> {
        // SAFETY: by this function's contract.
        let name = unsafe { raw::text(self.name) }?;
        // SAFETY: by this function's contract.
        let namespace = unsafe { raw::optional_text(self.namespace_name) }?;
        let kind = match self.kind {
            PORTCULLIS_KIND_NETWORK_POLICY => Kind::NetworkPolicy,
            PORTCULLIS_KIND_CLUSTER_NETWORK_POLICY => Kind::ClusterNetworkPolicy,
            PORTCULLIS_KIND_ADMIN_NETWORK_POLICY => Kind::AdminNetworkPolicy,
            PORTCULLIS_KIND_BASELINE_ADMIN_NETWORK_POLICY => Kind::BaselineAdminNetworkPolicy,
            PORTCULLIS_KIND_CALICO_NETWORK_POLICY => Kind::CalicoNetworkPolicy,
            PORTCULLIS_KIND_GLOBAL_NETWORK_POLICY => Kind::GlobalNetworkPolicy,
            PORTCULLIS_KIND_STAGED_NETWORK_POLICY => Kind::StagedNetworkPolicy,
            PORTCULLIS_KIND_STAGED_GLOBAL_NETWORK_POLICY => Kind::StagedGlobalNetworkPolicy,
            PORTCULLIS_KIND_STAGED_KUBERNETES_NETWORK_POLICY => Kind::StagedKubernetesNetworkPolicy,
            kind => return wrong(format_args!("policy {name}: kind {kind} is none")),
        };
        let name = PolicyName { kind, namespace: namespace.map(Into::into), name: name.into() };
        let of = name.to_string();
        if name.name.is_empty() {
            return wrong(format_args!("policy {of}: no name"));
        }
        if self.directions == 0 || self.directions > PORTCULLIS_INGRESS + PORTCULLIS_EGRESS {
            let what = "1 is ingress, 2 is egress, 3 is both";
            return wrong(format_args!("{of}: directions {}: {what}", self.directions));
        }
        let rules = |direction: u8| (self.directions & direction != 0).then(Vec::new);
        let staged = flag(self.staged)
            .or_else(|_| wrong(format_args!("{of}: staged {}: 0 or 1", self.staged)))?;
        Ok(Policy {
            // SAFETY: by this function's contract.
            origin: unsafe { self.origin.read() }?,
            enforcement: if staged { Enforcement::Staged } else { Enforcement::Enforced },
            // SAFETY: by this function's contract.
            subject: unsafe { Reader::new(sets, &of).read("subject", self.subject) }?,
            ingress: rules(PORTCULLIS_INGRESS),
            egress: rules(PORTCULLIS_EGRESS),
            name,
        })
    }
}

impl portcullis_rule {
    const EMPTY: Self = Self {
        struct_size: size_of::<Self>(),
        policy: 0,
        direction: 0,
        action: 0,
        all_traffic: 0,
        name: core::ptr::null(),
        source: core::ptr::null(),
        destination: core::ptr::null(),
        traffic: core::ptr::null(),
        traffic_count: 0,
        origin: portcullis_origin::EMPTY,
    };

    /// # Safety
    /// Its pointers are NULL or point to what is described there.
    unsafe fn read(&self, reader: &mut Reader<'_>) -> Result<Rule, Failure> {
        let action = match self.action {
            PORTCULLIS_ACTION_ALLOW => Action::Allow,
            PORTCULLIS_ACTION_DENY => Action::Deny,
            PORTCULLIS_ACTION_PASS => Action::Pass,
            PORTCULLIS_ACTION_LOG => Action::Log,
            other => return reader.wrong("action", format_args!("{other} is none")),
        };
        // SAFETY: by this function's contract.
        let given = unsafe { raw::slice(self.traffic, self.traffic_count) }?;
        let traffic = match (self.all_traffic, given) {
            (1, []) => vec![Traffic::default()],
            (0, [_, ..]) => {
                let all = given.iter().enumerate();
                // SAFETY: by this function's contract.
                all.map(|(n, one)| unsafe { reader.traffic(n, one) }).collect::<Result<_, _>>()?
            }
            _ => return reader.wrong("traffic", "either all_traffic is 1, or there is some"),
        };
        Ok(Rule {
            // SAFETY: by this function's contract.
            origin: unsafe { self.origin.read() }?,
            // SAFETY: by this function's contract.
            name: unsafe { raw::optional_text(self.name) }?.map(Into::into),
            action,
            // SAFETY: by this function's contract.
            source: unsafe { reader.read("source", self.source) }?,
            // SAFETY: by this function's contract.
            destination: unsafe { reader.read("destination", self.destination) }?,
            traffic,
        })
    }
}

impl portcullis_origin {
    const EMPTY: Self = Self { file: core::ptr::null(), line: 0, column: 0 };

    /// # Safety
    /// `file` is NULL or NUL-terminated.
    unsafe fn read(&self) -> Result<Origin, Failure> {
        let made = Origin::default();
        // SAFETY: by this function's contract.
        let file = unsafe { raw::optional_text(self.file) }?.map_or(made.file, Into::into);
        Ok(Origin { file, line: self.line, column: self.column })
    }
}
