//! Interfaces as metrics: so many one by one, the rest together. Names of pods' links come and go.

use crate::control::status::{Port, Queue};

/// Interfaces with series of their own: those added first.
pub(super) const PORTS: usize = 64;

/// One interface, or all beyond the bound.
#[derive(Debug)]
pub(super) struct Series {
    pub(super) name: String,
    pub(super) mode: String,
    /// How many interfaces it is about.
    pub(super) interfaces: usize,
    /// Queues of all of them.
    pub(super) all_queues: usize,
    /// Sums by the name of the queue.
    pub(super) queues: Vec<(String, Queue)>,
    /// Packets by what the XDP program did with them.
    pub(super) program: Vec<(String, u64)>,
}

/// One series for each of the first [`PORTS`] interfaces, one for all others.
pub(super) fn bounded(ports: &[Port]) -> Vec<Series> {
    let (first, rest) = ports.split_at(ports.len().min(PORTS));
    let one = |port: &Port| Series {
        name: port.name.clone(),
        mode: port.mode.clone(),
        interfaces: 1,
        all_queues: port.queues.len(),
        queues: port.queues.iter().map(|queue| (queue.queue.to_string(), queue.clone())).collect(),
        program: port.program.iter().map(|s| (s.verdict.clone(), s.packets)).collect(),
    };
    let mut all: Vec<Series> = first.iter().map(one).collect();
    if let Some((port, more)) = rest.split_first() {
        let others = "others".to_owned();
        let mut sum = Series { name: others.clone(), mode: others.clone(), ..one(port) };
        let mut queues = Queue::default();
        for port in rest {
            port.queues.iter().for_each(|queue| queues.add(queue));
        }
        sum.queues = vec![(others, queues)];
        for port in more {
            sum.interfaces += 1;
            sum.all_queues += port.queues.len();
            for ((_, packets), steered) in sum.program.iter_mut().zip(&port.program) {
                *packets += steered.packets;
            }
        }
        all.push(sum);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::status::Steered;

    #[test]
    fn five_hundred_interfaces_make_a_bounded_number_of_series_and_no_packet_is_missing() {
        let port = |n: usize| Port {
            name: format!("veth{n}"),
            wire: String::new(),
            mode: "native copy".to_owned(),
            mtu: 1500,
            queues: (0..2)
                .map(|queue| Queue { queue, rx_dropped: n as u64, ..Queue::default() })
                .collect(),
            program: vec![Steered { verdict: "to_socket".to_owned(), packets: 10, bytes: 0 }],
        };
        let ports: Vec<Port> = (0..500).map(port).collect();
        let series = bounded(&ports);
        assert_eq!(series.len(), PORTS + 1);
        assert_eq!(series.iter().map(|s| s.interfaces).sum::<usize>(), 500);
        assert_eq!(series.iter().map(|s| s.all_queues).sum::<usize>(), 1000);
        let dropped = series.iter().flat_map(|s| &s.queues).map(|(_, queue)| queue.rx_dropped);
        assert_eq!(dropped.sum::<u64>(), 2 * (0..500).sum::<u64>());
        let packets = series.iter().flat_map(|s| &s.program).map(|(_, packets)| packets);
        assert_eq!(packets.sum::<u64>(), 5000);
        assert_eq!(bounded(&ports[..PORTS]).len(), PORTS);
        assert!(bounded(&[]).is_empty());
    }
}
