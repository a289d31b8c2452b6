//! Endpoints that come and go.

#![allow(non_camel_case_types, reason = "the names are C's")]

use core::ffi::c_char;

use portcullis_core::identity_table::Labels;
use portcullis_core::identity_table::endpoint::{Endpoint, NamedPort};

use crate::engine::{Managed, portcullis_engine};
use crate::handle;
use crate::raw;
use crate::status::Failure;
use crate::types::{flag, portcullis_address};

/// A label. NUL-terminated UTF-8.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct portcullis_label {
    /// Its key.
    pub key: *const c_char,
    /// Its value.
    pub value: *const c_char,
}

/// A port of an endpoint that rules may name.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct portcullis_named_port {
    /// Its name, NUL-terminated UTF-8.
    pub name: *const c_char,
    /// IP protocol: 6 (TCP), 17 (UDP), 132 (SCTP).
    pub protocol: u8,
    /// Its number.
    pub port: u16,
}

/// Namespace and name of an endpoint, NUL-terminated UTF-8.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct portcullis_endpoint_name {
    /// The namespace.
    pub namespace_name: *const c_char,
    /// The name, unique within the namespace.
    pub name: *const c_char,
}

/// An endpoint: a pod, or whatever else owns addresses. It grows at the end: functions that take it
/// take its size too. Set all of it to zero first.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct portcullis_endpoint {
    /// The namespace, NUL-terminated UTF-8.
    pub namespace_name: *const c_char,
    /// The name, unique within the namespace.
    pub name: *const c_char,
    /// The service account; NULL is `default`.
    pub service_account: *const c_char,
    /// The node it runs on; NULL if unknown.
    pub node: *const c_char,
    /// Labels; of two with one key the later counts.
    pub labels: *const portcullis_label,
    /// How many.
    pub label_count: usize,
    /// Ports that rules may name.
    pub named_ports: *const portcullis_named_port,
    /// How many.
    pub named_port_count: usize,
    /// Addresses, any number of each family.
    pub addresses: *const portcullis_address,
    /// How many.
    pub address_count: usize,
    /// 1 if it shares its node's network: policies then do not apply to it.
    pub host_network: u8,
}

// SAFETY: `repr(C)`, integers and raw pointers only. (Functions take its size beside it.)
unsafe impl raw::Growable for portcullis_endpoint {
    const FIRST: usize = core::mem::offset_of!(Self, host_network) + 1;
}

/// Adds endpoints, or replaces those of the same namespace and name, one after the other. Each is in
/// force when the next begins; the first that is refused ends the call.
///
/// `endpoint_size`: `sizeof(portcullis_endpoint)`. `done`: how many are in force; may be NULL; written
/// also if one was refused.
///
/// # Safety
/// `endpoints` has `count` endpoints of that size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_engine_upsert_endpoints(
    engine: *const portcullis_engine,
    endpoints: *const portcullis_endpoint,
    endpoint_size: usize,
    count: usize,
    done: *mut usize,
) -> i32 {
    handle::with::<Managed>(engine, |held| {
        // SAFETY: by this function's contract.
        let endpoints = unsafe { read_endpoints(endpoints, endpoint_size, count) }?;
        for (n, endpoint) in endpoints.into_iter().enumerate() {
            let result = held.object.endpoints().upsert(endpoint);
            // SAFETY: by this function's contract.
            unsafe { raw::write(done, n + usize::from(result.is_ok())) };
            result?;
        }
        Ok(())
    })
}

/// Takes endpoints out: their addresses are then outside the cluster.
///
/// `removed`: how many were there; may be NULL.
///
/// # Safety
/// `names` has `count` names.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_engine_remove_endpoints(
    engine: *const portcullis_engine,
    names: *const portcullis_endpoint_name,
    count: usize,
    removed: *mut usize,
) -> i32 {
    handle::with::<Managed>(engine, |held| {
        let mut gone = 0;
        // SAFETY: by this function's contract.
        for (namespace, name) in unsafe { read_endpoint_names(names, count) }? {
            gone += usize::from(held.object.endpoints().remove(namespace, name)?);
        }
        // SAFETY: by this function's contract.
        unsafe { raw::write(removed, gone) };
        Ok(())
    })
}

