//! Properties of every plan, checked on a kernel in memory that shares only `decide` with the planner.
//!
//! 1. The end: every verdict is the one that the wanted tables give.
//! 2. The way: whatever has been written so far, each endpoint is all of the old or all of the new. Where it keeps its policies, and so only other
//!    pods' addresses change their meaning, that holds for each address.
//! 3. Programs that run meanwhile, however slowly, say the old verdict or the new one.
//! 4. A connection that was let through is judged again if its verdict may have changed: its endpoint has another revision by then.
//! 5. An agent that is killed anywhere, and one that finds a map full, is followed by one that ends in the same tables.
//! 6. Nothing is left over: the tables are those of a start from nothing, up to the choice of numbers, in whatever order things happened.

use std::collections::{BTreeSet, HashMap};

use portcullis_common::abi::{Endpoint, SLOTS, endpoint_flags};
use portcullis_common::addr;
use portcullis_common::policy::Decision;
use portcullis_policy::tables::Direction;
use proptest::prelude::*;
use proptest::sample::Index;

use super::super::names::{Names, uid_digest};
use super::super::state::{Action, State};
use super::{Desired, Memory, Want, WantPolicies, address_bytes, lock_down, plan};
use kernel::{Full, Kernel, Key, Readers, Room, Seen};
use shape::Shape;
use wild::{ADDRESSES, INTERFACES, PORTS};

mod cluster;
mod kernel;
mod shape;
mod wild;
mod writes;

fn keys() -> Vec<Key> {
    let mut keys = Vec::new();
    for ifindex in INTERFACES {
        for ingress in [true, false] {
            for address in ADDRESSES {
                for (protocol, port) in PORTS {
                    keys.push(Key {
                        ifindex,
                        ingress,
                        peer: address_bytes(address.parse().unwrap()),
                        protocol,
                        port,
                    });
                }
            }
        }
    }
    keys
}

/// What the wanted tables say, without any kernel number but the rules'.
fn wanted_verdict(desired: &Desired, names: &mut Names, key: &Key) -> Decision {
    match desired
        .endpoints
        .get(&key.ifindex)
        .map(|want| want.policies)
    {
        None | Some(WantPolicies::Closed) => Decision::NOT_READY,
        Some(WantPolicies::Open) => Decision::NOT_ISOLATED,
        Some(WantPolicies::Compiled(obeys)) => {
            let peer = if addr::is_v4(&key.peer) {
                addr::low4(&key.peer).into()
            } else {
                key.peer.into()
            };
            let direction = if key.ingress {
                Direction::Ingress
            } else {
                Direction::Egress
            };
            let Some(policy) = obeys.policy(direction, peer) else {
                return Decision::NOT_ISOLATED;
            };
            let class = desired.tables.class_of(peer);
            let decision =
                desired.tables.policies[policy as usize].decide(class, key.protocol, key.port);
            let rule = decision.rule.as_ref().map_or(0, |rule| names.number(rule));
            Decision::of(u32::from(decision.allow), rule)
        }
    }
}

/// A node under test: the kernel, the agent's memory, and every connection that was ever let through.
struct Node {
    keys: Vec<Key>,
    kernel: Kernel,
    state: State,
    memory: Memory,
    opened: BTreeSet<(Key, Seen)>,
}

/// One plan: the verdicts before and wanted, and whose interfaces they were.
struct Change<'a> {
    desired: &'a Desired,
    actions: Vec<Action>,
    before: Vec<Decision>,
    after: Vec<Decision>,
    endpoints: HashMap<u32, Endpoint>,
    readers: Vec<Readers>,
    done: usize,
}

