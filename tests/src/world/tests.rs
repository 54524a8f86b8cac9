use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::process;

use super::*;
use crate::oracle::{Expected, Oracle, Reason, SideVerdict, Verdict};
use crate::probe;

const SEEDS: std::ops::Range<u64> = 0..300;

#[test]
fn the_same_seed_gives_the_same_world_and_another_one_another() {
    for audience in [Audience::Compiler, Audience::Kernel] {
        assert_eq!(World::random(7, audience), World::random(7, audience));
        assert_ne!(
            World::random(7, audience).objects,
            World::random(8, audience).objects
        );
    }
}

#[test]
fn every_probe_of_a_world_can_be_answered_and_has_an_id_of_its_own() {
    for (seed, audience) in
        SEEDS.flat_map(|seed| [(seed, Audience::Compiler), (seed, Audience::Kernel)])
    {
        let world = World::random(seed, audience);
        let oracle = Oracle::new(&world.objects);
        for probe in &world.probes {
            assert!(oracle.judge(probe).is_ok(), "seed {seed}: {probe:?}");
        }
        let ids: BTreeSet<&str> = world.probes.iter().map(|probe| probe.id.as_str()).collect();
        assert_eq!(ids.len(), world.probes.len());
    }
}

#[test]
fn the_kernel_gets_no_address_that_two_pods_have() {
    for seed in SEEDS {
        let world = World::random(seed, Audience::Kernel);
        let oracle = Oracle::new(&world.objects);
        assert!(
            world
                .probes
                .iter()
                .all(|probe| !oracle.is_shared(&probe.src) && !oracle.is_shared(&probe.dst))
        );
    }
}

#[test]
fn worlds_reach_every_reason_and_both_verdicts_often() {
    let mut reasons: BTreeMap<Reason, usize> = BTreeMap::new();
    let mut sides = 0;
    let (mut allowed, mut denied, mut skipped, mut total) = (0, 0, 0, 0);
    for seed in SEEDS {
        let world = World::random(seed, Audience::Kernel);
        let oracle = Oracle::new(&world.objects);
        let node = oracle.busiest_node();
        for probe in &world.probes {
            let answer = oracle.judge(probe).unwrap();
            for side in [&answer.egress, &answer.ingress] {
                *reasons.entry(side.reason).or_default() += 1;
                sides += usize::from(side.verdict != SideVerdict::None);
            }
            total += 1;
            match answer.verdict() {
                Verdict::Allow => allowed += 1,
                Verdict::Deny => denied += 1,
            }
            let expected = node
                .as_deref()
                .map(|node| oracle.expected_at(node, probe).unwrap());
            skipped += usize::from(matches!(
                expected,
                Some(Expected::Skipped | Expected::DenyOrSkipped)
            ));
        }
    }
    let share = |part: usize, whole: usize| part * 100 / whole;
    assert!(
        share(allowed, total) >= 25 && share(denied, total) >= 25,
        "{allowed} allowed, {denied} denied"
    );
    assert!(share(skipped, total) <= 60, "{skipped} of {total} skipped");
    for (reason, least) in [
        (Reason::NotIsolated, 10),
        (Reason::AllowRule, 10),
        (Reason::DefaultDeny, 10),
        (Reason::MetadataGuard, 1),
        (Reason::HostExempt, 1),
        (Reason::NoFlow, 1),
    ] {
        let count = reasons.get(&reason).copied().unwrap_or_default();
        assert!(
            share(count, sides) >= least,
            "{reason:?}: {count} of {sides} sides, all: {reasons:?}"
        );
    }
    assert!(reasons.contains_key(&Reason::OwnAddress), "{reasons:?}");
}

#[test]
fn what_is_written_reads_back_as_the_same_world() {
    let directory = env::temp_dir().join(format!("portcullis-world-{}", process::id()));
    for seed in 0..20 {
        let world = World::random(seed, Audience::Compiler);
        fs::create_dir_all(&directory).unwrap();
        let files = world.write(&directory).unwrap();
        let mut read = Vec::new();
        for name in ["documents.yaml", "list.yaml", "json.yaml"] {
            let text = fs::read_to_string(files.manifests.join(name)).unwrap();
            read.push(serde_saphyr::from_multiple::<Value>(&text).unwrap());
        }
        read[1] = read[1][0]["items"].as_array().unwrap().clone();
        let mut turns: Vec<_> = read.into_iter().map(Vec::into_iter).collect();
        let objects: Vec<Value> = (0..world.objects.len())
            .map(|index| turns[index % 3].next().unwrap())
            .collect();
        assert_eq!(objects, world.objects, "seed {seed}");
        assert_eq!(
            probe::parse(&fs::read_to_string(&files.probes).unwrap()).unwrap(),
            world.probes
        );
        fs::remove_dir_all(&directory).unwrap();
    }
}

/// Taking an allowance away can never open anything: holds for any policy without deny rules, and has nothing to do with how rules match.
#[test]
fn a_rule_that_is_emptied_of_meaning_never_allows_more() {
    for seed in 0..100 {
        let world = World::random(seed, Audience::Compiler);
        let before = Oracle::new(&world.objects);
        for (index, object) in world.objects.iter().enumerate() {
            for direction in ["ingress", "egress"] {
                for rule in 0..object["spec"][direction].as_array().map_or(0, Vec::len) {
                    let mut objects = world.objects.clone();
                    objects[index]["spec"][direction][rule] =
                        json!({"nobodyUnderstandsThis": true});
                    let after = Oracle::new(&objects);
                    for probe in &world.probes {
                        let opened = before.judge(probe).unwrap().verdict() == Verdict::Deny
                            && after.judge(probe).unwrap().verdict() == Verdict::Allow;
                        assert!(!opened, "seed {seed}: {probe:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn minimising_keeps_what_the_failure_needs_and_little_else() {
    let denied_by_isolation = |world: &World| {
        let oracle = Oracle::new(&world.objects);
        world
            .probes
            .iter()
            .any(|probe| oracle.judge(probe).unwrap().egress.reason == Reason::DefaultDeny)
    };
    let worlds = SEEDS
        .map(|seed| World::random(seed, Audience::Compiler))
        .filter(|world| denied_by_isolation(world));
    for world in worlds.take(5) {
        let small = minimise(&world, denied_by_isolation);
        assert!(denied_by_isolation(&small));
        assert_eq!(small.probes.len(), 1, "{}", small.dump());
        assert!(small.objects.len() <= 4, "{}", small.dump());
    }
    let harmless = World::random(1, Audience::Compiler);
    assert_eq!(minimise(&harmless, |_| false), harmless);
}
