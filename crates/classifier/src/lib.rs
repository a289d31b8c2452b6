//! A 5-tuple packet classifier: an ordered list of rules goes in, a compiled, immutable value that
//! finds the first matching rule of a header comes out. It knows rules, headers and memory. It must
//! never know packets, identities, policy documents or the kernel: pure Rust, no C, no build script,
//! no I/O, so that any program on any platform can embed it.
