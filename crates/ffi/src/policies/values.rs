//! Clusters and policies made in code, put in force.

#![allow(non_camel_case_types, reason = "the names are C's")]

use core::ffi::c_char;
use core::num::NonZeroU16;

use portcullis_core::identity_table::endpoint::{ClusterState, Namespace, Node, ServiceAccount};

use super::{Draft, portcullis_policies};
use crate::apply::{check_applied, portcullis_applied, write_applied};
use crate::endpoint::{portcullis_endpoint, portcullis_label, read_endpoints, read_labels};
use crate::engine::{Managed, portcullis_engine};
use crate::handle::{self, Held, Object};
use crate::raw::{self, Growable};
use crate::status::{Failure, PORTCULLIS_BAD_VALUE, PORTCULLIS_POISONED};
use crate::types::portcullis_address;

/// A namespace and its labels. This one never grows.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct portcullis_namespace {
    /// Its name, NUL-terminated UTF-8.
    pub name: *const c_char,
    /// Its labels; `kubernetes.io/metadata.name` is set to its name.
    pub labels: *const portcullis_label,
    /// How many.
    pub label_count: usize,
}

/// A service account and its labels. This one never grows.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct portcullis_service_account {
    /// The namespace that it belongs to, NUL-terminated UTF-8.
    pub namespace_name: *const c_char,
    /// Its name, NUL-terminated UTF-8.
    pub name: *const c_char,
    /// Its labels.
    pub labels: *const portcullis_label,
    /// How many.
    pub label_count: usize,
}

/// A node, its labels and its own addresses. This one never grows.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct portcullis_node {
    /// Its name, NUL-terminated UTF-8.
    pub name: *const c_char,
    /// Its labels.
    pub labels: *const portcullis_label,
    /// How many.
    pub label_count: usize,
    /// Its addresses.
    pub addresses: *const portcullis_address,
    /// How many.
    pub address_count: usize,
}

/// A cluster. Set all of it to zero, then `struct_size` to `sizeof` and `endpoint_size` to
/// `sizeof(portcullis_endpoint)`. The order of the lists means nothing.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct portcullis_cluster {
    /// `sizeof(portcullis_cluster)`.
    pub struct_size: usize,
    /// `sizeof(portcullis_endpoint)`.
    pub endpoint_size: usize,
    /// Live endpoints.
    pub endpoints: *const portcullis_endpoint,
    /// How many.
    pub endpoint_count: usize,
    /// Namespaces; one that only endpoints mention has no other labels than its name.
    pub namespaces: *const portcullis_namespace,
    /// How many.
    pub namespace_count: usize,
    /// Service accounts; one that only endpoints mention has no labels.
    pub service_accounts: *const portcullis_service_account,
    /// How many.
    pub service_account_count: usize,
    /// Nodes.
    pub nodes: *const portcullis_node,
    /// How many.
    pub node_count: usize,
}

// SAFETY: `repr(C)`, the size first, integers and raw pointers only.
unsafe impl Growable for portcullis_cluster {
    const FIRST: usize = size_of::<Self>();
}

/// As `portcullis_engine_apply` or `portcullis_zone_apply`, with values instead of documents.
///
/// `zone`: 0 is the engine itself. `cluster`: NULL leaves the one in force, which only the engine itself
/// can (`portcullis_engine_set_policies`). `policies`: what they are now is copied.
///
/// # Safety
/// `cluster` is NULL or begins with its size, its pointers are NULL or point to what is described there;
/// `applied` is NULL or begins with its size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_engine_apply_policies(
    engine: *const portcullis_engine,
    zone: u16,
    cluster: *const portcullis_cluster,
    policies: *const portcullis_policies,
    applied: *mut portcullis_applied,
) -> i32 {
    handle::with::<Managed>(engine, |held| {
        let set = found(policies)?.object.copy();
        // SAFETY: by this function's contract.
        unsafe { check_applied(applied) }?;
        // SAFETY: by this function's contract.
        let cluster = unsafe { read_cluster(cluster) }?;
        let done = match (NonZeroU16::new(zone), cluster) {
            (None, Some(cluster)) => held.object.apply(cluster, set)?,
            (None, None) => held.object.set_policies(set)?,
            (Some(zone), Some(cluster)) => held.object.zone(zone).apply(cluster, set)?,
            (Some(zone), None) => {
                let text = format_args!("error: zone {zone}: no cluster is given");
                return Err(Failure::new(PORTCULLIS_BAD_VALUE, text));
            }
        };
        held.object.warn([]);
        // SAFETY: by this function's contract.
        unsafe { write_applied(applied, done) }
    })
}

