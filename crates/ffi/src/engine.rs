//! Engines: policies, endpoints, sets, explanations, numbers.

#![allow(non_camel_case_types, reason = "the names are C's")]

use core::ffi::{c_char, c_int};
use std::path::Path;
use std::sync::Mutex;

use portcullis_core::dataplane::connection::OnPolicyChange;
use portcullis_core::dataplane::counter::Counted;
use portcullis_core::dataplane::reason::Reason;
use portcullis_core::dataplane::verdict::RuleId;
use portcullis_core::identity_table::endpoint::{ClusterState, Endpoint};
use portcullis_core::policy::model::PolicySet;
use portcullis_core::policy::{self, Diagnostic, Loaded, Source};
use portcullis_core::{Applied, Engine, EngineConfig};

use crate::handle::{self, Object, Table};
use crate::raw::{self, Growable};
use crate::status::{Failure, PORTCULLIS_BAD_VALUE};
use crate::types::{
    PORTCULLIS_NO_RULE, flag, portcullis_endpoint, portcullis_endpoint_name, portcullis_flow,
    portcullis_prefix, portcullis_text,
};

/// Policies over a cluster, and connections. Calls on one engine may come from any threads at once;
/// several engines know nothing of each other. Before something is applied every IP packet is dropped.
pub struct portcullis_engine {
    _opaque: [u8; 0],
}

static ENGINES: Table<Managed> = Table::new();

/// An engine, and what its documents gave reason to say.
pub(crate) struct Managed {
    pub(crate) engine: Engine,
    /// Findings of the last documents that were applied, a line each.
    warnings: Mutex<String>,
}

impl std::ops::Deref for Managed {
    type Target = Engine;

    fn deref(&self) -> &Engine {
        &self.engine
    }
}

impl Object for Managed {
    type Opaque = portcullis_engine;
    const KIND: usize = 0x51;
    fn table() -> &'static Table<Self> {
        &ENGINES
    }
}

/// A policy change leaves live connections alone.
pub const PORTCULLIS_KEEP: u8 = 1;
/// Live connections are judged again at their next packet (the default).
pub const PORTCULLIS_REJUDGE: u8 = 2;
/// Live connections are forgotten.
pub const PORTCULLIS_CUT: u8 = 3;

/// Settings of an engine. Set all of it to zero, then `struct_size` to `sizeof`; 0 is the default of
/// every field.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct portcullis_engine_config {
    /// `sizeof(portcullis_engine_config)`.
    pub struct_size: usize,
    /// Most connections at a time: at most 2^31.
    pub connections: usize,
    /// Events that wait at most, for each worker and judge: at most 2^24.
    pub event_capacity: usize,
    /// `PORTCULLIS_KEEP`, `PORTCULLIS_REJUDGE` or `PORTCULLIS_CUT`.
    pub on_policy_change: u8,
    /// 1: ARP is dropped.
    pub drop_arp: u8,
    /// 1: IPv6 neighbour discovery is judged like everything else.
    pub judge_neighbour_discovery: u8,
    /// 1: frames that are neither IP nor ARP pass.
    pub pass_non_ip: u8,
    /// 1: connections that are older than the engine may be picked up if the policy allows them.
    pub pick_up: u8,
    /// 1: programs are proved equal to the policies before they are published.
    pub prove: u8,
}

/// What a change put in force. Set `struct_size` first.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct portcullis_applied {
    /// `sizeof(portcullis_applied)`.
    pub struct_size: usize,
    /// Number of the set in force, from 1; changes of single endpoints do not count.
    pub generation: u64,
    /// Policies in it.
    pub policies: u64,
    /// Endpoints it knows.
    pub endpoints: u64,
    /// Identities they make, those of CIDRs included.
    pub identities: u64,
}

/// Numbers since the start, over all workers and judges. Set `struct_size` first.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct portcullis_totals {
    /// `sizeof(portcullis_totals)`.
    pub struct_size: usize,
    /// Packets received, or handed to a judge.
    pub received: u64,
    /// Bytes of these, from the Ethernet header on.
    pub received_bytes: u64,
    /// Packets forwarded, or allowed by a judge.
    pub forwarded: u64,
    /// Bytes of these.
    pub forwarded_bytes: u64,
    /// Packets dropped, for whatever reason (`portcullis_engine_drops` tells them apart).
    pub dropped: u64,
    /// Connections opened.
    pub opened: u64,
    /// Connections that ended.
    pub ended: u64,
    /// Connections now.
    pub connections: u64,
    /// Events that wait to be read.
    pub events_waiting: u64,
    /// Events that did not fit and were not reported.
    pub events_lost: u64,
    /// Packets whose unfinished checksum was completed.
    pub checksums_completed: u64,
    /// Answers sent to senders of rejected packets.
    pub rejects_sent: u64,
    /// Of `connections`, TCP connections whose handshake is not finished.
    pub half_open: u64,
    /// Connections that there is room for.
    pub capacity: u64,
    /// Connections that had to go because there was no more room.
    pub evicted: u64,
}

