//! The fuzzers' committed inputs, without a fuzzer: seeds, former crashes, and random changes of both.
//!
//! | folder | holds |
//! |---|---|
//! | `corpus/TARGET` | one input for each form that the target tells apart, named for it |
//! | `crashes/TARGET` | what a fuzzer once found; `crashes/README.md` tells each one's story |
//!
//! `BLESS=1` writes `corpus/packet` anew, from a library that is not ours; policies are written by hand. `PROPTEST_CASES` asks for more changes.

#[path = "corpus/packets.rs"]
mod packets;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use portcullis::kube::manifests;
use portcullis::world::World;
use portcullis_fuzz::{packet, policy};
use portcullis_policy::compile;
use proptest::prelude::*;
use proptest::sample::Index;

/// Changes that are tried of each target's inputs.
const CASES: u32 = 2000;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// Name and bytes of every file of a folder.
fn files(name: &str) -> Vec<(String, Vec<u8>)> {
    let folder = folder(name);
    let entries =
        fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<(String, Vec<u8>)> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| !name.as_encoded_bytes().starts_with(b"."))
        })
        .map(|path| {
            (
                path.file_name().unwrap().to_string_lossy().into_owned(),
                fs::read(&path).unwrap(),
            )
        })
        .collect();
    files.sort();
    files
}

/// All inputs of a target.
fn inputs(target: &str) -> Vec<(String, Vec<u8>)> {
    let seeds = files(&format!("corpus/{target}"));
    assert!(seeds.len() > 50, "{} seeds", seeds.len());
    [seeds, files(&format!("crashes/{target}"))].concat()
}

fn bytes_of(target: &str) -> Vec<Vec<u8>> {
    inputs(target).into_iter().map(|(_, bytes)| bytes).collect()
}

#[test]
fn every_packet_of_the_corpus_keeps_the_parsers_promises() {
    for (name, bytes) in inputs("packet") {
        println!("{name}");
        packet(&bytes);
    }
}

#[test]
fn every_policy_of_the_corpus_keeps_the_compilers_promises() {
    for (name, bytes) in inputs("policy") {
        println!("{name}");
        policy(&bytes);
    }
}

#[test]
fn the_packets_of_the_corpus_are_what_their_names_say() {
    let written: Vec<(String, Vec<u8>)> = files("corpus/packet");
    let mut expected: Vec<(String, Vec<u8>)> = packets::packets()
        .into_iter()
        .map(|(name, bytes)| (format!("{name}.bin"), bytes))
        .collect();
    expected.sort();
    if std::env::var_os("BLESS").is_some() {
        for (name, _) in &written {
            fs::remove_file(folder("corpus/packet").join(name)).unwrap();
        }
        for (name, bytes) in &expected {
            fs::write(folder("corpus/packet").join(name), bytes).unwrap();
        }
        return;
    }
    assert!(
        written == expected,
        "run this test with BLESS=1 and look at what changed"
    );
}

