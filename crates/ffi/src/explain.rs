//! Why a flow is decided as it is, and which rule that was.

#![allow(non_camel_case_types, reason = "the names are C's")]

use core::ffi::c_char;

use portcullis_core::dataplane::verdict::RuleId;
use portcullis_core::policy::RuleInfo;
use portcullis_core::policy::model::{Action, Direction, Enforcement};
use portcullis_core::report;

use crate::engine::{Managed, portcullis_engine};
use crate::handle;
use crate::policies::policy::{
    PORTCULLIS_ACTION_ALLOW, PORTCULLIS_ACTION_DENY, PORTCULLIS_ACTION_LOG, PORTCULLIS_ACTION_PASS,
};
use crate::raw::{self, Growable};
use crate::rule::{PORTCULLIS_EGRESS, PORTCULLIS_INGRESS};
use crate::status::{PORTCULLIS_BAD_VALUE, PORTCULLIS_TOO_SMALL};
use crate::types::portcullis_flow;

/// Why a flow is decided as it is, for people: the tiers walked, the rule with file and line, near
/// misses. Buffer and sizes as in `portcullis_engine_error`.
///
/// # Safety
/// `flow` points to a flow, `buffer` has room for `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_engine_explain(
    engine: *const portcullis_engine,
    flow: *const portcullis_flow,
    buffer: *mut c_char,
    size: usize,
    needed: *mut usize,
) -> i32 {
    handle::with::<Managed>(engine, |held| {
        // SAFETY: by this function's contract.
        let flow = unsafe { raw::slice(flow, 1) }?[0].read_one_family()?;
        let text = held.object.explain(&flow).to_string();
        // SAFETY: by this function's contract.
        unsafe { raw::copy_text(&text, buffer, size, needed) }
    })
}

/// As `portcullis_engine_explain`, as a JSON object: what `portcullis explain --json` prints
/// (docs/policy.md).
///
/// # Safety
/// `flow` points to a flow, `buffer` has room for `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_engine_explain_json(
    engine: *const portcullis_engine,
    flow: *const portcullis_flow,
    buffer: *mut c_char,
    size: usize,
    needed: *mut usize,
) -> i32 {
    handle::with::<Managed>(engine, |held| {
        // SAFETY: by this function's contract.
        let flow = unsafe { raw::slice(flow, 1) }?[0].read_one_family()?;
        let text = report::explanation(&held.object.explain(&flow)).to_string();
        // SAFETY: by this function's contract.
        unsafe { raw::copy_text(&text, buffer, size, needed) }
    })
}

/// The rule of a judgement, as `policy direction file:line:column`; also if its policy is gone.
/// `PORTCULLIS_BAD_VALUE` if there is none. Buffer and sizes as in `portcullis_engine_error`.
///
/// # Safety
/// `buffer` has room for `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_engine_rule(
    engine: *const portcullis_engine,
    rule: u32,
    buffer: *mut c_char,
    size: usize,
    needed: *mut usize,
) -> i32 {
    handle::with::<Managed>(engine, |held| {
        let rule = held.object.rule(RuleId::new(rule)).ok_or(PORTCULLIS_BAD_VALUE)?;
        // SAFETY: by this function's contract.
        unsafe { raw::copy_text(&words(&rule), buffer, size, needed) }
    })
}

/// A rule in parts. Set `struct_size` first. Texts are NUL-terminated UTF-8 in the caller's text buffer.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct portcullis_rule_info {
    /// `sizeof(portcullis_rule_info)`.
    pub struct_size: usize,
    /// The policy, as `Kind/namespace/name`.
    pub policy: *const c_char,
    /// The tier that it is in.
    pub tier: *const c_char,
    /// The rule's own name; NULL if it has none.
    pub name: *const c_char,
    /// The file where it was written; for the end of a tier, where the policy was.
    pub file: *const c_char,
    /// The line, from 1.
    pub line: u32,
    /// The column, from 1.
    pub column: u32,
    /// Its place among the policy's rules of its direction, from 0; meaningless for the end of a tier.
    pub index: u32,
    /// `PORTCULLIS_INGRESS` or `PORTCULLIS_EGRESS`.
    pub direction: u8,
    /// `PORTCULLIS_ACTION_...`: what it does.
    pub action: u8,
    /// 1 if it is the end of the tier that the policy is in.
    pub tier_end: u8,
    /// 1 if the policy decides nothing and is told of.
    pub staged: u8,
}

