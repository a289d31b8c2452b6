//! Bare forwarding between two interfaces, every queue of both, in one thread: what the ports do
//! without a filter. Shows how a worker's loop uses them.
//!
//! ```text
//! cargo run --release --example forward -- fw0 fw1 [MODE [FAILURE [PINS]]]
//! ```
//! MODE as in `prefer-zerocopy` (the default), FAILURE `closed` (the default) or `open`, PINS a folder
//! of a BPF file system where the programs stay when this ends. Prints the modes and `ready`,
//! forwards until it is killed or its standard input ends, then prints counters. With BUSY_POLL set
//! in the environment it polls the interfaces busily and never sleeps.

use std::error::Error;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::{env, process, thread};

use portcullis_dataplane::frame::{Batch, Frame, FramePool, Umem};
use portcullis_dataplane::packet::{Packet, checksum, parse};
use portcullis_dataplane::port::Port;
use portcullis_dataplane::port::xdp::{
    self, BusyPoll, Config, FailureMode, OpenInterface, Opened, ProgramVerdict,
};

/// Longest wait for packets, in milliseconds: well below the time after which a worker that does
/// not call its ports counts as stalled.
const WAIT: i32 = 100;

fn main() {
    if let Err(error) = run() {
        eprintln!("forward: {error}");
        process::exit(1);
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let args: Vec<_> = env::args().skip(1).collect();
    let [left, right, options @ ..] = &args[..] else {
        return Err("usage: forward LEFT RIGHT [MODE [FAILURE [PINS]]]".into());
    };
    let mut config = Config::default();
    if let Some(mode) = options.first() {
        config.mode = mode.parse()?;
    }
    config.failure = match options.get(1).map(String::as_str) {
        None | Some("closed") => FailureMode::Closed,
        Some("open") => FailureMode::Open,
        Some(other) => return Err(format!("failure mode {other:?}: closed or open").into()),
    };
    config.pins = options.get(2).map(PathBuf::from);
    if env::var_os("BUSY_POLL").is_some() {
        config.busy_poll = Some(BusyPoll { microseconds: 20, budget: 64 });
    }
    let mut wire = xdp::open(&[left, right], &config)?;
    if let Some(why) = &wire.refused {
        println!("refused: {why}");
    }
    for interface in &wire.interfaces {
        println!("{}: {}, {} queues", interface.name, interface.mode, interface.ports.len());
    }
    println!("ready");

    let stop = Arc::new(AtomicBool::new(false));
    let stopper = Arc::clone(&stop);
    thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        stopper.store(true, Ordering::Relaxed);
    });
    forward(&mut wire, &stop, config.busy_poll.is_some());
    report(&wire)
}

fn forward(wire: &mut Opened, stop: &AtomicBool, never_sleep: bool) {
    let Opened { interfaces, pool, .. } = wire;
    let mut batch = Batch::new(64);
    let mut polled: Vec<_> = interfaces
        .iter()
        .flat_map(|interface| &interface.ports)
        .filter_map(|port| port.readiness())
        .map(|fd| libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 })
        .collect();
    let [left, right] = &mut interfaces[..] else { return };
    let queues = left.ports.len().max(right.ports.len());
    while !stop.load(Ordering::Relaxed) {
        let mut busy = never_sleep;
        for queue in 0..queues {
            busy |= pass(left, right, queue, pool, &mut batch);
            busy |= pass(right, left, queue, pool, &mut batch);
        }
        // The socket of an interface that is gone is always ready, with an error.
        polled.retain(|entry| entry.revents & libc::POLLERR == 0);
        if !busy {
            // SAFETY: the array lives through the call and its length is given.
            unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, WAIT) };
        }
    }
}

/// Moves a batch from a queue of one interface to the same queue of the other; answers whether there
/// is more to do.
fn pass(
    from: &mut OpenInterface,
    to: &mut OpenInterface,
    queue: usize,
    pool: &mut FramePool,
    batch: &mut Batch,
) -> bool {
    let Some(from) = from.ports.get_mut(queue) else { return false };
    let queues = to.ports.len();
    let to = &mut to.ports[queue % queues];
    let received = from.receive(pool, batch);
    complete_checksums(pool.umem(), batch);
    to.transmit(batch);
    // What the TX ring has no room for is lost, as on any full wire.
    for frame in batch.drain_front(usize::MAX) {
        pool.put(frame);
    }
    // An interface that is down may come up again.
    let _ = to.flush();
    to.reclaim(pool);
    received > 0 || to.outstanding() > 0
}

/// Senders on veth leave checksums to hardware that never comes.
fn complete_checksums(umem: &Umem, batch: &mut Batch) {
    // The ports hand out whole packets.
    for packet in batch.frames_mut().chunk_by_mut(|frame, _| frame.more) {
        let wire_len = packet.iter().map(Frame::len).sum();
        let Some((first, rest)) = packet.split_first_mut() else { continue };
        let (first, rest) = (umem.data_mut(first), rest.iter().map(|frame| umem.data(frame)));
        if let Ok(Packet::Ip(headers)) = parse(first, wire_len) {
            checksum::complete_partial_pieces(first, rest, &headers);
        }
    }
}

fn report(wire: &Opened) -> Result<(), Box<dyn Error>> {
    for interface in wire.guard.vanished() {
        println!("{interface}: vanished");
    }
    for (interface, counters) in wire.guard.program_counters()? {
        for verdict in ProgramVerdict::ALL {
            let count = counters.total(verdict);
            if count.packets > 0 {
                println!("{interface}: {verdict} {} packets, {} bytes", count.packets, count.bytes);
            }
        }
    }
    for (interface, queue, statistics) in wire.guard.statistics()? {
        println!("{interface} queue {queue}: {statistics:?}");
    }
    for interface in &wire.interfaces {
        for (queue, port) in interface.ports.iter().enumerate() {
            println!("{} queue {queue}: {:?}", interface.name, port.queue_counters());
        }
    }
    Ok(())
}