impl Change<'_> {
    fn story(&self) -> String {
        let lines = self.actions.iter().enumerate().map(|(index, action)| {
            let mark = if index < self.done { "done" } else { "" };
            format!("\n{mark:5}{action:?}")
        });
        lines.collect()
    }

    /// Whether the interface is another pod's than before: closed in between is right, anything else is another pod's policy.
    fn changes_hands(&self, ifindex: u32) -> bool {
        let want = self.desired.endpoints.get(&ifindex).map(|want| want.uid);
        want != self.endpoints.get(&ifindex).map(|had| had.uid)
    }

    /// Whether anything but removals has been carried out.
    fn has_begun(&self) -> bool {
        let removal = |action: &Action| {
            matches!(
                action,
                Action::Barrier
                    | Action::DropRow { .. }
                    | Action::DropDefault { .. }
                    | Action::DropSet { .. }
                    | Action::DropEndpoint { .. }
                    | Action::PutSlot { .. }
            )
        };
        !self.actions[..self.done.min(self.actions.len())]
            .iter()
            .all(removal)
    }

    /// Whether the interface's endpoint keeps its policies over the whole plan.
    fn keeps_policies(&self, ifindex: u32) -> bool {
        let obeys = |endpoint: &Endpoint| (endpoint.uid, endpoint.ingress, endpoint.egress);
        let had = self.endpoints.get(&ifindex).map(obeys);
        self.actions.iter().all(|action| match action {
            Action::PutEndpoint {
                ifindex: of,
                endpoint,
            } => *of != ifindex || Some(obeys(endpoint)) == had,
            Action::DropEndpoint { ifindex: of } => *of != ifindex,
            _ => true,
        })
    }
}

impl Node {
    fn new() -> Self {
        let kernel = Kernel::new();
        Self {
            keys: keys(),
            state: kernel.read(),
            kernel,
            memory: Memory::default(),
            opened: BTreeSet::new(),
        }
    }

    fn verdicts(&self) -> Vec<Decision> {
        let verdict = |key| self.kernel.verdict(key);
        self.keys.iter().map(verdict).collect()
    }

    /// A new agent without memory.
    fn restart(&mut self) {
        self.state = self.kernel.read();
        self.memory = Memory::default();
    }