/// Makes the endpoints exactly these, all at once: no packet is judged by a mix.
///
/// # Safety
/// `endpoints` has `count` endpoints of that size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_engine_replace_endpoints(
    engine: *const portcullis_engine,
    endpoints: *const portcullis_endpoint,
    endpoint_size: usize,
    count: usize,
) -> i32 {
    handle::with::<Managed>(engine, |held| {
        // SAFETY: by this function's contract.
        let endpoints = unsafe { read_endpoints(endpoints, endpoint_size, count) }?;
        held.object.endpoints().replace_all(endpoints)?;
        Ok(())
    })
}

impl portcullis_endpoint {
    pub(crate) const EMPTY: Self = Self {
        namespace_name: core::ptr::null(),
        name: core::ptr::null(),
        service_account: core::ptr::null(),
        node: core::ptr::null(),
        labels: core::ptr::null(),
        label_count: 0,
        named_ports: core::ptr::null(),
        named_port_count: 0,
        addresses: core::ptr::null(),
        address_count: 0,
        host_network: 0,
    };

    /// What it says.
    ///
    /// # Safety
    /// Its pointers are NULL or point to what is described there.
    pub(crate) unsafe fn read(&self) -> Result<Endpoint, Failure> {
        // SAFETY: by this function's contract.
        let namespace = unsafe { raw::text(self.namespace_name) }?;
        // SAFETY: by this function's contract.
        let name = unsafe { raw::text(self.name) }?;
        let mut endpoint = Endpoint::new(namespace, name);
        // SAFETY: by this function's contract.
        if let Some(account) = unsafe { raw::optional_text(self.service_account) }? {
            endpoint.service_account = account.into();
        }
        // SAFETY: by this function's contract.
        endpoint.node = unsafe { raw::optional_text(self.node) }?.map(Into::into);
        endpoint.host_network = flag(self.host_network)?;
        // SAFETY: by this function's contract.
        endpoint.labels = unsafe { read_labels(self.labels, self.label_count) }?;
        // SAFETY: by this function's contract.
        for port in unsafe { raw::slice(self.named_ports, self.named_port_count) }? {
            // SAFETY: by this function's contract.
            let name = unsafe { raw::text(port.name) }?.into();
            let portcullis_named_port { protocol, port, .. } = *port;
            endpoint.named_ports.push(NamedPort { name, protocol, port });
        }
        // SAFETY: by this function's contract.
        for address in unsafe { raw::slice(self.addresses, self.address_count) }? {
            endpoint.addresses.push(address.read()?);
        }
        Ok(endpoint)
    }
}

/// # Safety
/// As the functions that call it.
pub(crate) unsafe fn read_endpoints(
    start: *const portcullis_endpoint,
    size: usize,
    count: usize,
) -> Result<Vec<Endpoint>, Failure> {
    // SAFETY: by this function's contract.
    let read = unsafe { raw::read_array(start, size, count, portcullis_endpoint::EMPTY) }?;
    // SAFETY: by this function's contract.
    read.iter().map(|endpoint| unsafe { endpoint.read() }).collect()
}

/// # Safety
/// As the functions that call it; nobody changes the names while the answer lives.
pub(crate) unsafe fn read_endpoint_names<'a>(
    names: *const portcullis_endpoint_name,
    count: usize,
) -> Result<Vec<(&'a str, &'a str)>, Failure> {
    let mut read = Vec::new();
    // SAFETY: by this function's contract.
    for name in unsafe { raw::slice(names, count) }? {
        // SAFETY: by this function's contract.
        let namespace = unsafe { raw::text(name.namespace_name) }?;
        // SAFETY: by this function's contract.
        read.push((namespace, unsafe { raw::text(name.name) }?));
    }
    Ok(read)
}

/// # Safety
/// `labels` is NULL or has `count` labels, whose texts are NUL-terminated.
pub(crate) unsafe fn read_labels(
    labels: *const portcullis_label,
    count: usize,
) -> Result<Labels, Failure> {
    let mut read = Vec::new();
    // SAFETY: by this function's contract.
    for label in unsafe { raw::slice(labels, count) }? {
        // SAFETY: by this function's contract.
        let key = unsafe { raw::text(label.key) }?;
        // SAFETY: by this function's contract.
        read.push((key, unsafe { raw::text(label.value) }?));
    }
    Ok(read.into_iter().collect())
}
