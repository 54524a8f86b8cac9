use super::super::online::tests::view_of;
use super::super::online::{Said, answer};
use super::super::{meant, target};
use super::*;
use crate::reconcile::View;

/// Three backends on two nodes: two of one kind, and one that lets nobody in.
pub(crate) const OBJECTS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {nodeName: n1}
status: {phase: Running, podIPs: [{ip: 10.0.1.2}]}
---
apiVersion: v1
kind: Pod
metadata: {name: db-0, namespace: shop, labels: {app: db}}
spec: {nodeName: n1}
status: {phase: Running, podIPs: [{ip: 10.0.1.3}]}
---
apiVersion: v1
kind: Pod
metadata: {name: db-1, namespace: shop, labels: {app: db}}
spec: {nodeName: n2}
status: {phase: Running, podIPs: [{ip: 10.0.2.3}]}
---
apiVersion: v1
kind: Pod
metadata: {name: db-old, namespace: shop, labels: {app: db, tier: old}}
spec: {nodeName: n2}
status: {phase: Running, podIPs: [{ip: 10.0.2.4}]}
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec: {clusterIP: 10.96.0.1, ports: [{port: 5432, targetPort: 15432}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: db-1, namespace: shop, labels: {kubernetes.io/service-name: db}}
addressType: IPv4
ports: [{port: 15432}]
endpoints: [{addresses: [10.0.1.3]}, {addresses: [10.0.2.3]}, {addresses: [10.0.2.4]}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: old, namespace: shop}
spec: {podSelector: {matchLabels: {tier: old}}, ingress: []}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web-out, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Egress]
  egress: [{to: [{podSelector: {matchLabels: {app: db}}}], ports: [{port: 15432}]}]
";

fn question(destination: &str, expect: Option<Verdict>) -> Question<'_> {
    Question {
        source: "shop/web",
        destination,
        expect,
    }
}

/// What the objects say without an agent.
fn offline(destination: &str) -> ServiceTold {
    let view = view_of(OBJECTS, "nowhere", 1);
    let target = target::read("shop/web", destination).expect("is clear");
    let meant = meant::meant(&view.model, &view.services, &target).expect("can be asked");
    let meant::Meant::Service(service, packets) = meant else {
        panic!("a Service is meant");
    };
    let mut explainer = Explainer::new(&view.model, portcullis_policy::explain::Options::default());
    ServiceTold::explained(&mut explainer, service, &packets)
}

fn printed(told: &ServiceTold, question: &Question<'_>, json: bool) -> (u8, String) {
    let mut out = Vec::new();
    let code = told.print(question, json, &mut out).expect("is printed");
    (code, String::from_utf8(out).expect("text"))
}

#[test]
fn backends_of_which_the_same_is_said_are_printed_once() {
    let (code, text) = printed(
        &offline("svc/shop/db"),
        &question("svc/shop/db", None),
        false,
    );
    let expected = "\
VERDICT  MIXED (Service shop/db, 5432/tcp: 1 of 3 backends denied)
BACKEND  shop/db-0:15432, shop/db-1:15432
VERDICT  ALLOW
 egress   shop/web   allowed by NetworkPolicy shop/web-out, rule 1        allow
   NetworkPolicy shop/web-out
     rule 1  to pods app=db in shop, 15432/tcp  match
 ingress  shop/db-0  no policy with policyType Ingress isolates it        allow
BACKEND  shop/db-old:15432
VERDICT  DENY (ingress, default-deny)
 egress   shop/web     allowed by NetworkPolicy shop/web-out, rule 1  allow
   NetworkPolicy shop/web-out
     rule 1  to pods app=db in shop, 15432/tcp  match
 ingress  shop/db-old  isolated by NetworkPolicy shop/old             deny
";
    assert_eq!(code, exit::DONE);
    let words = |text: &str| -> Vec<String> {
        let lines = text.lines();
        lines
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect()
    };
    assert_eq!(words(&text), words(expected), "{text}");
}