    fn change<'a>(&mut self, desired: &'a Desired) -> Change<'a> {
        let actions = plan(&self.state, &mut self.memory, desired);
        let names = &mut self.memory.names;
        let wanted = |key| wanted_verdict(desired, names, key);
        Change {
            desired,
            actions,
            after: self.keys.iter().map(wanted).collect(),
            before: self.verdicts(),
            endpoints: self.kernel.endpoints.clone(),
            readers: vec![Readers::default(); self.keys.len()],
            done: 0,
        }
    }

    fn write(&mut self, change: &mut Change, action: &Action) -> Result<(), Full> {
        self.kernel.write(action)?;
        self.state.apply(action);
        if *action == Action::Barrier {
            change.readers.iter_mut().for_each(Readers::barrier);
        }
        change.done += 1;
        self.look(change);
        Ok(())
    }

    /// Carries out at most `limit` actions of a plan and looks at everything after each.
    fn bring_to(&mut self, desired: &Desired, limit: usize) -> Result<(), Full> {
        let mut change = self.change(desired);
        self.look(&mut change);
        for action in change.actions.clone().iter().take(limit) {
            if self.write(&mut change, action).is_err() {
                for action in lock_down(&self.state, desired) {
                    // One that fails does not stop the others.
                    let _ = self.write(&mut change, &action);
                }
                self.check_locked_down(desired);
                return Err(Full);
            }
        }
        if change.done == change.actions.len() {
            assert_eq!(
                self.verdicts(),
                change.after,
                "wrong at the end {}",
                change.story()
            );
            self.check_connections(&change);
        }
        Ok(())
    }

    /// Properties 2 and 3; notes connections for 4.
    fn look(&mut self, change: &mut Change) {
        let now = self.verdicts();
        for ifindex in INTERFACES {
            let mine: Vec<usize> = (0..now.len())
                .filter(|index| self.keys[*index].ifindex == ifindex)
                .collect();
            let old = |index: &usize| now[*index] == change.before[*index];
            let new = |index: &usize| now[*index] == change.after[*index];
            let closed = |index: &usize| now[*index] == Decision::NOT_READY;
            if change.changes_hands(ifindex) && change.has_begun() {
                let now = self.kernel.endpoints.get(&ifindex);
                let had = change.endpoints.get(&ifindex);
                assert!(
                    now.is_none_or(|now| now.flags & endpoint_flags::UNKNOWN != 0) || now != had,
                    "{ifindex} obeys its predecessor's policy {}",
                    change.story()
                );
            }
            if mine.iter().all(old) || mine.iter().all(new) {
                continue;
            }
            if change.changes_hands(ifindex) && mine.iter().all(closed) {
                continue;
            }
            assert!(
                change.keeps_policies(ifindex),
                "{ifindex} sees half a policy {}",
                change.story()
            );
            for of_peer in mine.chunk_by(|a, b| self.keys[*a].peer == self.keys[*b].peer) {
                assert!(
                    of_peer.iter().all(old) || of_peer.iter().all(new),
                    "{:?}: neither old nor new {}",
                    self.keys[of_peer[0]],
                    change.story()
                );
            }
        }
        for (index, key) in self.keys.iter().enumerate() {
            let now = self.kernel.endpoints.get(&key.ifindex);
            for (seen, verdict) in change.readers[index].step(&self.kernel, key) {
                if change.changes_hands(key.ifindex) && now.map(kernel::seen) != Some(seen) {
                    // The last packets of a pod that is gone; what they open is dead with its generation.
                    continue;
                }
                let (old, new) = (change.before[index], change.after[index]);
                let closed = change.changes_hands(key.ifindex) && verdict == Decision::NOT_READY;
                assert!(
                    verdict == old || verdict == new || closed,
                    "a program that runs meanwhile says {verdict:?} of {key:?}, not {old:?} or {new:?} {}",
                    change.story()
                );
                if verdict.allow {
                    self.opened.insert((*key, seen));
                }
            }
        }
    }

    /// Whoever has no version of its own is closed but for its node, and nobody obeys another pod's policy.
    fn check_locked_down(&self, desired: &Desired) {
        for (ifindex, want) in &desired.endpoints {
            let owner = self.kernel.endpoints.get(ifindex).map(|now| now.uid);
            let no_room = owner.is_none() && self.kernel.room.endpoints != usize::MAX;
            assert!(
                owner == Some(want.uid) || no_room,
                "{ifindex} is {owner:?}'s"
            );
        }
    }

    /// Property 4.
    fn check_connections(&self, change: &Change) {
        for (key, seen) in &self.opened {
            let Some(endpoint) = self.kernel.endpoints.get(&key.ifindex) else {
                continue;
            };
            assert!(
                kernel::seen(endpoint) != *seen || self.kernel.verdict(key).allow,
                "{key:?} was let through under {seen:?} and is not judged again {}",
                change.story()
            );
        }
    }

    /// Property 6, and that there is nothing more to do.
    fn check_rest(&mut self, desired: &Desired) {
        let again = plan(&self.state, &mut self.memory, desired);
        assert_eq!(again, [], "a second plan finds something to do");
        let mut fresh = Self::new();
        fresh.write_all(desired);
        let read = self.kernel.read();
        assert_eq!(Shape::of(&read), Shape::of(&fresh.kernel.read()));
        assert_eq!(Shape::of(&read), Shape::of(&self.state));
    }

    fn write_all(&mut self, desired: &Desired) {
        for action in plan(&self.state, &mut self.memory, desired) {
            self.kernel.write(&action).unwrap();
            self.state.apply(&action);
        }
    }
}

