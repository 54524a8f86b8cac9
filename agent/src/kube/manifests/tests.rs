use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::time::SystemTime;

use portcullis_imds::role::Keys;

use super::*;
use crate::endpoint::scratch::Scratch;
use crate::kube::{Entry, Key, Object};
use crate::world::World;

fn write(scratch: &Scratch, name: &str, text: &str) {
    let draft = scratch.path().join(format!(".{name}.draft"));
    fs::write(&draft, text).unwrap();
    fs::rename(draft, scratch.path().join(name)).unwrap();
}

fn entries(scratch: &Scratch) -> BTreeMap<String, Entry> {
    let batch = read(scratch.path()).unwrap();
    let live = batch.into_iter().flat_map(|change| match change {
        Change::Reset { live, .. } => live,
        other => panic!("{other:?}"),
    });
    live.map(|entry| (entry.key.to_string(), entry)).collect()
}

fn names(entries: &BTreeMap<String, Entry>) -> Vec<&str> {
    entries.keys().map(String::as_str).collect()
}

fn pod(name: &str, address: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop}}\nstatus: {{podIP: {address}}}\n"
    )
}

const DENY: &str = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: deny, namespace: shop}\nspec: {}\n";

#[test]
fn files_documents_and_lists_are_read_and_completed() {
    let scratch = Scratch::new("manifests");
    write(
        &scratch,
        "a.yaml",
        &format!("# pods\n---\n{}---\n{DENY}---\n", pod("web", "10.0.0.5")),
    );
    write(
        &scratch,
        "b.json",
        r#"{"apiVersion":"v1","kind":"List","items":[
            {"apiVersion":"v1","kind":"Namespace","metadata":{"name":"shop","labels":{"team":"red"}}},
            {"apiVersion":"v1","kind":"Node","metadata":{"name":"n1"}}]}
           {"apiVersion":"v1","kind":"PodList","items":[{"metadata":{"name":"job","namespace":"batch"}}]}"#,
    );
    write(
        &scratch,
        "c.yml",
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n",
    );
    write(&scratch, "notes.txt", "kind: [");
    write(&scratch, ".hidden.yaml", "kind: [");
    fs::create_dir(scratch.path().join("dir.yaml")).unwrap();
    let entries = entries(&scratch);
    assert_eq!(
        names(&entries),
        [
            "Namespace batch",
            "Namespace shop",
            "NetworkPolicy shop/deny",
            "Node n1",
            "Pod batch/job",
            "Pod shop/web",
            "ServiceAccount batch/default",
            "ServiceAccount shop/default"
        ]
    );
    assert!(entries.values().all(|entry| entry.problems.is_empty()));
    let Some(Object::Namespace(labels)) = &entries["Namespace batch"].object else {
        panic!()
    };
    assert_eq!(labels.len(), 1, "implied: only its name");
    let Some(Object::Namespace(labels)) = &entries["Namespace shop"].object else {
        panic!()
    };
    assert_eq!(labels["team"], "red");
    let Some(Object::Pod(pod)) = &entries["Pod shop/web"].object else {
        panic!()
    };
    assert_eq!(pod.workload.uid.len(), 36, "derived: {}", pod.workload.uid);
}

#[test]
fn bad_documents_are_refused_one_by_one_with_file_number_line_and_reason() {
    let scratch = Scratch::new("bad");
    write(
        &scratch,
        "mixed.yaml",
        &format!(
            "{}---\nkind: Pod\nmetadata: [\n---\njust text\n---\napiVersion: v1\nmetadata: {{name: x}}\n---\n\
             apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {{name: g}}\n---\n\
             apiVersion: v1\nkind: Pod\nmetadata: {{}}\n---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: shop, labels: 5}}\n---\n{DENY}",
            pod("web", "10.0.0.5")
        ),
    );
    fs::write(scratch.path().join("latin.yaml"), b"a: \xe9\n").unwrap();
    let entries = entries(&scratch);
    let refused: Vec<String> = entries
        .values()
        .filter(|entry| entry.object.is_none())
        .map(|entry| format!("{}: {}", entry.key, entry.problems[0]))
        .collect();
    let expected = [
        "Document latin.yaml#0: : not UTF-8 (line 1)",
        "Document mixed.yaml#1: : ",
        "Document mixed.yaml#2: : expected an object, found \"just text\"",
        "Document mixed.yaml#3: kind: required, but missing",
        "Document mixed.yaml#4: : \"projectcalico.org/v3 GlobalNetworkPolicy\" is not read by this agent",
        "Document mixed.yaml#5: metadata.name: required, but missing",
        "Namespace shop: metadata.labels: expected an object, found 5",
    ];
    assert_eq!(refused.len(), expected.len(), "{refused:#?}");
    for (refused, expected) in refused.iter().zip(expected) {
        assert!(refused.starts_with(expected), "{refused}\n{expected}");
    }
    assert!(refused[1].contains("(line "), "{}", refused[1]);
    assert!(
        entries["Pod shop/web"].object.is_some()
            && entries["NetworkPolicy shop/deny"].object.is_some()
    );
}

