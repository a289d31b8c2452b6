//! Any packets, in any order and any batches, through the whole pipeline: it must agree with its slow,
//! obvious model, and never panic.
#![no_main]

#[path = "../../crates/dataplane/tests/common/model.rs"]
mod model;

libfuzzer_sys::fuzz_target!(|data: &[u8]| model::run(data));