/// What one rule let pass and refused since the start. It grows at the end:
/// `portcullis_engine_rule_totals` takes its size.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct portcullis_rule_totals {
    /// The rule, for `portcullis_engine_rule`; `PORTCULLIS_NO_RULE` for packets of which none decided,
    /// `PORTCULLIS_OTHER_RULES` for rules that are counted together, because there are so many.
    pub rule: u32,
    /// Zero.
    pub reserved: u32,
    /// Packets let pass.
    pub passed: u64,
    /// Bytes of these.
    pub passed_bytes: u64,
    /// Packets not let pass.
    pub refused: u64,
    /// Bytes of these.
    pub refused_bytes: u64,
}

/// `rule` of what is counted for several rules together.
pub const PORTCULLIS_OTHER_RULES: u32 = 4294967294;

// SAFETY: `repr(C)`, integers only. (Functions take its size beside it.)
unsafe impl Growable for portcullis_rule_totals {
    const FIRST: usize = size_of::<Self>();
}

// SAFETY: `repr(C)`, the size first, integers only.
unsafe impl Growable for portcullis_engine_config {
    const FIRST: usize = core::mem::offset_of!(Self, prove) + 1;
}
// SAFETY: as above.
unsafe impl Growable for portcullis_applied {
    const FIRST: usize = size_of::<Self>();
}
// SAFETY: as above.
unsafe impl Growable for portcullis_totals {
    const FIRST: usize = core::mem::offset_of!(Self, checksums_completed);
}

/// Makes an engine with nothing in force.
///
/// `config`: NULL for all defaults. `out`: the engine; free it with `portcullis_engine_free`. Any
/// thread.
///
/// # Safety
/// `config` is NULL or begins with its size; `out` points to room for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_engine_new(
    config: *const portcullis_engine_config,
    out: *mut *mut portcullis_engine,
) -> i32 {
    handle::without(|| {
        raw::required(out)?;
        // SAFETY: by this function's contract.
        let config = unsafe { raw::read_growable(config, portcullis_engine_config::DEFAULT) }?;
        let engine = Engine::new(config.read()?)?;
        let engine = ENGINES.insert(Managed { engine, warnings: Mutex::default() })?;
        // SAFETY: by this function's contract.
        unsafe { raw::write(out, engine) };
        Ok(())
    })
}

/// Frees an engine. Its judges and firewalls keep what they need until they are freed too. NULL is
/// fine; an engine that was freed already is `PORTCULLIS_BAD_HANDLE`. Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn portcullis_engine_free(engine: *mut portcullis_engine) -> i32 {
    handle::free::<Managed>(engine)
}

/// The text of the last call on this engine that failed with one, NUL-terminated UTF-8. Works on a
/// poisoned engine too.
///
/// `buffer`, `size`: where to; a size of 0 asks for `needed` only. `needed`: bytes needed, the NUL
/// included; may be NULL. `PORTCULLIS_TOO_SMALL` if the text does not fit: nothing is written to the
/// buffer then.
///
/// # Safety
/// `buffer` has room for `size` bytes, `needed` is NULL or points to room for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_engine_error(
    engine: *const portcullis_engine,
    buffer: *mut c_char,
    size: usize,
    needed: *mut usize,
) -> i32 {
    handle::without(|| {
        let text = ENGINES.find(engine)?.error();
        // SAFETY: by this function's contract.
        unsafe { raw::copy_text(&text, buffer, size, needed) }
    })
}

