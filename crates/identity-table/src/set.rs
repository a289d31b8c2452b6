//! The members of a named set, packed.

use crate::{IdentityId, Prefix};

/// Members between two entries of the index.
const STRIDE: usize = 64;

/// The prefixes of one named set with their identities: about three bytes each for a large IPv4
/// feed, four more if the identities differ. Found by binary search and a short walk.
#[derive(Clone, Debug, Default)]
pub(crate) struct NamedSet {
    v4: Family,
    v6: Family,
    ids: Ids,
}

/// The identities of the members, IPv4 first.
#[derive(Clone, Debug)]
enum Ids {
    Same(IdentityId),
    Each(Vec<IdentityId>),
}

/// The members of one family.
#[derive(Clone, Debug, Default)]
struct Family {
    /// Every [`STRIDE`]th member, and where the stream goes on behind it.
    index: Vec<(Prefix, u32)>,
    /// For each other member: the distance of its first address from that of the one before, seven
    /// bits a byte, where the high bit says that more follow; then its length.
    stream: Vec<u8>,
    len: usize,
}

impl NamedSet {
    /// Packs members that are sorted, without doubles.
    pub(crate) fn new(members: &[(Prefix, IdentityId)]) -> Self {
        let first = members.first().map_or(IdentityId::UNKNOWN, |(_, id)| *id);
        let ids = if members.iter().all(|(_, id)| *id == first) {
            Ids::Same(first)
        } else {
            Ids::Each(members.iter().map(|(_, id)| *id).collect())
        };
        let (v4, v6) = members.split_at(members.partition_point(|(prefix, _)| !prefix.is_v6()));
        Self { v4: Family::new(v4), v6: Family::new(v6), ids }
    }

    pub(crate) fn len(&self) -> usize {
        self.v4.len + self.v6.len
    }

    pub(crate) fn bytes(&self) -> usize {
        let ids = match &self.ids {
            Ids::Same(_) => 0,
            Ids::Each(ids) => ids.capacity() * size_of::<IdentityId>(),
        };
        self.v4.bytes() + self.v6.bytes() + ids
    }

    /// The identity that the set gives to exactly `prefix`.
    pub(crate) fn get(&self, prefix: &Prefix) -> Option<IdentityId> {
        let number = match prefix.is_v6() {
            false => self.v4.position(prefix)?,
            true => self.v4.len + self.v6.position(prefix)?,
        };
        Some(self.ids.of(number))
    }

    /// All members, sorted.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Prefix, IdentityId)> {
        let prefixes = self.v4.iter_from(0).chain(self.v6.iter_from(0));
        prefixes.enumerate().map(|(number, prefix)| (prefix, self.ids.of(number)))
    }
}

impl Ids {
    fn of(&self, number: usize) -> IdentityId {
        match self {
            Self::Same(id) => *id,
            Self::Each(ids) => ids[number],
        }
    }
}

impl Default for Ids {
    fn default() -> Self {
        Self::Same(IdentityId::UNKNOWN)
    }
}

impl Family {
    fn new(members: &[(Prefix, IdentityId)]) -> Self {
        let mut family = Self { len: members.len(), ..Self::default() };
        for (i, (prefix, _)) in members.iter().enumerate() {
            if i % STRIDE == 0 {
                family.index.push((*prefix, family.stream.len() as u32));
            } else {
                family.push(prefix.number() - members[i - 1].0.number(), prefix.len());
            }
        }
        family.stream.shrink_to_fit();
        family.index.shrink_to_fit();
        family
    }

    fn push(&mut self, mut distance: u128, len: u8) {
        while distance >= 0x80 {
            self.stream.push(distance as u8 | 0x80);
            distance >>= 7;
        }
        self.stream.extend([distance as u8, len]);
    }

    fn bytes(&self) -> usize {
        self.stream.capacity() + self.index.capacity() * size_of::<(Prefix, u32)>()
    }

    /// The number of a member.
    fn position(&self, prefix: &Prefix) -> Option<usize> {
        let block = self.index.partition_point(|(first, _)| first <= prefix).checked_sub(1)?;
        let members = self.iter_from(block).take(STRIDE);
        let inside = members.take_while(|member| member <= prefix).enumerate().last();
        inside.filter(|(_, member)| member == prefix).map(|(i, _)| block * STRIDE + i)
    }

    fn iter_from(&self, block: usize) -> impl Iterator<Item = Prefix> {
        let mut stream: &[u8] = &[];
        let mut before = Prefix::ALL_V4;
        (block * STRIDE..self.len).map(move |number| {
            if number % STRIDE == 0 {
                let (first, at) = self.index[number / STRIDE];
                stream = &self.stream[at as usize..];
                before = first;
            } else {
                let (distance, len) = pull(&mut stream);
                before = Prefix::from_number(before.is_v6(), before.number() + distance, len);
            }
            before
        })
    }
}

/// Takes one member off the front of a stream.
fn pull(stream: &mut &[u8]) -> (u128, u8) {
    let end = stream.iter().position(|byte| *byte < 0x80).map_or(0, |last| last + 1);
    let (distance, rest) = stream.split_at(end);
    let bits = |(i, byte): (usize, &u8)| u128::from(byte & 0x7f) << (7 * i);
    let distance = distance.iter().enumerate().map(bits).sum();
    let (len, rest) = rest.split_first().map_or((0, rest), |(len, rest)| (*len, rest));
    *stream = rest;
    (distance, len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn what_is_packed_is_found_and_comes_back() {
        let mut members = BTreeMap::new();
        let mut x = 88_172_645_463_325_252_u64;
        for i in 0..1000 {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            let bits =
                (u128::from(x) << 64 | u128::from(x.rotate_left(9))) & (u128::MAX << (i % 90));
            let (v4, len) = (i % 3 != 0, (x >> 40) as u8);
            let address = if v4 {
                core::net::IpAddr::V4((x as u32).into())
            } else {
                core::net::IpAddr::V6(bits.into())
            };
            let len = len % if v4 { 33 } else { 129 };
            members.insert(Prefix::truncated(address, len).unwrap(), IdentityId::new(i % 7));
        }
        let members: Vec<_> = members.into_iter().collect();
        let (odd, even): (Vec<_>, Vec<_>) =
            members.iter().enumerate().partition(|(i, _)| i % 2 == 1);
        let strip = |list: Vec<(usize, &(Prefix, IdentityId))>| -> Vec<_> {
            list.into_iter().map(|(_, member)| *member).collect()
        };
        let (odd, even) = (strip(odd), strip(even));
        let set = NamedSet::new(&odd);
        assert_eq!((set.len(), set.iter().collect::<Vec<_>>()), (odd.len(), odd.clone()));
        assert!(odd.iter().all(|(prefix, id)| set.get(prefix) == Some(*id)));
        assert!(even.iter().all(|(prefix, _)| set.get(prefix).is_none()));
        assert_eq!(NamedSet::default().get(&Prefix::ALL_V6), None);
    }
}
