//! `portcullis policy lint` against the oracle, on random worlds: what is said to have no effect is taken out, all of it at once, and no verdict changes.
//!
//! The oracle knows nothing of the lint. `PORTCULLIS_BIN` is the binary; `portcullis_tests::seeds` says which variables choose the worlds.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use portcullis_tests::binary;
use portcullis_tests::directory::Directory;
use portcullis_tests::oracle::{Oracle, SideVerdict};
use portcullis_tests::seeds::seeds;
use portcullis_tests::world::{Audience, World};
use serde_json::{Value, json};

/// Checks by which something is said to have no effect.
const WITHOUT_EFFECT: [&str; 14] = [
    "contradictory-selector",
    "empty-block",
    "empty-peers",
    "empty-ports",
    "ignored-rules",
    "not-isolated",
    "peer-elsewhere",
    "peer-selects-nothing",
    "redundant-peer",
    "redundant-port",
    "repeated-rule",
    "selects-nothing",
    "unknown-port-name",
    "unreachable-rule",
];

#[test]
fn what_is_said_to_have_no_effect_can_be_taken_out_at_once() {
    let binary = binary::portcullis();
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let seeds = seeds(250, 1250);
    for seed in seeds.clone() {
        let world = World::random(seed, Audience::Compiler);
        let report = lint_world(&binary, &world);
        let reduced = World {
            objects: without_effect(&world.objects, &report, &mut seen),
            ..world.clone()
        };
        let (before, after) = (judged(&world), judged(&reduced));
        let changed: Vec<String> = world
            .probes
            .iter()
            .zip(before.iter().zip(&after))
            .filter(|(_, (before, after))| before != after)
            .map(|(probe, (before, after))| format!("{probe:?}: {before:?}, then {after:?}"))
            .collect();
        assert!(
            changed.is_empty(),
            "PORTCULLIS_SEED={seed} PORTCULLIS_WORLDS=1:\n{}\n{report:#}\n{}\nwithout:\n{}",
            changed.join("\n"),
            world.dump(),
            reduced.dump()
        );
    }
    println!("{seen:?}");
    // One world to see a failure again may well lack some.
    for check in WITHOUT_EFFECT
        .iter()
        .filter(|_| seeds.end - seeds.start >= 100)
    {
        let found = seen.get(*check).copied().unwrap_or(0);
        assert!(found > 0, "{check} was never found");
    }
}

#[test]
fn every_policy_that_is_not_understood_has_an_error() {
    let binary = binary::portcullis();
    let mut spoilt = 0;
    for seed in seeds(150, 750) {
        let world = World::random(seed, Audience::Compiler);
        let report = lint_world(&binary, &world);
        let explained = explain_refused(&binary, &world);
        spoilt += explained.len();
        let findings = findings(&report);
        let with_errors = findings.filter(|finding| finding["severity"] == "error");
        let mut with_errors: Vec<String> = with_errors
            .map(|finding| named(&finding["object"]))
            .collect();
        with_errors.sort_unstable();
        with_errors.dedup();
        assert_eq!(
            with_errors,
            explained,
            "seed {seed}: {report:#}\n{}",
            world.dump()
        );
    }
    assert!(spoilt > 0, "no world has a spoilt policy");
}

#[test]
fn files_directories_and_standard_input_are_read_together() {
    let directory = Directory::new("lint");
    let at = |name: &str| directory.path().join(name);
    fs::create_dir_all(at("dir/below")).expect("the temporary directory can be written");
    let policy = |name: &str| {
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": name, "namespace": "shop"},
            "spec": {"podSelector": {}, "ingress": [{"from": []}]}})
        .to_string()
    };
    for (file, name) in [
        ("dir/a.yaml", "a"),
        ("dir/b.json", "b"),
        ("dir/below/c.yaml", "c"),
        ("d", "d"),
    ] {
        fs::write(at(file), policy(name)).expect("a file can be written");
    }
    let binary = binary::portcullis();
    let mut child = Command::new(&binary)
        .args(["policy", "lint", "-o", "json", "-f"])
        .args([at("dir"), at("d")])
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut stdin = child.stdin.take().expect("it was asked for");
    stdin.write_all(policy("e").as_bytes()).expect("it reads");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(1), "warnings");
    let report: Value = serde_json::from_slice(&output.stdout).expect("a report is JSON");
    let empty = findings(&report).filter(|finding| finding["check"] == "empty-peers");
    let names: Vec<String> = empty.map(|finding| named(&finding["object"])).collect();
    let expected = ["a", "b", "d", "e"].map(|name| format!("NetworkPolicy shop/{name}"));
    assert_eq!(names, expected);
    assert_eq!(report["policies"], 4);
}

