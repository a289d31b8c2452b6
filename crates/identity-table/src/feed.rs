//! Feed files: lists of prefixes, as threat feeds and address lists come.
//!
//! One prefix a line, or an address alone; after a blank, if wanted, the identity as a decimal
//! number. `#` and `;` begin a comment; empty lines and blanks around are fine, as are line ends of
//! any system and a byte-order mark. A prefix may come twice if it means the same.
//!
//! ```
//! use portcullis_identity_table::{IdentityId, feed};
//! let feed_id = IdentityId::new(700);
//! let rows = feed::parse("drop.txt", "# ours\n192.0.2.0/24\n2001:db8::7 701 ; by hand\n", feed_id)?;
//! assert_eq!(rows.len(), 2);
//! assert_eq!(rows[1].1, IdentityId::new(701));
//!
//! let refused = feed::parse("drop.txt", "192.0.2.0/24\n192.0.2.9/24\n", feed_id).unwrap_err();
//! assert!(refused.to_string().starts_with("drop.txt:2:1: error: 192.0.2.9/24 has bits set"));
//! # Ok::<(), portcullis_identity_table::FeedError>(())
//! ```

use crate::{IdentityId, Prefix, PrefixError};

/// A line that could not be read, and with it the whole file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}:{column}: error: {reason}")]
pub struct FeedError {
    /// The file's name as given.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// The byte in the line, from 1.
    pub column: usize,
    /// What is wrong there.
    pub reason: FeedReason,
}

/// What can be wrong with a line of a feed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FeedReason {
    /// The prefix is none.
    #[error(transparent)]
    Prefix(#[from] PrefixError),
    /// What follows the prefix is no identity.
    #[error("`{0}` is not an identity: write a decimal number up to 4294967295, or nothing")]
    Value(String),
    /// Something follows the identity.
    #[error("`{0}` is too much: one prefix and at most one identity a line; comments begin with #")]
    Surplus(String),
    /// An earlier line gives the prefix another identity.
    #[error("{prefix} has identity {} in line {line} and {} here: keep one", .ids[0], .ids[1])]
    Twice {
        /// The prefix.
        prefix: Prefix,
        /// The earlier line.
        line: usize,
        /// What the two lines say.
        ids: [IdentityId; 2],
    },
}

/// Reads a whole feed: its rows sorted by prefix, each prefix once, with `default` where a line
/// names no identity. One bad line refuses the file. Time and memory grow with the text.
pub fn parse(
    file: &str,
    text: &str,
    default: IdentityId,
) -> Result<Vec<(Prefix, IdentityId)>, FeedError> {
    let error = |line, column, reason| FeedError { file: file.to_owned(), line, column, reason };
    let mut rows = Vec::new();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (line, text) in (1..).zip(text.split('\n')) {
        let row = parse_line(text, default);
        let row = row.map_err(|(column, reason)| error(line, column, reason))?;
        rows.extend(row.map(|(prefix, id)| (prefix, line, id)));
    }
    rows.sort_unstable();
    let twice = rows.windows(2).filter(|pair| pair[0].0 == pair[1].0 && pair[0].2 != pair[1].2);
    if let Some(pair) = twice.min_by_key(|pair| pair[1].1) {
        let (prefix, earlier, id) = pair[0];
        let (_, line, other) = pair[1];
        let reason = FeedReason::Twice { prefix, line: earlier, ids: [id, other] };
        return Err(error(line, 1, reason));
    }
    rows.dedup_by_key(|(prefix, ..)| *prefix);
    Ok(rows.into_iter().map(|(prefix, _, id)| (prefix, id)).collect())
}

/// The row of one line, if it has one; or the column and reason of what is wrong with it.
fn parse_line(
    line: &str,
    default: IdentityId,
) -> Result<Option<(Prefix, IdentityId)>, (usize, FeedReason)> {
    let content = line.split(['#', ';']).next().unwrap_or_default();
    let mut words = content.split([' ', '\t', '\r']).filter(|word| !word.is_empty());
    let column = |word: &str| word.as_ptr() as usize - line.as_ptr() as usize + 1;
    let Some(prefix) = words.next() else { return Ok(None) };
    let at = column(prefix);
    let prefix = prefix.parse().map_err(|reason| (at, FeedReason::Prefix(reason)))?;
    let id = match words.next() {
        None => default,
        Some(word) => {
            let digits = word.bytes().all(|byte| byte.is_ascii_digit());
            let id = word.parse().ok().filter(|_| digits);
            IdentityId::new(id.ok_or_else(|| (column(word), FeedReason::Value(shown(word))))?)
        }
    };
    match words.next() {
        None => Ok(Some((prefix, id))),
        Some(word) => Err((column(word), FeedReason::Surplus(shown(word)))),
    }
}

/// A word as shown in an error: not more than fits a line.
fn shown(word: &str) -> String {
    word.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        parse("f", text, IdentityId::UNKNOWN).expect_err(text).to_string()
    }

    #[test]
    fn says_where_and_why() {
        assert!(
            refusal("10.0.0.0/8\n\n  10.0.0.0/33").starts_with("f:3:3: error: /33 is too long")
        );
        assert!(refusal("::/129").starts_with("f:1:1: error: /129 is too long"));
        assert!(refusal("::ffff:1.2.3.4").contains("write the IPv4 prefix 1.2.3.4/32"));
        assert!(refusal("10.0.0.0/8 x").starts_with("f:1:12: error: `x` is not an identity"));
        assert!(refusal("10.0.0.0/8 4294967296").contains("not an identity"));
        assert!(refusal("10.0.0.0/8 +1").contains("not an identity"));
        assert!(refusal("10.0.0.0/8 1 2").starts_with("f:1:14: error: `2` is too much"));
        assert!(refusal("10.0.0.0/8, 1").contains("is not a prefix"));
        assert!(
            refusal("::/0 1\n::/1\n::/0 2\n::/0 1")
                .contains("f:3:1: error: ::/0 has identity 1 in line 1 and 2")
        );
    }

    #[test]
    fn one_bad_line_in_a_million_is_found() {
        let mut text = String::new();
        for i in 0..1_000_000_u32 {
            let line = if i == 777_776 {
                "10.1.1/8\n".into()
            } else {
                format!("{}\n", Prefix::host(core::net::Ipv4Addr::from(i << 8).into()))
            };
            text += &line;
        }
        assert!(refusal(&text).starts_with("f:777777:1: error: `10.1.1/8` is not a prefix"));
    }

    #[test]
    fn reads_what_feeds_look_like() {
        let text = "\u{feff}; list\r\n1.10.16.0/20 ; SBL256894\r\n\r\n\t::1 7 # x\r\n1.10.16.0/20";
        let rows = parse("f", text, IdentityId::new(3)).unwrap();
        let rows: Vec<_> = rows.iter().map(|(p, id)| (p.to_string(), id.get())).collect();
        assert_eq!(rows, [("1.10.16.0/20".into(), 3), ("::1/128".into(), 7)]);
        assert_eq!(parse("f", "", IdentityId::UNKNOWN), Ok(vec![]));
    }
}
