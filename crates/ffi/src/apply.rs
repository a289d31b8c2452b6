//! Documents: put in force, compared with what is in force, and what they gave reason to say.

#![allow(non_camel_case_types, reason = "the names are C's")]

use core::ffi::c_char;
use std::path::Path;

use portcullis_core::Applied;
use portcullis_core::identity_table::endpoint::ClusterState;
use portcullis_core::policy::diff::Diff;
use portcullis_core::policy::model::PolicySet;
use portcullis_core::policy::{self, Loaded, Source};

use crate::engine::{Managed, portcullis_engine};
use crate::handle;
use crate::raw::{self, Growable};
use crate::status::{Failure, PORTCULLIS_BAD_VALUE};
use crate::types::portcullis_text;

/// What a change put in force. Set `struct_size` first.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct portcullis_applied {
    /// `sizeof(portcullis_applied)`.
    pub struct_size: usize,
    /// Number of the set in force, from 1; changes of single endpoints do not count.
    pub generation: u64,
    /// Policies in it.
    pub policies: u64,
    /// Endpoints it knows.
    pub endpoints: u64,
    /// Identities they make, those of CIDRs included.
    pub identities: u64,
}

// SAFETY: `repr(C)`, the size first, integers only.
unsafe impl Growable for portcullis_applied {
    const FIRST: usize = size_of::<Self>();
}

/// Replaces cluster and policies by what these texts say. Compiled aside, then put in force with one
/// pointer store: a packet is judged by the old set or the new. Live connections are judged again.
/// Sets that were replaced keep their content.
///
/// `applied`: what is in force now; may be NULL. On any other status everything stays as it was; after
/// `PORTCULLIS_REFUSED` the error text has a line for each finding.
///
/// # Safety
/// The arrays have as many texts as their counts say, each as described there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_engine_apply(
    engine: *const portcullis_engine,
    cluster: *const portcullis_text,
    cluster_count: usize,
    policies: *const portcullis_text,
    policy_count: usize,
    applied: *mut portcullis_applied,
) -> i32 {
    handle::with::<Managed>(engine, |held| {
        // SAFETY: by this function's contract.
        let cluster = unsafe { sources(cluster, cluster_count) }?;
        // SAFETY: by this function's contract.
        let policies = unsafe { sources(policies, policy_count) }?;
        let (cluster, policies) = parse(&cluster, &policies)?;
        // SAFETY: by this function's contract.
        unsafe { apply(&held.object, cluster, policies, applied) }
    })
}

/// As `portcullis_engine_apply`, from files or folders (every `*.yaml`, `*.yml` and `*.json` in them).
///
/// # Safety
/// `cluster` and each of the `policy_count` `policies` is a NUL-terminated path.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_engine_apply_files(
    engine: *const portcullis_engine,
    cluster: *const c_char,
    policies: *const *const c_char,
    policy_count: usize,
    applied: *mut portcullis_applied,
) -> i32 {
    handle::with::<Managed>(engine, |held| {
        // SAFETY: by this function's contract.
        let cluster = unsafe { path(cluster) }?;
        let mut paths = Vec::new();
        // SAFETY: by this function's contract.
        for policy in unsafe { raw::slice(policies, policy_count) }? {
            // SAFETY: by this function's contract.
            paths.push(unsafe { path(*policy) }?);
        }
        let cluster = policy::load_cluster(cluster)?;
        let policies = policy::load_policies(paths)?;
        // SAFETY: by this function's contract.
        unsafe { apply(&held.object, cluster, policies, applied) }
    })
}

/// Replaces the policies by what these texts say, and leaves the cluster, endpoints that came and went
/// included. All else as `portcullis_engine_apply`.
///
/// # Safety
/// The array has as many texts as its count says, each as described there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_engine_set_policies(
    engine: *const portcullis_engine,
    policies: *const portcullis_text,
    policy_count: usize,
    applied: *mut portcullis_applied,
) -> i32 {
    handle::with::<Managed>(engine, |held| {
        // SAFETY: by this function's contract.
        let policies = unsafe { sources(policies, policy_count) }?;
        let policies = policy::parse_policies(&policies)?;
        // SAFETY: by this function's contract.
        unsafe { check_applied(applied) }?;
        let done = held.object.set_policies(policies.value)?;
        held.object.warn([&policies.warnings]);
        // SAFETY: by this function's contract.
        unsafe { write_applied(applied, done) }
    })
}