fn config() -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|cases| cases.parse().ok());
    ProptestConfig {
        cases: cases.unwrap_or(96),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// Desired tables, one after the other.
fn walk() -> impl Strategy<Value = Vec<Desired>> {
    prop_oneof![wild::walk(), cluster::walk()]
}

#[test]
fn a_node_without_free_slots_closes_whoever_comes_and_keeps_the_others() {
    let want = |ifindex: u32, flags| Want {
        uid: uid_digest(&format!("{ifindex} {flags}")),
        addresses: [addr::NONE; 2],
        flags,
        policies: WantPolicies::Open,
    };
    let mut desired = Desired::default();
    for ifindex in 1..SLOTS {
        let want = want(ifindex, endpoint_flags::UNKNOWN);
        desired.endpoints.insert(ifindex, want);
    }
    let mut node = Node::new();
    node.write_all(&desired);
    let before = node.state.endpoints.clone();
    desired.endpoints.insert(7, want(7, 0));
    desired.endpoints.insert(SLOTS, want(SLOTS, 0));
    node.write_all(&desired);
    let mut after = node.state.endpoints.clone();
    let (old, new) = (before[&7], after.insert(7, before[&7]).unwrap());
    assert_eq!((new.uid, new.slot), (desired.endpoints[&7].uid, old.slot));
    assert_ne!(new.generation, old.generation);
    assert_eq!(after, before);
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn every_packet_meets_the_old_policy_or_the_new_one_at_every_step(walk in walk()) {
        let mut node = Node::new();
        for desired in &walk {
            node.bring_to(desired, usize::MAX).unwrap();
            node.check_rest(desired);
        }
    }

    #[test]
    fn an_agent_killed_anywhere_is_followed_by_one_that_ends_in_the_same_tables(
        walk in walk(),
        stops in prop::collection::vec(any::<Index>(), 5),
    ) {
        let mut node = Node::new();
        for (round, desired) in walk.iter().enumerate() {
            for stop in &stops[round.min(4)..] {
                let mut memory = Memory {
                    names: node.memory.names.clone(),
                    ..Memory::default()
                };
                let length = plan(&node.state, &mut memory, desired).len();
                node.bring_to(desired, stop.index(length + 1)).unwrap();
                node.restart();
            }
            // What is wanted may have changed meanwhile.
            let desired = walk.get(round + 1).filter(|_| round % 2 == 1).unwrap_or(desired);
            node.bring_to(desired, usize::MAX).unwrap();
            node.check_rest(desired);
        }
    }

    #[test]
    fn a_full_map_leaves_every_endpoint_its_last_whole_version_or_closes_it(
        walk in walk(),
        which in 0..6_usize,
        more in 0..4_usize,
    ) {
        let mut node = Node::new();
        for desired in &walk {
            node.kernel.room = Room::ENOUGH;
            let room = node.kernel.room_for(which, more);
            let mut sizes = Vec::new();
            for _ in 0..4 {
                node.kernel.room = room;
                if node.bring_to(desired, usize::MAX).is_ok() {
                    break;
                }
                sizes.push(node.kernel.len());
            }
            prop_assert!(sizes.len() < 4 || sizes[3] <= sizes[1], "each try leaves more behind: {:?}", sizes);
            node.kernel.room = Room::ENOUGH;
            node.bring_to(desired, usize::MAX).unwrap();
            node.check_rest(desired);
        }
    }

    #[test]
    fn events_in_any_order_end_in_the_same_tables(ways in cluster::two_ways()) {
        let ends = ways.map(|way| {
            let mut node = Node::new();
            for desired in &way {
                node.write_all(desired);
            }
            Shape::of(&node.kernel.read())
        });
        prop_assert_eq!(&ends[0], &ends[1]);
    }

    #[test]
    fn numbers_come_back_however_long_it_goes_on(walk in walk()) {
        let mut node = Node::new();
        for _ in 0..30 {
            for desired in &walk {
                node.write_all(desired);
                let state = &node.state;
                let identities = state.peers().values().chain(state.cidrs().values());
                prop_assert!(identities.max() < Some(&80));
                prop_assert!(state.policies().keys().max() < Some(&40));
                prop_assert!(state.sets().keys().max() < Some(&40));
            }
        }
    }
}