#[test]
fn a_policy_that_cannot_be_parsed_still_closes_its_namespace() {
    let scratch = Scratch::new("closed");
    write(
        &scratch,
        "p.yaml",
        "kind: NetworkPolicy\nmetadata:\n  name: guard\n  namespace: shop\nspec:\n  ingress: [\n",
    );
    write(
        &scratch,
        "q.yaml",
        "kind: NetworkPolicy\nmetadata: {name: untyped, namespace: pay}\nspec: {ingress: [{}]}\n",
    );
    write(
        &scratch,
        "r.yaml",
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {namespace: bank}\nspec: {ingress: [{}]}\n",
    );
    let entries = entries(&scratch);
    for name in [
        "NetworkPolicy shop/guard",
        "NetworkPolicy pay/untyped",
        "NetworkPolicy bank/unreadable document r.yaml#0",
    ] {
        let entry = entries
            .get(name)
            .unwrap_or_else(|| panic!("{name} in {:?}", names(&entries)));
        let Some(Object::Policy(policy)) = &entry.object else {
            panic!("{name}")
        };
        assert_eq!(
            (&policy.ingress, &policy.egress),
            (&Some(vec![]), &Some(vec![])),
            "{name}"
        );
        assert_eq!(entry.problems.len(), 1, "{name}");
    }
}

#[test]
fn what_an_unreadable_document_closes_no_other_object_opens() {
    let scratch = Scratch::new("namesake");
    let allow = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: web, namespace: shop}\nspec: {ingress: [{}]}\n";
    let broken = "kind: NetworkPolicy\nmetadata:\n  name: web\n  namespace: shop\nspec: [\n---\n";
    write(&scratch, "a.yaml", &format!("{broken}{broken}{allow}"));
    let entries = entries(&scratch);
    let policies: Vec<&str> = entries
        .keys()
        .filter_map(|name| name.strip_prefix("NetworkPolicy shop/"))
        .collect();
    assert_eq!(
        policies,
        [
            "unreadable document a.yaml#0",
            "unreadable document a.yaml#1",
            "web"
        ]
    );
    assert_eq!(entries["NetworkPolicy shop/web"].problems, []);
}

#[test]
fn a_policy_closes_its_namespace_however_that_is_written_and_however_deep_it_lies() {
    let scratch = Scratch::new("closing");
    write(
        &scratch,
        "a.yaml",
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {namespace: ''}\n---\n\
         apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: n, namespace: 5}\n",
    );
    let list = |items: &str| format!(r#"{{"apiVersion":"v1","kind":"List","items":[{items}]}}"#);
    let deny = r#"{"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicy","metadata":{"name":"deep"}}"#;
    write(
        &scratch,
        "b.json",
        &(0..6).fold(deny.to_owned(), |inner, _| list(&inner)),
    );
    let entries = entries(&scratch);
    for name in [
        "default/unreadable document a.yaml#0",
        "5/n",
        "default/deep",
    ] {
        let entry = &entries[&format!("NetworkPolicy {name}")];
        assert!(matches!(entry.object, Some(Object::Policy(_))), "{name}");
    }
}

