//! The program of one port: attaching it through a link, and reaching what it has of the maps.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use crate::early_drop::EarlyDrop;
use crate::heartbeat::Heartbeat;
use crate::instance::Slots;
use crate::link::Link;
use crate::sys;
use crate::{Attach, AttachMode, Counters, Error, Interface, Programs, Settings};

/// `XDP_FLAGS_SKB_MODE` and `XDP_FLAGS_DRV_MODE` of linux/if_link.h.
const GENERIC_FLAG: u32 = 1 << 1;
const NATIVE_FLAG: u32 = 1 << 2;
/// `XDP_ATTACHED_DRV` and `XDP_ATTACHED_SKB` of linux/if_link.h.
const ATTACHED_NATIVE: u8 = 1;
const ATTACHED_GENERIC: u8 = 2;

/// The program as one interface has it, attached or not. Dropping it detaches.
#[derive(Debug)]
pub struct Program {
    link: Option<Link>,
    bypass_link: Option<Link>,
    bypass: Option<OwnedFd>,
    interface: u32,
    slots: Arc<Slots>,
}

impl Program {
    pub(crate) fn new(interface: &Interface, slots: Slots, bypass: Option<OwnedFd>) -> Self {
        let (link, bypass_link, slots) = (None, None, Arc::new(slots));
        Self { link, bypass_link, bypass, interface: interface.index(), slots }
    }

    /// Loads the program for `interface` alone, as [`Programs::load`] of a set of its own does.
    ///
    /// # Errors
    /// As there.
    pub fn load(interface: &Interface, settings: &Settings) -> Result<Self, Error> {
        Programs::default().load(interface, settings)
    }

    /// Attaches the program; answers the mode obtained, as the kernel reports it.
    ///
    /// With `pins`, a folder of a BPF file system, the program outlives the process: it stays on the
    /// interface until [`Program::detach`] or until its files there are removed, and does what the
    /// failure mode says meanwhile. A program that a predecessor left there is replaced without a
    /// packet seeing none.
    ///
    /// # Errors
    /// [`Error::Occupied`], [`Error::MtuTooLarge`], [`Error::NativeUnsupported`],
    /// [`Error::TooFewQueues`], [`Error::NotPermitted`]; [`Error::Pin`] if `pins` is no place to pin.
    /// [`Attach::PreferNative`] answers the error of the native attempt unless the driver merely
    /// lacks native XDP.
    pub fn attach(
        &mut self,
        interface: &Interface,
        attach: Attach,
        pins: Option<&Path>,
    ) -> Result<AttachMode, Error> {
        let link = |flags| self.link(interface, flags, pins);
        let link = match attach {
            Attach::Native => link(NATIVE_FLAG)?,
            Attach::Generic => link(GENERIC_FLAG)?,
            Attach::PreferNative => match link(NATIVE_FLAG) {
                Err(Error::NativeUnsupported { .. }) => link(GENERIC_FLAG)?,
                answer => answer?,
            },
        };
        self.link = Some(link);
        if let Some(bypass) = &self.bypass {
            let attach = || {
                sys::link_tc(bypass.as_fd(), interface.index())
                    .map_err(|source| bypass_error(interface, source))
            };
            self.bypass_link =
                Some(Link::obtain(bypass.as_fd(), interface, "bypass", pins, attach)?);
        }
        let what = || format!("interface {}: reading the attach mode back", interface.name());
        match sys::attached_mode(interface.index()) {
            Ok(ATTACHED_NATIVE) => {
                if interface.queues_are_exclusive() {
                    self.slots.set_exclusive();
                }
                Ok(AttachMode::Native)
            }
            Ok(ATTACHED_GENERIC) => Ok(AttachMode::Generic),
            Ok(other) => Err(Error::System {
                what: what(),
                source: io::Error::other(format!("the kernel says {other}")),
            }),
            Err(source) => Err(Error::system(what(), source)),
        }
    }

    /// Takes the program off the interface, also where it was to outlive the process.
    pub fn detach(&mut self) {
        for link in [self.link.take(), self.bypass_link.take()].into_iter().flatten() {
            link.remove();
        }
    }

    /// Takes back what [`Program::attach`] did: as [`Program::detach`], except that a link which a
    /// predecessor had pinned stays where it was.
    pub fn undo(&mut self) {
        for link in [self.link.take(), self.bypass_link.take()].into_iter().flatten() {
            link.undo();
        }
    }

