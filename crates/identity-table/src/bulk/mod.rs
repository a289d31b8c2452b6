//! Many prefixes at once: bulk loads and named sets, while nobody else needs the writer.
//!
//! Each of these builds new structures aside and publishes them with one store: readers see all of
//! it or nothing, and are never held up. The writer is busy meanwhile (about 0.1 s for a million
//! prefixes in the table); [`Replacement`] is the way where it must not be.

use crate::content::{Content, Row, merge};
use crate::set::NamedSet;
use crate::{Replacement, TableError, Writer};
use std::sync::Arc;

impl Writer {
    /// Puts many prefixes in at once, as [`Writer::insert`] would one by one; of two identities for
    /// one prefix the later counts. On an error nothing is changed.
    pub fn load<I>(&mut self, rows: I) -> Result<(), TableError>
    where
        I: IntoIterator<Item = Row>,
    {
        let mut rows: Vec<Row> = rows.into_iter().collect();
        // Stable: of equal prefixes the later stays later.
        rows.sort_by_key(|(prefix, _)| *prefix);
        rows.dedup_by(|later, kept| {
            let same = later.0 == kept.0;
            if same {
                kept.1 = later.1;
            }
            same
        });
        let direct = merge(rows, self.content.direct());
        self.put_in_place(Content::build(direct, self.content.sets.clone())?);
        Ok(())
    }

    /// Makes the named set consist of exactly `rows`, whatever it held before, and leaves everything
    /// else alone. An empty set is a set. Returns the number of its members.
    ///
    /// The writer is busy for as long as building the table anew takes. Where endpoints come and go
    /// meanwhile, use a [`Replacement`].
    ///
    /// Where two speak of the same prefix, what [`Writer::insert`] or [`Writer::load`] put in wins
    /// over any set, and of two sets the one whose name sorts first; the loser comes back when the
    /// winner goes. (Otherwise the longest prefix wins, whoever it belongs to.)
    ///
    /// On an error nothing is changed: [`TableError::Conflict`] if `rows` give one prefix two
    /// identities, [`TableError::Full`].
    ///
    /// ```
    /// use portcullis_identity_table::{IdentityId, Writer};
    /// let mut writer = Writer::new();
    /// let reader = writer.reader();
    /// let bad = IdentityId::new(900);
    /// writer.replace_set("feed", [("192.0.2.0/24".parse()?, bad), ("203.0.113.9".parse()?, bad)])?;
    /// writer.replace_set("feed", [("192.0.2.0/25".parse()?, bad)])?;
    /// assert_eq!(reader.pin().lookup("192.0.2.1".parse()?), bad);
    /// assert_eq!(reader.pin().lookup("203.0.113.9".parse()?), IdentityId::UNKNOWN);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn replace_set<I>(&mut self, name: &str, rows: I) -> Result<usize, TableError>
    where
        I: IntoIterator<Item = Row>,
    {
        let replacement = Replacement::new(name, rows)?;
        let mut sets = self.content.sets.clone();
        replacement.change(&mut sets);
        self.put_in_place(Content::build(self.content.direct(), sets)?);
        Ok(replacement.len())
    }

    /// Takes a named set away with all its members; false if there is no such set.
    pub fn remove_set(&mut self, name: &str) -> Result<bool, TableError> {
        let mut sets = self.content.sets.clone();
        if sets.remove(name).is_none() {
            return Ok(false);
        }
        self.put_in_place(Content::build(self.content.direct(), sets)?);
        Ok(true)
    }

    /// The named sets and how many members each has, by name.
    pub fn sets(&self) -> impl Iterator<Item = (&str, usize)> {
        self.content.sets.iter().map(|(name, set)| (&**name, set.len()))
    }

    fn put_in_place(&mut self, content: Content) {
        let replaced = self.swap(content);
        self.keep(replaced);
    }
}

/// The members of a set, packed; refuses a prefix with two identities.
pub(crate) fn packed(mut rows: Vec<Row>) -> Result<Arc<NamedSet>, TableError> {
    rows.sort_unstable();
    rows.dedup();
    if let Some(twice) = rows.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        return Err(TableError::Conflict { prefix: twice[0].0, ids: [twice[0].1, twice[1].1] });
    }
    Ok(Arc::new(NamedSet::new(&rows)))
}

#[cfg(test)]
mod tests;
