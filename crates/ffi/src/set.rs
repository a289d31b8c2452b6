//! CIDR sets whose content changes at run time.

#![allow(non_camel_case_types, reason = "the names are C's")]

use core::ffi::{c_char, c_int};

use crate::engine::{Managed, portcullis_engine};
use crate::handle;
use crate::raw;
use crate::types::portcullis_prefix;

/// Makes a set that the policies declare hold exactly these prefixes, all at once; it keeps them when
/// policies are applied again. A million take some 0.11 s (docs/performance/embedding.md), in which packets
/// are judged by what was before, and endpoints come and go: their changes wait for milliseconds at most.
///
/// `name`: as policies have it, such as `GlobalNetworkSet//feed` or `NetworkSet/shop/partners`.
///
/// # Safety
/// `name` is NUL-terminated, `prefixes` has `count` prefixes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_engine_replace_set(
    engine: *const portcullis_engine,
    name: *const c_char,
    prefixes: *const portcullis_prefix,
    count: usize,
) -> i32 {
    handle::with::<Managed>(engine, |held| {
        // SAFETY: by this function's contract.
        let name = unsafe { raw::text(name) }?;
        // SAFETY: by this function's contract.
        let prefixes = unsafe { raw::slice(prefixes, count) }?;
        let prefixes = prefixes.iter().map(portcullis_prefix::read).collect::<Result<_, _>>()?;
        held.object.sets().replace(name, prefixes)?;
        Ok(())
    })
}

/// Lets the documents say again what a set holds, from the next apply on.
///
/// `forgotten`: 1 if the set had been replaced, else 0; may be NULL.
///
/// # Safety
/// `name` is NUL-terminated, `forgotten` is NULL or points to room for an `int`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_engine_forget_set(
    engine: *const portcullis_engine,
    name: *const c_char,
    forgotten: *mut c_int,
) -> i32 {
    handle::with::<Managed>(engine, |held| {
        // SAFETY: by this function's contract.
        let name = unsafe { raw::text(name) }?;
        let known = held.object.sets().forget(name);
        // SAFETY: by this function's contract.
        unsafe { raw::write(forgotten, known.into()) };
        Ok(())
    })
}

/// The sets that the policies declare, a line `prefixes name` for each, such as `1000000
/// GlobalNetworkSet//feed`. Buffer and sizes as in `portcullis_engine_error`.
///
/// # Safety
/// `buffer` has room for `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_engine_sets(
    engine: *const portcullis_engine,
    buffer: *mut c_char,
    size: usize,
    needed: *mut usize,
) -> i32 {
    handle::with::<Managed>(engine, |held| {
        let sets = held.object.sets().list();
        let lines = sets.iter().map(|(name, count)| format!("{count} {name}"));
        let text = lines.collect::<Vec<_>>().join("\n");
        // SAFETY: by this function's contract.
        unsafe { raw::copy_text(&text, buffer, size, needed) }
    })
}
