//! Policies made in code: whatever documents can say, these calls can say.

#![allow(non_camel_case_types, reason = "the names are C's")]

pub mod expression;
pub mod policy;
pub mod values;

use core::ffi::c_char;
use std::sync::{Arc, Mutex};

use portcullis_core::policy::model::{CidrSet, Origin, PolicySet, Tier, TierDefault};
use portcullis_core::policy::parse_policies;

use crate::apply::sources;
use crate::handle::{self, Object, Table, lock};
use crate::raw;
use crate::status::{Failure, PORTCULLIS_BAD_VALUE};
use crate::types::{portcullis_prefix, portcullis_text};

/// Policies that are made in code, to be put in force by `portcullis_engine_apply_policies`: tiers in the
/// order in which they decide, in each tier policies in that order, in each policy rules. The decision
/// for one direction of a flow: walk the tiers; skip one none of whose policies applies to the endpoint
/// in this direction; else the first rule that matches decides. Allow and deny end, pass goes on with
/// the next tier, log with the next rule; at the end of a tier its default counts. After the last tier:
/// allow. Calls on it may come from any threads, and wait for each other.
pub struct portcullis_policies {
    _opaque: [u8; 0],
}

/// The end of a tier denies (the default).
pub const PORTCULLIS_TIER_DENY: u8 = 0;
/// The end of a tier goes on with the next tier.
pub const PORTCULLIS_TIER_PASS: u8 = 1;

/// Policies in the making.
#[derive(Default)]
pub(crate) struct Draft(Mutex<Made>);

#[derive(Default)]
struct Made {
    set: PolicySet,
    /// Tier and place there of each policy.
    policies: Vec<(usize, usize)>,
}

static DRAFTS: Table<Draft> = Table::new();

impl Object for Draft {
    type Opaque = portcullis_policies;
    const KIND: usize = 0x5b;
    fn table() -> &'static Table<Self> {
        &DRAFTS
    }
}

impl Draft {
    /// What was made so far.
    pub(crate) fn copy(&self) -> PolicySet {
        lock(&self.0).set.clone()
    }
}

/// Makes an empty set of policies.
///
/// `out`: the policies; free them with `portcullis_policies_free`. Any thread.
///
/// # Safety
/// `out` points to room for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_policies_new(out: *mut *mut portcullis_policies) -> i32 {
    handle::without(|| {
        raw::required(out)?;
        let policies = DRAFTS.insert(Draft::default())?;
        // SAFETY: by this function's contract.
        unsafe { raw::write(out, policies) };
        Ok(())
    })
}

/// Frees policies; what was put in force stays. NULL is fine; what was freed already is
/// `PORTCULLIS_BAD_HANDLE`. Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn portcullis_policies_free(policies: *mut portcullis_policies) -> i32 {
    handle::free::<Draft>(policies)
}

/// The text of the last call on these policies that failed with one; see `portcullis_engine_error`.
///
/// # Safety
/// `buffer` has room for `size` bytes, `needed` is NULL or points to room for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_policies_error(
    policies: *const portcullis_policies,
    buffer: *mut c_char,
    size: usize,
    needed: *mut usize,
) -> i32 {
    // SAFETY: by this function's contract.
    unsafe { handle::copy_error::<Draft>(policies, buffer, size, needed) }
}

