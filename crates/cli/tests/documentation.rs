//! What docs/policy.md shows is what the commands print: every command on the page is run in
//! `examples/shop`, as the page says, and its output compared.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A command and what the page says it prints.
#[derive(Debug, Default)]
struct Shown {
    line: usize,
    command: String,
    output: String,
}

/// The commands of all `console` blocks, by block.
fn blocks(page: &str) -> Vec<Vec<Shown>> {
    let mut blocks: Vec<Vec<Shown>> = Vec::new();
    let mut inside = false;
    for (number, line) in page.lines().enumerate() {
        match line {
            "```console" => {
                inside = true;
                blocks.push(Vec::new());
            }
            "```" => inside = false,
            _ if !inside => {}
            line => {
                let block = blocks.last_mut().expect("inside a block");
                if let Some(command) = line.strip_prefix("$ ") {
                    let (line, command) = (number + 1, command.to_owned());
                    block.push(Shown { line, command, output: String::new() });
                } else {
                    let shown = block.last_mut().expect("a block begins with a command");
                    shown.output += line;
                    shown.output.push('\n');
                }
            }
        }
    }
    blocks
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[test]
fn the_policy_page_shows_what_commands_print() {
    let page = std::fs::read_to_string(root().join("docs/policy.md")).expect("the page");
    let binaries = Path::new(env!("CARGO_BIN_EXE_portcullis")).parent().expect("a folder");
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("{}:{path}", binaries.display());
    let (mut ran, mut wrong) = (0, Vec::new());
    for block in blocks(&page) {
        let mut status = None;
        for shown in block {
            let printed = if shown.command == "echo $?" {
                format!("{}\n", status.expect("a command before"))
            } else {
                let output = Command::new("sh")
                    .args(["-c", &format!("{{ {}\n}} 2>&1", shown.command)])
                    .current_dir(root().join("examples/shop"))
                    .env("PATH", &path)
                    .output()
                    .expect("a shell");
                status = output.status.code();
                String::from_utf8_lossy(&output.stdout).into_owned()
            };
            ran += 1;
            if printed.trim_end() != shown.output.trim_end() {
                wrong.push(format!(
                    "docs/policy.md:{}: $ {}\nprints\n{printed}\nnot\n{}",
                    shown.line, shown.command, shown.output
                ));
            }
        }
    }
    assert!(ran >= 10, "only {ran} commands found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
