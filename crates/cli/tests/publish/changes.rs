//! What happens while packets flow: versions of everything, one after the other, each looked at.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use portcullis::Judge;
use portcullis::dataplane::pipeline::Judgement;

use crate::bed::Bed;
use crate::documents::{self, PASSER, passes, source};
use crate::feed;
use crate::lab::traffic::STREAMS;
use crate::times::Times;

/// A new version of the feed comes with every so many of the policies.
const FEED_EVERY: usize = 5;
/// Of so many updates of endpoints two are of one with labels that no other has.
const NEW_LABELS_EVERY: usize = 100;

/// How much of each change a version is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    /// Updates of endpoints with each version: pods that come and go.
    pub(crate) updates: usize,
    /// Rules beside those that the traffic meets.
    pub(crate) rules: usize,
    /// Prefixes of the feed.
    pub(crate) prefixes: usize,
    /// How long packets flow by each version at least.
    pub(crate) linger: Duration,
}

/// Makes the changes and takes their times.
pub(crate) struct Changes<'a> {
    bed: &'a Bed,
    judge: Judge,
    version: usize,
    feed: usize,
    passer: bool,
    pub(crate) apply: Times,
    replace: Times,
    /// Until the call returns, and until a judge that asks then has judged by it.
    update: Times,
    pub(crate) visible: Times,
    /// The same, of endpoints with labels that no other has.
    new_labels: Times,
}

impl<'a> Changes<'a> {
    pub(crate) fn new(bed: &'a Bed) -> Self {
        Self {
            bed,
            judge: bed.firewall.judge(),
            version: 0,
            feed: 0,
            passer: false,
            apply: Times::of("apply of policies and cluster"),
            replace: Times::of("replacement of the feed"),
            update: Times::of("update of an endpoint"),
            visible: Times::of("the same, visible to a judge"),
            new_labels: Times::of("of those, with labels that no other endpoint has"),
        }
    }

    /// Puts the next versions in force, and sees to it that nothing passes that they do not let pass.
    pub(crate) fn next(&mut self, scale: Scale) {
        self.version += 1;
        let Self { bed, version, .. } = *self;
        let (cluster, policies) =
            (documents::cluster(version), documents::policies(version, scale.rules));
        let begin = Instant::now();
        bed.firewall.apply(cluster, policies).unwrap();
        self.apply.add(begin.elapsed());
        // The new cluster is without it.
        self.passer = false;
        if version % FEED_EVERY == 0 {
            self.feed += 1;
            let prefixes = feed::prefixes(self.feed, scale.prefixes);
            let begin = Instant::now();
            bed.firewall.sets().replace(feed::NAME, prefixes).unwrap();
            self.replace.add(begin.elapsed());
        }
        if version / 2 % 2 == 0 {
            self.endpoint("passer", source(PASSER), None, true);
            self.passer = true;
        }

        // Everything that was judged by something else is through.
        bed.settle();
        let before = bed.arrived();
        let begin = Instant::now();
        for n in 0..scale.updates / 2 {
            let name = format!("pod{n}");
            let address = Ipv4Addr::new(10, 77, 3, n as u8);
            let label = (n % (NEW_LABELS_EVERY / 2) == 7).then(|| format!("v{version}"));
            for there in [true, false] {
                self.endpoint(&name, address, label.as_deref(), there);
            }
        }
        std::thread::sleep(scale.linger.saturating_sub(begin.elapsed()));
        let after = bed.arrived();
        for stream in 0..STREAMS {
            let [before, after] = [before, after].map(|by_stream| by_stream[usize::from(stream)]);
            let may = passes(stream, version, self.feed, self.passer);
            assert!(
                may || before == after,
                "{} packets of stream {stream} passed by version {version} (feed {}, passer {}), \
                 which denies them",
                after - before,
                self.feed,
                self.passer
            );
        }
    }

    /// Adds an endpoint or takes it away; whoever judges then, judges by it.
    fn endpoint(&mut self, name: &str, address: Ipv4Addr, label: Option<&str>, there: bool) {
        let endpoint = documents::endpoint(name, address, label);
        let endpoints = self.bed.firewall.endpoints();
        let begin = Instant::now();
        if there {
            endpoints.upsert(endpoint).unwrap();
        } else {
            assert!(endpoints.remove("default", name).unwrap(), "{name} was there");
        }
        let took = begin.elapsed();
        let mut judgement = [Judgement::default()];
        self.judge.flows(&[documents::flow(address)], &mut judgement);
        let visible = begin.elapsed();
        let expected = if there { "allow" } else { "deny" };
        assert_eq!(judgement[0].verdict.as_str(), expected, "{name}: not in force yet");
        self.update.add(took);
        self.visible.add(visible);
        if label.is_some() {
            self.new_labels.add(visible);
        }
    }

    /// Prints all times.
    pub(crate) fn print(&mut self) {
        self.all().into_iter().for_each(Times::print);
    }

    /// Begins to measure anew.
    pub(crate) fn forget_times(&mut self) {
        self.all().into_iter().for_each(Times::forget);
    }

    fn all(&mut self) -> [&mut Times; 5] {
        let Self { apply, replace, update, visible, new_labels, .. } = self;
        [apply, replace, update, visible, new_labels]
    }
}
