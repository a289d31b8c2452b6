//! Files of records: rotation, disks that are full, and what is counted then.

use std::path::{Path, PathBuf};
use std::time::Duration;

use portcullis::flow::{FileConfig, FileSink, Fsync, Sink, StreamSink};

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("portcullis-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("flows.jsonl")
    }

    /// The files there are, and their bytes.
    fn files(&self) -> Vec<(String, u64)> {
        let entries = std::fs::read_dir(&self.0).unwrap().map(Result::unwrap);
        let mut files: Vec<_> = entries
            .map(|e| (e.file_name().into_string().unwrap(), e.metadata().unwrap().len()))
            .collect();
        files.sort();
        files
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn config(max_bytes: u64, keep: u32) -> FileConfig {
    let mut config = FileConfig::default();
    (config.max_bytes, config.keep) = (Some(max_bytes), keep);
    config.retry = Duration::ZERO;
    config
}

fn line(number: u32) -> Vec<u8> {
    format!("{{\"number\":{number:08}}}\n").into_bytes()
}

fn numbers(path: &Path) -> Vec<u32> {
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'), "whole lines only");
    text.lines().map(|line| line[10..18].parse().unwrap()).collect()
}

#[test]
fn files_are_rotated_by_size_and_the_newest_kept() {
    let folder = Folder::new("rotate");
    for fsync in [Fsync::Never, Fsync::Rotate, Fsync::Every(Duration::ZERO)] {
        let mut settings = config(1000, 3);
        settings.fsync = fsync;
        let mut sink = FileSink::open(&folder.file(), settings).unwrap();
        for number in 0..1000 {
            sink.line(&line(number));
            if number % 7 == 0 {
                sink.flush();
            }
        }
        sink.flush();
        assert_eq!(sink.written(), (1000, 0, 20_000));
        // Fifty lines a file.
        assert_eq!(sink.rotations(), 19);
        drop(sink);
        let names = ["flows.jsonl", "flows.jsonl.1", "flows.jsonl.2", "flows.jsonl.3"];
        assert_eq!(folder.files(), names.map(|name| (name.to_owned(), 1000)));
        let kept: Vec<u32> =
            names.iter().rev().flat_map(|name| numbers(&folder.0.join(name))).collect();
        assert_eq!(kept, (800..1000).collect::<Vec<_>>());
        std::fs::remove_file(folder.file()).unwrap();
    }
    let mut none = FileSink::open(&folder.file(), config(1000, 0)).unwrap();
    (0..120).for_each(|number| none.line(&line(number)));
    none.flush();
    assert_eq!(numbers(&folder.file()), (100..120).collect::<Vec<_>>());
}

#[test]
fn a_file_goes_on_after_its_last_whole_line() {
    let folder = Folder::new("append");
    std::fs::write(folder.file(), [line(1), b"{\"number\":000".to_vec()].concat()).unwrap();
    let mut sink = FileSink::open(&folder.file(), config(45, 1)).unwrap();
    sink.line(&line(2));
    sink.line(&line(3));
    drop(sink);
    assert_eq!(numbers(&folder.0.join("flows.jsonl.1")), [1, 2], "what was there counts");
    assert_eq!(numbers(&folder.file()), [3]);
}

#[test]
fn what_cannot_be_written_is_counted_and_taken_up_again() {
    let folder = Folder::new("unwritable");
    let mut sink = FileSink::open(&folder.file(), config(100, 1)).unwrap();
    // In the place of the file that it would be renamed to stands a folder that is not empty.
    std::fs::create_dir_all(folder.0.join("flows.jsonl.1/x")).unwrap();
    (0..20).for_each(|number| sink.line(&line(number)));
    sink.flush();
    assert_eq!(sink.written(), (5, 15, 100), "the bound holds");
    assert!(sink.failing().unwrap().contains("flows.jsonl"));
    std::fs::remove_dir_all(folder.0.join("flows.jsonl.1")).unwrap();
    sink.line(&line(20));
    sink.flush();
    assert_eq!((sink.written(), sink.failing()), ((6, 15, 120), None));
    assert_eq!(numbers(&folder.file()), [20]);
}

/// A disk of 64 KiB in a mount namespace of this thread's own.
#[test]
fn a_full_disk_loses_counted_lines_only_and_is_used_again_when_there_is_room() {
    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};
    if !nix::unistd::geteuid().is_root() || unshare(CloneFlags::CLONE_NEWNS).is_err() {
        eprintln!("skipped: needs CAP_SYS_ADMIN");
        return;
    }
    let folder = Folder::new("full");
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    mount(Some("tmpfs"), &folder.0, Some("tmpfs"), MsFlags::empty(), Some("size=64k")).unwrap();
    let ballast = folder.0.join("ballast");
    std::fs::write(&ballast, vec![0; 32 << 10]).unwrap();
    let mut unbounded = config(1, 1);
    unbounded.max_bytes = None;
    let mut sink = FileSink::open(&folder.file(), unbounded).unwrap();
    for number in 0..10_000 {
        sink.line(&line(number));
        if number % 10 == 9 {
            sink.flush();
        }
    }
    let (written, unwritten, bytes) = sink.written();
    assert_eq!(written + unwritten, 10_000);
    assert!(written > 1000 && unwritten > 5000, "{written} written");
    assert!(sink.failing().unwrap().contains("No space left"), "{:?}", sink.failing());
    assert_eq!(numbers(&folder.file()), (0..written as u32).collect::<Vec<_>>());
    assert_eq!(std::fs::metadata(folder.file()).unwrap().len(), bytes);

    std::fs::remove_file(&ballast).unwrap();
    sink.line(&line(77));
    sink.flush();
    assert_eq!(sink.failing(), None);
    assert_eq!(numbers(&folder.file()).last(), Some(&77));
    drop(sink);
    nix::mount::umount(&folder.0).unwrap();
}

#[test]
fn a_reader_that_is_gone_is_counted() {
    let (reader, writer) = std::io::pipe().unwrap();
    let mut sink = StreamSink::new(writer);
    sink.line(&line(1));
    sink.flush();
    assert_eq!(sink.written(), (1, 0, 20));
    drop(reader);
    for number in 2..5 {
        sink.line(&line(number));
        sink.flush();
    }
    assert_eq!(sink.written(), (1, 3, 20));
    assert!(sink.failing().is_some());
}