    /// Hands the packets of `queue` to `socket` from now on.
    ///
    /// # Errors
    /// [`Error::NoSuchQueue`]; [`Error::System`] if it is no AF_XDP socket with an RX ring.
    pub fn set_socket(&self, queue: u32, socket: BorrowedFd<'_>) -> Result<(), Error> {
        let slot = self.slots.of(queue)?;
        self.slots.instance().set_socket(slot, socket.as_raw_fd()).map_err(|source| {
            Error::system(format!("steering queue {queue} to its socket"), source)
        })
    }

    /// The heartbeat of `queue`.
    ///
    /// # Errors
    /// [`Error::NoSuchQueue`].
    pub fn heartbeat(&self, queue: u32) -> Result<Heartbeat, Error> {
        Heartbeat::new(&self.slots, queue)
    }

    /// The set of source prefixes that are dropped at once, which ports of the same [`Programs`] share.
    pub fn early_drop(&self) -> &EarlyDrop {
        self.slots.instance().early_drop()
    }

    /// Number of queues that the program serves.
    pub fn queues(&self) -> u32 {
        self.slots.queues()
    }

    /// Reads all counters. A system call for each queue, and one more.
    ///
    /// # Errors
    /// A failed system call.
    pub fn counters(&self) -> Result<Counters, Error> {
        self.slots.counters(self.interface)
    }

    /// Runs the program once over `packet`, in the kernel but on no interface, as received on queue
    /// 0: for tests. Answers the XDP action and the packet as the program left it.
    ///
    /// # Errors
    /// A failed system call; the kernel takes packets from 14 bytes to about a page.
    pub fn test_run(&self, packet: &[u8]) -> Result<(u32, Vec<u8>), Error> {
        sys::test_run(self.slots.instance().program(), packet)
            .map_err(|source| Error::system("running the program on a test packet", source))
    }

    fn link(&self, interface: &Interface, flags: u32, pins: Option<&Path>) -> Result<Link, Error> {
        let program = self.slots.instance().program();
        let attach = || {
            sys::link_xdp(program, interface.index(), flags)
                .map_err(|source| attach_error(interface, flags, source))
        };
        Link::obtain(program, interface, "xdp", pins, attach)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Off the interface first: what comes after this meets no program, or, where its link is
        // pinned, the failure mode.
        (self.link, self.bypass_link) = (None, None);
        self.slots.leave(self.interface);
    }
}

fn attach_error(interface: &Interface, flags: u32, source: io::Error) -> Error {
    let name = interface.name().to_owned();
    match source.raw_os_error() {
        Some(libc::EBUSY | libc::EEXIST) => Error::Occupied { interface: name, source },
        Some(libc::ERANGE) => Error::MtuTooLarge { interface: name, mtu: interface.mtu(), source },
        Some(libc::ENOSPC) => Error::TooFewQueues { interface: name, source },
        Some(libc::ENODEV) => Error::UnknownInterface { name },
        Some(libc::EOPNOTSUPP | libc::EINVAL) if flags == NATIVE_FLAG => {
            Error::NativeUnsupported { interface: name, source }
        }
        _ => Error::system(format!("interface {name}: attaching the XDP program"), source),
    }
}

fn bypass_error(interface: &Interface, source: io::Error) -> Error {
    let what = format!(
        "interface {}: attaching the bypass of failure mode open, which a wire without a bridge needs",
        interface.name()
    );
    match source.raw_os_error() {
        Some(libc::EINVAL | libc::EOPNOTSUPP) => Error::OldKernel { what, source },
        _ => Error::system(what, source),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_to_attach_are_told_apart() {
        let interface = Interface::by_name("lo").unwrap();
        let said = |errno, flags| {
            let error = attach_error(&interface, flags, io::Error::from_raw_os_error(errno));
            assert!(errno == libc::ENODEV || error.errno() == Some(errno));
            error.to_string()
        };
        for (errno, words) in [
            (libc::EBUSY, "another XDP program"),
            (libc::EEXIST, "another XDP program"),
            (libc::ERANGE, "MTU 65536 is too large"),
            (libc::ENOSPC, "ethtool -L lo"),
            (libc::ENODEV, "no such interface"),
            (libc::EOPNOTSUPP, "use generic mode"),
            (libc::EPERM, "CAP_NET_ADMIN"),
            (libc::EIO, "attaching the XDP program"),
        ] {
            let text = said(errno, NATIVE_FLAG);
            assert!(text.contains(words) && text.contains("lo"), "{errno}: {text}");
        }
        assert!(!said(libc::EOPNOTSUPP, GENERIC_FLAG).contains("use generic mode"));
    }
}
