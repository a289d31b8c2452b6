//! Whatever the bytes: an answer soon, and no panic.

use std::fs;
use std::time::{Duration, Instant};

use portcullis_policy::{Source, load_policies, parse_cluster, parse_policies};
use proptest::prelude::*;

const POLICY: &str = "apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: p
  namespace: x
spec:
  podSelector: {}
";

fn refusal(text: impl Into<Vec<u8>>) -> String {
    parse_policies(&[Source::new("f", text)]).unwrap_err().to_string()
}

#[test]
fn line_ends_and_byte_order_marks_do_not_matter() {
    let plain = parse_policies(&[Source::new("f", POLICY)]).unwrap();
    let crlf = parse_policies(&[Source::new("f", POLICY.replace('\n', "\r\n"))]).unwrap();
    let mark = parse_policies(&[Source::new("f", format!("\u{feff}{POLICY}"))]).unwrap();
    assert_eq!(plain, crlf);
    assert_eq!(plain, mark);
}

#[test]
fn json_says_the_same_as_yaml() {
    let json = r#"
{"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
 "metadata": {"name": "p", "namespace": "x", "annotations": {"smile": "\ud83d\ude00 \u00e9\/"}},
	"spec": {"podSelector": {}}}
"#;
    let strip = |mut set: portcullis_policy::model::PolicySet| {
        set.tiers[0].policies[0].origin = Default::default();
        set
    };
    let yaml = parse_policies(&[Source::new("f", POLICY)]).unwrap();
    for name in ["f.json", "f", "<stdin>"] {
        let json = parse_policies(&[Source::new(name, json)]).unwrap();
        assert_eq!(strip(json.value), strip(yaml.value.clone()));
    }
}

#[test]
fn invalid_utf8_is_refused_where_it_stands() {
    let mut text = b"a: b\nc: \xc3\xa9".to_vec();
    text.extend(b"\xff");
    assert_eq!(refusal(text), "f:2:5: error: not UTF-8: byte 0xff");
    assert_eq!(refusal(b"\xff\xfea\0".to_vec()), "f:1:1: error: not UTF-8: byte 0xff");
}

#[test]
fn a_huge_file_is_refused_unread() {
    let folder = std::env::temp_dir().join(format!("portcullis-huge-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let path = folder.join("huge.yaml");
    fs::File::create(&path).unwrap().set_len(100 << 20).unwrap();
    let start = Instant::now();
    let error = load_policies([&path]).unwrap_err().to_string();
    fs::remove_dir_all(&folder).unwrap();
    assert!(error.ends_with("huge.yaml:1:1: error: larger than 64 MiB: split it"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(5));
}

/// Each of these was, or could have been, slow or deep in some parser.
#[test]
fn bombs_are_refused_soon() {
    let bombs = [
        "[".repeat(1 << 20),
        "- ".repeat(1 << 20),
        "? ".repeat(1 << 20),
        "{a: ".repeat(1 << 20),
        "{\"a\": ".repeat(1 << 20),
        (0..3000).map(|i| format!("{}a:\n", " ".repeat(i))).collect(),
        format!("[{}]", "a, ".repeat(5_000_000)),
        (0..200_000).map(|i| format!("- &a{i} x\n- *a{i}\n")).collect(),
        (0..100_000).map(|i| format!("k{i}: v\n")).collect(),
        "---\na: b\n".repeat(200_000),
        "!".repeat(1 << 20),
        "%TAG ! b\n".repeat(100_000),
        format!("\"{}", "a\n".repeat(1 << 20)),
        format!("a: {}b", " ".repeat(1 << 22)),
        "\t".repeat(1 << 22) + "x",
        "a".repeat(1 << 22),
        "#\n".repeat(1 << 21) + "x",
    ];
    for bomb in bombs {
        let start = Instant::now();
        let error = refusal(&*bomb);
        let shown: String = bomb.chars().take(20).collect();
        assert!(start.elapsed() < Duration::from_secs(20), "{shown}: {:?}", start.elapsed());
        assert!(error.len() < 100_000, "{shown}: {} bytes of errors", error.len());
    }
}

#[test]
fn a_million_networks_are_one_set() {
    let mut text = String::from(
        "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkSet\nmetadata: {name: feed}\nspec:\n  nets:\n",
    );
    for i in 0u32..1_000_000 {
        let [a, b, c, _] = (i << 8).to_be_bytes();
        text.push_str(&format!("  - {}.{b}.{c}.0/24\n", a | 0x10));
    }
    let set = parse_policies(&[Source::new("feed.yaml", text)]).unwrap().value;
    assert_eq!(set.sets[0].prefixes.len(), 1_000_000);
}

#[test]
fn one_bad_document_refuses_the_set() {
    let text = format!("{POLICY}---\n{}", POLICY.replace("podSelector", "podSelectors"));
    assert!(refusal(text).contains("f:15:3: error: spec has no field \"podSelectors\""));
}

#[test]
fn errors_are_bounded() {
    let text = format!("{POLICY}  ingress:\n{}", "  - {fro: []}\n".repeat(5000));
    let error = parse_policies(&[Source::new("f", text)]).unwrap_err();
    assert_eq!((error.errors.len(), error.omitted), (100, 4900));
}

#[test]
fn a_pod_address_belongs_to_one_live_pod() {
    let pod = |name, more| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{{more}}}\n\
             status: {{podIP: 10.0.0.1}}\n"
        )
    };
    let both = format!("{}---\n{}", pod("a", ""), pod("b", ""));
    let error = parse_cluster(&[Source::new("c", both)]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "c:11:17: error: pod default/b has the address 10.0.0.1 of pod default/a (c:5:17): an \
         address belongs to one live pod"
    );
    let hosts = format!("{}---\n{}", pod("a", "hostNetwork: true"), pod("b", "hostNetwork: true"));
    assert_eq!(parse_cluster(&[Source::new("c", hosts)]).unwrap().value.endpoints.len(), 2);
}

proptest! {
    #[test]
    fn any_text_gets_an_answer(text in "(apiVersion|kind|metadata|spec|[-:{}\\[\\],'\"#&*!|>%@` \n\t]|[a-z0-9]){0,200}") {
        let _ = parse_policies(&[Source::new("f", &*text)]);
        let _ = parse_policies(&[Source::new("f.json", &*text)]);
        let _ = parse_cluster(&[Source::new("f", &*text)]);
    }

    /// A document with one line damaged is refused or means something; it never panics.
    #[test]
    fn damaged_documents_get_an_answer(line in 0usize..7, at in 0usize..30, put in "[ -~\n]{0,3}") {
        let damaged: Vec<String> = POLICY.lines().enumerate().map(|(i, l)| {
            let mut l = l.to_owned();
            if i == line { l.insert_str(at.min(l.len()), &put); }
            l
        }).collect();
        let _ = parse_policies(&[Source::new("f", damaged.join("\n"))]);
    }
}
