//! The early-drop set: source prefixes whose packets the kernel drops before any socket sees them.

use std::net::IpAddr;

use libbpf_rs::{MapCore, MapFlags, MapHandle};

use crate::Error;
use crate::sys;

/// The sets of both address families of one program.
#[derive(Debug)]
pub struct EarlyDrop {
    ipv4: MapHandle,
    ipv6: MapHandle,
    capacity: u32,
}

impl EarlyDrop {
    pub(crate) fn new(ipv4: MapHandle, ipv6: MapHandle, capacity: u32) -> Self {
        Self { ipv4, ipv6, capacity }
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

    /// The map for a prefix, and `struct ipv4_key` or `ipv6_key` of the program.
    fn place(&self, prefix: IpAddr, len: u8) -> Result<(&MapHandle, Vec<u8>), Error> {
        if self.capacity == 0 {
            return Err(Error::EarlyDropFull {
                capacity: 0,
                source: std::io::Error::from_raw_os_error(libc::ENOSPC),
            });
        }
        let (map, bits) = match prefix {
            IpAddr::V4(_) => (&self.ipv4, 32),
            IpAddr::V6(_) => (&self.ipv6, 128),
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
