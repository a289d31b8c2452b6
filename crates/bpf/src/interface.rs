//! Network interfaces: name, index, MTU and queues, as the kernel of this network namespace says.

use std::ffi::CString;
use std::fs;

use crate::Error;
use crate::sys;

/// One network interface, as it was when it was looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    name: String,
    index: u32,
    mtu: u32,
    rx_queues: u32,
    tx_queues: u32,
    queues_are_exclusive: bool,
}

impl Interface {
    /// Looks an interface up in the calling thread's network namespace. A few system calls.
    ///
    /// # Errors
    /// [`Error::UnknownInterface`] if there is none of that name.
    pub fn by_name(name: &str) -> Result<Self, Error> {
        let unknown = || Error::UnknownInterface { name: name.to_owned() };
        let c_name = CString::new(name).map_err(|_| unknown())?;
        if name.is_empty() || name.len() >= libc::IFNAMSIZ {
            return Err(unknown());
        }
        let index = sys::interface_index(&c_name).ok_or_else(unknown)?;
        let mtu = sys::interface_mtu(&c_name)
            .map_err(|source| Error::system(format!("reading the MTU of {name}"), source))?;
        // Drivers without the call have one queue each way.
        let (rx_queues, tx_queues) = sys::interface_channels(&c_name).unwrap_or((1, 1));
        // Every other driver polls a queue (NAPI), which happens on one CPU at a time. The program of a
        // tun or tap runs within the calls of those who write to it. In doubt: not.
        let driver = sys::interface_driver(&c_name);
        let queues_are_exclusive = driver.is_ok_and(|driver| driver != b"tun" && driver != b"");
        Ok(Self { name: name.to_owned(), index, mtu, rx_queues, tx_queues, queues_are_exclusive })
    }

    /// The name, such as `eth0`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The kernel's number for it, positive.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Whether it still is in the calling thread's network namespace: an interface made anew under the
    /// same name is another one. One system call.
    pub fn exists(&self) -> bool {
        sys::interface_exists(self.index)
    }

    /// The NUMA node of its device; `None` if it has none (as veth), the machine has one node only, or
    /// sysfs shows another network namespace.
    pub fn numa_node(&self) -> Option<u32> {
        let index = fs::read_to_string(self.sysfs("ifindex")).unwrap_or_default();
        if index.trim().parse() != Ok(self.index) {
            return None;
        }
        fs::read_to_string(self.sysfs("device/numa_node")).ok()?.trim().parse().ok()
    }

    /// Whether a bridge (or bond, or the like) has the interface as a port. Reads sysfs; where that
    /// shows another network namespace, the answer is no.
    pub fn has_master(&self) -> bool {
        let index = fs::read_to_string(self.sysfs("ifindex")).unwrap_or_default();
        index.trim().parse() == Ok(self.index) && fs::symlink_metadata(self.sysfs("master")).is_ok()
    }

    fn sysfs(&self, file: &str) -> String {
        format!("/sys/class/net/{}/{file}", self.name)
    }

    /// Largest packet behind the link-layer header, in bytes.
    pub fn mtu(&self) -> u32 {
        self.mtu
    }

    /// Number of receive queues in use, at least 1.
    pub fn rx_queues(&self) -> u32 {
        self.rx_queues
    }

    /// Whether the driver receives from a queue on one CPU at a time.
    pub(crate) fn queues_are_exclusive(&self) -> bool {
        self.queues_are_exclusive
    }

    /// Number of transmit queues in use, at least 1.
    pub fn tx_queues(&self) -> u32 {
        self.tx_queues
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_known_and_nonsense_is_not() {
        let lo = Interface::by_name("lo").unwrap();
        assert_eq!((lo.name(), lo.rx_queues(), lo.tx_queues()), ("lo", 1, 1));
        assert!(lo.index() > 0 && lo.mtu() >= 1500);
        assert!(lo.exists() && !Interface { index: u32::MAX, ..lo }.exists());
        for name in ["", "no-such-if0", "a-name-far-too-long-for-linux", "nul\0name"] {
            let error = Interface::by_name(name).unwrap_err();
            assert!(matches!(error, Error::UnknownInterface { .. }), "{name}: {error}");
        }
    }
}
