//! Questions about all flows at once: what would change, who can reach whom, what is probably a mistake.

#![allow(non_camel_case_types, reason = "the names are C's")]

use core::ffi::c_char;

use portcullis_core::policy::lint::Finding;
use portcullis_core::policy::model::Direction;
use portcullis_core::policy::reach::{Way, reach};
use portcullis_core::policy::{lint, parse_policies};
use portcullis_core::report;

use crate::apply::{diff_of, sources};
use crate::engine::{Managed, portcullis_engine};
use crate::handle;
use crate::raw;
use crate::rule::read_direction;
use crate::status::{Failure, PORTCULLIS_BAD_VALUE, PORTCULLIS_POLICY};
use crate::types::{flag, portcullis_text};

/// As `portcullis_engine_diff`, as a JSON object: what `portcullis diff --json` prints.
///
/// # Safety
/// The arrays have as many texts as their counts say, `buffer` has room for `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_engine_diff_json(
    engine: *const portcullis_engine,
    cluster: *const portcullis_text,
    cluster_count: usize,
    policies: *const portcullis_text,
    policy_count: usize,
    buffer: *mut c_char,
    size: usize,
    needed: *mut usize,
) -> i32 {
    handle::with::<Managed>(engine, |held| {
        // SAFETY: by this function's contract.
        let diff =
            unsafe { diff_of(&held.object, (cluster, cluster_count), (policies, policy_count)) }?;
        let text = report::diff(&diff).to_string();
        // SAFETY: by this function's contract.
        unsafe { raw::copy_text(&text, buffer, size, needed) }
    })
}

/// Who can reach an endpoint by what is in force, or whom it can reach: by rule, with protocols and ports.
/// Works on a copy of what is in force.
///
/// `direction`: `PORTCULLIS_INGRESS` for who can reach it, `PORTCULLIS_EGRESS` for whom it can reach.
/// `as_json`: 1 for a JSON object, what `portcullis reach --json` prints; 0 for people. Buffer and sizes as
/// in `portcullis_engine_error`. `PORTCULLIS_BAD_VALUE` if there is no such endpoint, or it shares its
/// node's network, where policies do not apply.
///
/// # Safety
/// The names are NUL-terminated, `buffer` has room for `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_engine_reach(
    engine: *const portcullis_engine,
    namespace_name: *const c_char,
    name: *const c_char,
    direction: u8,
    as_json: u8,
    buffer: *mut c_char,
    size: usize,
    needed: *mut usize,
) -> i32 {
    handle::with::<Managed>(engine, |held| {
        // SAFETY: by this function's contract.
        let namespace = unsafe { raw::text(namespace_name) }?;
        // SAFETY: by this function's contract.
        let name = unsafe { raw::text(name) }?;
        let way = match read_direction(direction)? {
            Direction::Ingress => Way::To,
            Direction::Egress => Way::From,
        };
        let as_json = flag(as_json)?;
        let wrong = |what: &str| {
            let text = format_args!("error: endpoint {namespace}/{name}: {what}");
            Failure::new(PORTCULLIS_BAD_VALUE, text)
        };
        let endpoint = held.object.endpoints().find(namespace, name);
        let endpoint = endpoint.ok_or_else(|| wrong("there is none"))?;
        if endpoint.host_network {
            return Err(wrong("shares its node's network, where policies do not apply"));
        }
        let (cluster, policies) = held.object.in_force();
        let found = reach(&cluster, &policies, &endpoint, way)
            .map_err(|error| Failure::new(PORTCULLIS_POLICY, format_args!("error: {error}")))?;
        let text = if as_json { report::reach(&found).to_string() } else { found.to_string() };
        // SAFETY: by this function's contract.
        unsafe { raw::copy_text(&text, buffer, size, needed) }
    })
}

/// What is probably a mistake in policies over the cluster in force, although it may be written: rules that
/// never have a say, policies that select nothing, doors left open, workloads cut off from what they need.
///
/// `policies`: NULL, with a count of 0, for those in force. `as_json`: 1 for a JSON array of objects with
/// `level`, `code`, `origin` and `message`; 0 for a line `file:line:col: warning: message [code]` for each.
/// `findings`: how many there are; may be NULL. Buffer and sizes as in `portcullis_engine_error`.
///
/// # Safety
/// The array has as many texts as its count says, `buffer` has room for `size` bytes, `findings` is NULL or
/// points to room for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_engine_lint(
    engine: *const portcullis_engine,
    policies: *const portcullis_text,
    policy_count: usize,
    as_json: u8,
    buffer: *mut c_char,
    size: usize,
    needed: *mut usize,
    findings: *mut usize,
) -> i32 {
    handle::with::<Managed>(engine, |held| {
        let given = !policies.is_null() || policy_count > 0;
        // SAFETY: by this function's contract.
        let policies = unsafe { sources(policies, policy_count) }?;
        let as_json = flag(as_json)?;
        let mut found: Vec<Finding> = Vec::new();
        let (cluster, mut set) = held.object.in_force();
        if given {
            let loaded = parse_policies(&policies)?;
            found.extend(loaded.warnings.iter().map(Finding::from));
            set = loaded.value;
        }
        let more = lint(&set, Some(&cluster))
            .map_err(|error| Failure::new(PORTCULLIS_POLICY, format_args!("error: {error}")))?;
        found.extend(more);
        let text = if as_json {
            let all: Vec<String> =
                found.iter().map(|finding| report::finding(finding).to_string()).collect();
            format!("[{}]", all.join(","))
        } else {
            found.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
        };
        // SAFETY: by this function's contract.
        unsafe { raw::copy_text(&text, buffer, size, needed) }?;
        // SAFETY: by this function's contract.
        unsafe { raw::write(findings, found.len()) };
        Ok(())
    })
}
