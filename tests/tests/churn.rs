//! Pods that come and go on few addresses, ask as soon as they start, and are known late: nobody is ever told of another's role.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use portcullis_tests::cloud::starter::{self, Told};
use portcullis_tests::cloud::{Cloud, ROLE, session};
use portcullis_tests::scene::{Pod, SOON, ip, pod, wait_until};

/// As many as the acceptance test of credentials asks for.
const PODS: usize = 1000;
/// At once. STS is asked ten times a second by a node, so each waits a while for its keys.
const ALIVE: usize = 24;
/// Hardly more, so that each address is somebody else's again at once.
const ADDRESSES: usize = 26;

/// A pod with a role of its own on one of few addresses.
fn numbered(number: usize, address: usize) -> Pod {
    let addresses = format!("10.0.1.{0} fd00:1::{0:x}", address + 10);
    pod(&format!("shop/p{number}"), &addresses).annotation(ROLE, &format!("app-{number}"))
}

/// In turn.
fn address(number: usize) -> IpAddr {
    ip(["169.254.169.254", "fd00:ec2::254"][number % 2])
}

/// Its own keys, as STS says, and never a word of anything else.
fn is_right(cloud: &Cloud, number: usize, told: &Told) {
    let (name, role) = (format!("p{number}"), format!("app-{number}"));
    told.never_other_than(&name, &role);
    let keys = told.keys.as_ref();
    let keys = keys.unwrap_or_else(|| panic!("{name} never got keys: {:?}", told.attempts.last()));
    assert_eq!(cloud.sts.whose(keys), session(&role, &name));
}

#[test]
fn i2_a_thousand_pods_on_few_addresses_each_get_their_own_keys() {
    let mut cloud = Cloud::quiet("ch-reuse", &[], &["--default-role=app-default"]);
    let start = Instant::now();
    let mut free: Vec<usize> = (0..ADDRESSES).collect();
    let mut alive: VecDeque<(usize, usize, JoinHandle<Told>)> = VecDeque::new();
    let mut attempts = 0;
    let mut next = 0;
    while next < PODS || !alive.is_empty() {
        while next < PODS && alive.len() < ALIVE {
            // The address that became free last.
            let address_of = free.pop().expect("there are more than pods");
            let pod = numbered(next, address_of);
            cloud.scene.add(&pod);
            let asking = starter::start(&cloud, &format!("shop/p{next}"), address(next));
            alive.push_back((next, address_of, asking));
            next += 1;
        }
        let (number, address_of, asking) = alive.pop_front().expect("somebody is alive");
        let told = asking.join().expect("it has ended");
        attempts += told.attempts.len();
        is_right(&cloud, number, &told);
        cloud.scene.remove(&format!("shop/p{number}"));
        free.push(address_of);
    }
    assert_eq!(cloud.road.requests(), PODS as u64, "one call for each pod");
    println!(
        "{PODS} pods on {ADDRESSES} addresses in {:.0?}, {attempts} attempts, 0 wrong answers",
        start.elapsed()
    );
    cloud.down();
}

#[test]
fn i1_a_pod_of_which_the_watch_tells_late_waits_and_is_never_given_the_default_role() {
    const DELAYS: [u64; 6] = [0, 50, 350, 500, 1000, 2500];
    let mut cloud = Cloud::quiet("ch-late", &[], &["--default-role=app-default"]);
    let pods: Vec<Pod> = (0..DELAYS.len()).map(|n| numbered(n, n)).collect();
    let mut asking = Vec::new();
    let start = Instant::now();
    for (number, pod) in pods.iter().enumerate() {
        cloud.scene.lab.add_pod(pod.in_lab()).expect("it is joined");
        asking.push(starter::start(
            &cloud,
            &format!("shop/p{number}"),
            address(number),
        ));
    }
    for (pod, delay) in pods.iter().zip(DELAYS) {
        let at = start + Duration::from_millis(delay);
        thread::sleep(at.saturating_duration_since(Instant::now()));
        cloud.scene.manifests.put(pod);
    }
    for (number, asking) in asking.into_iter().enumerate() {
        let told = asking.join().expect("it has ended");
        is_right(&cloud, number, &told);
        assert!(told.attempts.len() < 100, "it was told to wait, not spun");
    }
    cloud.down();
}

/// Between the CNI plugin's answer and a first process there is a container runtime, which takes far longer than the agent needs to guard the interface: here
/// the process starts as soon as that is done. One that is faster yet has its first packet dropped, as all others in this file may have.
#[test]
fn i3_a_first_process_that_asks_at_once_has_keys_at_its_first_try() {
    const STARTERS: usize = 20;
    let mut cloud = Cloud::quiet("ch-fast", &[], &[]);
    let mut guarded = Vec::new();
    for number in 0..STARTERS {
        let key = format!("shop/p{number}");
        cloud.scene.add(&numbered(number, number));
        let start = Instant::now();
        wait_until("its interface is guarded", SOON, || {
            is_guarded(&cloud, &key)
        });
        guarded.push(start.elapsed());
        let told = starter::start(&cloud, &key, address(number)).join();
        let told = told.expect("it has ended");
        is_right(&cloud, number, &told);
        assert!(told.late < Duration::from_millis(1), "{:?}", told.late);
        assert_eq!(told.attempts.len(), 1, "{key}: {:?}", told.attempts);
    }
    guarded.sort();
    println!(
        "interfaces guarded after {:.1?} (median), {:.1?} at most",
        guarded[STARTERS / 2],
        guarded[STARTERS - 1]
    );
    cloud.down();
}

fn is_guarded(cloud: &Cloud, key: &str) -> bool {
    let status = cloud.scene.status();
    let endpoints = status["endpoints"]
        .as_array()
        .expect("endpoints are a list");
    endpoints.iter().any(|endpoint| endpoint["pod"] == key)
}

#[test]
fn k12_of_two_pods_with_one_address_each_has_its_own_role() {
    let mut cloud = Cloud::quiet("ch-twice", &[], &[]);
    // In both orders of their names: the first that is found must not win.
    for [former, latter] in [[0, 1], [3, 2]] {
        cloud.scene.add(&numbered(former, 0));
        let told = starter::start(&cloud, &format!("shop/p{former}"), address(0)).join();
        is_right(&cloud, former, &told.expect("it has ended"));
        // Its interface is gone; its object, running and with the same address, stays.
        let gone = cloud.scene.lab.remove_pod(&format!("shop/p{former}"));
        gone.expect("it is taken away");
        cloud.scene.add(&numbered(latter, 0));
        let told = starter::start(&cloud, &format!("shop/p{latter}"), address(0)).join();
        is_right(&cloud, latter, &told.expect("it has ended"));
        cloud.scene.remove(&format!("shop/p{latter}"));
        cloud.scene.manifests.remove(&format!("shop/p{former}"));
    }
    cloud.down();
}
