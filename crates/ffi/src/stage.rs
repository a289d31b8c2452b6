//! Staged policies: judged beside those in force, without an effect.

use crate::apply::sources;
use crate::engine::{Managed, portcullis_engine};
use crate::handle;
use crate::raw;
use crate::status::{Failure, PORTCULLIS_POLICY};
use crate::types::portcullis_text;

/// Judges by these policies too, from now on, over the same cluster and without any effect on packets:
/// every new connection, and every packet that the policies in force deny. Where the two differ, events
/// (`staged`) and totals say so. Replaces what was staged before, and follows every change of the
/// cluster. On any other status what was staged before goes on.
///
/// # Safety
/// `policies` has `count` texts, each as described there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_engine_stage(
    engine: *const portcullis_engine,
    policies: *const portcullis_text,
    count: usize,
) -> i32 {
    handle::with::<Managed>(engine, |held| {
        // SAFETY: by this function's contract.
        let policies = unsafe { sources(policies, count) }?;
        let policies = portcullis_core::policy::parse_policies(&policies)?;
        held.object.stage(policies.value)?;
        held.object.warn([&policies.warnings]);
        Ok(())
    })
}

/// Ends `portcullis_engine_stage`; fine if nothing is staged.
#[unsafe(no_mangle)]
pub extern "C" fn portcullis_engine_unstage(engine: *const portcullis_engine) -> i32 {
    handle::with::<Managed>(engine, |held| {
        held.object.unstage();
        Ok(())
    })
}

/// How many policies are staged; 0 if nothing is. `PORTCULLIS_POLICY`, and the error text says why, if
/// what was staged came to an end by itself: the cluster has become too much for it.
///
/// # Safety
/// `count` points to room for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_engine_staged(
    engine: *const portcullis_engine,
    count: *mut usize,
) -> i32 {
    handle::with::<Managed>(engine, |held| {
        raw::required(count)?;
        let staged = held.object.staged().map_err(|why| Failure::new(PORTCULLIS_POLICY, why))?;
        // SAFETY: by this function's contract.
        unsafe { raw::write(count, staged.unwrap_or(0)) };
        Ok(())
    })
}
