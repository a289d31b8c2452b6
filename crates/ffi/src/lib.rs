//! The C ABI: `libportcullis.so`, `libportcullis.a` and `include/portcullis.h`. It knows the facade
//! and C's calling convention. It must never hold logic of its own, print, or install a signal
//! handler.
//!
//! Conventions: every function starts with `portcullis_`, answers an `int32_t` status or a plain
//! value, checks every pointer for NULL, and never lets a panic cross into C. See `docs/embedding.md`.

// In the order in which the header tells of them.
pub mod config;
pub mod engine;

pub mod apply;
pub mod endpoint;
pub mod set;
pub mod stage;
pub mod zone;

pub mod policies;
pub mod rule;

pub mod judge;

pub mod capture;
pub mod event;
pub mod recorder;

pub mod analyse;
pub mod connections;
pub mod explain;
pub mod observe;
pub mod totals;

pub mod firewall;

mod handle;
pub mod panic;
mod raw;
pub mod status;
pub mod types;

/// The number of the ABI that this header describes. It grows by one with every change of the header
/// that an old caller could notice.
pub const PORTCULLIS_ABI_VERSION: u32 = 1;

/// The ABI version of the library that is loaded: compare it with `PORTCULLIS_ABI_VERSION` of the
/// header that the caller was compiled with. Never fails; any thread.
#[unsafe(no_mangle)]
pub extern "C" fn portcullis_abi_version() -> u32 {
    PORTCULLIS_ABI_VERSION
}

/// The library's version as static NUL-terminated text such as `0.1.0`; the caller must not free it.
/// Never fails; any thread.
#[unsafe(no_mangle)]
pub extern "C" fn portcullis_version() -> *const core::ffi::c_char {
    const VERSION: &core::ffi::CStr = match core::ffi::CStr::from_bytes_with_nul(
        concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes(),
    ) {
        Ok(text) => text,
        Err(_) => c"unknown",
    };
    VERSION.as_ptr()
}
