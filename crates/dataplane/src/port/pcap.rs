//! A port whose cable is a file: it receives what one pcap file holds and transmits into another.

use std::collections::VecDeque;
use std::io::{Error, ErrorKind, Read, Write};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use pcap_file::pcap::{PcapPacket, PcapReader, PcapWriter};

use super::Port;
use crate::clock::{Time, Virtual};
use crate::frame::{Batch, Frame, FramePool, HEADROOM, Umem};

/// A port that reads a pcap file of Ethernet frames and writes another one.
///
/// With a clock, each packet sets it to the time at which it was captured and is received alone, so
/// that timeouts happen as they would have. Allocates for each packet.
pub struct PcapPort<R: Read, W: Write> {
    umem: Arc<Umem>,
    reader: PcapReader<R>,
    writer: PcapWriter<W>,
    clock: Option<Arc<Virtual>>,
    /// A packet that was read but did not fit into the batch yet.
    waiting: Option<(Duration, Vec<u8>)>,
    /// Time of the packet received last.
    time: Duration,
    /// The start of a packet whose end is still to be transmitted.
    partial: Vec<u8>,
    sent: VecDeque<Frame>,
    failed: Option<Error>,
}

impl<R: Read, W: Write> PcapPort<R, W> {
    /// A port that takes and gives frames of `umem`.
    ///
    /// # Errors
    /// `from` does not begin like a pcap file (pcapng is another format), or `to` cannot be written.
    pub fn new(
        umem: &Arc<Umem>,
        from: R,
        to: W,
        clock: Option<Arc<Virtual>>,
    ) -> std::io::Result<Self> {
        Ok(Self {
            umem: Arc::clone(umem),
            reader: PcapReader::new(from).map_err(into_io)?,
            writer: PcapWriter::new(to).map_err(into_io)?,
            clock,
            waiting: None,
            time: Duration::ZERO,
            partial: Vec::new(),
            sent: VecDeque::new(),
            failed: None,
        })
    }

    /// The end of both files, and the writer.
    ///
    /// # Errors
    /// What went wrong first: a damaged record, or writing.
    pub fn finish(self) -> std::io::Result<W> {
        match self.failed {
            Some(error) => Err(error),
            None => Ok(self.writer.into_writer()),
        }
    }

    /// The next packet of the file, unless one waits already. `false`: there is none.
    fn read(&mut self) -> bool {
        if self.waiting.is_none() && self.failed.is_none() {
            match self.reader.next_packet() {
                None => {}
                Some(Ok(packet)) => {
                    self.waiting = Some((packet.timestamp, packet.data.into_owned()));
                }
                Some(Err(error)) => self.failed = Some(into_io(error)),
            }
        }
        self.waiting.is_some()
    }

    fn write(&mut self) {
        let data = std::mem::take(&mut self.partial);
        let len = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let packet = PcapPacket::new_owned(self.time, len, data);
        if let Err(error) = self.writer.write_packet(&packet) {
            self.failed.get_or_insert_with(|| into_io(error));
        }
    }
}

impl<R: Read + Send, W: Write + Send> Port for PcapPort<R, W> {
    fn receive(&mut self, pool: &mut FramePool, batch: &mut Batch) -> usize {
        let room = (self.umem.chunk_size() - HEADROOM) as usize;
        let mut received = 0;
        while self.read() {
            let Some((time, data)) = self.waiting.take() else { break };
            let pieces = data.len().div_ceil(room).max(1);
            if pieces > batch.room() || pieces > pool.available() {
                self.waiting = Some((time, data));
                break;
            }
            for (n, piece) in (1..).zip(data.chunks(room)) {
                if let Some(mut frame) = pool.take_with(piece) {
                    frame.more = n < pieces;
                    batch.push(frame);
                    received += 1;
                }
            }
            self.time = time;
            if let Some(clock) = &self.clock {
                let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
                clock.set(Time::from_nanos(nanos));
                break;
            }
        }
        received
    }

    fn transmit(&mut self, batch: &mut Batch) -> usize {
        let count = batch.len();
        for frame in batch.drain_front(count) {
            self.partial.extend_from_slice(self.umem.data(&frame));
            if !frame.more {
                self.write();
            }
            self.sent.push_back(frame);
        }
        count
    }

    fn reclaim(&mut self, pool: &mut FramePool) -> usize {
        let count = self.sent.len();
        for mut frame in self.sent.drain(..) {
            frame.more = false;
            // A frame of another UMEM cannot be here: its data would have been empty.
            let _ = pool.put(frame);
        }
        count
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match &self.failed {
            Some(error) => Err(Error::new(error.kind(), error.to_string())),
            None => Ok(()),
        }
    }

    fn outstanding(&self) -> usize {
        self.sent.len()
    }

    fn readiness(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

fn into_io(error: pcap_file::PcapError) -> Error {
    match error {
        pcap_file::PcapError::IoError(error) => error,
        pcap_file::PcapError::IncompleteBuffer => ErrorKind::UnexpectedEof.into(),
        error => Error::new(ErrorKind::InvalidData, error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    fn file(packets: &[(u64, Vec<u8>)]) -> Vec<u8> {
        let mut writer = PcapWriter::new(Vec::new()).unwrap();
        for (micros, data) in packets {
            let time = Duration::from_micros(*micros);
            writer.write_packet(&PcapPacket::new(time, data.len() as u32, data)).unwrap();
        }
        writer.into_writer()
    }

    #[test]
    fn what_one_file_holds_comes_out_in_the_other_at_its_time() {
        let packets: Vec<_> =
            (0..200u64).map(|n| (n * 1000, vec![n as u8; 60 + n as usize * 20])).collect();
        let source = file(&packets);
        let mut pool = Umem::heap(16, 2048);
        let clock = Arc::new(Virtual::default());
        let umem = Arc::clone(pool.umem());
        let to = Vec::new();
        let mut port = PcapPort::new(&umem, &source[..], to, Some(Arc::clone(&clock))).unwrap();
        let mut batch = Batch::new(8);
        for (micros, _) in &packets {
            assert!(port.receive(&mut pool, &mut batch) > 0);
            assert_eq!(clock.now().as_nanos(), micros * 1000);
            assert!(port.transmit(&mut batch) > 0);
            port.reclaim(&mut pool);
        }
        assert_eq!(port.receive(&mut pool, &mut batch), 0);
        assert_eq!((pool.available(), port.outstanding()), (16, 0));
        assert_eq!(port.finish().unwrap(), source);
    }

    #[test]
    fn damaged_files_end_with_an_error() {
        let source = file(&[(1, vec![1; 60]), (2, vec![2; 60])]);
        let umem = Arc::clone(Umem::heap(1, 2048).umem());
        assert!(PcapPort::new(&umem, &b"not a capture file at all"[..], Vec::new(), None).is_err());
        let mut pool = Umem::heap(16, 2048);
        let umem = Arc::clone(pool.umem());
        let cut = &source[..source.len() - 10];
        let mut port = PcapPort::new(&umem, cut, Vec::new(), None).unwrap();
        let mut batch = Batch::new(8);
        assert_eq!(port.receive(&mut pool, &mut batch), 1);
        assert!(port.flush().is_err());
        assert!(port.finish().is_err());
    }
}