#[test]
fn of_two_definitions_the_last_one_counts_and_shared_uids_are_refused() {
    let scratch = Scratch::new("twice");
    write(&scratch, "a.yaml", &pod("web", "10.0.0.5"));
    write(&scratch, "b.yaml", &pod("web", "10.0.0.6"));
    let twin =
        |name: &str| format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, uid: same}}\n");
    write(
        &scratch,
        "c.yaml",
        &format!("{}---\n{}", twin("two"), twin("one")),
    );
    let entries = entries(&scratch);
    let Some(Object::Pod(pod)) = &entries["Pod shop/web"].object else {
        panic!()
    };
    assert_eq!(pod.workload.addresses[0].to_string(), "10.0.0.6");
    assert_eq!(
        entries["Pod shop/web"].problems[0].to_string(),
        ": also defined in a.yaml#0, which is not used"
    );
    assert!(entries["Pod default/one"].object.is_some());
    assert!(entries["Pod default/two"].object.is_none());
    assert_eq!(
        entries["Pod default/two"].problems[0].to_string(),
        "metadata.uid: uid is already that of Pod default/one"
    );
}

#[test]
fn booleans_are_read_as_kubectl_reads_them() {
    let scratch = Scratch::new("yes");
    write(
        &scratch,
        "a.yaml",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: y, namespace: on, labels: {ns: y, v: 012}}\nspec: {hostNetwork: yes}\n",
    );
    let entries = entries(&scratch);
    let Some(Object::Pod(pod)) = &entries["Pod on/y"].object else {
        panic!()
    };
    assert!(pod.workload.host_network);
    assert_eq!(
        (
            pod.workload.labels["ns"].as_str(),
            pod.workload.labels["v"].as_str()
        ),
        ("y", "012")
    );
}

#[test]
fn a_directory_that_is_not_there_is_an_error_at_the_start() {
    let scratch = Scratch::new("absent");
    let absent = scratch.path().join("absent");
    assert!(matches!(
        read(&absent),
        Err(ManifestError::Directory { .. })
    ));
    assert!(matches!(
        Feed::open(&absent, Keep::nothing()),
        Err(ManifestError::Directory { .. })
    ));
}

/// A running feed and the world that it feeds.
struct Running {
    world: World,
    batches: mpsc::Receiver<Batch>,
    rereader: Rereader,
}

impl Running {
    async fn start(directory: &Path) -> Self {
        let (feed, rereader) = Feed::open(directory, Keep::nothing()).unwrap();
        let (sender, batches) = mpsc::channel(64);
        tokio::spawn(feed.run(sender));
        let mut running = Self {
            world: World::new("n1"),
            batches,
            rereader,
        };
        running.until("in sync", World::in_sync).await;
        running
    }

    async fn until(&mut self, what: &str, done: impl Fn(&World) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !done(&self.world) {
            let batch = tokio::time::timeout_at(deadline, self.batches.recv()).await;
            let batch = batch
                .unwrap_or_else(|_| panic!("{what}: never"))
                .expect("the feed runs");
            self.world.apply_batch(batch, SystemTime::UNIX_EPOCH);
        }
    }
}

fn has(name: &'static str) -> impl Fn(&World) -> bool {
    move |world| world.pod("shop", name).is_some()
}

#[tokio::test]
async fn changes_are_followed_file_by_file() {
    let scratch = Scratch::new("follow");
    let mut running = Running::start(scratch.path()).await;
    write(&scratch, "a.yaml", &pod("web", "10.0.0.5"));
    running.until("created", has("web")).await;
    write(&scratch, "a.yaml", &pod("db", "10.0.0.6"));
    running
        .until("replaced", |world| has("db")(world) && !has("web")(world))
        .await;
    fs::remove_file(scratch.path().join("a.yaml")).unwrap();
    running.until("removed", |world| !has("db")(world)).await;
    assert_eq!(
        running.world.counts().namespaces,
        0,
        "an implied namespace goes with its objects"
    );
}