// SAFETY: `repr(C)`, the size first, integers and raw pointers only.
unsafe impl Growable for portcullis_rule_info {
    const FIRST: usize = size_of::<Self>();
}

/// The rule of a judgement in parts; also if its policy is gone. `PORTCULLIS_BAD_VALUE` if there is none.
///
/// `buffer`, `size`: room for its texts. `needed`: bytes needed; may be NULL. `PORTCULLIS_TOO_SMALL` if
/// they do not fit: `out` is not written then.
///
/// # Safety
/// `out` points to a struct whose `struct_size` is set, `buffer` has room for `size` bytes and is no part
/// of it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_engine_rule_info(
    engine: *const portcullis_engine,
    rule: u32,
    out: *mut portcullis_rule_info,
    buffer: *mut c_char,
    size: usize,
    needed: *mut usize,
) -> i32 {
    handle::with::<Managed>(engine, |held| {
        // SAFETY: by this function's contract.
        unsafe { raw::check_growable(out) }?;
        let rule = held.object.rule(RuleId::new(rule)).ok_or(PORTCULLIS_BAD_VALUE)?;
        let policy = rule.policy.name.to_string();
        let name = rule.name.as_deref();
        let texts = [Some(&*policy), Some(&*rule.policy.tier), name, Some(&*rule.origin.file)];
        let total = texts.iter().flatten().map(|text| text.len() + 1).sum();
        // SAFETY: by this function's contract.
        unsafe { raw::write(needed, total) };
        // SAFETY: by this function's contract.
        let mut room = unsafe { raw::slice_mut(buffer, size) }?;
        if room.len() < total {
            return Err(PORTCULLIS_TOO_SMALL.into());
        }
        let [policy, tier, name, file] = texts.map(|text| {
            let Some(text) = text else { return core::ptr::null() };
            let (here, rest) = core::mem::take(&mut room).split_at_mut(text.len() + 1);
            room = rest;
            // A NUL inside would hide what follows.
            let bytes = text.bytes().map(|byte| if byte == 0 { b' ' } else { byte });
            for (room, byte) in here.iter_mut().zip(bytes.chain([0])) {
                room.write(byte as c_char);
            }
            here.as_ptr().cast::<c_char>()
        });
        let value = portcullis_rule_info {
            struct_size: 0,
            policy,
            tier,
            name,
            file,
            line: rule.origin.line,
            column: rule.origin.column,
            index: rule.index.unwrap_or(0),
            direction: match rule.direction {
                Direction::Ingress => PORTCULLIS_INGRESS,
                Direction::Egress => PORTCULLIS_EGRESS,
            },
            action: match rule.action {
                Action::Allow => PORTCULLIS_ACTION_ALLOW,
                Action::Deny => PORTCULLIS_ACTION_DENY,
                Action::Pass => PORTCULLIS_ACTION_PASS,
                Action::Log => PORTCULLIS_ACTION_LOG,
            },
            tier_end: rule.index.is_none().into(),
            staged: (rule.policy.enforcement == Enforcement::Staged).into(),
        };
        // SAFETY: by this function's contract.
        unsafe { raw::write_growable(out, value) }
    })
}

/// A rule for people.
pub(crate) fn words(rule: &RuleInfo) -> String {
    let direction = match rule.direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    };
    format!("{} {direction} {}", rule.policy.name, rule.origin)
}
