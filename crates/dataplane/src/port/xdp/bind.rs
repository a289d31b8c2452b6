//! One AF_XDP socket on one queue, in the UMEM of its group.

use portcullis_bpf::Interface;
use xsk_rs::config::{BindFlags, LibxdpFlags, QueueSize, SocketConfig};

use super::Error;
use super::config::{Config, Layout};
use super::rings::KernelRings;
use super::sys;
use super::umem::{SharedUmem, os_error};

/// Most packets that one send call of copy mode is to handle.
const TX_BUDGET: u32 = 256;

/// What the sockets of a group have in common.
pub(super) struct Binder<'a> {
    pub(super) config: &'a Config,
    pub(super) layout: Layout,
    pub(super) umem: &'a SharedUmem,
    /// XDP_ZEROCOPY or XDP_COPY.
    pub(super) mode: BindFlags,
}

impl Binder<'_> {
    /// Binds a socket to a queue and reads its mode back.
    pub(super) fn bind(&self, interface: &Interface, queue: u32) -> Result<KernelRings, Error> {
        let Self { config, layout, umem, .. } = self;
        let name = interface.name();
        let mut flags = self.mode | BindFlags::XDP_USE_NEED_WAKEUP;
        if layout.multi_buffer {
            flags |= BindFlags::XDP_USE_SG;
        }
        let size = |size| {
            QueueSize::new(size).map_err(|error| Error::Config(format!("ring size: {error}")))
        };
        let socket = SocketConfig::builder()
            .rx_queue_size(size(config.rings.rx)?)
            .tx_queue_size(size(config.rings.tx)?)
            .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
            .bind_flags(flags)
            .build();
        let to =
            name.parse().map_err(|_| Error::Config(format!("interface {name}: not a name")))?;
        let zero_copy = self.mode.contains(BindFlags::XDP_ZEROCOPY);
        let failed = |source| Error::bind(name, queue, zero_copy, layout.multi_buffer, source);
        // SAFETY: the program load is inhibited, which is what sharing asks for.
        let (tx, rx, pair) = unsafe { xsk_rs::Socket::new(socket, &umem.xsk, &to, queue) }
            .map_err(|error| failed(os_error(&error)))?;
        // No pair means that this UMEM already is on this queue.
        let pair = pair.ok_or_else(|| failed(std::io::Error::from_raw_os_error(libc::EBUSY)))?;
        let mut rings = KernelRings::new((tx, rx), pair, umem, layout, config);
        let socket = rings.socket();
        sys::close_on_exec(socket).map_err(failed)?;
        // Older kernels keep their budget: slower, not wrong.
        let _ = sys::set_tx_budget(socket, config.rings.tx.min(TX_BUDGET));
        if let Some(busy_poll) = config.busy_poll {
            let interface = name.to_owned();
            sys::set_busy_poll(socket, busy_poll).map_err(|source| Error::BusyPoll {
                interface,
                queue,
                source,
            })?;
        }
        rings.zero_copy = sys::is_zero_copy(socket).map_err(failed)?;
        Ok(rings)
    }
}
