//! A 5-tuple packet classifier: an ordered list of rules goes in, a compiled, immutable value that
//! finds the first matching rule of a header comes out. It knows rules, headers and memory. It must
//! never know packets, identities, policy documents or the kernel: pure Rust, no C, no build script,
//! no I/O, so that any program on any platform can embed it.
//!
//! ```
//! use portcullis_classifier::{Header, PortRange, Rule, RuleSet, tree};
//!
//! let rules = RuleSet::new(vec![
//!     Rule::any(1).to_v4("10.0.0.0/8".parse().unwrap()).protocol(6).destination_ports(PortRange::exact(443)),
//!     Rule::any(0),
//! ]).unwrap();
//! let tree = tree::Builder::new().build(&rules).unwrap();
//! tree.verify().unwrap();
//!
//! let header = Header::v4([192, 0, 2, 1], [10, 1, 2, 3], 6, 50_000, 443);
//! let id = tree.lookup(&header).unwrap();
//! assert_eq!(rules.rule(id).unwrap().action, 1);
//! ```
//!
//! # Model
//!
//! A [`Rule`] is a condition on each field of a [`Header`] and an action, a `u32` that only the
//! caller understands. Rules stand in a [`RuleSet`] in priority order, and the first that matches
//! wins. Conditions: source and destination prefix (IPv4 and IPv6), port ranges, protocol (one, a
//! set, any), TCP flags under a mask, ICMP type and code, VLAN, and two 32-bit identity classes
//! (one, a range, a set). What a rule means is [`Rule::matches`], and every engine is held to it.
//! A [`RuleId`] is a rule's place in its set and survives compilation, so that counters and
//! explanations can speak of rules.
//!
//! # Engines
//!
//! | engine | a lookup costs | a change costs | take it |
//! |---|---|---|---|
//! | [`linear`] | a comparison a rule | nothing | as the judge of the others, or for a handful of rules |
//! | [`tree`] | 5 to 25 ns in a batch, whatever the number of rules | a build: 1 ms for 1,000 rules, 60 ms for 100,000 | for rules that change as a whole |
//! | [`tuple`](mod@tuple) | a hash for each shape of rule | under a microsecond | for rules of which most come and go |
//! | [`meta`] | that of `tree`, and of `tuple` for what changed since the last rebuild | under a microsecond | by default |
//!
//! Each has a `Config` of limits, a `Builder`, a compiled value that threads share by reference,
//! and a scratch that each thread keeps. [`meta::Meta::choice`] says which engine it took and why.
//! Instructions (AVX-512, AVX2, portable) are chosen at run time, see [`Instructions`].
//!
//! # How the tree works
//!
//! Nearly every rule is a box of 16-bit ranges: a prefix of a 32-bit address is a range in each of
//! its halves. The rules are divided into at most three trees by which addresses they leave open, so
//! that few rules have to be copied. In a tree, a table picks up to 16 bits out of four
//! neighbouring 16-bit fields (`pext`) and uses them as the index of the next place; the bits are
//! chosen greedily, those first that leave the least work. Leaves hold groups of four rules, which
//! one AVX-512 instruction compares with a header. Every place knows the best rule below it, so a
//! tree that cannot improve on what was found is left at once. A batch of 64 headers goes down level
//! by level, without a branch that depends on a header.
//!
//! Rules that leave both addresses open overlap so much that a tree of them is deep. They are looked
//! up by crossing classes instead (recursive flow classification): a table for each field gives the
//! class of the number, and tables over classes the first rule. That takes the same steps whatever
//! the header. Where these tables would exceed 16 entries for each rule of the set or a million, a
//! tree takes these rules after all.
//!
//! # Proof
//!
//! [`tree::Tree::verify`] walks all regions of the compiled form and shows that in each the first
//! matching rule of the list is the one returned; it does not sample, and takes about as long as
//! the build. [`meta::Meta::verify`] says what it proved: regions of trees, entries of hash tables, or
//! that few rules are not compiled at all. It argues on the same reading of rules as boxes that the builder uses; that this
//! reading is [`Rule::matches`] is tested, not proved.
//!
//! # Worst case
//!
//! [`tree::Tree::worst_case_touches`] is a bound on the cache lines that any header can touch:
//! for each tree, a line for each table of the deepest path (at most 12 deep) and, for each group
//! of its leaf, two lines for each block of eight fields and one for the ids (at most 16 groups);
//! two lines for each condition that is no range; and for the crossed rules a line for each of their
//! tables (at most two a field, and eight) and for the rule. The builder refuses rules that exceed
//! [`tree::Config::touch_limit`], [`size_limit`](tree::Config::size_limit) or
//! [`time_limit`](tree::Config::time_limit), with the reason. The published rule sets of up to 100,000
//! rules come to between 14 and 35 lines. [`workload::adversarial`] looks for the headers that come
//! closest; they take at most twice as long as others.
//! With rules in the delta table, [`meta::Meta::worst_case_touches`] is the bound: for each shape of
//! rule that is in it a hash and a chain, both limited by [`tuple::Config`]. While a compiled rule is
//! deleted, it has the second search in it: for each shape of rule the longest bucket.
//!
//! # Limitations
//!
//! - Hundreds of rules that overlap in one place and differ by crossing port ranges only cannot be
//!   told apart by bits: the tree refuses them ([`Error::TooEntangled`]), and `meta` falls back to
//!   `tuple` or, for few rules, to `linear`, and says so.
//! - Deleting a rule that was compiled marks it, whatever it hides, and starts a rebuild. Until that
//!   has ended, headers that it decided are looked up a second time, in hash tables of all rules by
//!   their addresses: some 0.2 to 0.7 us each. These tables take some 50 bytes a rule. Where hundreds
//!   of rules have the same addresses and differ by port ranges only, that could touch more than
//!   [`meta::Config::deleted_touch_limit`] allows, and deleting waits for the rebuild instead (up to
//!   0.2 s for 100,000 rules). Lookups never search the list.
//! - TCP flags under a mask, sets of classes, ranges of classes that cross a multiple of 65,536 and
//!   scattered sets of protocols are compared after the box, one rule at a time.
//! - Conditions on flags and ICMP are read for those protocols only; a header of another protocol
//!   never matches them.
//! - Without BMI2 (aarch64, old x86) bits are picked one by one, which costs about three times the
//!   time of a lookup.
//!
//! # Performance
//!
//! `docs/performance/classify.md` in the repository has figures beside DPDK's `rte_acl`, with the
//! commands that reproduce them, and what was tried in vain. In short, in a batch, on one core and
//! on 5-tuples: 55 to 195 million lookups a second with 1,000, 10,000 and 100,000 rules, in 0.15,
//! 1.5 and 7 MB.

pub mod classbench;
mod error;
mod header;
mod lanes;
pub mod linear;
pub mod meta;
pub mod query;
mod rule;
mod simd;
mod sync;
pub mod tree;
pub mod tuple;
pub mod workload;

pub use error::Error;
pub use header::{Addresses, Header, TupleV4};
pub use rule::{
    AddressMatch, ClassMatch, IcmpMatch, Ipv4Prefix, Ipv6Prefix, PortRange, ProtocolMatch,
    ProtocolSet, Rule, RuleId, RuleSet, RuleSetConfig, TcpFlagsMatch, VlanMatch,
};
pub use simd::Instructions;
