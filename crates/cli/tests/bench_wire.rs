//! `portcullis bench wire --quick`: that every scenario gets packets, echoes and a TCP stream through,
//! not how many. Needs root; says so and skips without.

#[path = "../src/lab/mod.rs"]
#[allow(dead_code, unreachable_pub, unused_imports)] // each test uses its own part
mod lab;

use std::process::Command;

use serde_json::Value;

/// In the order in which they are printed.
const SCENARIOS: [&str; 10] = [
    "bare",
    "filter-10",
    "filter-10k",
    "filter-10k-watched",
    "bridge",
    "routing",
    "nft-100",
    "nft-1k",
    "nft-10k",
    "nft-map",
];

#[test]
fn every_scenario_carries_packets_and_is_reported() {
    if let Err(error) = lab::Namespace::new() {
        eprintln!("skipped: needs CAP_NET_ADMIN and CAP_SYS_ADMIN ({error})");
        return;
    }
    let output = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(["bench", "wire", "--quick"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let rows = report["scenarios"].as_array().unwrap();
    let has_nft = Command::new("nft").arg("--version").output().is_ok();
    let expected = SCENARIOS.iter().filter(|name| has_nft || !name.starts_with("nft"));
    let names: Vec<_> = rows.iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(names, expected.copied().collect::<Vec<_>>());
    for row in rows {
        let figure = |path: &str| {
            row.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("{path} of {row}"))
        };
        for path in [
            "/pps_in",
            "/pps_out/median",
            "/cpu_ns/median",
            "/paced/pps_out",
            "/latency_us/p50",
            "/latency_us/p99",
            "/latency_us/p99_9",
            "/tcp_gbps/median",
        ] {
            assert!(figure(path) > 0.0, "{path} of {row}");
        }
        let filters = row["name"].as_str().unwrap().starts_with("filter-10k");
        assert!(!filters || figure("/connections") > 90_000.0, "{row}");
    }
    for [of, over] in [["filter-10k", "bare"], ["filter-10k", "nft-1k"]] {
        let ratios = report["ratios"].as_array().unwrap();
        let found = ratios.iter().find(|ratio| ratio["of"] == of && ratio["over"] == over);
        assert!(found.is_some() || (over == "nft-1k" && !has_nft), "{of} over {over}: {ratios:?}");
    }
}