/// Replaces cluster and policies by what these texts say. Compiled aside, then put in force with one
/// pointer store: a packet is judged by the old set or the new. Live connections are judged again.
/// Sets that were replaced keep their content.
///
/// `applied`: what is in force now; may be NULL. On any other status everything stays as it was; after
/// `PORTCULLIS_REFUSED` the error text has a line for each finding.
///
/// # Safety
/// The arrays have as many texts as their counts say, each as described there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_engine_apply(
    engine: *const portcullis_engine,
    cluster: *const portcullis_text,
    cluster_count: usize,
    policies: *const portcullis_text,
    policy_count: usize,
    applied: *mut portcullis_applied,
) -> i32 {
    handle::with::<Managed>(engine, |held| {
        // SAFETY: by this function's contract.
        let cluster = unsafe { sources(cluster, cluster_count) }?;
        // SAFETY: by this function's contract.
        let policies = unsafe { sources(policies, policy_count) }?;
        let (cluster, policies) = parse(&cluster, &policies)?;
        // SAFETY: by this function's contract.
        unsafe { apply(&held.object, cluster, policies, applied) }
    })
}

/// As `portcullis_engine_apply`, from files or folders (every `*.yaml`, `*.yml` and `*.json` in them).
///
/// # Safety
/// `cluster` and each of the `policy_count` `policies` is a NUL-terminated path.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_engine_apply_files(
    engine: *const portcullis_engine,
    cluster: *const c_char,
    policies: *const *const c_char,
    policy_count: usize,
    applied: *mut portcullis_applied,
) -> i32 {
    handle::with::<Managed>(engine, |held| {
        // SAFETY: by this function's contract.
        let cluster = unsafe { path(cluster) }?;
        let mut paths = Vec::new();
        // SAFETY: by this function's contract.
        for policy in unsafe { raw::slice(policies, policy_count) }? {
            // SAFETY: by this function's contract.
            paths.push(unsafe { path(*policy) }?);
        }
        let cluster = policy::load_cluster(cluster)?;
        let policies = policy::load_policies(paths)?;
        // SAFETY: by this function's contract.
        unsafe { apply(&held.object, cluster, policies, applied) }
    })
}

/// Replaces the cluster (namespaces, pods, nodes) by what these texts say, and leaves the policies. All
/// else as `portcullis_engine_apply`.
///
/// # Safety
/// The array has as many texts as its count says, each as described there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_engine_set_cluster(
    engine: *const portcullis_engine,
    cluster: *const portcullis_text,
    cluster_count: usize,
    applied: *mut portcullis_applied,
) -> i32 {
    handle::with::<Managed>(engine, |held| {
        // SAFETY: by this function's contract.
        let cluster = unsafe { sources(cluster, cluster_count) }?;
        let cluster = policy::parse_cluster(&cluster)?;
        // SAFETY: by this function's contract.
        unsafe { check_applied(applied) }?;
        let done = held.object.set_cluster(cluster.value)?;
        held.object.warn([&cluster.warnings]);
        // SAFETY: by this function's contract.
        unsafe { write_applied(applied, done) }
    })
}

/// What the documents that were applied last gave reason to warn of, a line `file:line:col: warning:
/// ...` for each finding: rules that do nothing, open questions of order. Empty if there was none.
/// Buffer and sizes as in `portcullis_engine_error`.
///
/// # Safety
/// `buffer` has room for `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_engine_warnings(
    engine: *const portcullis_engine,
    buffer: *mut c_char,
    size: usize,
    needed: *mut usize,
) -> i32 {
    handle::with::<Managed>(engine, |held| {
        let text = handle::lock(&held.object.warnings).clone();
        // SAFETY: by this function's contract.
        unsafe { raw::copy_text(&text, buffer, size, needed) }
    })
}

/// What is in force.
///
/// # Safety
/// `out` points to an `applied` whose `struct_size` is set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_engine_applied(
    engine: *const portcullis_engine,
    out: *mut portcullis_applied,
) -> i32 {
    handle::with::<Managed>(engine, |held| {
        raw::required(out)?;
        // SAFETY: by this function's contract.
        unsafe { write_applied(out, held.object.applied()) }
    })
}

