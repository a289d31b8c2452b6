//! The interface that copies of packets leave by.

use portcullis_dataplane::mirror::Mirror;
use portcullis_dataplane::port::xdp;
use portcullis_dataplane::worker::Worker;

use crate::Error;
use crate::firewall::Topology;

/// Gives each worker a queue of the interface, and its share of frames.
///
/// # Errors
/// The interface is part of a wire, has too few queues, or refuses.
pub(crate) fn open(
    interface: &str,
    workers: &mut [Worker],
    wires: &[Topology],
    config: &xdp::Config,
) -> Result<(), Error> {
    if wires.iter().any(|wire| wire.interfaces().iter().any(|name| name == interface)) {
        let what = format!("interface {interface}: packets would be copied to where they go");
        return Err(xdp::Error::Config(what).into());
    }
    let xdp::Output { ports, mtu, mut pool, .. } =
        xdp::open_output(interface, workers.len() as u32, config)?;
    let share = pool.available() / workers.len().max(1);
    for (worker, port) in workers.iter_mut().zip(ports) {
        worker.mirror_to(Mirror::new(Box::new(port), pool.split(share), mtu));
    }
    Ok(())
}