#[test]
fn an_expectation_holds_for_all_backends_or_not_at_all() {
    let told = offline("svc/shop/db");
    for expect in [Verdict::Allow, Verdict::Deny] {
        let question = question("svc/shop/db", Some(expect));
        assert_eq!(printed(&told, &question, false).0, exit::NEGATIVE);
    }
    // The policy of the source knows the backends' port only.
    let told = offline("10.96.0.1:5432");
    let question = question("10.96.0.1:5432", None);
    let (_, text) = printed(&told, &question, true);
    let document: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(document["kind"], "ServiceExplanation");
    assert_eq!(document["verdict"], "mixed");
    assert_eq!(document["service"]["port"], 5432);
    assert_eq!(document["backends"][0]["name"], "shop/db-0");
    assert_eq!(document["backends"][0]["address"], "10.0.1.3:15432");
    assert_eq!(document["backends"][0]["verdict"], "allow");
    assert_eq!(document["backends"][2]["reason"], "default-deny");
    assert!(document.get("agents").is_none(), "nobody was asked");
}

/// What the agent of `view` says about its own node's endpoints.
fn says(view: &View) -> ServiceAnswer {
    let own = BTreeSet::from([view.model.node.clone()]);
    said(view, Some(&own))
}

fn said(view: &View, nodes: Option<&BTreeSet<String>>) -> ServiceAnswer {
    let said = answer(view, "shop/web", "svc/shop/db", nodes).expect("can be asked");
    let text = serde_json::to_string(&said).expect("JSON");
    match serde_json::from_str(&text).expect("the same") {
        Said::Service(answer) => *answer,
        Said::Connection(answer) => panic!("{answer:?}"),
    }
}

#[test]
fn agents_together_say_what_the_objects_say_and_each_only_its_own() {
    let (n1, n2) = (view_of(OBJECTS, "n1", 3), view_of(OBJECTS, "n2", 7));
    let mut gathered = Gathered::new(&said(&n1, Some(&BTreeSet::new())));
    let both = ["n1", "n2"].map(str::to_owned);
    assert_eq!(gathered.lacking(), BTreeSet::from(both));
    gathered.take(&says(&n2));
    assert_eq!(gathered.lacking(), BTreeSet::from(["n1".to_owned()]));
    gathered.take(&says(&n1));
    let told = gathered
        .told(Vec::new())
        .expect("there is a word for every side");
    let question = question("svc/shop/db", None);
    let (_, offline) = printed(&offline("svc/shop/db"), &question, false);
    let (code, online) = printed(&told, &question, false);
    let by = " by       n2 (ingress, revision 7), n1 (egress and ingress, revision 3)\n";
    assert_eq!((code, online), (exit::DONE, offline + by));
}

#[test]
fn one_agent_can_say_everything() {
    let view = view_of(OBJECTS, "n1", 3);
    let told = Gathered::new(&said(&view, None)).told(Vec::new());
    let told = told.expect("there is a word for every side");
    let question = question("svc/shop/db", None);
    let (_, text) = printed(&told, &question, true);
    let document: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(document["agents"][0]["node"], "n1");
    assert_eq!(document["agents"].as_array().map(Vec::len), Some(1));
}

#[test]
fn who_sees_an_end_elsewhere_speaks_of_another_connection() {
    let n1 = view_of(OBJECTS, "n1", 3);
    let moved = OBJECTS.replace(
        "name: db-1, namespace: shop, labels: {app: db}",
        "name: other, namespace: shop",
    );
    let n2 = view_of(&moved, "n2", 7);
    let mut gathered = Gathered::new(&says(&n1));
    gathered.take(&says(&n2));
    assert_eq!(gathered.lacking(), BTreeSet::from(["n2".to_owned()]));
    let failure = gathered.told(Vec::new()).expect_err("a word is missing");
    assert_eq!(failure.code, "PC4004");
}
