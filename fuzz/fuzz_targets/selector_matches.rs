//! A selector and its negation never agree, whatever the labels.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis_identity_table::{Labels, Selector};

fuzz_target!(|input: (Vec<(String, String)>, String, Vec<String>)| {
    let (pairs, key, values) = input;
    let labels: Labels = pairs.into_iter().collect();
    let within = Selector::In(
        key.as_str().into(),
        values.iter().map(|v| v.as_str().into()).collect(),
    );
    let not_within = Selector::NotIn(
        key.as_str().into(),
        values.iter().map(|v| v.as_str().into()).collect(),
    );
    assert_ne!(within.matches(&labels), not_within.matches(&labels));
});
