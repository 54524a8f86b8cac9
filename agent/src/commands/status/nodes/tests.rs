use super::*;
use crate::failure::Failure;

fn status(node: &str, ready: bool) -> NodeStatus {
    NodeStatus {
        node: node.to_owned(),
        version: "0.1.0".to_owned(),
        ready,
        problems: if ready {
            Vec::new()
        } else {
            vec!["pod a/b has no interface yet".to_owned()]
        },
        conntrack_capacity: 9,
        ..NodeStatus::default()
    }
}

fn away() -> Failure {
    Failure::new(
        "PC4002",
        "no agent answers on n2",
        "pod p is Pending",
        "look",
    )
}

fn printed(asked: &[Asked<NodeStatus>], missing: &Missing, form: Form) -> (u8, String) {
    let mut out = Vec::new();
    let code = print_all(asked, missing, Detail::Normal, form, &mut out).expect("is printed");
    (code, String::from_utf8(out).expect("text"))
}

#[test]
fn every_node_has_a_row_and_every_trouble_its_node() {
    let asked = [
        ("n1".to_owned(), Ok(status("n1", false))),
        ("n2".to_owned(), Err(away())),
    ];
    let missing = Missing {
        count: 1,
        among: vec!["n3".to_owned()],
    };
    let expected = "\
NODE  READY  MODE     PODS  PROGRAMS  POLICIES  SYNC  CT   LOST  VERSION
n1    no     enforce  0/0   0/0       0         yes   0/9  0     0.1.0
n2    no     -        -     -         -         -     -    -     -
n3    no     -        -     -         -         -     -    -     -
! n1: pod a/b has no interface yet
! n2: PC4002 no agent answers on n2: pod p is Pending
! n3: no agent runs here
";
    let (code, text) = printed(&asked, &missing, Form::Table);
    assert_eq!((code, text.as_str()), (exit::NEGATIVE, expected));
    let (_, text) = printed(&asked, &missing, Form::Name);
    assert_eq!(text, "node/n1\nnode/n2\n");
}

#[test]
fn it_is_good_only_if_all_are_and_unreachable_only_if_nobody_answers() {
    let good = || ("n1".to_owned(), Ok(status("n1", true)));
    let bad = || ("n2".to_owned(), Err(away()));
    let none = Missing::default();
    assert_eq!(printed(&[good()], &none, Form::Table).0, exit::DONE);
    assert_eq!(
        printed(&[good(), bad()], &none, Form::Table).0,
        exit::NEGATIVE
    );
    assert_eq!(printed(&[bad()], &none, Form::Table).0, exit::UNREACHABLE);
    let missing = Missing {
        count: 1,
        among: Vec::new(),
    };
    let (code, text) = printed(&[good()], &missing, Form::Table);
    assert_eq!(code, exit::NEGATIVE);
    assert!(text.ends_with("\n! nodes without an agent: 1\n"), "{text}");
}

#[test]
fn programs_read_failures_beside_the_items() {
    let asked = [
        ("n1".to_owned(), Ok(status("n1", true))),
        ("n2".to_owned(), Err(away())),
    ];
    let (_, text) = printed(&asked, &Missing::default(), Form::Json);
    let list: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(list["kind"], "NodeStatusList");
    assert_eq!(list["items"][0]["node"], "n1");
    assert_eq!(list["failures"][0]["node"], "n2");
    assert_eq!(list["failures"][0]["error"]["code"], "PC4002");
    let (_, yaml) = printed(&asked, &Missing::default(), Form::Yaml);
    let read: Value = serde_saphyr::from_str(&yaml).expect("YAML");
    assert_eq!(read, list);
}