/// Replaces the cluster (namespaces, pods, nodes) by what these texts say, and leaves the policies. All
/// else as `portcullis_engine_apply`.
///
/// # Safety
/// The array has as many texts as its count says, each as described there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_engine_set_cluster(
    engine: *const portcullis_engine,
    cluster: *const portcullis_text,
    cluster_count: usize,
    applied: *mut portcullis_applied,
) -> i32 {
    handle::with::<Managed>(engine, |held| {
        // SAFETY: by this function's contract.
        let cluster = unsafe { sources(cluster, cluster_count) }?;
        let cluster = policy::parse_cluster(&cluster)?;
        // SAFETY: by this function's contract.
        unsafe { check_applied(applied) }?;
        let done = held.object.set_cluster(cluster.value)?;
        held.object.warn([&cluster.warnings]);
        // SAFETY: by this function's contract.
        unsafe { write_applied(applied, done) }
    })
}

/// What the documents that were applied last gave reason to warn of, a line `file:line:col: warning:
/// ...` for each finding: rules that do nothing, open questions of order. Empty if there was none.
/// Buffer and sizes as in `portcullis_engine_error`.
///
/// # Safety
/// `buffer` has room for `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_engine_warnings(
    engine: *const portcullis_engine,
    buffer: *mut c_char,
    size: usize,
    needed: *mut usize,
) -> i32 {
    handle::with::<Managed>(engine, |held| {
        let text = handle::lock(&held.object.warnings).clone();
        // SAFETY: by this function's contract.
        unsafe { raw::copy_text(&text, buffer, size, needed) }
    })
}

/// What is in force.
///
/// # Safety
/// `out` points to an `applied` whose `struct_size` is set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_engine_applied(
    engine: *const portcullis_engine,
    out: *mut portcullis_applied,
) -> i32 {
    handle::with::<Managed>(engine, |held| {
        raw::required(out)?;
        // SAFETY: by this function's contract.
        unsafe { write_applied(out, held.object.applied()) }
    })
}

/// Exactly which flows would be decided otherwise if these documents were applied, for people: groups
/// of flows, the decision before and after, an example each. Nothing is changed. What
/// `portcullis_engine_replace_set` put into sets stays in them, on both sides.
///
/// `cluster`: NULL, with a count of 0, for the cluster in force. `changes`: how many groups there are,
/// 0 if every flow is decided alike; may be NULL. Buffer and sizes as in `portcullis_engine_error`;
/// each call compares anew, so offer a generous buffer first.
///
/// # Safety
/// The arrays have as many texts as their counts say, `buffer` has room for `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_engine_diff(
    engine: *const portcullis_engine,
    cluster: *const portcullis_text,
    cluster_count: usize,
    policies: *const portcullis_text,
    policy_count: usize,
    buffer: *mut c_char,
    size: usize,
    needed: *mut usize,
    changes: *mut usize,
) -> i32 {
    handle::with::<Managed>(engine, |held| {
        // SAFETY: by this function's contract.
        let diff =
            unsafe { diff_of(&held.object, (cluster, cluster_count), (policies, policy_count)) }?;
        // SAFETY: by this function's contract.
        unsafe { raw::copy_text(&diff.to_string(), buffer, size, needed) }?;
        // SAFETY: by this function's contract.
        unsafe { raw::write(changes, diff.changes.len()) };
        Ok(())
    })
}

/// Proves, exhaustively, that the program in force says what the policies say: `PORTCULLIS_PROOF`,
/// and the error text says where the two differ, if not. Takes longer than applying, and changes wait
/// for it; judging does not.
///
/// `regions`: how many regions of headers were compared; may be NULL.
///
/// # Safety
/// `regions` is NULL or points to room for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_engine_prove(
    engine: *const portcullis_engine,
    regions: *mut u64,
) -> i32 {
    handle::with::<Managed>(engine, |held| {
        let proof = held.object.prove()?;
        // SAFETY: by this function's contract.
        unsafe { raw::write(regions, proof.regions) };
        Ok(())
    })
}