#[test]
fn exit_codes_tell_findings_from_wrong_usage() {
    let directory = Directory::new("lint");
    let file = directory.path().join("policy.yaml");
    let code = |arguments: &[&str]| {
        let output = run(Command::new(binary::portcullis())
            .args(["policy", "lint"])
            .args(arguments));
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let file_name = file.to_str().expect("it is text");
    let write = |spec: &str| {
        let text = format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p}}\nspec: {spec}\n"
        );
        fs::write(&file, text).expect("a file can be written");
    };
    let plain = ["-f", file_name];
    let strict = ["-f", file_name, "--strict"];
    for (spec, expected) in [
        ("{podSelector: {}, ingress: [{}]}", [0, 0]),
        ("{podSelector: {}, ingress: []}", [0, 1]),
        ("{podSelector: {}, ingress: [{}, {}]}", [1, 1]),
        ("{podSelector: {}, ingress: [{ports: [{port: 0}]}]}", [1, 1]),
    ] {
        write(spec);
        assert_eq!(
            [code(&plain).0, code(&strict).0],
            expected.map(Some),
            "{spec}"
        );
    }
    let (absent, words) = code(&["-f", "/nowhere/at/all.yaml"]);
    assert_eq!(absent, Some(2));
    assert!(
        words.starts_with("error PC5002: cannot read /nowhere/at/all.yaml\nwhy:"),
        "{words}"
    );
    assert_eq!(code(&[]).0, Some(2), "nothing to read");
}

/// The objects without what the report says has no effect; `seen` counts it by check.
fn without_effect(
    objects: &[Value],
    report: &Value,
    seen: &mut BTreeMap<String, usize>,
) -> Vec<Value> {
    let mut objects = objects.to_vec();
    for policy in objects
        .iter_mut()
        .filter(|object| object["kind"] == "NetworkPolicy")
    {
        state_types(&mut policy["spec"]);
    }
    // The last ones first, so that the places of the others stay, and what is in a rule before the rule.
    let all: Vec<&Value> = findings(report).collect();
    for finding in all.into_iter().rev() {
        let check = finding["check"].as_str().expect("a check has a name");
        if !WITHOUT_EFFECT.contains(&check) {
            continue;
        }
        *seen.entry(check.to_owned()).or_default() += 1;
        let field = finding["field"].as_str().expect("a field is text");
        let object = &finding["object"];
        let index = objects.iter().position(|other| {
            other["kind"] == object["kind"]
                && other["metadata"]["name"] == object["name"]
                && other["metadata"]["namespace"] == object["namespace"]
        });
        // One that selects nothing has gone as a whole.
        let Some(index) = index else {
            continue;
        };
        if field == "spec.podSelector" {
            objects.remove(index);
        } else {
            remove(&mut objects[index], field);
        }
    }
    // A rule that lost its last peer or port matches nothing, while one with an empty list would match everything.
    for policy in &mut objects {
        for list in ["ingress", "egress"] {
            if let Some(rules) = policy["spec"].get_mut(list).and_then(Value::as_array_mut) {
                rules.retain(|rule| !rule.is_null());
            }
        }
    }
    objects
}

