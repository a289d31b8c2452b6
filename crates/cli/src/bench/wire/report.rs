//! From runs to figures.

use serde::Serialize;

use super::scenario::{Scenario, Stand};
use super::{Args, Run};

/// Everything measured on one stand.
pub(super) struct Measured {
    scenario: Scenario,
    modes: Vec<String>,
    has_worker: bool,
    pub(super) connections: Option<usize>,
    pub(super) full: Vec<Run>,
    pub(super) paced: Vec<Run>,
    /// Round trips in microseconds.
    pub(super) echoes: Vec<f64>,
    pub(super) echoes_lost: usize,
    /// Gigabits a second.
    pub(super) tcp: Vec<f64>,
}

impl Measured {
    pub(super) fn new(stand: &Stand) -> Self {
        Self {
            scenario: stand.scenario,
            modes: stand.modes(),
            has_worker: stand.has_worker(),
            connections: None,
            full: Vec::new(),
            paced: Vec::new(),
            echoes: Vec::new(),
            echoes_lost: 0,
            tcp: Vec::new(),
        }
    }
}

/// What is printed.
#[derive(Serialize)]
pub(super) struct Report {
    rounds: u32,
    seconds: f64,
    cpus: usize,
    scenarios: Vec<Row>,
    /// Packets a second of one scenario over those of another, round by round.
    ratios: Vec<Ratio>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    notes: Vec<String>,
}

/// A median, with the least and the greatest.
#[derive(Serialize)]
pub(in super::super) struct Figure {
    pub(in super::super) median: f64,
    pub(in super::super) spread: [f64; 2],
}

#[derive(Serialize)]
struct Row {
    name: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    modes: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connections: Option<usize>,
    /// At full load: more is sent than gets through.
    pps_in: f64,
    pps_out: Figure,
    lost: f64,
    /// CPU time a forwarded packet, of the worker, or of the kernel with the generator in it.
    cpu_ns: Figure,
    cpu_is_of: &'static str,
    paced: Paced,
    latency_us: Latency,
    tcp_gbps: Figure,
}

/// At a rate below full load.
#[derive(Serialize)]
struct Paced {
    pps_in: f64,
    pps_out: f64,
    lost: u64,
    sent: u64,
    /// Cores in use by the worker, or by the kernel with the generator in it.
    cpu_cores: f64,
}

/// Of UDP round trips, without other load.
#[derive(Serialize)]
struct Latency {
    p50: f64,
    p99: f64,
    p99_9: f64,
    lost: usize,
}

#[derive(Serialize)]
struct Ratio {
    of: String,
    over: String,
    pps: Figure,
    /// The same for packets that a second of the worker's CPU time forwards, which other load on
    /// the machine disturbs less; where both have a worker.
    #[serde(skip_serializing_if = "Option::is_none")]
    per_cpu: Option<Figure>,
}

impl Report {
    pub(super) fn new(args: &Args, measured: &[Measured], notes: Vec<String>) -> Self {
        use Scenario::{Bare, Bridge, Filter10, Filter10k, Filter10kWatched, Nft1k, Routing};
        let find = |wanted| measured.iter().find(|m| m.scenario == wanted);
        let pairs = [
            (Filter10, Bare),
            (Filter10k, Bare),
            (Filter10k, Filter10),
            (Filter10kWatched, Filter10k),
            (Filter10k, Bridge),
            (Filter10k, Routing),
            (Filter10k, Nft1k),
        ];
        let ratios =
            pairs.iter().filter_map(|(of, over)| Some(Ratio::of(find(*of)?, find(*over)?)));
        Self {
            rounds: args.rounds,
            seconds: args.seconds,
            cpus: std::thread::available_parallelism().map_or(1, Into::into),
            scenarios: measured.iter().map(Row::of).collect(),
            ratios: ratios.collect(),
            notes,
        }
    }
}

impl Row {
    fn of(measured: &Measured) -> Self {
        let Measured { full, paced, echoes, .. } = measured;
        let cpu = |run: &Run| if measured.has_worker { run.worker_cpu } else { run.generator_cpu };
        let seconds: f64 = paced.iter().map(|run| run.sent.seconds).sum();
        let mut echoes = echoes.clone();
        echoes.sort_by(f64::total_cmp);
        Self {
            name: measured.scenario.name(),
            modes: measured.modes.clone(),
            connections: measured.connections,
            pps_in: Figure::of(full.iter().map(Run::pps_in)).median,
            pps_out: Figure::of(full.iter().map(Run::pps_out)),
            lost: Figure::of(full.iter().map(|run| run.lost() as f64)).median,
            cpu_ns: Figure::of(full.iter().map(|r| cpu(r) * 1e9 / r.received.max(1) as f64)),
            cpu_is_of: if measured.has_worker { "worker" } else { "kernel and generator" },
            paced: Paced {
                pps_in: Figure::of(paced.iter().map(Run::pps_in)).median,
                pps_out: Figure::of(paced.iter().map(Run::pps_out)).median,
                lost: paced.iter().map(Run::lost).sum(),
                sent: paced.iter().map(|run| run.sent.packets).sum(),
                cpu_cores: paced.iter().map(cpu).sum::<f64>() / seconds.max(f64::MIN_POSITIVE),
            },
            latency_us: Latency {
                p50: percentile(&echoes, 0.5),
                p99: percentile(&echoes, 0.99),
                p99_9: percentile(&echoes, 0.999),
                lost: measured.echoes_lost,
            },
            tcp_gbps: Figure::of(measured.tcp.iter().copied()),
        }
    }
}

impl Ratio {
    fn of(of: &Measured, over: &Measured) -> Self {
        let rounds = || of.full.iter().zip(&over.full);
        let per_cpu = |run: &Run| run.received as f64 / run.worker_cpu.max(1e-9);
        let both = of.has_worker && over.has_worker;
        Self {
            of: of.scenario.name(),
            over: over.scenario.name(),
            pps: Figure::of(rounds().map(|(a, b)| a.pps_out() / b.pps_out().max(1.0))),
            per_cpu: both
                .then(|| Figure::of(rounds().map(|(a, b)| per_cpu(a) / per_cpu(b).max(1.0)))),
        }
    }
}

impl Figure {
    pub(in super::super) fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let end = |value: Option<&f64>| value.copied().unwrap_or(0.0);
        Self { median: percentile(&values, 0.5), spread: [end(values.first()), end(values.last())] }
    }
}

/// Of sorted values; 0 if there are none.
pub(in super::super) fn percentile(sorted: &[f64], part: f64) -> f64 {
    let at = (sorted.len() as f64 * part) as usize;
    sorted.get(at.min(sorted.len().saturating_sub(1))).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_medians_with_their_spread() {
        let figure = Figure::of([3.0, 1.0, 2.0].into_iter());
        assert_eq!((figure.median, figure.spread), (2.0, [1.0, 3.0]));
        let hundred: Vec<f64> = (1..=1000).map(f64::from).collect();
        assert_eq!(percentile(&hundred, 0.999), 1000.0);
        assert_eq!(percentile(&hundred, 0.99), 991.0);
        assert_eq!(percentile(&[], 0.5), 0.0);
    }
}
