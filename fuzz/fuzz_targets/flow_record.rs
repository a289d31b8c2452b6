//! Any line is a record of this version, or a refusal; what was read writes back to itself, and has a
//! form that Hubble reads and one that is text.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::flow::{FlowRecord, ParseError, VERSION, hubble};

fuzz_target!(|line: &str| {
    match FlowRecord::parse(line) {
        Ok(record) => {
            assert_eq!(record.version, VERSION);
            let mut written = Vec::new();
            record.write(&mut written);
            let text = std::str::from_utf8(&written).expect("text");
            assert_eq!(text.matches('\n').count(), 1, "one line");
            assert_eq!(FlowRecord::parse(text).expect("its own record"), record);
            let mut other = Vec::new();
            hubble::write(&record, "node", &mut other);
            assert!(serde_json::from_slice::<serde_json::Value>(&other).is_ok());
        }
        Err(ParseError::Version(version)) => assert_ne!(version, u64::from(VERSION)),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