/// Says in words which directions the policy governs, for that may hang on the rules that are taken out (N2).
fn state_types(spec: &mut Value) {
    let Some(spec) = spec.as_object_mut() else {
        return;
    };
    let unstated = match spec.get("policyTypes") {
        None | Some(Value::Null) => true,
        Some(types) => types.as_array().is_some_and(Vec::is_empty),
    };
    if unstated {
        let egress = spec.get("egress").and_then(Value::as_array);
        let types = match egress {
            Some(rules) if !rules.is_empty() => json!(["Ingress", "Egress"]),
            _ => json!(["Ingress"]),
        };
        spec.insert("policyTypes".to_owned(), types);
    }
}

/// Takes out what stands at a path: a list, a rule, or a list or an entry of a list in a rule.
fn remove(object: &mut Value, field: &str) {
    let steps: Vec<&str> = field
        .split(['.', '[', ']'])
        .filter(|step| !step.is_empty())
        .collect();
    let number = |step: &str| step.parse::<usize>().expect("a list is walked by number");
    match steps[..] {
        ["spec", list] => {
            let spec = object["spec"].as_object_mut().expect("there is a spec");
            spec.shift_remove(list);
        }
        ["spec", list, rule] => object["spec"][list][number(rule)] = Value::Null,
        ["spec", list, rule, part] => {
            let rule = &mut object["spec"][list][number(rule)];
            if let Some(rule) = rule.as_object_mut() {
                rule.shift_remove(part);
            }
        }
        ["spec", list, rule, "ports", entry, "endPort"] => {
            let port = object.pointer_mut(&format!("/spec/{list}/{rule}/ports/{entry}"));
            if let Some(port) = port.and_then(Value::as_object_mut) {
                port.shift_remove("endPort");
            }
        }
        ["spec", list, rule, part, entry, ..] => {
            let rule = &mut object["spec"][list][number(rule)];
            let Some(entries) = rule.get_mut(part).and_then(Value::as_array_mut) else {
                return;
            };
            entries.remove(number(entry));
            if entries.is_empty() {
                *rule = Value::Null;
            }
        }
        _ => panic!("{field}"),
    }
}

/// What both sides of each probe say.
fn judged(world: &World) -> Vec<[SideVerdict; 2]> {
    let oracle = Oracle::new(&world.objects);
    let sides = world.probes.iter().map(|probe| {
        let answer = oracle.judge(probe).expect("every probe can be answered");
        [answer.egress.verdict, answer.ingress.verdict]
    });
    sides.collect()
}

fn lint_world(binary: &Path, world: &World) -> Value {
    let directory = Directory::new("lint");
    let files = world
        .write(directory.path())
        .expect("the world can be written");
    let output = run(Command::new(binary)
        .args(["policy", "lint", "-o", "json", "-f"])
        .arg(&files.manifests));
    assert!(matches!(output.status.code(), Some(0 | 1)), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// The objects that `explain` says it could not take as they are.
fn explain_refused(binary: &Path, world: &World) -> Vec<String> {
    let directory = Directory::new("lint");
    let files = world
        .write(directory.path())
        .expect("the world can be written");
    let output = run(Command::new(binary)
        .args(["explain", "-f"])
        .arg(&files.manifests)
        .arg("--probes")
        .arg(&files.probes));
    let text = String::from_utf8_lossy(&output.stderr);
    let refused = text.lines().filter_map(|line| line.strip_prefix("! "));
    let names = refused.filter_map(|line| {
        let end = line
            .find(" partly refused")
            .or_else(|| line.find(" refused"))?;
        Some(line[..end].to_owned())
    });
    let mut names: Vec<String> = names.collect();
    names.sort_unstable();
    names
}

fn findings(report: &Value) -> impl Iterator<Item = &Value> {
    report["findings"]
        .as_array()
        .expect("findings are a list")
        .iter()
}

fn named(object: &Value) -> String {
    let text = |field: &str| object[field].as_str().unwrap_or_default();
    format!("{} {}/{}", text("kind"), text("namespace"), text("name"))
}

fn run(command: &mut Command) -> Output {
    command
        .stdin(Stdio::null())
        .output()
        .expect("the program starts")
}
