//! Why a flow is decided as it is, and which rule that was.

#![allow(non_camel_case_types, reason = "the names are C's")]

use core::ffi::c_char;

use portcullis_core::dataplane::verdict::RuleId;
use portcullis_core::policy::RuleInfo;
use portcullis_core::policy::model::Direction;

use crate::engine::{Managed, portcullis_engine};
use crate::handle;
use crate::raw;
use crate::status::PORTCULLIS_BAD_VALUE;
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

/// A rule for people.
pub(crate) fn words(rule: &RuleInfo) -> String {
    let direction = match rule.direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    };
    format!("{} {direction} {}", rule.policy.name, rule.origin)
}
