//! The memory that the kernel and the user share: registered by xsk-rs, reached through frames.

use std::num::NonZeroU32;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use xsk_rs::config::{FrameSize, QueueSize, UmemConfigBuilder};
use xsk_rs::umem::frame::FrameDesc;

use super::Error;
use super::config::{Config, Layout};
use super::ledger::Ledger;
use super::memory::{self, HugePages, Memory};
use crate::frame::{FramePool, HEADROOM, Umem};

/// A registered UMEM before and while sockets share it.
#[derive(Debug)]
pub(super) struct SharedUmem {
    pub(super) xsk: xsk_rs::Umem,
    /// xsk-rs' name for each chunk: the only way to speak of one to its rings.
    pub(super) descriptors: Arc<[FrameDesc]>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) memory: Memory,
}

impl SharedUmem {
    /// Maps and registers memory for `chunks` chunks, taken from `node`; all of them are in the pool.
    pub(super) fn new(
        config: &Config,
        layout: Layout,
        chunks: u32,
        node: Option<u32>,
    ) -> Result<(Self, FramePool), Error> {
        let chunk_size = layout.chunk_size;
        let bytes = u64::from(chunks) * u64::from(chunk_size);
        let refused = |error: String| Error::Config(format!("UMEM of {chunks} chunks: {error}"));
        let xsk_config = UmemConfigBuilder::new()
            .frame_size(FrameSize::new(chunk_size).map_err(|e| refused(e.to_string()))?)
            .fill_queue_size(QueueSize::new(config.rings.fill).map_err(|e| refused(e.to_string()))?)
            .comp_queue_size(
                QueueSize::new(config.rings.completion).map_err(|e| refused(e.to_string()))?,
            )
            .frame_headroom(HEADROOM - xsk_headroom())
            .build()
            .map_err(|error| refused(error.to_string()))?;
        let count = NonZeroU32::new(chunks).ok_or_else(|| refused("none".to_owned()))?;
        let map = |huge: bool| {
            let placed = memory::on_node(node, || xsk_rs::Umem::new(xsk_config, count, huge))
                .map_err(|error| Error::umem(bytes, huge, error))?;
            placed.map_err(|error| Error::umem(bytes, huge, os_error(&error)))
        };
        let mut huge_pages_refused = None;
        let (xsk, descriptors) = match config.huge_pages {
            HugePages::Never => map(false)?,
            HugePages::Require => map(true)?,
            HugePages::Prefer => match map(true) {
                Ok(mapped) => mapped,
                Err(error) => {
                    huge_pages_refused = Some(error.to_string());
                    map(false)?
                }
            },
        };
        let huge_pages = config.huge_pages != HugePages::Never && huge_pages_refused.is_none();

        // SAFETY: a default descriptor names the empty packet at the start of the region, which
        // nobody writes.
        let start = unsafe { xsk.data(&FrameDesc::default()) }.contents().as_ptr();
        // libxdp was given the region's pointer, so its provenance is exposed; the empty slice's own
        // would reach no byte.
        let base = NonNull::new(ptr::with_exposed_provenance_mut::<u8>(start.addr()))
            .ok_or_else(|| refused("no memory".to_owned()))?;
        // SAFETY: xsk-rs has mapped chunks × chunk_size bytes at `base` and keeps them mapped as long
        // as a handle lives, which the owner is. The rings reach only chunks whose frames were given
        // up to them, by the ledger.
        let pool = unsafe { Umem::from_raw(base, chunks, chunk_size, Box::new(xsk.clone())) };
        let ledger = Arc::new(Ledger::new(chunks));
        let memory = Memory {
            bytes,
            huge_pages,
            huge_pages_refused,
            node: memory::node_of(start),
            nodes: memory::online().len() as u32,
        };
        Ok((Self { xsk, descriptors: descriptors.into(), ledger, memory }, pool))
    }
}

/// The bytes that the kernel keeps before a packet for the program: XDP_PACKET_HEADROOM.
const fn xsk_headroom() -> u32 {
    256
}

/// The kernel's answer behind an error of xsk-rs, which shows it by `source` only.
pub(super) fn os_error(error: &(dyn std::error::Error + 'static)) -> std::io::Error {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(number) =
            error.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error)
        {
            return std::io::Error::from_raw_os_error(number);
        }
        cause = error.source();
    }
    std::io::Error::other(error.to_string())
}