pub(crate) fn parse(
    cluster: &[Source],
    policies: &[Source],
) -> Result<(Loaded<ClusterState>, Loaded<PolicySet>), Failure> {
    Ok((policy::parse_cluster(cluster)?, policy::parse_policies(policies)?))
}

/// What would change if these documents, each an array and its length, were applied.
///
/// # Safety
/// As the functions that call it.
pub(crate) unsafe fn diff_of(
    managed: &Managed,
    (cluster, cluster_count): (*const portcullis_text, usize),
    (policies, policy_count): (*const portcullis_text, usize),
) -> Result<Diff, Failure> {
    let given = !cluster.is_null() || cluster_count > 0;
    // SAFETY: by this function's contract.
    let cluster = unsafe { sources(cluster, cluster_count) }?;
    // SAFETY: by this function's contract.
    let policies = unsafe { sources(policies, policy_count) }?;
    let (cluster, policies) = parse(&cluster, &policies)?;
    let cluster = if given { cluster.value } else { managed.in_force().0 };
    Ok(managed.diff(&cluster, &policies.value)?)
}

/// # Safety
/// As the functions that call it.
unsafe fn apply(
    managed: &Managed,
    cluster: Loaded<ClusterState>,
    policies: Loaded<PolicySet>,
    out: *mut portcullis_applied,
) -> Result<(), Failure> {
    // SAFETY: by this function's contract.
    unsafe { check_applied(out) }?;
    let applied = managed.engine.apply(cluster.value, policies.value)?;
    managed.warn([&cluster.warnings, &policies.warnings]);
    // SAFETY: by this function's contract.
    unsafe { write_applied(out, applied) }
}

/// A wrong size must not be noticed only after the change.
///
/// # Safety
/// `out` is NULL or begins with its size.
pub(crate) unsafe fn check_applied(out: *const portcullis_applied) -> Result<(), Failure> {
    if out.is_null() {
        return Ok(());
    }
    // SAFETY: by this function's contract.
    unsafe { raw::check_growable(out) }
}

/// # Safety
/// `out` is NULL or begins with its size.
pub(crate) unsafe fn write_applied(
    out: *mut portcullis_applied,
    applied: Applied,
) -> Result<(), Failure> {
    if out.is_null() {
        return Ok(());
    }
    let Applied { generation, policies, endpoints, identities } = applied;
    let value = portcullis_applied {
        struct_size: 0,
        generation,
        policies: policies as u64,
        endpoints: endpoints as u64,
        identities: identities as u64,
    };
    // SAFETY: by this function's contract.
    unsafe { raw::write_growable(out, value) }
}

/// A path of documents. `-`, which would be the standard input of the whole program, is refused.
///
/// # Safety
/// As [`raw::text`].
unsafe fn path<'a>(text: *const c_char) -> Result<&'a Path, Failure> {
    // SAFETY: by this function's contract.
    match unsafe { raw::text(text) }? {
        "-" => Err(Failure::new(
            PORTCULLIS_BAD_VALUE,
            "error: `-`: the library does not read the program's standard input; a file of this \
             name is `./-`",
        )),
        path => Ok(Path::new(path)),
    }
}

/// # Safety
/// As the functions that call it.
pub(crate) unsafe fn sources(
    start: *const portcullis_text,
    count: usize,
) -> Result<Vec<Source>, Failure> {
    let mut sources = Vec::new();
    // SAFETY: by this function's contract.
    for text in unsafe { raw::slice(start, count) }? {
        // SAFETY: by this function's contract.
        let name = unsafe { raw::text(text.name) }?;
        // SAFETY: by this function's contract.
        let data = unsafe { raw::slice(text.data, text.len) }?;
        sources.push(Source::new(name, data));
    }
    Ok(sources)
}