/// Exactly which flows would be decided otherwise if these documents were applied, for people: groups
/// of flows, the decision before and after, an example each. Nothing is changed. What
/// `portcullis_engine_replace_set` put into sets stays in them, on both sides.
///
/// `cluster`: NULL, with a count of 0, for the cluster in force. `changes`: how many groups there are,
/// 0 if every flow is decided alike; may be NULL. Buffer and sizes as in `portcullis_engine_error`;
/// each call compares anew, so offer a generous buffer first.
///
/// # Safety
/// The arrays have as many texts as their counts say, `buffer` has room for `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_engine_diff(
    engine: *const portcullis_engine,
    cluster: *const portcullis_text,
    cluster_count: usize,
    policies: *const portcullis_text,
    policy_count: usize,
    buffer: *mut c_char,
    size: usize,
    needed: *mut usize,
    changes: *mut usize,
) -> i32 {
    handle::with::<Managed>(engine, |held| {
        let given = !cluster.is_null() || cluster_count > 0;
        // SAFETY: by this function's contract.
        let cluster = unsafe { sources(cluster, cluster_count) }?;
        // SAFETY: by this function's contract.
        let policies = unsafe { sources(policies, policy_count) }?;
        let (cluster, policies) = parse(&cluster, &policies)?;
        let cluster = if given { cluster.value } else { held.object.in_force().0 };
        let diff = held.object.diff(&cluster, &policies.value)?;
        // SAFETY: by this function's contract.
        unsafe { raw::copy_text(&diff.to_string(), buffer, size, needed) }?;
        // SAFETY: by this function's contract.
        unsafe { raw::write(changes, diff.changes.len()) };
        Ok(())
    })
}

/// Adds endpoints, or replaces those of the same namespace and name, one after the other. Each is in
/// force when the next begins; the first that is refused ends the call.
///
/// `endpoint_size`: `sizeof(portcullis_endpoint)`. `done`: how many are in force; may be NULL; written
/// also if one was refused.
///
/// # Safety
/// `endpoints` has `count` endpoints of that size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_engine_upsert_endpoints(
    engine: *const portcullis_engine,
    endpoints: *const portcullis_endpoint,
    endpoint_size: usize,
    count: usize,
    done: *mut usize,
) -> i32 {
    handle::with::<Managed>(engine, |held| {
        // SAFETY: by this function's contract.
        let endpoints = unsafe { read_endpoints(endpoints, endpoint_size, count) }?;
        for (n, endpoint) in endpoints.into_iter().enumerate() {
            let result = held.object.endpoints().upsert(endpoint);
            // SAFETY: by this function's contract.
            unsafe { raw::write(done, n + usize::from(result.is_ok())) };
            result?;
        }
        Ok(())
    })
}

/// Takes endpoints out: their addresses are then outside the cluster.
///
/// `removed`: how many were there; may be NULL.
///
/// # Safety
/// `names` has `count` names.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_engine_remove_endpoints(
    engine: *const portcullis_engine,
    names: *const portcullis_endpoint_name,
    count: usize,
    removed: *mut usize,
) -> i32 {
    handle::with::<Managed>(engine, |held| {
        let mut read = Vec::new();
        // SAFETY: by this function's contract.
        for name in unsafe { raw::slice(names, count) }? {
            // SAFETY: by this function's contract.
            let namespace = unsafe { raw::text(name.namespace_name) }?;
            // SAFETY: by this function's contract.
            read.push((namespace, unsafe { raw::text(name.name) }?));
        }
        let mut gone = 0;
        for (namespace, name) in read {
            gone += usize::from(held.object.endpoints().remove(namespace, name)?);
        }
        // SAFETY: by this function's contract.
        unsafe { raw::write(removed, gone) };
        Ok(())
    })
}

/// Makes the endpoints exactly these, all at once: no packet is judged by a mix.
///
/// # Safety
/// `endpoints` has `count` endpoints of that size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_engine_replace_endpoints(
    engine: *const portcullis_engine,
    endpoints: *const portcullis_endpoint,
    endpoint_size: usize,
    count: usize,
) -> i32 {
    handle::with::<Managed>(engine, |held| {
        // SAFETY: by this function's contract.
        let endpoints = unsafe { read_endpoints(endpoints, endpoint_size, count) }?;
        held.object.endpoints().replace_all(endpoints)?;
        Ok(())
    })
}

/// Makes a set that the policies declare hold exactly these prefixes, all at once; it keeps them when
/// policies are applied again. Millions are fine; about a second each million.
///
/// `name`: as policies have it, such as `GlobalNetworkSet//feed` or `NetworkSet/shop/partners`.
///
/// # Safety
/// `name` is NUL-terminated, `prefixes` has `count` prefixes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_engine_replace_set(
    engine: *const portcullis_engine,
    name: *const c_char,
    prefixes: *const portcullis_prefix,
    count: usize,
) -> i32 {
    handle::with::<Managed>(engine, |held| {
        // SAFETY: by this function's contract.
        let name = unsafe { raw::text(name) }?;
        // SAFETY: by this function's contract.
        let prefixes = unsafe { raw::slice(prefixes, count) }?;
        let prefixes = prefixes.iter().map(portcullis_prefix::read).collect::<Result<_, _>>()?;
        held.object.sets().replace(name, prefixes)?;
        Ok(())
    })
}

