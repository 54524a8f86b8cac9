use super::*;
use crate::failure::exit;

fn failed(code: &'static str, what: &str) -> Failure {
    Failure::new(code, what, "why", "do")
}

#[test]
fn a_node_that_could_not_be_asked_counts_more_than_one_that_was_not_done() {
    let late = ("n1".to_owned(), failed("PC4003", "late"));
    let away = ("n2".to_owned(), failed("PC4002", "away"));
    let failure = out_of_time(&BTreeMap::from([late.clone()]));
    assert_eq!(
        (failure.exit_code(), failure.why.as_str()),
        (exit::TIMED_OUT, "n1: not in sync yet")
    );
    let failure = out_of_time(&BTreeMap::from([late, away]));
    assert_eq!(
        (failure.exit_code(), failure.why.as_str()),
        (exit::UNREACHABLE, "n1: not in sync yet; n2: away: why")
    );
    let missing = (String::new(), failed("PC4007", "nodes without an agent: 2"));
    let failure = out_of_time(&BTreeMap::from([missing]));
    assert_eq!(failure.why, "nodes without an agent: 2: why");
}

#[test]
fn time_that_is_up_tells_the_last_that_was_heard_of_the_pod() {
    let status = PodStatus {
        node: "n1".to_owned(),
        missing: Some("has no interface yet".to_owned()),
        ..PodStatus::default()
    };
    let failure = too_late("shop", "web", Some(Ok(status)));
    assert_eq!(failure.exit_code(), exit::TIMED_OUT);
    assert_eq!(failure.why, "the agent on n1 says: it has no interface yet");
    let failure = too_late("shop", "web", Some(Err(failed("PC4002", "away"))));
    assert_eq!(failure.exit_code(), exit::UNREACHABLE);
}
