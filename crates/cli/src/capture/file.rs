//! pcapng files, one or a ring of them. Every file stands alone.

use std::borrow::Cow;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use pcap_file::DataLink;
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};

use crate::control::capture::Packet;
use crate::output::Refused;

/// Time stamps in units of 10^-9 seconds.
const NANOSECONDS: u8 = 9;

/// Where packets go.
pub(super) struct Files {
    path: PathBuf,
    snaplen: usize,
    /// How many files, and the size at which the next one begins.
    ring: Option<(u32, u64)>,
    /// Files begun before.
    number: u32,
    writer: PcapNgWriter<Counting>,
    /// Names of the file's interfaces, in their order.
    interfaces: Vec<String>,
    before: u64,
}

/// Counts what it writes.
struct Counting {
    writer: BufWriter<Box<dyn Write>>,
    bytes: u64,
}

impl Files {
    /// Creates or replaces the (first) file.
    ///
    /// # Errors
    /// It cannot be written; a ring on stdout.
    pub(super) fn create(
        path: &Path,
        ring: Option<(u32, u64)>,
        snaplen: usize,
    ) -> Result<Self, Refused> {
        if ring.is_some() && path == Path::new("-") {
            return Err("error: --ring writes files: give --out a name".into());
        }
        let first = name(path, ring, 0);
        let writer = open(&first)?;
        let interfaces = Vec::new();
        Ok(Self { path: path.to_owned(), snaplen, ring, number: 0, writer, interfaces, before: 0 })
    }

    /// Appends a packet; begins the next file of a ring when it is time.
    ///
    /// # Errors
    /// The disk is full.
    pub(super) fn write(&mut self, packet: &Packet, data: &[u8]) -> Result<(), Refused> {
        if self.ring.is_some_and(|(_, size)| self.writer.get_mut().bytes >= size) {
            self.next()?;
        }
        let interface_id = self.interface(&packet.interface)?;
        let block = EnhancedPacketBlock {
            interface_id,
            timestamp: Duration::new(packet.seconds, packet.nanos.min(999_999_999)),
            original_len: u32::try_from(packet.wire_len).unwrap_or(u32::MAX),
            data: Cow::Borrowed(data),
            options: vec![EnhancedPacketOption::Comment(Cow::Owned(comment(packet)))],
        };
        let written = self.writer.write_pcapng_block(block);
        written.map_err(|e| self.failed(&e))?;
        Ok(())
    }

    /// Brings what was written to the disk's or the pipe's other end.
    pub(super) fn flush(&mut self) -> Result<(), Refused> {
        let flushed = self.writer.get_mut().writer.flush();
        flushed.map_err(|e| self.failed(&e))
    }

    /// Ends the file; answers how many bytes were written in all.
    ///
    /// # Errors
    /// The disk is full.
    pub(super) fn finish(mut self) -> Result<u64, Refused> {
        self.flush()?;
        Ok(self.before + self.writer.get_mut().bytes)
    }

    fn next(&mut self) -> Result<(), Refused> {
        self.flush()?;
        self.before += self.writer.get_mut().bytes;
        self.number = self.number.wrapping_add(1);
        self.writer = open(&name(&self.path, self.ring, self.number))?;
        self.interfaces.clear();
        Ok(())
    }

    /// The number of an interface in this file; describes it the first time.
    fn interface(&mut self, name: &str) -> Result<u32, Refused> {
        let known = self.interfaces.iter().position(|known| known == name);
        let id = match known {
            Some(id) => id,
            None => {
                let block = InterfaceDescriptionBlock {
                    linktype: DataLink::ETHERNET,
                    snaplen: self.snaplen as u32,
                    options: vec![
                        InterfaceDescriptionOption::IfName(Cow::Borrowed(name)),
                        InterfaceDescriptionOption::IfTsResol(NANOSECONDS),
                    ],
                };
                let written = self.writer.write_pcapng_block(block);
                written.map_err(|e| self.failed(&e))?;
                self.interfaces.push(name.to_owned());
                self.interfaces.len() - 1
            }
        };
        Ok(id as u32)
    }

    fn failed(&self, error: &dyn std::fmt::Display) -> Refused {
        format!("error: {}: {error}", name(&self.path, self.ring, self.number).display()).into()
    }
}

