//! Documents that must be refused, with every line of what is then said.
//!
//! `tests/refused/*.txt` hold cases: a line `== name`, the document, and lines `=> ` with the
//! errors. `PORTCULLIS_BLESS=1 cargo test -p portcullis-policy --test refused` writes what is said
//! now; read the difference before you commit it.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use portcullis_policy::{Source, parse_policies};

#[test]
fn refusals_say_what_and_where() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/refused");
    let bless = std::env::var_os("PORTCULLIS_BLESS").is_some();
    let mut cases = 0;
    for file in ["admin.txt", "calico.txt", "kubernetes.txt", "syntax.txt"] {
        let text = fs::read_to_string(folder.join(file)).unwrap();
        let mut now = String::new();
        for case in text.split_inclusive("\n== ") {
            let case =
                case.strip_suffix("\n== ").map_or_else(|| case.to_owned(), |c| format!("{c}\n"));
            let case = case.strip_prefix("== ").unwrap_or(&case);
            let (name, rest) = case.split_once('\n').unwrap();
            let document: String =
                rest.split_inclusive('\n').filter(|line| !line.starts_with("=> ")).collect();
            let said = match parse_policies(&[Source::new("f", &*document)]) {
                Ok(_) => panic!("{file}: {name}: accepted"),
                Err(error) => error.to_string(),
            };
            write!(now, "== {name}\n{document}").unwrap();
            for line in said.lines() {
                writeln!(now, "=> {line}").unwrap();
            }
            cases += 1;
        }
        if bless {
            fs::write(folder.join(file), now).unwrap();
        } else {
            assert_eq!(now, text, "{file}");
        }
    }
    assert!(cases > 120, "{cases}");
}
