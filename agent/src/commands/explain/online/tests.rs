use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use portcullis_policy::probe::Resolver;

use super::super::target::Destination;
use super::super::told::{Told, print_told};
use super::*;
use crate::failure::{Failure, exit};
use crate::kube::manifests;
use crate::world::World;

const OBJECTS: &str = "
apiVersion: v1
kind: Node
metadata: {name: n1}
status: {addresses: [{type: InternalIP, address: 192.168.0.1}]}
---
apiVersion: v1
kind: Node
metadata: {name: n2}
status: {addresses: [{type: InternalIP, address: 192.168.0.2}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {nodeName: n1}
status: {phase: Running, podIP: 10.0.1.2, podIPs: [{ip: 10.0.1.2}]}
---
apiVersion: v1
kind: Pod
metadata: {name: db, namespace: shop, labels: {app: db}}
spec: {nodeName: n2}
status: {phase: Running, podIP: 10.0.2.2, podIPs: [{ip: 10.0.2.2}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 5432}]}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web-out, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Egress]
  egress: [{to: [{podSelector: {matchLabels: {app: db}}}]}]
";

/// What the agent on `node` sees.
pub(crate) fn view(node: &str, revision: u64) -> View {
    view_of(OBJECTS, node, revision)
}

/// What the agent on `node` sees of these objects.
pub(crate) fn view_of(objects: &str, node: &str, revision: u64) -> View {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let directory = std::env::temp_dir().join(format!(
        "portcullis-online-{}-{}",
        NEXT.fetch_add(1, Ordering::Relaxed),
        std::process::id()
    ));
    std::fs::create_dir_all(&directory).expect("a temporary directory");
    std::fs::write(directory.join("objects.yaml"), objects).expect("a file in it");
    let mut world = World::new(node);
    let objects = manifests::read(&directory).expect("can be read");
    world.apply_batch(objects, SystemTime::now());
    std::fs::remove_dir_all(&directory).expect("can be removed");
    assert!(world.refused().is_empty(), "{:?}", world.refused());
    View {
        model: world.snapshot(),
        services: world.services(),
        metadata_allow: BTreeSet::new(),
        revision,
        behind: Vec::new(),
    }
}

fn question<'a>(source: &'a str, destination: &'a str) -> Question<'a> {
    Question {
        source,
        destination,
        expect: None,
    }
}

/// As it comes out of an agent.
fn sent(view: &View, source: &str, destination: &str) -> Answer {
    let answer = answer(view, source, destination, None).expect("can be asked");
    let text = serde_json::to_string(&answer).expect("JSON");
    match serde_json::from_str(&text).expect("the same") {
        Said::Connection(answer) => *answer,
        Said::Service(answer) => panic!("{answer:?}"),
    }
}

fn printed(question: &Question<'_>, told: &Told, json: bool) -> (u8, String) {
    let mut out = Vec::new();
    let code = print_told(question, told, json, &mut out).expect("is printed");
    (code, String::from_utf8(out).expect("text"))
}

#[test]
fn agents_say_what_the_compiler_says_without_them() {
    let (n1, n2) = (view("n1", 3), view("n2", 7));
    let nowhere = view("elsewhere", 1);
    for (source, destination) in [
        ("shop/web", "shop/db:5432"),
        ("shop/web", "shop/db:80"),
        ("shop/db", "shop/web:80"),
        ("shop/web", "metadata"),
        ("internet", "shop/db:5432"),
        ("node/n2", "shop/db:5432"),
        ("10.0.1.2", "10.0.2.2:5432/udp"),
    ] {
        let target = target::read(source, destination).expect("is clear");
        let Destination::End {
            end,
            port,
            protocol,
        } = &target.destination
        else {
            panic!("no Service");
        };
        let probe = target.probe(end, *port, *protocol);
        let model = Arc::clone(&nowhere.model);
        let resolved = Resolver::new(&model).resolve(&probe).expect("is there");
        let mut explainer = Explainer::new(&model, Options::default());
        let offline = explainer.explain_in_steps(&resolved).to_string();
        let told = Told {
            egress: sent(&n1, source, destination),
            ingress: sent(&n2, source, destination),
            silent: Vec::new(),
        };
        let (_, online) = printed(&question(source, destination), &told, false);
        let by = " by       n1 (egress, revision 3), n2 (ingress, revision 7)\n";
        assert_eq!(online, offline + by, "{source} {destination}");
    }
}

#[test]
fn an_answer_tells_where_the_ends_are() {
    let answer = sent(&view("n1", 3), "shop/web", "shop/db:5432");
    let ends = (&answer.source.node, &answer.destination.node);
    assert_eq!(ends, (&Some("n1".to_owned()), &Some("n2".to_owned())));
    let answer = sent(&view("n1", 3), "node/n2", "internet:443");
    assert_eq!(
        (&answer.source.node, &answer.destination.node),
        (&None, &None)
    );
}

#[test]
fn a_stand_in_is_named_and_makes_the_answer_uncertain() {
    let mut told = Told::by(sent(&view("n1", 3), "shop/web", "shop/db:5432"));
    let question = question("shop/web", "shop/db:5432");
    assert_eq!(printed(&question, &told, false).0, exit::DONE);
    told.egress.by.behind = vec!["the newest objects are not in force yet".to_owned()];
    told.silent = vec![(
        "n2".to_owned(),
        Failure::new(
            "PC4002",
            "no agent answers on n2",
            "its pod is Pending",
            "look",
        ),
    )];
    let (code, text) = printed(&question, &told, false);
    assert_eq!(code, exit::UNREACHABLE);
    let expected = " by       n1 (egress and ingress, revision 3)
! n2 does not answer for its pod, another agent did: no agent answers on n2: its pod is Pending
! n1: not in force yet: the newest objects are not in force yet
";
    assert!(text.ends_with(expected), "{text}");
}

#[test]
fn json_has_the_offline_fields_and_who_said_it() {
    let (n1, n2) = (view("n1", 3), view("n2", 7));
    let told = Told {
        egress: sent(&n1, "shop/web", "shop/db:80"),
        ingress: sent(&n2, "shop/web", "shop/db:80"),
        silent: Vec::new(),
    };
    let expecting = Question {
        expect: Some(portcullis_policy::explain::Verdict::Allow),
        ..question("shop/web", "shop/db:80")
    };
    let (code, text) = printed(&expecting, &told, true);
    assert_eq!(code, exit::NEGATIVE);
    let document: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(document["kind"], "Explanation");
    assert_eq!(document["reason"], "default-deny");
    assert_eq!(document["agents"][1]["node"], "n2");
    assert_eq!(document["agents"][1]["revision"], 7);
    assert_eq!(document["agents"][1]["says"][0], "ingress");
}
