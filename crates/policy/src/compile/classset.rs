//! Sets of classes.

use portcullis_identity_table::identity::ClassId;

/// A set of classes: the listed ones, or all but the listed ones, whichever list is shorter.
///
/// A complement also holds the classes that do not exist yet, so whoever adds a class says whether
/// it belongs ([`ClassSet::set`]).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ClassSet {
    complement: bool,
    /// Ascending.
    listed: Vec<u32>,
}

impl ClassSet {
    /// From the members among `0..count`, ascending.
    pub(crate) fn from_members(members: Vec<u32>, count: u32) -> Self {
        if members.len() * 2 <= count as usize {
            return Self { complement: false, listed: members };
        }
        let mut rest = members.iter().copied().peekable();
        let listed = (0..count).filter(|&c| rest.next_if_eq(&c).is_none()).collect();
        Self { complement: true, listed }
    }

    /// Whether a class is a member. O(log n).
    pub(crate) fn contains(&self, class: ClassId) -> bool {
        self.listed.binary_search(&class.0).is_ok() != self.complement
    }

    /// Makes a class a member or not.
    pub(crate) fn set(&mut self, class: ClassId, member: bool) {
        match (self.listed.binary_search(&class.0), member != self.complement) {
            (Err(at), true) => self.listed.insert(at, class.0),
            (Ok(at), false) => {
                self.listed.remove(at);
            }
            _ => {}
        }
    }

    /// Whether the list names those left out.
    pub(crate) fn is_complement(&self) -> bool {
        self.complement
    }

    /// The listed classes: the members, or for a complement those left out.
    pub(crate) fn listed(&self) -> &[u32] {
        &self.listed
    }

    /// The members among `0..count`, ascending.
    pub(crate) fn members(&self, count: u32) -> impl Iterator<Item = u32> {
        let mut listed = self.listed.iter().copied().peekable();
        let all = if self.complement { 0..count } else { 0..0 };
        let plain = if self.complement { &[][..] } else { &self.listed[..] };
        let rest = all.filter(move |c| {
            while listed.next_if(|l| l < c).is_some() {}
            listed.peek() != Some(c)
        });
        plain.iter().copied().chain(rest)
    }

    pub(crate) fn memory_usage(&self) -> usize {
        self.listed.capacity() * size_of::<u32>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn behaves_like_a_set(
            members in prop::collection::btree_set(0..20u32, 0..20),
            changes in prop::collection::vec((0..20u32, any::<bool>()), 0..20),
        ) {
            let mut twin: BTreeSet<u32> = members.clone();
            let mut set = ClassSet::from_members(members.into_iter().collect(), 20);
            for (class, member) in changes {
                set.set(ClassId(class), member);
                if member { twin.insert(class); } else { twin.remove(&class); }
            }
            prop_assert!(set.members(20).eq(twin.iter().copied()));
            for class in 0..20 {
                prop_assert_eq!(set.contains(ClassId(class)), twin.contains(&class));
            }
        }
    }
}
