//! The identity table beside the crates prefix-trie and treebitmap: lookups of 110,000 prefixes,
//! and a pod that comes and goes.
//!
//! `cargo bench --bench lpm`; beside DPDK's tables: `cargo bench --bench tbl_peers`.

#[path = "support/tables.rs"]
#[allow(dead_code, reason = "shared with tbl_peers, which needs more of it")]
mod tables;

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use ip_network_table_deps_treebitmap::IpLookupTable;
use ipnet::{Ipv4Net, Ipv6Net};
use portcullis::identity_table::{IdentityId, Prefix, Writer};
use prefix_trie::PrefixMap;
use tables::{Table, Trace};

const QUERIES: usize = 1 << 16;

fn net4(prefix: &Prefix) -> Ipv4Net {
    match prefix.address() {
        IpAddr::V4(address) => Ipv4Net::new_assert(address, prefix.len()),
        IpAddr::V6(_) => unreachable!("an IPv4 table"),
    }
}

fn net6(prefix: &Prefix) -> Ipv6Net {
    match prefix.address() {
        IpAddr::V6(address) => Ipv6Net::new_assert(address, prefix.len()),
        IpAddr::V4(_) => unreachable!("an IPv6 table"),
    }
}

fn ours(table: &Table) -> Writer {
    let mut writer = Writer::new();
    writer.load(table.rows.iter().copied()).expect("far below the limit");
    writer
}

fn lookups4(c: &mut Criterion) {
    let table = tables::pods4();
    let writer = ours(&table);
    let reader = writer.reader();
    let trie: PrefixMap<Ipv4Net, IdentityId> =
        table.rows.iter().map(|(prefix, id)| (net4(prefix), *id)).collect();
    let mut bitmap = IpLookupTable::new();
    for (prefix, id) in &table.rows {
        bitmap.insert(net4(prefix).addr(), prefix.len().into(), *id);
    }
    for (name, skewed) in [("pods4 uniform", false), ("pods4 skewed", true)] {
        let Trace::V4(addresses) = table.trace(QUERIES, skewed) else { unreachable!() };
        let mut ids = vec![IdentityId::UNKNOWN; QUERIES];
        let mut group = c.benchmark_group(name);
        group.throughput(Throughput::Elements(QUERIES as u64));
        group.bench_function("portcullis batch of 256", |b| {
            b.iter(|| {
                for (addresses, ids) in addresses.chunks(256).zip(ids.chunks_mut(256)) {
                    reader.pin().lookup_v4_batch(addresses, ids);
                }
                black_box(&ids);
            });
        });
        group.bench_function("portcullis one by one", |b| {
            b.iter(|| {
                let guard = reader.pin();
                addresses.iter().for_each(|a| _ = black_box(guard.lookup_v4(*a)));
            });
        });
        group.bench_function("prefix-trie", |b| {
            let hosts = addresses.iter().map(|a| Ipv4Net::from(Ipv4Addr::from(*a)));
            b.iter(|| hosts.clone().for_each(|host| _ = black_box(trie.get_lpm(&host))));
        });
        group.bench_function("treebitmap", |b| {
            let hosts = addresses.iter().map(|a| Ipv4Addr::from(*a));
            b.iter(|| hosts.clone().for_each(|host| _ = black_box(bitmap.longest_match(host))));
        });
    }
}

fn lookups6(c: &mut Criterion) {
    let table = tables::pods6();
    let writer = ours(&table);
    let reader = writer.reader();
    let trie: PrefixMap<Ipv6Net, IdentityId> =
        table.rows.iter().map(|(prefix, id)| (net6(prefix), *id)).collect();
    let mut bitmap = IpLookupTable::new();
    for (prefix, id) in &table.rows {
        bitmap.insert(net6(prefix).addr(), prefix.len().into(), *id);
    }
    for (name, skewed) in [("pods6 uniform", false), ("pods6 skewed", true)] {
        let Trace::V6(addresses) = table.trace(QUERIES, skewed) else { unreachable!() };
        let mut ids = vec![IdentityId::UNKNOWN; QUERIES];
        let mut group = c.benchmark_group(name);
        group.throughput(Throughput::Elements(QUERIES as u64));
        group.bench_function("portcullis batch of 256", |b| {
            b.iter(|| {
                for (addresses, ids) in addresses.chunks(256).zip(ids.chunks_mut(256)) {
                    reader.pin().lookup_v6_batch(addresses, ids);
                }
                black_box(&ids);
            });
        });
        group.bench_function("prefix-trie", |b| {
            let hosts = addresses.iter().map(|a| Ipv6Net::from(Ipv6Addr::from(*a)));
            b.iter(|| hosts.clone().for_each(|host| _ = black_box(trie.get_lpm(&host))));
        });
        group.bench_function("treebitmap", |b| {
            let hosts = addresses.iter().map(|a| Ipv6Addr::from(*a));
            b.iter(|| hosts.clone().for_each(|host| _ = black_box(bitmap.longest_match(host))));
        });
    }
}

fn updates(c: &mut Criterion) {
    let mut group = c.benchmark_group("a pod comes and goes");
    for (name, table) in [("pods4", tables::pods4()), ("pods6", tables::pods6())] {
        let mut writer = ours(&table);
        let mut next = 0;
        group.bench_function(name, |b| {
            let row = || {
                next = (next + 7919) % 100_000;
                table.rows[next]
            };
            let change = |(prefix, id): (Prefix, IdentityId)| {
                writer.remove(&prefix).expect("room");
                writer.insert(prefix, id).expect("room");
            };
            b.iter_batched(row, change, BatchSize::SmallInput);
        });
    }
}

criterion_group!(benches, lookups4, lookups6, updates);
criterion_main!(benches);
