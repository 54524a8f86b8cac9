//! Any bytes as a file of objects, read, converted and compiled as the agent does it, in a small town of pods ([`TOWN`]).
//!
//! | property | against |
//! |---|---|
//! | nothing panics; what is reported is short and cannot forge a line of a log | [`cluster`] |
//! | a policy that is refused as a whole closes every pod of its namespace, also when its text cannot be parsed | [`reading`], lines of text |
//! | nothing is allowed that the API text does not allow, and what is accepted without a word means what it says | the oracle of `tests/` |
//! | a rule that is refused allows nothing that the policy without it would not | the same object without it |
//! | order and spelling of the objects do not matter | the same objects as JSON, from last to first |
//! | nothing is read that Kubernetes' own type does not hold | the same policies, through that type |
//!
//! An input that begins with a blank stands below the head of a policy: so its bytes are what somebody wrote into a `spec`, without luck.

mod cluster;
mod reading;
mod samples;

use std::collections::BTreeSet;
use std::sync::LazyLock;

use k8s_openapi::api::networking::v1::NetworkPolicy;
use portcullis::kube::{Key, Kind};
use portcullis_policy::tables::Direction;
use portcullis_tests::oracle::{Oracle, Reason, SideVerdict};
use serde_json::{Value, json};

use cluster::Cluster;
use reading::{Claim, Document, Object};
use samples::samples;

/// Namespaces, nodes and pods that every input meets.
const TOWN: &str = include_str!("../town.yaml");

/// Opens a policy of namespace `shop`; whatever follows stands in its `spec`, or makes the document unreadable.
const HEAD: &str = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata:\n  name: p\n  namespace: shop\nspec:\n";

/// How many refused rules of a policy are taken out in turn.
const REMOVALS: usize = 3;

/// Panics if the way from these bytes to tables breaks one of its promises.
pub fn policy(bytes: &[u8]) {
    if bytes.starts_with(b" ") {
        below_a_head(bytes);
        return;
    }
    file(bytes);
    if bytes.starts_with(b"{") {
        in_town(&[("input.json", bytes)]).check_reports();
    }
}

/// As what follows a policy's head: what stands in the head is not overruled, whatever follows.
fn below_a_head(bytes: &[u8]) {
    let whole = [HEAD.as_bytes(), bytes].concat();
    let first = reading::documents(&whole).swap_remove(0);
    if let Some(value) = first.value {
        assert_eq!(value["kind"], "NetworkPolicy");
        assert_eq!(value["metadata"]["namespace"], "shop");
    }
    file(&whole);
}

fn file(bytes: &[u8]) {
    let cluster = in_town(&[("input.yaml", bytes)]);
    cluster.check_reports();
    let documents = reading::documents(bytes);
    let objects: Vec<Object> = documents.iter().flat_map(Document::objects).collect();
    for document in &documents {
        for claim in document.claims() {
            closes(&cluster, document, &objects, &claim);
        }
    }
    agrees_with_the_oracle(&cluster, &objects, bytes);
    if documents.iter().all(|document| document.value.is_some()) {
        survives_rewriting(&cluster, &objects);
        for object in objects.iter().filter(|object| object.is_policy()) {
            refused_rules_allow_nothing(&cluster, object, bytes);
        }
    }
}

/// The town with these files in it. JSON, as it is read many times for each input.
fn in_town(files: &[(&str, &[u8])]) -> Cluster {
    static TOWN_JSON: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let values: Vec<Value> = town_objects().iter().map(Object::typed).collect();
        reading::json_lines(&values)
    });
    Cluster::of(&[&[("town.json", TOWN_JSON.as_slice())], files].concat())
}

fn town_objects() -> &'static [Object] {
    static OBJECTS: LazyLock<Vec<Object>> = LazyLock::new(|| {
        let documents = reading::documents(TOWN.as_bytes());
        documents.iter().flat_map(Document::objects).collect()
    });
    &OBJECTS
}