/// Begins with what documents say, to which more may be added: replaces all tiers and sets. Their tiers
/// have the numbers from 0 on in the order in which they decide, their sets and policies likewise.
///
/// `tiers`, `sets`, `count`: how many tiers, sets and policies there are now; each may be NULL. On any
/// other status everything stays as it was.
///
/// # Safety
/// `texts` has `text_count` texts, each as described there; `tiers`, `sets` and `count` are NULL or point
/// to room for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_policies_read(
    policies: *const portcullis_policies,
    texts: *const portcullis_text,
    text_count: usize,
    tiers: *mut u32,
    sets: *mut u32,
    count: *mut u32,
) -> i32 {
    handle::with::<Draft>(policies, |held| {
        // SAFETY: by this function's contract.
        let texts = unsafe { sources(texts, text_count) }?;
        let set = parse_policies(&texts)?.value;
        let mut made = lock(&held.object.0);
        made.policies.clear();
        for (tier, of) in set.tiers.iter().enumerate() {
            made.policies.extend((0..of.policies.len()).map(|place| (tier, place)));
        }
        made.set = set;
        // SAFETY: by this function's contract.
        unsafe { raw::write(tiers, made.set.tiers.len() as u32) };
        // SAFETY: by this function's contract.
        unsafe { raw::write(sets, made.set.sets.len() as u32) };
        // SAFETY: by this function's contract.
        unsafe { raw::write(count, made.policies.len() as u32) };
        Ok(())
    })
}

/// Adds a tier behind the others.
///
/// `name`: `kube-admin`, `default`, `kube-baseline` for what stands for those of Kubernetes, or any other
/// that no tier has yet; NUL-terminated UTF-8. `end`: `PORTCULLIS_TIER_...`. `number`: by which policies
/// name it.
///
/// # Safety
/// `name` is NUL-terminated, `number` points to room for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_policies_add_tier(
    policies: *const portcullis_policies,
    name: *const c_char,
    end: u8,
    number: *mut u32,
) -> i32 {
    handle::with::<Draft>(policies, |held| {
        raw::required(number)?;
        // SAFETY: by this function's contract.
        let name = unsafe { raw::text(name) }?;
        let default_action = match end {
            PORTCULLIS_TIER_DENY => TierDefault::Deny,
            PORTCULLIS_TIER_PASS => TierDefault::Pass,
            _ => return wrong(format_args!("tier {name}: end {end}: 0 is deny, 1 is pass")),
        };
        let set = &mut lock(&held.object.0).set;
        if name.is_empty() || set.tiers.iter().any(|tier| &*tier.name == name) {
            return wrong(format_args!("tier `{name}`: a tier has a name that no other has"));
        }
        let tier = Tier { name: name.into(), default_action, policies: Vec::new(), origin: None };
        set.tiers.push(tier);
        // SAFETY: by this function's contract.
        unsafe { raw::write(number, set.tiers.len() as u32 - 1) };
        Ok(())
    })
}

/// Adds a set of prefixes, which `portcullis_engine_replace_set` may replace later.
///
/// `name`: for example `GlobalNetworkSet//feed`; no other set has it. NUL-terminated UTF-8. `number`: by
/// which expressions name it.
///
/// # Safety
/// `name` is NUL-terminated, `prefixes` has `count` prefixes, `number` points to room for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_policies_add_set(
    policies: *const portcullis_policies,
    name: *const c_char,
    prefixes: *const portcullis_prefix,
    count: usize,
    number: *mut u32,
) -> i32 {
    handle::with::<Draft>(policies, |held| {
        raw::required(number)?;
        // SAFETY: by this function's contract.
        let name = unsafe { raw::text(name) }?;
        // SAFETY: by this function's contract.
        let prefixes = unsafe { raw::slice(prefixes, count) }?.iter().map(portcullis_prefix::read);
        let prefixes: Arc<[_]> = prefixes.collect::<Result<_, _>>()?;
        let set = &mut lock(&held.object.0).set;
        if name.is_empty() || set.sets.iter().any(|set| &*set.name == name) {
            return wrong(format_args!("set `{name}`: a set has a name that no other has"));
        }
        set.sets.push(CidrSet { name: name.into(), origin: Origin::default(), prefixes });
        // SAFETY: by this function's contract.
        unsafe { raw::write(number, set.sets.len() as u32 - 1) };
        Ok(())
    })
}

fn wrong<T>(what: impl std::fmt::Display) -> Result<T, Failure> {
    Err(Failure::new(PORTCULLIS_BAD_VALUE, format_args!("error: {what}")))
}
