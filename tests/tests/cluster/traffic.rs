//! Numbered traffic of allowed and denied pods to a server, while something happens to the cluster.

use portcullis_tests::cluster::Ground;
use portcullis_tests::cluster::ground::PORT;
use portcullis_tests::scene::traffic::{Conversation, Datagrams, Stream, Tally};

/// The server takes what friends send.
pub(crate) const FROM_FRIENDS: &str = "{podSelector: {matchLabels: {app: server}}, policyTypes: [Ingress], \
    ingress: [{from: [{podSelector: {matchLabels: {friend: 'yes'}}}]}]}";

/// Numbered traffic that has to get through, and some that must not.
pub(crate) struct Traffic {
    allowed: Vec<Datagrams>,
    denied: Datagrams,
    streams: Vec<Conversation>,
}

impl Traffic {
    /// From pods `near` and `far`, which are allowed, and `stranger`, which is not, to `server`.
    pub(crate) fn start(ground: &Ground) -> Self {
        let to = |index: usize| (ground.pod("server").addresses[index], PORT).into();
        let friends = ["near", "far"].map(|name| ground.netns(name));
        Self {
            allowed: friends
                .iter()
                .enumerate()
                .map(|(index, from)| Datagrams::start(from, to(index)))
                .collect(),
            denied: Datagrams::start(ground.netns("stranger"), to(0)),
            streams: friends
                .iter()
                .map(|from| Conversation::start(Stream::open(from, to(0))))
                .collect(),
        }
    }

    /// Demands that all of one came and none of the other.
    pub(crate) fn stop(self, what: &str) {
        let numbers: u64 = self.streams.into_iter().map(Conversation::stop).sum();
        let tallies: Vec<Tally> = self.allowed.into_iter().map(Datagrams::stop).collect();
        let denied = self.denied.stop();
        let sent: u32 = tallies.iter().map(|tally| tally.sent).sum();
        let lost: usize = tallies.iter().map(|tally| tally.lost.len()).sum();
        let passed = denied.sent as usize - denied.lost.len();
        println!(
            "{what}: {lost} of {sent} allowed datagrams lost, {passed} of {} denied ones passed, {numbers} numbers on open connections",
            denied.sent
        );
        assert_eq!((lost, passed), (0, 0), "{what}");
    }
}
