//! Any line at the control socket is a request or a refusal; a request writes back to itself.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../crates/cli/src/control/mod.rs"]
#[allow(dead_code, unused_imports)]
mod control;
#[path = "../../crates/cli/src/output.rs"]
#[allow(dead_code)]
mod output;

fuzz_target!(|line: &[u8]| {
    match control::Request::parse(line) {
        Ok(request) => {
            let line = request.line().unwrap_or_else(|error| panic!("{}", error.message()));
            assert_eq!(control::Request::parse(line.as_bytes()), Ok(request));
        }
        Err(why) => assert!(!why.is_empty()),
    }
});
