//! Any bytes are a set of documents or a refusal with a position.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis_policy::{LoadError, Source, parse_cluster, parse_policies};

fuzz_target!(|bytes: &[u8]| {
    for name in ["f.yaml", "f.json"] {
        let sources = [Source::new(name, bytes)];
        check(parse_policies(&sources).map(|_| ()));
        check(parse_cluster(&sources).map(|_| ()));
    }
});

fn check(result: Result<(), LoadError>) {
    if let Err(error) = result {
        assert!(!error.errors.is_empty());
        assert!(error.errors.iter().all(|e| e.origin.line > 0 && e.origin.column > 0));
    }
}