#[tokio::test]
async fn a_swapped_data_link_and_a_replaced_directory_are_followed() {
    let scratch = Scratch::new("configmap");
    let mount = scratch.path().join("mount");
    for (version, name) in [("..v1", "one"), ("..v2", "two")] {
        fs::create_dir_all(mount.join(version)).unwrap();
        fs::write(mount.join(version).join("pods.yaml"), pod(name, "10.0.0.5")).unwrap();
    }
    symlink("..v1", mount.join("..data")).unwrap();
    symlink("..data/pods.yaml", mount.join("pods.yaml")).unwrap();
    let mut running = Running::start(&mount).await;
    assert!(has("one")(&running.world));

    symlink("..v2", mount.join("..data_tmp")).unwrap();
    fs::rename(mount.join("..data_tmp"), mount.join("..data")).unwrap();
    running
        .until("swapped", |world| has("two")(world) && !has("one")(world))
        .await;

    let next = scratch.path().join("next");
    fs::create_dir(&next).unwrap();
    fs::write(next.join("pods.yaml"), pod("three", "10.0.0.5")).unwrap();
    fs::rename(&mount, scratch.path().join("old")).unwrap();
    running
        .until("trouble", |world| {
            world.feeds().values().all(|feed| feed.trouble.is_some())
        })
        .await;
    assert!(has("two")(&running.world), "the last state stays in force");
    fs::rename(&next, &mount).unwrap();
    running.until("replaced", has("three")).await;
    running
        .until("no trouble", |world| {
            world.feeds().values().all(|feed| feed.trouble.is_none())
        })
        .await;
}

#[tokio::test]
async fn a_reread_reports_what_was_written_before_it() {
    let scratch = Scratch::new("reread");
    let mut running = Running::start(scratch.path()).await;
    for round in 0..20 {
        let name = format!("p{round}");
        write(&scratch, "a.yaml", &pod(&name, "10.0.0.5"));
        running.rereader.reread().await.unwrap();
        // All that was found stands in the channel by now.
        while let Ok(batch) = running.batches.try_recv() {
            running.world.apply_batch(batch, SystemTime::UNIX_EPOCH);
        }
        assert!(running.world.pod("shop", &name).is_some(), "round {round}");
    }
    fs::rename(scratch.path(), scratch.path().with_extension("away")).unwrap();
    assert!(matches!(
        running.rereader.reread().await,
        Err(RereadError::Unreadable(_))
    ));
    fs::rename(scratch.path().with_extension("away"), scratch.path()).unwrap();
}

#[test]
fn a_file_that_cannot_be_read_changes_nothing_of_what_it_said() {
    let scratch = Scratch::new("unreadable");
    write(&scratch, "a.yaml", DENY);
    let mut reader = Reader::new(scratch.path(), Keep::nothing());
    let state = reader.read().unwrap();
    reader.difference(state);
    // A link to itself cannot be read, not even by root.
    fs::remove_file(scratch.path().join("a.yaml")).unwrap();
    symlink("a.yaml", scratch.path().join("a.yaml")).unwrap();
    let state = reader.read().unwrap();
    let batch = reader.difference(state);
    let [Change::Apply(entry)] = batch.as_slice() else {
        panic!("{batch:?}")
    };
    assert_eq!(
        entry.key,
        Key {
            kind: Kind::Document,
            namespace: None,
            name: "a.yaml".to_owned()
        }
    );
}

#[test]
fn accounts_are_read_and_only_default_ones_are_implied() {
    let scratch = Scratch::new("accounts");
    write(
        &scratch,
        "a.yaml",
        "kind: ServiceAccount\napiVersion: v1\nmetadata: {name: default, namespace: shop, uid: own}\n---\n\
         kind: ServiceAccount\napiVersion: v1\nmetadata: {name: api, namespace: ops, annotations: {iam.amazonaws.com/role: x, y: z}}\n---\n\
         kind: ServiceAccount\napiVersion: v1\nmetadata: {name: default, namespace: odd, annotations: 5}\n",
    );
    let mut reader = Reader::new(scratch.path(), Keep::for_roles("n1", Keys::default()));
    let mut state = reader.read().unwrap();
    state.retain(|key, _| key.kind == Kind::ServiceAccount);
    let read: Vec<_> = state
        .values()
        .map(|entry| {
            let uid = match &entry.object {
                Some(Object::ServiceAccount(account)) => Some(account.uid.len()),
                _ => None,
            };
            let annotations = entry.annotations.as_ref().map_or(0, |kept| kept.len());
            (entry.key.to_string(), uid, annotations)
        })
        .collect();
    let derived = Some(36);
    let expected = [
        ("ServiceAccount odd/default", None, 0),
        ("ServiceAccount ops/api", derived, 1),
        ("ServiceAccount ops/default", derived, 0),
        ("ServiceAccount shop/default", Some(3), 0),
    ];
    let expected = expected.map(|(key, uid, kept)| (key.to_owned(), uid, kept));
    assert_eq!(read, expected);
}
