//! The capture once more, with what was decided in each packet's comment.

use std::borrow::Cow;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::Duration;

use pcap_file::DataLink;
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};

use super::report::Line;
use super::source::Captured;
use crate::output::Refused;

/// Time stamps in units of 10^-9 seconds.
const NANOSECONDS: u8 = 9;

/// A pcapng file being written.
pub(super) struct Annotated {
    name: String,
    writer: PcapNgWriter<BufWriter<File>>,
}

impl Annotated {
    /// Creates or replaces the file.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn create(path: &Path) -> Result<Self, Refused> {
        let name = path.display().to_string();
        let file = File::create(path).map_err(|e| format!("error: {name}: {e}"))?;
        let mut writer =
            PcapNgWriter::new(BufWriter::new(file)).map_err(|e| format!("error: {name}: {e}"))?;
        let interface = InterfaceDescriptionBlock {
            linktype: DataLink::ETHERNET,
            snaplen: 0,
            options: vec![
                InterfaceDescriptionOption::IfName(Cow::Borrowed("replay")),
                InterfaceDescriptionOption::IfTsResol(NANOSECONDS),
            ],
        };
        writer.write_pcapng_block(interface).map_err(|e| format!("error: {name}: {e}"))?;
        Ok(Self { name, writer })
    }

    /// Appends a packet.
    ///
    /// # Errors
    /// The disk is full.
    pub(super) fn write(&mut self, packet: &Captured, line: &Line<'_>) -> Result<(), Refused> {
        let mut comment = format!("verdict={}", line.verdict);
        for (key, value) in [("reason", line.reason), ("policy", line.policy)] {
            if let Some(value) = value {
                comment.push_str(&format!(" {key}={value}"));
            }
        }
        let block = EnhancedPacketBlock {
            interface_id: 0,
            timestamp: Duration::from_nanos(packet.time),
            original_len: u32::try_from(packet.wire_len).unwrap_or(u32::MAX),
            data: Cow::Borrowed(&packet.data),
            options: vec![EnhancedPacketOption::Comment(Cow::Owned(comment))],
        };
        match self.writer.write_pcapng_block(block) {
            Ok(_) => Ok(()),
            Err(error) => Err(format!("error: {}: {error}", self.name).into()),
        }
    }

    /// Writes out what is still in memory.
    ///
    /// # Errors
    /// The disk is full.
    pub(super) fn finish(self) -> Result<(), Refused> {
        let Self { name, writer } = self;
        writer.into_inner().flush().map_err(|e| format!("error: {name}: {e}").into())
    }
}
