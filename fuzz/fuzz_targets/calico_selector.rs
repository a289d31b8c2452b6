//! Any text is a selector or a refusal with an offset; what was read prints back to itself, and the
//! index finds it for exactly the labels that satisfy it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis_identity_table::Labels;
use portcullis_identity_table::selector::{calico, index::SelectorIndex};

fuzz_target!(|input: (String, Vec<(String, String)>)| {
    let (text, pairs) = input;
    match calico::parse(&text) {
        Ok(selector) => {
            assert_eq!(calico::parse(&selector.to_string()).expect("canonical text"), selector);
            let labels: Labels = pairs.into_iter().collect();
            let matches = selector.matches(&labels);
            let mut index = SelectorIndex::default();
            let id = index.insert(selector);
            assert_eq!(index.matching(&labels) == [id], matches);
        }
        Err(error) => assert!(text.is_char_boundary(error.offset)),
    }
});
