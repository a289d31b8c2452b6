//! Documents made to hurt, given to the command as a user would: refused with a place, in bounded time
//! and within bounded memory (of addresses, which `ulimit -v` holds the process to).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// KiB of addresses that the command may take, threads and libraries included.
const MOST_KIB: u32 = 1536 << 10;
/// Debug builds on a busy machine are slow.
const SOON: Duration = Duration::from_secs(30);

const POLICY: &str = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
                      metadata: {name: p}\nspec:\n  podSelector: {}\n";

/// A folder that goes when this does.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("portcullis-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, content).expect("a file");
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs `portcullis check` on a shell's arguments; what it said and its exit code.
fn check(arguments: &str) -> (Option<i32>, String) {
    let start = Instant::now();
    let binary = env!("CARGO_BIN_EXE_portcullis");
    let line = format!("ulimit -v {MOST_KIB}; exec '{binary}' check {arguments}");
    let output = Command::new("sh").args(["-c", &line]).output().expect("a shell");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let shown: String = arguments.chars().take(80).collect();
    assert!(start.elapsed() < SOON, "{shown}: took {:?}", start.elapsed());
    assert!(!said.contains("panicked"), "{shown}: {said}");
    assert!(said.len() < 100_000, "{shown}: {} bytes of errors", said.len());
    (output.status.code(), said)
}

fn refused(path: &Path) -> String {
    let (code, said) = check(&format!("--policies '{}'", path.display()));
    let (first, _) = said.split_once('\n').unwrap_or((&said, ""));
    assert_eq!(code, Some(2), "{}: {first}", path.display());
    let rest = first.strip_prefix(&format!("{}:", path.display())).unwrap_or_else(|| {
        panic!("{}: no place in {first}", path.display());
    });
    let mut place = rest.split(':');
    for _ in 0..2 {
        let number = place.next().and_then(|n| n.parse::<u32>().ok());
        assert!(number.is_some_and(|n| n > 0), "{first}");
    }
    first.to_owned()
}

#[test]
fn bombs() {
    let folder = Folder::new("bombs");
    // Billion laughs: ten levels of ten aliases each.
    let laughs: String = (1..10).fold("a0: &a0 [x]\n".to_owned(), |text, i| {
        let aliases = vec![format!("*a{}", i - 1); 10].join(", ");
        format!("{text}a{i}: &a{i} [{aliases}]\n")
    });
    let wide = format!("a: &a {}\nb: [{}]\n", "x".repeat(1 << 16), "*a, ".repeat(100_000));
    let cases: [(&str, Vec<u8>); 16] = [
        ("laughs", laughs.into_bytes()),
        ("wide", wide.into_bytes()),
        ("cycle", b"a: &a [*a]\n".to_vec()),
        ("deep-flow", "[".repeat(60 << 20).into_bytes()),
        ("deep-block", "- ".repeat(8 << 20).into_bytes()),
        ("deep-json", "{\"a\":".repeat(4 << 20).into_bytes()),
        ("anchors", (0..500_000).map(|i| format!("- &a{i} x\n")).collect::<String>().into_bytes()),
        ("documents", "---\na: b\n".repeat(1 << 20).into_bytes()),
        ("keys", (0..4_000_000).map(|i| format!("k{i}: v\n")).collect::<String>().into_bytes()),
        ("same-key", format!("{POLICY}  podSelector: {{}}\n").into_bytes()),
        ("merge", format!("x: &x {{a: b}}\n{POLICY}  <<: *x\n").into_bytes()),
        ("tabs", POLICY.replace("  podSelector", "\tpodSelector").into_bytes()),
        ("nul", POLICY.replace("name: p", "name: \"\0\"").into_bytes()),
        ("latin-1", POLICY.replace('p', "\u{e9}").chars().map(|c| c as u8).collect()),
        ("utf-16", POLICY.encode_utf16().flat_map(u16::to_le_bytes).collect()),
        ("long-line", format!("{POLICY}  # {}\n  x: 1\n", "#".repeat(8 << 20)).into_bytes()),
    ];
    for (name, content) in cases {
        refused(&folder.file(&format!("{name}.yaml"), content));
    }
    // The same as JSON, and as a cluster.
    refused(&folder.file("deep.json", "[".repeat(60 << 20)));
    let good = folder.file("good.yml", POLICY);
    let cluster = folder.0.join("deep-flow.yaml");
    let both = format!("--policies '{}' --cluster '{}'", good.display(), cluster.display());
    assert_eq!(check(&both).0, Some(2));
    // One bad file refuses the folder.
    let (code, said) = check(&format!("--policies '{}'", folder.0.display()));
    assert_eq!(code, Some(2));
    assert!(!said.contains("good.yml"), "{said}");
}

#[test]
fn files_without_end() {
    let folder = Folder::new("endless");
    let path = folder.0.join("huge.yaml");
    fs::File::create(&path).and_then(|file| file.set_len(100 << 20)).expect("a sparse file");
    assert!(refused(&path).contains("larger than 64 MiB"));
    // What does not say its size.
    for endless in ["--policies - < /dev/zero", "--policies /dev/zero"] {
        let (code, said) = check(endless);
        assert_eq!(code, Some(2), "{endless}: {said}");
        assert!(said.contains("64 MiB") || said.contains("not UTF-8"), "{endless}: {said}");
    }
    fs::remove_file(&path).expect("the file goes");
    // A folder that contains itself.
    std::os::unix::fs::symlink(&folder.0, folder.0.join("again")).expect("a link");
    folder.file("good.yaml", POLICY);
    let (code, said) = check(&format!("--policies '{}'", folder.0.display()));
    assert!(matches!(code, Some(0..=2)), "{said}");
}

#[test]
fn line_ends_do_not_matter() {
    let folder = Folder::new("crlf");
    let plain = folder.file("plain.yaml", POLICY);
    let crlf = folder.file("crlf.yaml", POLICY.replace('\n', "\r\n"));
    for path in [plain, crlf] {
        let (code, said) = check(&format!("--policies '{}'", path.display()));
        assert_eq!(code, Some(0), "{said}");
    }
}
