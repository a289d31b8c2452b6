//! ClassBench text of any kind: it is refused with a place inside it, or read; and what was read
//! and can be written reads back the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis_classifier::classbench;

fuzz_target!(|text: &str| {
    match classbench::parse("fuzz", text) {
        Err(error) => {
            let line = text.lines().nth(error.line - 1).expect("a line of the text");
            assert!(error.column <= line.len() + 1, "{error}");
        }
        Ok(rules) => {
            if let Ok(written) = classbench::write(&rules) {
                assert_eq!(classbench::parse("written", &written).as_ref(), Ok(&rules));
            }
        }
    }
    let _ = classbench::parse_trace("fuzz", text);
});
