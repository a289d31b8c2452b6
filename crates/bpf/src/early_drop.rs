//! The early-drop set: source prefixes whose packets the kernel drops before any socket sees them.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use libbpf_rs::{MapCore, MapFlags, MapHandle};

use crate::Error;
use crate::sys;

/// The sets of both address families, which all ports of the same [`Programs`](crate::Programs) and
/// capacity share. Clones are the same set.
#[derive(Debug, Clone)]
pub struct EarlyDrop {
    maps: Arc<Maps>,
    capacity: u32,
}

#[derive(Debug)]
struct Maps {
    ipv4: MapHandle,
    ipv6: MapHandle,
}

impl EarlyDrop {
    pub(crate) fn new([ipv4, ipv6]: [MapHandle; 2], capacity: u32) -> Self {
        Self { maps: Arc::new(Maps { ipv4, ipv6 }), capacity }
    }

    /// Whether both are the same set, as those of two ports may be.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.maps, &other.maps)
    }

    pub(crate) fn capacity(&self) -> u32 {
        self.capacity
    }

    /// The maps, by their names in the program.
    pub(crate) fn maps(&self) -> [(&str, BorrowedFd<'_>); 2] {
        let Maps { ipv4, ipv6 } = &*self.maps;
        [("early_drop_ipv4", ipv4.as_fd()), ("early_drop_ipv6", ipv6.as_fd())]
    }

    /// Drops packets whose source address has the first `len` bits of `prefix` from now on. Adding a
    /// prefix again changes nothing. One system call.
    ///
    /// # Errors
    /// [`Error::Prefix`] if `len` exceeds the address; [`Error::EarlyDropFull`] beyond the capacity
    /// that the program was loaded with.
    pub fn insert(&self, prefix: IpAddr, len: u8) -> Result<(), Error> {
        let (map, key) = self.place(prefix, len)?;
        map.update(&key, &[1], MapFlags::ANY).map_err(|error| {
            let source = sys::os_error(&error);
            match source.raw_os_error() {
                Some(libc::ENOSPC) => Error::EarlyDropFull { capacity: self.capacity, source },
                _ => Error::system(format!("adding {prefix}/{len} to the early-drop set"), source),
            }
        })
    }

    /// Takes a prefix out; answers whether it was in. One system call.
    ///
    /// # Errors
    /// [`Error::Prefix`] if `len` exceeds the address.
    pub fn remove(&self, prefix: IpAddr, len: u8) -> Result<bool, Error> {
        let (map, key) = self.place(prefix, len)?;
        match map.delete(&key) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == libbpf_rs::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(Error::system(
                format!("removing {prefix}/{len} from the early-drop set"),
                sys::os_error(&error),
            )),
        }
    }

    /// Makes the set hold exactly these prefixes; host bits are ignored. Prefixes that stay are never
    /// missing meanwhile; those that go do so before new ones come. One system call for each prefix
    /// that is there or comes.
    ///
    /// # Errors
    /// [`Error::Prefix`], [`Error::EarlyDropFull`] if they are more than the capacity: nothing is
    /// changed then. A failed system call may leave some of the old and some of the new.
    pub fn replace(
        &self,
        prefixes: impl IntoIterator<Item = (IpAddr, u8)>,
    ) -> Result<Replaced, Error> {
        let mut wanted = BTreeSet::new();
        for (address, len) in prefixes {
            self.place(address, len)?;
            wanted.insert((network(address, len), len));
        }
        let v4 = wanted.iter().filter(|(address, _)| address.is_ipv4()).count();
        if v4.max(wanted.len() - v4) > self.capacity as usize {
            let source = std::io::Error::from_raw_os_error(libc::ENOSPC);
            return Err(Error::EarlyDropFull { capacity: self.capacity, source });
        }
        let present: BTreeSet<_> = self.prefixes().collect();
        let mut replaced = Replaced { prefixes: wanted.len(), ..Replaced::default() };
        for &(address, len) in present.difference(&wanted) {
            replaced.removed += usize::from(self.remove(address, len)?);
        }
        for &(address, len) in wanted.difference(&present) {
            self.insert(address, len)?;
            replaced.added += 1;
        }
        Ok(replaced)
    }

    /// The prefixes in it, in no order. A system call each.
    pub fn prefixes(&self) -> impl Iterator<Item = (IpAddr, u8)> + '_ {
        [&self.maps.ipv4, &self.maps.ipv6].into_iter().flat_map(|map| map.keys()).filter_map(
            |key| {
                let (len, address) = key.split_first_chunk::<4>()?;
                let address = match <[u8; 4]>::try_from(address) {
                    Ok(octets) => IpAddr::V4(Ipv4Addr::from(octets)),
                    Err(_) => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(address).ok()?)),
                };
                Some((address, u8::try_from(u32::from_ne_bytes(*len)).ok()?))
            },
        )
    }

    /// The map for a prefix, and `struct ipv4_key` or `ipv6_key` of the program.
    fn place(&self, prefix: IpAddr, len: u8) -> Result<(&MapHandle, Vec<u8>), Error> {
        if self.capacity == 0 {
            return Err(Error::EarlyDropFull {
                capacity: 0,
                source: std::io::Error::from_raw_os_error(libc::ENOSPC),
            });
        }
        let (map, bits) = match prefix {
            IpAddr::V4(_) => (&self.maps.ipv4, 32),
            IpAddr::V6(_) => (&self.maps.ipv6, 128),
        };
        if len > bits {
            return Err(Error::Prefix { prefix, len });
        }
        let mut key = u32::from(len).to_ne_bytes().to_vec();
        match prefix {
            IpAddr::V4(address) => key.extend(address.octets()),
            IpAddr::V6(address) => key.extend(address.octets()),
        }
        Ok((map, key))
    }
}

/// What [`EarlyDrop::replace`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Replaced {
    /// Prefixes in the set now.
    pub prefixes: usize,
    /// Those that were not before.
    pub added: usize,
    /// Those that went.
    pub removed: usize,
}

/// The first `len` bits of an address, `len` being no more than it has.
fn network(address: IpAddr, len: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0);
            IpAddr::V4((address.to_bits() & mask).into())
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
            IpAddr::V6((address.to_bits() & mask).into())
        }
    }
}