/// As `portcullis_engine_set_cluster`, with values instead of documents.
///
/// # Safety
/// `cluster` begins with its size, its pointers are NULL or point to what is described there; `applied`
/// is NULL or begins with its size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_engine_set_cluster_values(
    engine: *const portcullis_engine,
    cluster: *const portcullis_cluster,
    applied: *mut portcullis_applied,
) -> i32 {
    handle::with::<Managed>(engine, |held| {
        raw::required(cluster)?;
        // SAFETY: by this function's contract.
        unsafe { check_applied(applied) }?;
        // SAFETY: by this function's contract.
        let cluster = unsafe { read_cluster(cluster) }?.unwrap_or_default();
        let done = held.object.set_cluster(cluster)?;
        // SAFETY: by this function's contract.
        unsafe { write_applied(applied, done) }
    })
}

/// As `portcullis_engine_stage`, with values instead of documents.
#[unsafe(no_mangle)]
pub extern "C" fn portcullis_engine_stage_policies(
    engine: *const portcullis_engine,
    policies: *const portcullis_policies,
) -> i32 {
    handle::with::<Managed>(engine, |held| {
        let set = found(policies)?.object.copy();
        Ok(held.object.stage(set)?)
    })
}

/// As `portcullis_engine_diff`, with values instead of documents.
///
/// # Safety
/// `cluster` is NULL or begins with its size, its pointers are NULL or point to what is described there;
/// `buffer` has room for `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_engine_diff_policies(
    engine: *const portcullis_engine,
    cluster: *const portcullis_cluster,
    policies: *const portcullis_policies,
    buffer: *mut c_char,
    size: usize,
    needed: *mut usize,
    changes: *mut usize,
) -> i32 {
    handle::with::<Managed>(engine, |held| {
        let set = found(policies)?.object.copy();
        // SAFETY: by this function's contract.
        let cluster = unsafe { read_cluster(cluster) }?;
        let cluster = cluster.unwrap_or_else(|| held.object.in_force().0);
        let diff = held.object.diff(&cluster, &set)?;
        // SAFETY: by this function's contract.
        unsafe { raw::copy_text(&diff.to_string(), buffer, size, needed) }?;
        // SAFETY: by this function's contract.
        unsafe { raw::write(changes, diff.changes.len()) };
        Ok(())
    })
}

fn found(policies: *const portcullis_policies) -> Result<std::sync::Arc<Held<Draft>>, Failure> {
    let held = Draft::table().find(policies)?;
    if held.is_poisoned() { Err(PORTCULLIS_POISONED.into()) } else { Ok(held) }
}

/// # Safety
/// `cluster` is NULL or begins with its size, its pointers are NULL or point to what is described there.
unsafe fn read_cluster(
    cluster: *const portcullis_cluster,
) -> Result<Option<ClusterState>, Failure> {
    if cluster.is_null() {
        return Ok(None);
    }
    // SAFETY: by this function's contract.
    let given = unsafe { raw::read_growable(cluster, portcullis_cluster::EMPTY) }?;
    let mut cluster = ClusterState::default();
    if given.endpoint_count > 0 {
        // SAFETY: by this function's contract.
        let endpoints =
            unsafe { read_endpoints(given.endpoints, given.endpoint_size, given.endpoint_count) };
        cluster.endpoints = endpoints?;
    }
    // SAFETY: by this function's contract.
    for one in unsafe { raw::slice(given.namespaces, given.namespace_count) }? {
        // SAFETY: by this function's contract.
        let name = unsafe { raw::text(one.name) }?;
        // SAFETY: by this function's contract.
        let labels = unsafe { read_labels(one.labels, one.label_count) }?;
        cluster.namespaces.push(Namespace::new(name, labels));
    }
    // SAFETY: by this function's contract.
    for one in unsafe { raw::slice(given.service_accounts, given.service_account_count) }? {
        cluster.service_accounts.push(ServiceAccount {
            // SAFETY: by this function's contract.
            namespace: unsafe { raw::text(one.namespace_name) }?.into(),
            // SAFETY: by this function's contract.
            name: unsafe { raw::text(one.name) }?.into(),
            // SAFETY: by this function's contract.
            labels: unsafe { read_labels(one.labels, one.label_count) }?,
        });
    }
    // SAFETY: by this function's contract.
    for one in unsafe { raw::slice(given.nodes, given.node_count) }? {
        // SAFETY: by this function's contract.
        let addresses = unsafe { raw::slice(one.addresses, one.address_count) }?;
        cluster.nodes.push(Node {
            // SAFETY: by this function's contract.
            name: unsafe { raw::text(one.name) }?.into(),
            // SAFETY: by this function's contract.
            labels: unsafe { read_labels(one.labels, one.label_count) }?,
            addresses: addresses.iter().map(portcullis_address::read).collect::<Result<_, _>>()?,
        });
    }
    Ok(Some(cluster))
}

impl portcullis_cluster {
    const EMPTY: Self = Self {
        struct_size: size_of::<Self>(),
        endpoint_size: size_of::<portcullis_endpoint>(),
        endpoints: core::ptr::null(),
        endpoint_count: 0,
        namespaces: core::ptr::null(),
        namespace_count: 0,
        service_accounts: core::ptr::null(),
        service_account_count: 0,
        nodes: core::ptr::null(),
        node_count: 0,
    };
}
