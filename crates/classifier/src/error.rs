//! What can go wrong, and what to do about it.

/// Why rules were refused or a classifier was not built.
///
/// ```
/// use portcullis_classifier::{Error, PortRange};
///
/// let error = PortRange::new(80, 79).unwrap_err();
/// assert_eq!(error, Error::EmptyRange { first: 80, last: 79 });
/// assert!(error.to_string().contains("swap the two"), "says what to do");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Text that is not what it should be.
    #[error("expected an {what}, found `{given}`")]
    Malformed {
        /// What was expected.
        what: &'static str,
        /// What was there.
        given: String,
    },
    /// A prefix longer than its address.
    #[error("prefix length {len} exceeds {width}")]
    PrefixLength {
        /// The length given.
        len: u32,
        /// The address' width in bits.
        width: u8,
    },
    /// An address with bits set beyond the prefix length.
    #[error("`{given}` has host bits set; if the whole prefix is meant, write `{meant}`")]
    HostBits {
        /// The prefix given.
        given: String,
        /// The prefix of that length that holds the address.
        meant: String,
    },
    /// A range whose end comes before its start.
    #[error("range {first} to {last} ends before it starts; swap the two")]
    EmptyRange {
        /// The start.
        first: u32,
        /// The end.
        last: u32,
    },
    /// A flags condition that nothing can meet.
    #[error("flags {value:#06x} have bits outside their mask {mask:#06x}: no packet could match")]
    FlagsOutsideMask {
        /// The flags wanted.
        value: u16,
        /// The flags that count.
        mask: u16,
    },
    /// More rules than allowed.
    #[error("{count} rules exceed the limit of {limit}; raise `max_rules` or use fewer")]
    TooManyRules {
        /// How many there are.
        count: usize,
        /// How many are allowed.
        limit: usize,
    },
    /// A rule that no rule set accepts.
    #[error("rule {index}: {why}")]
    Rule {
        /// Its 0-based place in the list.
        index: usize,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The compiled form would exceed its size limit.
    #[error(
        "the compiled rules exceed {limit} bytes; raise `size_limit`, or split rules that overlap in many ways"
    )]
    TooLarge {
        /// The limit, in bytes.
        limit: usize,
    },
    /// Compiling took too long.
    #[error(
        "compiling took longer than {limit:?}; raise `time_limit`, or split rules that overlap in many ways"
    )]
    BuildTime {
        /// The limit.
        limit: std::time::Duration,
    },
    /// Rules that overlap in one place and that no bit tells apart.
    #[error(
        "{count} rules around rule {rule} overlap in one place and nothing tells them apart; a leaf holds {limit}"
    )]
    TooEntangled {
        /// One of the rules, by its 0-based place.
        rule: usize,
        /// How many.
        count: usize,
        /// How many a leaf holds.
        limit: usize,
    },
    /// A lookup could touch too much memory.
    #[error(
        "a lookup could touch {touches} cache lines, more than {limit}; raise `touch_limit`, or split rules that overlap in many ways"
    )]
    TooManyTouches {
        /// Cache lines in the worst case.
        touches: usize,
        /// The limit.
        limit: usize,
    },
    /// The delta table holds as many rules as it may.
    #[error(
        "{limit} rules wait in the delta table, as many as may; let the rebuild finish, or raise `max_rules`"
    )]
    DeltaFull {
        /// How many it may hold.
        limit: usize,
    },
    /// Too many rules of the delta table share a bucket.
    #[error(
        "{limit} rules of the delta table share the addresses of this one; let the rebuild finish, or raise `max_chain`"
    )]
    DeltaChain {
        /// How many may.
        limit: usize,
    },
    /// Too many kinds of rules in the delta table.
    #[error(
        "the delta table holds rules of {limit} shapes; let the rebuild finish, or raise `max_shapes`"
    )]
    DeltaShapes {
        /// How many it may hold.
        limit: usize,
    },
    /// A handle that names no rule (any more).
    #[error("no rule has handle {handle}; was it deleted before?")]
    UnknownRule {
        /// The handle.
        handle: u64,
    },
    /// A query would take too many regions.
    #[error(
        "rule {rule} is left in more than {limit} regions; ask about fewer rules or raise the limits of the query"
    )]
    TooManyRegions {
        /// The rule asked about, by its 0-based place.
        rule: usize,
        /// The limit.
        limit: usize,
    },
    /// The background thread of a rebuild could not be started.
    #[error("no thread for the rebuild: {why}")]
    NoThread {
        /// What the system said.
        why: String,
    },
    /// No engine takes these rules.
    #[error(
        "no engine takes these {count} rules: the tree says: {tree}; the tuple table says: {tuple}; linear search is for {linear_limit} rules at most"
    )]
    NoEngine {
        /// How many rules there are.
        count: usize,
        /// Why the tree engine refused.
        tree: Box<Error>,
        /// Why the tuple engine refused.
        tuple: Box<Error>,
        /// How many rules linear search may take.
        linear_limit: usize,
    },
}
