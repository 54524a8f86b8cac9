//! Fragments: later ones follow an allowed first one, in order, and never alone.

use portcullis_tests::scene::frame::{datagram, fragment_v4, fragment_v6, protocol, segment};

use super::{Node, sent};

/// How a datagram is cut, in the family of the trial.
type Cut = fn(&[u8], u16, u16, bool, &[u8]) -> Vec<u8>;
const CUTS: [(&str, Cut); 2] = [("IPv4", fragment_v4), ("IPv6", fragment_v6)];

/// 24 bytes: a UDP header that tells of 72 bytes, and what follows.
fn first() -> Vec<u8> {
    datagram(4000, 9, &[7; 64])[..24].to_vec()
}

#[test]
fn fragments_pass_in_order_behind_their_first_one() {
    let node = Node::up("pk-fragments");
    for (family, (name, cut)) in CUTS.into_iter().enumerate() {
        let trial = node.trial(family);
        let whole = sent(family, protocol::UDP, &[]);
        let part = |id, offset, more, body: &[u8]| node.frame(&cut(&whole, id, offset, more, body));
        let head = part(1, 0, true, &first());
        let middle = part(1, 24, true, &[8; 24]);
        let tail = part(1, 48, false, &[9; 24]);
        let all = [head.clone(), middle.clone(), tail.clone()];
        trial.passes(&format!("{name}: three in order"), &all);
        trial.passes(&format!("{name}: the same again"), &all);
        let refused = |what: &str, frames: &[Vec<u8>], arrive| {
            trial.run(&format!("{name}: {what}"), frames, arrive, Some("fragment"));
        };
        refused("one behind the last", std::slice::from_ref(&tail), 0);
        refused("a lone later one", &[part(2, 24, true, &[8; 24])], 0);
        refused("a lone last one", &[part(3, 24, false, &[8; 24])], 0);
        refused("a hole", &[head.clone(), tail.clone()], 1);
        refused(
            "an overlap",
            &[head.clone(), part(1, 16, false, &[6; 24])],
            1,
        );
        refused(
            "the second twice",
            &[head.clone(), middle.clone(), middle.clone()],
            2,
        );
        refused(
            "of another datagram",
            &[head.clone(), part(4, 24, false, &[8; 24])],
            1,
        );
        // Over the ports: the first fragment's header would be written anew.
        refused(
            "a tiny offset",
            &[head.clone(), part(1, 8, false, &[0; 24])],
            1,
        );
        refused("beyond 65,535", &[part(5, 65_520, false, &[0; 24])], 0);
        refused("a first one of 20 bytes", &[part(6, 0, true, &[0; 20])], 0);
        refused("an empty one", &[part(7, 24, true, &[])], 0);
    }
    node.down();
}

#[test]
fn a_first_fragment_holds_the_whole_transport_header() {
    let node = Node::up("pk-first");
    for (family, (name, cut)) in CUTS.into_iter().enumerate() {
        let trial = node.trial(family);
        let whole = sent(family, protocol::TCP, &[]);
        let syn = segment(4000, 9, 2);
        let part = |id, body: &[u8]| node.frame(&cut(&whole, id, 0, true, body));
        trial.refuses(
            &format!("{name}: 16 of 20 bytes"),
            part(1, &syn[..16]),
            "malformed",
        );
        trial.refuses(
            &format!("{name}: 8 of 20 bytes"),
            part(2, &syn[..8]),
            "malformed",
        );
        let whole_header = [&syn[..], &[0; 4]].concat();
        trial.passes(&format!("{name}: all of it"), &[part(3, &whole_header)]);
    }
    let trial = node.trial(1);
    let twice = fragment_v6(&sent(1, protocol::UDP, &[]), 9, 0, true, &first());
    let mut twice = fragment_v6(&twice, 9, 0, true, &twice[40..]);
    twice[40] = 44;
    trial.refuses("two fragment headers", node.frame(&twice), "fragment");
    node.down();
}
