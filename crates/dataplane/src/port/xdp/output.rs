//! An interface that packets are only sent to: sockets without a program, so that whatever arrives
//! there still goes to the host.

use portcullis_bpf::Interface;
use std::time::Instant;
use xsk_rs::config::BindFlags;

use super::bind::Binder;
use super::ledger::PortId;
use super::memory;
use super::open::retry;
use super::queue::QueuePort;
use super::umem::SharedUmem;
use super::{Config, Error, XdpPort};
use crate::frame::FramePool;

/// What [`open_output`] gives.
#[derive(Debug)]
pub struct Output {
    /// The interface's name.
    pub name: String,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// A port for each queue asked for: for transmitting only.
    pub ports: Vec<XdpPort>,
    /// All frames of the UMEM; split it among the ports.
    pub pool: FramePool,
}

/// Opens the first `queues` transmit queues of an interface in copy mode; mode, failure and program
/// settings of `config` mean nothing here.
///
/// # Errors
/// [`Error`] says what was refused and what to do; nothing stays bound.
pub fn open_output(interface: &str, queues: u32, config: &Config) -> Result<Output, Error> {
    let interface = Interface::by_name(interface)?;
    if queues == 0 || queues > interface.rx_queues().min(interface.tx_queues()) {
        return Err(Error::Config(format!(
            "interface {}: {queues} queues to send from, and it has {}: one for each worker is needed",
            interface.name(),
            interface.rx_queues().min(interface.tx_queues())
        )));
    }
    let mtu = interface.mtu();
    let layout = config.layout(mtu)?;
    let node = memory::wanted_node(config.numa, std::slice::from_ref(&interface))?;
    let (umem, pool) = SharedUmem::new(config, layout, config.chunks(queues)?, node)?;
    let config = Config { busy_poll: None, ..config.clone() };
    let binder = Binder { config: &config, layout, umem: &umem, mode: BindFlags::XDP_COPY };
    let deadline = Instant::now() + config.busy_wait;
    let mut ports = Vec::with_capacity(queues as usize);
    for (queue, id) in (0..queues).zip((0..).map(PortId)) {
        let rings = retry(deadline, || binder.bind(&interface, queue))?;
        let (memory, ledger) = (pool.umem().clone(), umem.ledger.clone());
        ports.push(QueuePort::new(rings, memory, ledger, id, None, 0));
    }
    Ok(Output { name: interface.name().to_owned(), mtu, ports, pool })
}