/// Lets the documents say again what a set holds, from the next apply on.
///
/// `forgotten`: 1 if the set had been replaced, else 0; may be NULL.
///
/// # Safety
/// `name` is NUL-terminated, `forgotten` is NULL or points to room for an `int`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_engine_forget_set(
    engine: *const portcullis_engine,
    name: *const c_char,
    forgotten: *mut c_int,
) -> i32 {
    handle::with::<Managed>(engine, |held| {
        // SAFETY: by this function's contract.
        let name = unsafe { raw::text(name) }?;
        let known = held.object.sets().forget(name);
        // SAFETY: by this function's contract.
        unsafe { raw::write(forgotten, known.into()) };
        Ok(())
    })
}

/// The sets that the policies declare, a line `prefixes name` for each, such as `1000000
/// GlobalNetworkSet//feed`. Buffer and sizes as in `portcullis_engine_error`.
///
/// # Safety
/// `buffer` has room for `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_engine_sets(
    engine: *const portcullis_engine,
    buffer: *mut c_char,
    size: usize,
    needed: *mut usize,
) -> i32 {
    handle::with::<Managed>(engine, |held| {
        let sets = held.object.sets().list();
        let lines = sets.iter().map(|(name, count)| format!("{count} {name}"));
        let text = lines.collect::<Vec<_>>().join("\n");
        // SAFETY: by this function's contract.
        unsafe { raw::copy_text(&text, buffer, size, needed) }
    })
}

/// Why a flow is decided as it is, for people: the tiers walked, the rule with file and line, near
/// misses. Buffer and sizes as in `portcullis_engine_error`.
///
/// # Safety
/// `flow` points to a flow, `buffer` has room for `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_engine_explain(
    engine: *const portcullis_engine,
    flow: *const portcullis_flow,
    buffer: *mut c_char,
    size: usize,
    needed: *mut usize,
) -> i32 {
    handle::with::<Managed>(engine, |held| {
        // SAFETY: by this function's contract.
        let flow = unsafe { raw::slice(flow, 1) }?[0].read()?;
        if flow.source.is_ipv4() != flow.destination.is_ipv4() {
            return Err(Failure::new(
                PORTCULLIS_BAD_VALUE,
                "error: a flow of two address families",
            ));
        }
        let text = held.object.explain(&flow).to_string();
        // SAFETY: by this function's contract.
        unsafe { raw::copy_text(&text, buffer, size, needed) }
    })
}

/// The rule of a judgement, as `policy direction file:line:column`; also if its policy is gone.
/// `PORTCULLIS_BAD_VALUE` if there is none. Buffer and sizes as in `portcullis_engine_error`.
///
/// # Safety
/// `buffer` has room for `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_engine_rule(
    engine: *const portcullis_engine,
    rule: u32,
    buffer: *mut c_char,
    size: usize,
    needed: *mut usize,
) -> i32 {
    handle::with::<Managed>(engine, |held| {
        let rule = held.object.rule(RuleId::new(rule)).ok_or(PORTCULLIS_BAD_VALUE)?;
        let direction = match rule.direction {
            policy::model::Direction::Ingress => "ingress",
            policy::model::Direction::Egress => "egress",
        };
        let text = format!("{} {direction} {}", rule.policy.name, rule.origin);
        // SAFETY: by this function's contract.
        unsafe { raw::copy_text(&text, buffer, size, needed) }
    })
}

/// What was counted since the start.
///
/// # Safety
/// `out` points to totals whose `struct_size` is set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_engine_totals(
    engine: *const portcullis_engine,
    out: *mut portcullis_totals,
) -> i32 {
    handle::with::<Managed>(engine, |held| {
        let totals = held.object.totals();
        let value = portcullis_totals {
            struct_size: 0,
            received: totals.received,
            received_bytes: totals.received_bytes,
            forwarded: totals.forwarded,
            forwarded_bytes: totals.forwarded_bytes,
            dropped: totals.dropped,
            opened: totals.opened,
            ended: totals.ended,
            connections: totals.connections as u64,
            events_waiting: totals.events_waiting as u64,
            events_lost: totals.events_lost,
            checksums_completed: totals.checksums_completed,
            rejects_sent: totals.rejects_sent,
            half_open: totals.half_open as u64,
            capacity: totals.capacity as u64,
            evicted: totals.evicted,
        };
        // SAFETY: by this function's contract.
        unsafe { raw::write_growable(out, value) }
    })
}