impl Write for Counting {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.writer.write(bytes)?;
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.writer.flush()
    }
}

fn open(path: &Path) -> Result<PcapNgWriter<Counting>, Refused> {
    let failed = |e: &dyn std::fmt::Display| format!("error: {}: {e}", path.display());
    let out: Box<dyn Write> = match path == Path::new("-") {
        true => Box::new(std::io::stdout()),
        false => Box::new(File::create(path).map_err(|e| failed(&e))?),
    };
    let counting = Counting { writer: BufWriter::with_capacity(1 << 16, out), bytes: 0 };
    Ok(PcapNgWriter::new(counting).map_err(|e| failed(&e))?)
}

/// The name of file `number` of a ring: before the extension, from 1 on.
fn name(path: &Path, ring: Option<(u32, u64)>, number: u32) -> PathBuf {
    let Some((files, _)) = ring else { return path.to_owned() };
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let extension = path.extension().map_or(String::new(), |e| format!(".{}", e.to_string_lossy()));
    path.with_file_name(format!("{stem}.{}{extension}", number % files + 1))
}

fn comment(packet: &Packet) -> String {
    let mut comment = format!("verdict={}", packet.verdict);
    let more = [
        ("reason", packet.reason.as_deref()),
        ("policy", packet.policy.as_deref()),
        ("rule", packet.rule.as_deref()),
        ("state", Some(packet.state.as_str())),
    ];
    for (key, value) in more {
        if let Some(value) = value {
            comment.push_str(&format!(" {key}={value}"));
        }
    }
    comment
}

#[cfg(test)]
mod tests {
    use super::*;
    use pcap_file::pcapng::{Block, PcapNgReader};

    fn packet(interface: &str, n: u32) -> Packet {
        Packet {
            seconds: 1_000_000_000,
            nanos: n,
            interface: interface.to_owned(),
            verdict: "deny".to_owned(),
            reason: Some("policy_denied".to_owned()),
            policy: Some("NetworkPolicy/shop/db".to_owned()),
            rule: Some("p.yaml:3:5".to_owned()),
            state: "new".to_owned(),
            wire_len: 1500,
            len: 1000,
        }
    }

    /// Time stamps of the packets in a file, each checked.
    fn read(path: &Path) -> Vec<u32> {
        let mut reader = PcapNgReader::new(File::open(path).unwrap()).unwrap();
        let (mut names, mut stamps) = (Vec::new(), Vec::new());
        while let Some(block) = reader.next_block() {
            match block.unwrap() {
                Block::InterfaceDescription(block) => names.push(format!("{:?}", block.options)),
                Block::EnhancedPacket(block) => {
                    assert_eq!((block.data.len(), block.original_len), (1000, 1500));
                    let nanos = block.timestamp.subsec_nanos();
                    let interface = if nanos % 2 == 0 { "eth1" } else { "eth2" };
                    assert!(names[block.interface_id as usize].contains(interface));
                    let comment = "verdict=deny reason=policy_denied policy=NetworkPolicy/shop/db \
                                   rule=p.yaml:3:5 state=new";
                    assert!(format!("{:?}", block.options).contains(comment));
                    stamps.push(nanos);
                }
                other => panic!("{other:?}"),
            }
        }
        stamps
    }

    #[test]
    fn a_ring_keeps_the_last_files_and_each_is_whole() {
        let folder = std::env::temp_dir().join(format!("portcullis-files-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("c.pcapng");
        let mut files =
            Files::create(&path, Some((2, 64 << 10)), 1000).unwrap_or_else(|_| panic!());
        for n in 0..200 {
            let interface = if n % 2 == 0 { "eth1" } else { "eth2" };
            files.write(&packet(interface, n), &[7; 1000]).unwrap_or_else(|_| panic!());
        }
        let bytes = files.finish().unwrap_or_else(|_| panic!());
        assert!((200_000..300_000).contains(&bytes), "{bytes}");
        let (one, two) = (read(&folder.join("c.1.pcapng")), read(&folder.join("c.2.pcapng")));
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 2);
        // The fourth file was begun last, in the second place.
        assert_eq!(*two.last().unwrap(), 199);
        assert_eq!(one.last().unwrap() + 1, two[0]);
        assert!(one.iter().chain(&two).is_sorted_by(|a, b| *a + 1 == **b));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
