use std::fs;
use std::time::SystemTime;

use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};

use super::*;
use crate::endpoint::scratch::Scratch;

fn table(links: &[(u32, &str, Option<InfoKind>)]) -> LinkTable {
    let mut table = LinkTable::default();
    for (index, name, kind) in links {
        let mut message = LinkMessage::default();
        message.header.index = *index;
        message.header.flags = LinkFlags::Up;
        message
            .attributes
            .push(LinkAttribute::IfName((*name).to_owned()));
        message.attributes.extend(
            kind.clone()
                .map(|kind| LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)])),
        );
        table.apply(&RouteNetlinkMessage::NewLink(message), 0);
    }
    table
}

fn record(uid: &str, host: &str, address: &str, written: u64) -> Arc<CniRecord> {
    Arc::new(CniRecord {
        uid: uid.to_owned(),
        namespace: "shop".to_owned(),
        name: uid.to_owned(),
        container_id: uid.to_owned(),
        network: "net".to_owned(),
        interface: "eth0".to_owned(),
        host_interface: Some(host.to_owned()),
        addresses: vec![address.parse().unwrap()],
        cgroup_path: None,
        written: SystemTime::UNIX_EPOCH + Duration::from_secs(written),
    })
}

fn uid(observed: &Observed, index: u32) -> Option<&str> {
    match &observed.interfaces[&index].kind {
        InterfaceKind::Pod {
            cni: Some(record), ..
        } => Some(&record.uid),
        _ => None,
    }
}

#[test]
fn a_record_makes_a_pods_interface_without_any_route() {
    let table = table(&[
        (3, "veth3", Some(InfoKind::Veth)),
        (4, "veth4", Some(InfoKind::Veth)),
    ]);
    let observed = Observed::assemble(&table, [&record("a", "veth3", "10.0.0.1", 1)]);
    assert_eq!(uid(&observed, 3), Some("a"));
    assert_eq!(observed.interfaces[&4].kind, InterfaceKind::Other);
    assert_eq!(
        observed.cni_addresses(),
        BTreeMap::from([("a".to_owned(), vec!["10.0.0.1".parse().unwrap()])])
    );
}

#[test]
fn of_two_records_for_one_interface_the_newest_counts() {
    let table = table(&[(3, "eni1", Some(InfoKind::Veth))]);
    let (old, new) = (
        record("old", "eni1", "10.0.0.1", 1),
        record("new", "eni1", "10.0.0.2", 2),
    );
    for records in [[&old, &new], [&new, &old]] {
        let observed = Observed::assemble(&table, records);
        assert_eq!(uid(&observed, 3), Some("new"));
        assert_eq!(observed.cni_addresses().keys().collect::<Vec<_>>(), ["new"]);
    }
}

#[test]
fn devices_that_others_share_are_no_pods_whatever_a_record_says() {
    let table = table(&[(2, "eth0", None), (3, "cni0", Some(InfoKind::Bridge))]);
    let (a, b) = (
        record("a", "eth0", "10.0.0.1", 1),
        record("b", "cni0", "10.0.0.2", 1),
    );
    let observed = Observed::assemble(&table, [&a, &b]);
    assert!(
        observed
            .interfaces
            .values()
            .all(|interface| interface.kind == InterfaceKind::Other)
    );
    assert!(observed.cni_addresses().is_empty());
}

#[tokio::test]
async fn the_observer_starts_without_a_cache_directory_and_ends_with_its_receiver() {
    let scratch = Scratch::new("observe");
    let directory = scratch.path().join("cni/results");
    let (receiver, task) = observe(&directory, BTreeSet::new()).await.unwrap();
    assert!(
        receiver
            .borrow()
            .interfaces
            .values()
            .any(|interface| interface.name == "lo")
    );
    fs::create_dir_all(&directory).unwrap();
    drop(receiver);
    tokio::time::timeout(Duration::from_secs(5), task)
        .await
        .expect("it ends")
        .unwrap();
}