/// Packets dropped since the start, by reason: `counts[n]` is that of reason `n`
/// (`portcullis_reason_name`).
///
/// `capacity`: room in `counts`; reasons beyond are left out. `count`: how many reasons there are.
///
/// # Safety
/// `counts` has room for `capacity` numbers, `count` is NULL or points to room for one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_engine_drops(
    engine: *const portcullis_engine,
    counts: *mut u64,
    capacity: usize,
    count: *mut usize,
) -> i32 {
    handle::with::<Managed>(engine, |held| {
        // SAFETY: by this function's contract.
        let room = unsafe { raw::slice_mut(counts, capacity) }?;
        let drops = held.object.totals().drops;
        for (room, reason) in room.iter_mut().zip(Reason::ALL) {
            let dropped = drops.iter().find(|(known, _)| known == reason);
            room.write(dropped.map_or(0, |(_, count)| *count));
        }
        // SAFETY: by this function's contract.
        unsafe { raw::write(count, Reason::ALL.len()) };
        Ok(())
    })
}

/// What each rule did since the start, over all workers and judges: rules that decided of a packet at
/// least.
///
/// `rule_size`: `sizeof(portcullis_rule_totals)`. `capacity`: room in `rules`; what is beyond is left
/// out. `count`: how many there are, which may be more by the next call.
///
/// # Safety
/// `rules` has room for `capacity` of that size, `count` points to room for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_engine_rule_totals(
    engine: *const portcullis_engine,
    rules: *mut portcullis_rule_totals,
    rule_size: usize,
    capacity: usize,
    count: *mut usize,
) -> i32 {
    handle::with::<Managed>(engine, |held| {
        raw::required(count)?;
        raw::check_size::<portcullis_rule_totals>(rule_size)?;
        let bytes = rule_size.checked_mul(capacity).ok_or(PORTCULLIS_BAD_VALUE)?;
        // SAFETY: by this function's contract.
        let room = unsafe { raw::slice_mut(rules.cast::<u8>(), bytes) }?;
        let totals = held.object.rule_totals();
        for (room, totals) in room.chunks_exact_mut(rule_size).zip(&totals) {
            let value = portcullis_rule_totals {
                rule: match totals.counted {
                    Counted::Rule(number) => number.get(),
                    Counted::Others => PORTCULLIS_OTHER_RULES,
                    Counted::NoRule => PORTCULLIS_NO_RULE,
                },
                reserved: 0,
                passed: totals.sums.passed,
                passed_bytes: totals.sums.passed_bytes,
                refused: totals.sums.refused,
                refused_bytes: totals.sums.refused_bytes,
            };
            // SAFETY: the room is of that size.
            unsafe { raw::write_sized(room.as_mut_ptr().cast(), rule_size, value) }?;
        }
        // SAFETY: by this function's contract.
        unsafe { raw::write(count, totals.len()) };
        Ok(())
    })
}

impl Managed {
    fn warn<'a>(&self, warnings: impl IntoIterator<Item = &'a Vec<Diagnostic>>) {
        let lines = warnings.into_iter().flatten().map(ToString::to_string);
        *handle::lock(&self.warnings) = lines.collect::<Vec<_>>().join("\n");
    }
}

fn parse(
    cluster: &[Source],
    policies: &[Source],
) -> Result<(Loaded<ClusterState>, Loaded<PolicySet>), Failure> {
    Ok((policy::parse_cluster(cluster)?, policy::parse_policies(policies)?))
}

/// # Safety
/// As the functions that call it.
unsafe fn apply(
    managed: &Managed,
    cluster: Loaded<ClusterState>,
    policies: Loaded<PolicySet>,
    out: *mut portcullis_applied,
) -> Result<(), Failure> {
    // SAFETY: by this function's contract.
    unsafe { check_applied(out) }?;
    let applied = managed.engine.apply(cluster.value, policies.value)?;
    managed.warn([&cluster.warnings, &policies.warnings]);
    // SAFETY: by this function's contract.
    unsafe { write_applied(out, applied) }
}

