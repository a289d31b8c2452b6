//! Packets of a capture file: pcap or pcapng, told apart by their first bytes.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use pcap_file::pcap::PcapReader;
use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionOption;
use pcap_file::pcapng::{Block, PcapNgReader};
use pcap_file::{DataLink, PcapError, TsResolution};

use crate::output::Refused;

/// One packet as captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Captured {
    /// Nanoseconds since 1970.
    pub(crate) time: u64,
    /// Bytes that the packet had on the wire; `data` may be cut short.
    pub(crate) wire_len: usize,
    /// The Ethernet frame.
    pub(crate) data: Vec<u8>,
}

/// A capture file, read packet by packet.
pub(crate) struct Capture {
    name: String,
    format: Format,
    read: u64,
}

enum Format {
    Pcap { reader: PcapReader<File>, nanoseconds: bool },
    PcapNg(PcapNgReader<File>),
}

/// First bytes of a pcapng file.
const PCAPNG: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];

impl Capture {
    /// Opens a file.
    ///
    /// # Errors
    /// It cannot be read, is neither pcap nor pcapng, or holds no Ethernet frames.
    pub(crate) fn open(path: &Path) -> Result<Self, Refused> {
        let name = path.display().to_string();
        let refuse = |reason: &str| Refused::from(format!("error: {name}: {reason}"));
        let mut file = File::open(path).map_err(|e| refuse(&e.to_string()))?;
        let mut magic = [0; 4];
        BufReader::new(&mut file)
            .read_exact(&mut magic)
            .map_err(|_| refuse("neither pcap nor pcapng: shorter than a file header"))?;
        file.seek(SeekFrom::Start(0)).map_err(|e| refuse(&e.to_string()))?;
        let not = |e: PcapError| refuse(&format!("neither pcap nor pcapng: {e}"));
        let format = if magic == PCAPNG {
            Format::PcapNg(PcapNgReader::new(file).map_err(not)?)
        } else {
            let reader = PcapReader::new(file).map_err(not)?;
            let header = reader.header();
            if header.datalink != DataLink::ETHERNET {
                let link = header.datalink;
                return Err(refuse(&format!("link type {link:?}: expected Ethernet frames")));
            }
            Format::Pcap { reader, nanoseconds: header.ts_resolution == TsResolution::NanoSecond }
        };
        Ok(Self { name, format, read: 0 })
    }

    /// The next packet; `None` at the end.
    ///
    /// # Errors
    /// The file is cut off or broken here; what came before was good.
    pub(crate) fn next(&mut self) -> Result<Option<Captured>, Refused> {
        let next = match &mut self.format {
            Format::Pcap { reader, nanoseconds } => next_pcap(reader, *nanoseconds),
            Format::PcapNg(reader) => next_pcapng(reader),
        };
        match next {
            Ok(packet) => {
                self.read += u64::from(packet.is_some());
                Ok(packet)
            }
            Err(reason) => {
                Err(format!("error: {}: after packet {}: {reason}", self.name, self.read).into())
            }
        }
    }
}

fn next_pcap(reader: &mut PcapReader<File>, nanoseconds: bool) -> Result<Option<Captured>, String> {
    // Raw: the checked form refuses packets that were cut to the snap length.
    let Some(raw) = reader.next_raw_packet() else { return Ok(None) };
    let raw = raw.map_err(say)?;
    let fraction = u64::from(raw.ts_frac) * if nanoseconds { 1 } else { 1000 };
    Ok(Some(Captured {
        time: u64::from(raw.ts_sec) * 1_000_000_000 + fraction,
        wire_len: wire_len(raw.orig_len, raw.data.len()),
        data: raw.data.into_owned(),
    }))
}

fn next_pcapng(reader: &mut PcapNgReader<File>) -> Result<Option<Captured>, String> {
    loop {
        let (interface, stamp, orig_len, data) = match reader.next_block() {
            None => return Ok(None),
            Some(Err(error)) => return Err(say(error)),
            Some(Ok(Block::EnhancedPacket(packet))) => {
                // The reader hands out the file's number as nanoseconds, whatever its unit.
                let stamp = packet.timestamp.as_nanos() as u64;
                (packet.interface_id, stamp, packet.original_len, packet.data.into_owned())
            }
            Some(Ok(Block::SimplePacket(packet))) => {
                (0, 0, packet.original_len, packet.data.into_owned())
            }
            Some(Ok(_)) => continue,
        };
        let Some(description) = reader.interfaces().get(interface as usize) else {
            return Err(format!("interface {interface} is not described"));
        };
        if description.linktype != DataLink::ETHERNET {
            return Err(format!(
                "interface {interface}: link type {:?}: expected Ethernet frames",
                description.linktype
            ));
        }
        let resolution = description.options.iter().find_map(|option| match option {
            InterfaceDescriptionOption::IfTsResol(resolution) => Some(*resolution),
            _ => None,
        });
        let wire_len = wire_len(orig_len, data.len());
        return Ok(Some(Captured { time: nanoseconds(stamp, resolution), wire_len, data }));
    }
}

/// A pcapng time stamp in nanoseconds. The resolution is a negative power of ten, or of two if its
/// highest bit is set; microseconds if absent (draft-ietf-opsawg-pcapng, section 4.2).
fn nanoseconds(stamp: u64, resolution: Option<u8>) -> u64 {
    let resolution = resolution.unwrap_or(6);
    let exponent = u32::from(resolution & 0x7f);
    let base: u128 = if resolution & 0x80 == 0 { 10 } else { 2 };
    // A unit finer than can be counted rounds to zero.
    let Some(per_second) = base.checked_pow(exponent) else { return 0 };
    u64::try_from(u128::from(stamp) * 1_000_000_000 / per_second).unwrap_or(u64::MAX)
}

/// A file may claim fewer bytes on the wire than it holds.
fn wire_len(claimed: u32, held: usize) -> usize {
    (claimed as usize).max(held)
}

fn say(error: PcapError) -> String {
    match error {
        PcapError::IncompleteBuffer => "the file is cut off".to_owned(),
        PcapError::IoError(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
            "the file is cut off".to_owned()
        }
        PcapError::IoError(e) => e.to_string(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_stamps_have_many_units() {
        assert_eq!(nanoseconds(1_500_000, None), 1_500_000_000);
        assert_eq!(nanoseconds(7, Some(9)), 7);
        assert_eq!(nanoseconds(3, Some(0)), 3_000_000_000);
        assert_eq!(nanoseconds(1 << 20, Some(0x80 | 20)), 1_000_000_000);
        assert_eq!(nanoseconds(u64::MAX, Some(0)), u64::MAX);
        assert_eq!(nanoseconds(5, Some(127)), 0);
    }
}
