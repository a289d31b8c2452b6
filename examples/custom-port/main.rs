//! A [`Port`] of one's own: Unix datagram sockets, one frame a datagram, as QEMU's
//! `-netdev dgram` and other user-space networks speak them.
//!
//! ```text
//! cargo run --release --example custom-port
//! ```
//! Builds two hosts at the ends of a wire of such ports, and lets one talk to the other.

use std::collections::VecDeque;
use std::error::Error;
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::time::Duration;

use portcullis::Engine;
use portcullis::dataplane::frame::{Batch, Frame, FramePool, Umem};
use portcullis::dataplane::port::Port;
use portcullis::dataplane::topology::Wire;
use portcullis::policy::{Source, parse_cluster, parse_policies};

/// One end of a datagram socket as a port.
struct DatagramPort {
    umem: Arc<Umem>,
    socket: UnixDatagram,
    /// Frames that were sent and wait to go back to their pool.
    sent: VecDeque<Frame>,
    /// Packets that the other side had no room for.
    lost: u64,
}

/// The longest frame: anything longer is cut by the socket, and then dropped as malformed.
const LONGEST: usize = 1514;

impl DatagramPort {
    fn new(umem: &Arc<Umem>, socket: UnixDatagram) -> std::io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self { umem: Arc::clone(umem), socket, sent: VecDeque::new(), lost: 0 })
    }
}

impl Port for DatagramPort {
    fn receive(&mut self, pool: &mut FramePool, batch: &mut Batch) -> usize {
        let mut received = 0;
        let mut packet = [0; LONGEST];
        // Only what there is room for is taken from the socket: the rest waits there.
        while batch.room() > 0 && pool.available() > 0 {
            let Ok(len) = self.socket.recv(&mut packet) else { break };
            let Some(frame) = pool.take_with(&packet[..len]) else { break };
            batch.push(frame);
            received += 1;
        }
        received
    }

    fn transmit(&mut self, batch: &mut Batch) -> usize {
        let count = batch.len();
        for frame in batch.drain_front(count) {
            if self.socket.send(self.umem.data(&frame)).is_err() {
                self.lost += 1;
            }
            self.sent.push_back(frame);
        }
        count
    }

    fn reclaim(&mut self, pool: &mut FramePool) -> usize {
        let count = self.sent.len();
        for frame in self.sent.drain(..) {
            // A frame of another UMEM cannot be here: the ports of a wire share one.
            let _ = pool.put(frame);
        }
        count
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self.socket.take_error()? {
            None => Ok(()),
            Some(error) => Err(error),
        }
    }

    fn outstanding(&self) -> usize {
        self.sent.len()
    }

    fn readiness(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket.as_fd())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let cluster = parse_cluster(&[Source::new("cluster.yaml", "
      {apiVersion: v1, kind: Pod, metadata: {name: db, labels: {app: db}}, status: {podIP: 10.0.0.2}}
    ")])?;
    let policies = parse_policies(&[Source::new(
        "policies.yaml",
        "
      {apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: db},
       spec: {podSelector: {matchLabels: {app: db}}, ingress: [{ports: [{port: 5432}]}]}}
    ",
    )])?;
    let engine = Engine::new(Default::default())?;
    engine.apply(cluster.value, policies.value)?;

    let (client, left) = UnixDatagram::pair()?;
    let (server, right) = UnixDatagram::pair()?;
    let pool = Umem::heap(256, 2048);
    let umem = Arc::clone(pool.umem());
    let (a, b) = (DatagramPort::new(&umem, left)?, DatagramPort::new(&umem, right)?);
    let mut worker = engine.worker(Default::default())?;
    worker.add(Wire::new("datagrams", Box::new(a), Box::new(b), pool))?;
    let handle = worker.handle();
    let thread = std::thread::spawn(move || drop(worker.run()));

    server.set_read_timeout(Some(Duration::from_millis(300)))?;
    for (port, passes) in [(5432, true), (22, false)] {
        let syn = syn(port);
        client.send(&syn)?;
        let mut packet = [0; LONGEST];
        let arrived = match server.recv(&mut packet) {
            Ok(len) => packet[..len] == syn[..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => false,
            Err(error) => return Err(error.into()),
        };
        println!("10.0.0.1 to 10.0.0.2:{port}: {}", if arrived { "arrived" } else { "nothing" });
        if arrived != passes {
            return Err("the policy says otherwise".into());
        }
    }
    handle.stop();
    thread.join().map_err(|_| "the worker died")?;
    let totals = engine.totals();
    println!("{} packets in, {} forwarded", totals.received, totals.forwarded);
    Ok(())
}

fn syn(port: u16) -> Vec<u8> {
    let mut frame = Vec::new();
    etherparse::PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
        .tcp(40_000, port, 1, 65_535)
        .syn()
        .write(&mut frame, &[])
        .expect("a Vec takes it");
    frame
}
