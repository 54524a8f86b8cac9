//! Numbered traffic of every kind at once: allowed datagrams, conversations, new connections without pause, and what has to be denied throughout.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use portcullis_lab::{NetNs, client};
use portcullis_tests::scene::traffic::{Conversation, Datagrams, Stream};
use portcullis_tests::scene::wire::{Kind, Segment, Wire, flag};
use portcullis_tests::scene::{Scene, ip};

use super::tcp;

const METADATA: [&str; 2] = ["169.254.169.254", "fd00:ec2::254"];

/// How much there was; lost and leaked are not here, they fail.
#[derive(Debug)]
#[expect(dead_code, reason = "the numbers are for whoever reads the output")]
pub(super) struct Counts {
    /// Datagrams of allowed flows, all answered.
    datagrams: u32,
    /// Numbers that open streams carried.
    exchanges: u64,
    /// Connections opened one after the other.
    connections: u64,
    /// Datagrams that were to be denied, all lost.
    denied: u32,
    /// SYNs that were to be denied.
    denied_syns: u64,
}

pub(super) struct Load {
    allowed: Vec<Datagrams>,
    denied: Vec<Datagrams>,
    conversations: Vec<Conversation>,
    openers: Vec<Opener>,
    knockers: Vec<Opener>,
    /// Where nothing may arrive: `other`, `web` and the outside.
    quiet: [Wire; 3],
    /// Sources of allowed packets, which `web` may get.
    replies: Vec<SocketAddr>,
}

impl Load {
    /// Under `super::POLICIES`.
    pub(super) fn start(scene: &Scene) -> Self {
        let (web, db, other) = (
            scene.netns("shop/web"),
            scene.netns("shop/db"),
            scene.netns("shop/other"),
        );
        let quiet = [
            Wire::of(scene, "shop/other"),
            Wire::of(scene, "shop/web"),
            Wire::outside(scene),
        ];
        let to_db = [tcp(scene, "shop/db"), scene.ports("shop/db", 5353)];
        let metadata = METADATA.map(|address| (ip(address), 53).into());
        let mut denied = Vec::new();
        for to in scene.ports("shop/other", 5353).into_iter().chain(metadata) {
            denied.push(Datagrams::start(web, to));
        }
        for to in scene.ports("shop/web", 5353) {
            denied.push(Datagrams::start(db, to));
            denied.push(Datagrams::start(other, to));
        }
        let openers = to_db[0].iter().map(|to| Opener::start(web, *to, true));
        let knocked = tcp(scene, "shop/web")
            .into_iter()
            .chain(tcp(scene, "shop/db"));
        let knockers = knocked.map(|to| Opener::start(other, to, false));
        Self {
            allowed: to_db[1]
                .iter()
                .map(|to| Datagrams::start(web, *to))
                .collect(),
            denied,
            conversations: to_db[0]
                .iter()
                .map(|to| Conversation::start(Stream::open(web, *to)))
                .collect(),
            openers: openers.collect(),
            knockers: knockers.collect(),
            quiet,
            replies: to_db.concat(),
        }
    }

    /// Stops it all; panics if anything was lost or leaked.
    pub(super) fn stop(self) -> Counts {
        let mut counts = Counts {
            datagrams: 0,
            exchanges: self.conversations.into_iter().map(Conversation::stop).sum(),
            connections: self.openers.into_iter().map(Opener::stop).sum(),
            denied: 0,
            denied_syns: self.knockers.into_iter().map(Opener::stop).sum(),
        };
        for tally in self.allowed.into_iter().map(Datagrams::stop) {
            assert!(
                tally.lost.is_empty(),
                "lost of {}: {:?}",
                tally.sent,
                tally.lost
            );
            counts.datagrams += tally.sent;
        }
        for tally in self.denied.into_iter().map(Datagrams::stop) {
            let answered = tally.sent - tally.lost.len() as u32;
            assert_eq!(answered, 0, "answered of {}", tally.sent);
            counts.denied += tally.sent;
        }
        let [other, web, outside] = &self.quiet;
        let transport = |segment: &Segment| matches!(segment.kind, Kind::Tcp(_) | Kind::Udp);
        assert_eq!(other.count_if(transport), 0, "packets reached other");
        assert_eq!(outside.count_if(transport), 0, "packets left the node");
        // The guard itself answers some of what it blocks, by a reset in the name of the metadata service.
        let reset = |segment: &Segment| {
            matches!(segment.kind, Kind::Tcp(flags) if flags & flag::RST != 0)
                && METADATA.map(ip).contains(&segment.src.ip())
        };
        let strange = |segment: &Segment| {
            transport(segment) && !self.replies.contains(&segment.src) && !reset(segment)
        };
        assert_eq!(web.count_if(strange), 0, "packets reached web");
        assert!(counts.datagrams > 0 && counts.denied > 0, "{counts:?}");
        assert!(counts.exchanges > 0 && counts.connections > 0, "{counts:?}");
        counts
    }
}

/// Opens connections one after the other.
struct Opener {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Opener {
    /// Each has to open, or none may.
    fn start(from: &NetNs, to: SocketAddr, allowed: bool) -> Self {
        let from = NetNs::open(from.path()).expect("the pod is there");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            let limit = Duration::from_millis(if allowed { 10_000 } else { 50 });
            let mut count = 0;
            while !stopped.load(Ordering::Relaxed) {
                let opened = client::connect_tcp(&from, to, limit).is_ok();
                assert_eq!(opened, allowed, "connection {count} to {to}");
                count += 1;
                thread::sleep(Duration::from_millis(2));
            }
            count
        });
        Self { stop, thread }
    }

    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread
            .join()
            .expect("every connection was as it should be")
    }
}