/// A wrong size must not be noticed only after the change.
///
/// # Safety
/// `out` is NULL or begins with its size.
unsafe fn check_applied(out: *const portcullis_applied) -> Result<(), Failure> {
    if out.is_null() {
        return Ok(());
    }
    // SAFETY: by this function's contract.
    unsafe { raw::check_growable(out) }
}

/// # Safety
/// `out` is NULL or begins with its size.
unsafe fn write_applied(out: *mut portcullis_applied, applied: Applied) -> Result<(), Failure> {
    if out.is_null() {
        return Ok(());
    }
    let Applied { generation, policies, endpoints, identities } = applied;
    let value = portcullis_applied {
        struct_size: 0,
        generation,
        policies: policies as u64,
        endpoints: endpoints as u64,
        identities: identities as u64,
    };
    // SAFETY: by this function's contract.
    unsafe { raw::write_growable(out, value) }
}

/// A path of documents. `-`, which would be the standard input of the whole program, is refused.
///
/// # Safety
/// As [`raw::text`].
unsafe fn path<'a>(text: *const c_char) -> Result<&'a Path, Failure> {
    // SAFETY: by this function's contract.
    match unsafe { raw::text(text) }? {
        "-" => Err(Failure::new(
            PORTCULLIS_BAD_VALUE,
            "error: `-`: the library does not read the program's standard input; a file of this \
             name is `./-`",
        )),
        path => Ok(Path::new(path)),
    }
}

/// # Safety
/// As the functions that call it.
unsafe fn read_endpoints(
    start: *const portcullis_endpoint,
    size: usize,
    count: usize,
) -> Result<Vec<Endpoint>, Failure> {
    // SAFETY: by this function's contract.
    let read = unsafe { raw::read_array(start, size, count, portcullis_endpoint::EMPTY) }?;
    // SAFETY: by this function's contract.
    read.iter().map(|endpoint| unsafe { endpoint.read() }).collect()
}

/// # Safety
/// As the functions that call it.
unsafe fn sources(start: *const portcullis_text, count: usize) -> Result<Vec<Source>, Failure> {
    let mut sources = Vec::new();
    // SAFETY: by this function's contract.
    for text in unsafe { raw::slice(start, count) }? {
        // SAFETY: by this function's contract.
        let name = unsafe { raw::text(text.name) }?;
        // SAFETY: by this function's contract.
        let data = unsafe { raw::slice(text.data, text.len) }?;
        sources.push(Source::new(name, data));
    }
    Ok(sources)
}

const MOST_CONNECTIONS: usize = 1 << 31;
const MOST_EVENTS: usize = 1 << 24;

impl portcullis_engine_config {
    const DEFAULT: Self = Self {
        struct_size: size_of::<Self>(),
        connections: 0,
        event_capacity: 0,
        on_policy_change: 0,
        drop_arp: 0,
        judge_neighbour_discovery: 0,
        pass_non_ip: 0,
        pick_up: 0,
        prove: 0,
    };

    fn read(&self) -> Result<EngineConfig, Failure> {
        let mut config = EngineConfig::default();
        let pipeline = &mut config.pipeline;
        if self.connections > 0 {
            if self.connections > MOST_CONNECTIONS {
                return Err(PORTCULLIS_BAD_VALUE.into());
            }
            pipeline.connections.capacity = self.connections;
        }
        if self.event_capacity > 0 {
            if self.event_capacity > MOST_EVENTS {
                return Err(PORTCULLIS_BAD_VALUE.into());
            }
            pipeline.event_capacity = self.event_capacity;
        }
        pipeline.connections.on_policy_change = match self.on_policy_change {
            0 | PORTCULLIS_REJUDGE => OnPolicyChange::Rejudge,
            PORTCULLIS_KEEP => OnPolicyChange::Keep,
            PORTCULLIS_CUT => OnPolicyChange::Cut,
            _ => return Err(PORTCULLIS_BAD_VALUE.into()),
        };
        pipeline.pass_arp = !flag(self.drop_arp)?;
        pipeline.pass_neighbour_discovery = !flag(self.judge_neighbour_discovery)?;
        pipeline.pass_non_ip = flag(self.pass_non_ip)?;
        pipeline.connections.pick_up = flag(self.pick_up)?;
        if flag(self.prove)? {
            config.policy.prove = policy::Prove::Everything;
        }
        Ok(config)
    }
}
