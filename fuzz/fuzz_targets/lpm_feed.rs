//! Any text is a feed or is refused with a place inside it; what is read means the same when printed.

#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis_identity_table::{IdentityId, feed};

fuzz_target!(|text: &str| {
    match feed::parse("f", text, IdentityId::HOST) {
        Ok(rows) => {
            assert!(rows.windows(2).all(|pair| pair[0].0 < pair[1].0));
            let print = |(prefix, id): &(_, IdentityId)| format!("{prefix} {id}\n");
            let printed: String = rows.iter().map(print).collect();
            assert_eq!(feed::parse("f", &printed, IdentityId::UNKNOWN), Ok(rows));
        }
        Err(error) => {
            let line = text.split('\n').nth(error.line - 1).expect("the line is there");
            assert!((1..=line.len() + 1).contains(&error.column));
        }
    }
});