/// A policy of this namespace is refused as a whole: alone it lets nothing pass, and no other object takes that back.
fn closes(cluster: &Cluster, document: &Document<'_>, objects: &[Object], claim: &Claim) {
    let later_namesake = claim.name.is_some()
        && objects
            .iter()
            .rfind(|object| object.is_policy() && object.claims_name(claim))
            .is_some_and(|object| object.claim().as_ref() != Some(claim));
    if !later_namesake {
        cluster.check_isolated(claim);
    }
    if document
        .objects()
        .iter()
        .filter(|object| object.is_policy())
        .count()
        > 1
    {
        return;
    }
    // In a namespace without pods nobody would notice.
    let stranger = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "stranger", "namespace": claim.namespace},
        "spec": {"nodeName": "n1"}, "status": {"podIP": "10.9.9.9"},
    });
    let alone = in_town(&[
        ("stranger.json", stranger.to_string().as_bytes()),
        ("input.yaml", document.text),
    ]);
    alone.check_isolated(claim);
    for sample in samples(&alone, &[], document.text) {
        let pod = sample.pod;
        if pod.namespace == claim.namespace && claim.holds(sample.direction) {
            assert!(!alone.allows(&sample), "{claim:?} lets pass {sample:?}");
        }
    }
}

/// The oracle reads the same objects; what it cannot understand it closes too, by its own reading of the API.
fn agrees_with_the_oracle(cluster: &Cluster, objects: &[Object], bytes: &[u8]) {
    let known = |key: &Key| matches!(key.kind, Kind::NetworkPolicy | Kind::Document);
    // A pod or namespace that we refuse is nobody to us and somebody to the oracle.
    if !cluster.refused().keys().all(known) || objects.iter().any(Object::is_spelled_oddly) {
        return;
    }
    let same = cluster.refused().is_empty();
    let objects = town_objects().iter().chain(objects);
    let oracle = Oracle::new(&reading::last_of_each(objects));
    for sample in samples(cluster, &[], bytes) {
        let answer = match oracle.judge(&sample.probe()) {
            Ok(answer) => answer,
            Err(error) => panic!("{sample:?}: the oracle says {error}"),
        };
        let side = match sample.direction {
            Direction::Ingress => answer.ingress,
            Direction::Egress => answer.egress,
        };
        // These stand outside of policy.
        if matches!(side.reason, Reason::OwnAddress | Reason::MetadataGuard) {
            continue;
        }
        let (ours, its) = (cluster.allows(&sample), side.verdict == SideVerdict::Allow);
        assert!(
            !ours || its,
            "more than the oracle allows: {sample:?}, {side:?}"
        );
        assert!(
            !same || ours == its,
            "less than the oracle allows: {sample:?}, {side:?}"
        );
    }
}

/// The same objects from last to first, as JSON, and the policies through Kubernetes' own type.
fn survives_rewriting(cluster: &Cluster, objects: &[Object]) {
    if !cluster.refused().is_empty() {
        return;
    }
    let mut values: Vec<Value> = objects.iter().rev().map(Object::typed).collect();
    let rewritten = |values: &[Value]| in_town(&[("input.json", &reading::json_lines(values))]);
    assert_eq!(rewritten(&values).tables(), cluster.tables(), "as JSON");
    let mut through = false;
    for value in &mut values {
        if value["kind"] == "NetworkPolicy"
            && let Ok(policy) = serde_json::from_value::<NetworkPolicy>(value.clone())
        {
            *value = serde_json::to_value(policy).expect("what was read can be written");
            through = true;
        }
    }
    if through {
        assert_eq!(
            rewritten(&values).tables(),
            cluster.tables(),
            "as Kubernetes"
        );
    }
}

/// Each refused rule of the policy is taken out; then at least as much passes.
fn refused_rules_allow_nothing(cluster: &Cluster, object: &Object, bytes: &[u8]) {
    let Some(refusal) = object.key().and_then(|key| cluster.refused().get(&key)) else {
        return;
    };
    let places: BTreeSet<(String, usize)> = refusal
        .problems
        .iter()
        .filter_map(|problem| {
            let (list, rest) = problem.field.strip_prefix("spec.")?.split_once('[')?;
            let (index, _) = rest.split_once(']')?;
            Some((list.to_owned(), index.parse().ok()?))
        })
        .filter(|(list, _)| list == "ingress" || list == "egress")
        .collect();
    let alone = |value: &Value| in_town(&[("input.json", value.to_string().as_bytes())]);
    let with = object.typed();
    for (list, index) in places.iter().take(REMOVALS) {
        let mut without = with.clone();
        let rules = without["spec"][list.as_str()].as_array_mut();
        // Of two objects with this name the other one may have been refused.
        if !rules.is_some_and(|rules| {
            *index < rules.len() && {
                rules.remove(*index);
                true
            }
        }) {
            continue;
        }
        let (with, without) = (alone(&with), alone(&without));
        for sample in samples(&with, &[&without], bytes) {
            assert!(
                !with.allows(&sample) || without.allows(&sample),
                "{list}[{index}] is refused and lets pass {sample:?}"
            );
        }
    }
}