#[test]
fn every_former_crash_has_its_story() {
    let stories = fs::read_to_string(folder("crashes/README.md")).unwrap();
    let told: BTreeSet<&str> = stories
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` | "))
        .map(|(file, story)| {
            assert!(
                story.len() > 40,
                "{file}: what was wrong, and what is done now?"
            );
            file
        })
        .collect();
    let there: Vec<String> = ["packet", "policy"]
        .into_iter()
        .flat_map(|target| {
            files(&format!("crashes/{target}"))
                .into_iter()
                .map(move |(name, _)| format!("{target}/{name}"))
        })
        .collect();
    assert_eq!(told, there.iter().map(String::as_str).collect());
}

/// Policies that repeat one thing so often.
fn giants(count: usize) -> Vec<(&'static str, String)> {
    let head = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: shop}\nspec:\n";
    let each = |one: &dyn Fn(usize) -> String| -> String { (0..count).map(one).collect() };
    let repeat = |open: &str, one: &dyn Fn(usize) -> String, close: &str| {
        format!("{head}{open}{}{close}", each(one))
    };
    let block = |n: usize| format!("10.{}.{}.0/24", n / 256 % 256, n % 256);
    vec![
        (
            "rules",
            repeat(
                "  ingress:\n",
                &|n| format!("  - ports: [{{port: {}}}]\n", n % 65535 + 1),
                "",
            ),
        ),
        (
            "refused rules",
            repeat("  ingress:\n", &|_| "  - {from: [~]}\n".to_owned(), ""),
        ),
        (
            "blocks",
            repeat(
                "  ingress:\n  - from:\n",
                &|n| format!("    - ipBlock: {{cidr: {}}}\n", block(n)),
                "",
            ),
        ),
        (
            "exceptions",
            repeat(
                "  ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [",
                &|n| block(n) + ", ",
                "]}}]}]\n",
            ),
        ),
        (
            "values",
            repeat(
                "  podSelector: {matchExpressions: [{key: app, operator: In, values: [web, ",
                &|n| format!("v{n}, "),
                "]}]}\n",
            ),
        ),
        (
            "requirements",
            repeat(
                "  podSelector:\n    matchExpressions:\n",
                &|n| format!("    - {{key: k{n}, operator: DoesNotExist}}\n"),
                "",
            ),
        ),
        (
            "peers",
            repeat(
                "  egress:\n  - to:\n",
                &|n| format!("    - podSelector: {{matchLabels: {{app: a{n}}}}}\n"),
                "",
            ),
        ),
        (
            "port names",
            repeat(
                "  ingress:\n  - ports: [",
                &|n| format!("{{port: n{n}}}, "),
                "]\n",
            ),
        ),
        (
            "documents",
            each(&|n| {
                let head = head.replace("name: p", &format!("name: p{n}"));
                format!("---\n{head}  ingress: [{{}}]\n")
            }),
        ),
        ("broken documents", each(&|_| format!("---\n{head}  [\n"))),
        ("dashes", "- ".repeat(count)),
        ("brackets", format!("{head}{}", "[".repeat(count))),
        (
            "aliases",
            format!(
                "{head}  podSelector: &a {{}}\n  ingress: [{{from: [{}]}}]\n",
                "{podSelector: *a}, ".repeat(count)
            ),
        ),
    ]
}

#[test]
fn ten_thousand_of_anything_become_tables() {
    let town = include_bytes!("../town.yaml");
    for (name, text) in giants(10_000) {
        let started = Instant::now();
        let mut world = World::new("n1");
        let files = [("town.yaml", &town[..]), ("input.yaml", text.as_bytes())];
        world.apply_batch(manifests::parse(files), SystemTime::UNIX_EPOCH);
        let tables = compile(&world.snapshot());
        println!("{name}: {:.3} s", started.elapsed().as_secs_f64());
        let mut all = tables.endpoints.values();
        let isolates = all.any(|pod| pod.ingress.iter().chain(&pod.egress).any(Option::is_some));
        // One of them is no policy at all.
        assert!(isolates || name == "dashes", "{name}: nobody is isolated");
    }
}

#[test]
fn giant_policies_keep_the_compilers_promises() {
    for (name, text) in giants(500) {
        println!("{name}");
        policy(text.as_bytes());
    }
}

/// What one change does to bytes.
#[derive(Clone, Debug)]
enum Change {
    Set(Index, u8),
    Flip(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
    Repeat(Index, usize, usize),
    /// From there on as another input.
    Cross(Index, Index, Index),
    /// A word of the dictionary.
    Word(Index, Index),
}

fn change() -> impl Strategy<Value = Change> {
    let at = any::<Index>;
    prop_oneof![
        (at(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        (at(), 0..8_u8).prop_map(|(at, bit)| Change::Flip(at, bit)),
        (at(), prop::collection::vec(any::<u8>(), 1..9))
            .prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        (at(), 1..40_usize).prop_map(|(at, count)| Change::Remove(at, count)),
        (at(), 1..60_usize, 1..4_usize)
            .prop_map(|(at, count, times)| Change::Repeat(at, count, times)),
        (at(), at(), at()).prop_map(|(at, which, from)| Change::Cross(at, which, from)),
        (at(), at()).prop_map(|(at, word)| Change::Word(at, word)),
    ]
}

fn changed(
    mut bytes: Vec<u8>,
    changes: &[Change],
    others: &[Vec<u8>],
    words: &[Vec<u8>],
) -> Vec<u8> {
    for change in changes {
        let place = |at: &Index| at.index(bytes.len() + 1);
        match change {
            Change::Set(..) | Change::Flip(..) if bytes.is_empty() => {}
            Change::Set(at, byte) => *at.get_mut(&mut bytes) = *byte,
            Change::Flip(at, bit) => *at.get_mut(&mut bytes) ^= 1 << bit,
            Change::Insert(at, new) => {
                let at = place(at);
                bytes.splice(at..at, new.iter().copied());
            }
            Change::Remove(at, count) => {
                let at = place(at);
                let end = (at + count).min(bytes.len());
                bytes.drain(at..end);
            }
            Change::Repeat(at, count, times) => {
                let at = place(at);
                let end = (at + count).min(bytes.len());
                let again = bytes[at..end].repeat(*times);
                bytes.splice(end..end, again);
            }
            Change::Cross(at, which, from) => {
                bytes.truncate(place(at));
                let other = which.get(others);
                bytes.extend_from_slice(&other[from.index(other.len() + 1)..]);
            }
            Change::Word(at, word) if !words.is_empty() => {
                let at = place(at);
                bytes.splice(at..at, word.get(words).iter().copied());
            }
            Change::Word(..) => {}
        }
    }
    bytes
}

/// The words of libFuzzer's dictionary, which has them in quotes.
fn words() -> Vec<Vec<u8>> {
    let text = fs::read_to_string(folder("policy.dict")).unwrap();
    let quoted = text.lines().filter(|line| !line.starts_with('#'));
    let words = quoted.filter_map(|line| line.strip_prefix('"')?.strip_suffix('"'));
    words
        .map(|word| {
            word.replace("\\x0a", "\n")
                .replace("\\\"", "\"")
                .replace("\\\\", "\\")
                .into_bytes()
        })
        .collect()
}

fn config() -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|cases| cases.parse().ok());
    ProptestConfig {
        cases: cases.unwrap_or(CASES),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// Changes inputs and asks about each; what breaks a promise is made small and shown as a Rust literal.
fn try_changes(target: &str, words: &[Vec<u8>], ask: fn(&[u8])) {
    let inputs = bytes_of(target);
    let changes = prop::collection::vec(change(), 1..6);
    let mut runner = proptest::test_runner::TestRunner::new(config());
    let result = runner.run(&(any::<Index>(), changes), |(which, changes)| {
        let bytes = changed(which.get(&inputs).clone(), &changes, &inputs, words);
        let shown = bytes.clone();
        let fail = |_panic| TestCaseError::fail(format!("b\"{}\"", shown.escape_ascii()));
        std::panic::catch_unwind(move || ask(&bytes)).map_err(fail)
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

#[test]
fn changed_packets_keep_the_parsers_promises() {
    try_changes("packet", &[], packet);
}

#[test]
fn changed_policies_keep_the_compilers_promises() {
    try_changes("policy", &words(), policy);
}
