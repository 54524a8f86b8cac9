//! The plugin's whole way, to agents of whom only the objects are made up.

use std::sync::Arc;

use super::super::online::tests::{view, view_of};
use super::super::service::tests::OBJECTS;
use super::*;
use crate::api::Request;
use crate::cluster::stand_in::StandIn;
use crate::failure::exit;
use crate::reconcile::View;

/// An agent that answers from what it sees.
fn sees(view: View) -> impl Fn(Request) + Send + 'static {
    let view = Arc::new(view);
    move |request| {
        if let Request::View(answer) = request {
            let _ = answer.send(View::clone(&view));
        }
    }
}

async fn ask(cluster: &StandIn, source: &str, destination: &str) -> Result<(u8, String), Failure> {
    let question = Question {
        source,
        destination,
        expect: None,
    };
    let access = cluster.access().connect().await.expect("a kubeconfig");
    let fleet = access.fleet().await.expect("there are agents");
    let word = gather(&access, &fleet, Duration::from_secs(20), &question).await?;
    let mut out = Vec::new();
    let code = print(&question, &word, false, &mut out).expect("is printed");
    Ok((code, String::from_utf8(out).expect("text")))
}

#[tokio::test]
async fn each_side_is_the_word_of_the_agent_that_enforces_it() {
    let cluster = StandIn::start().await;
    cluster.agent("n1", sees(view("n1", 3)));
    cluster.agent("n2", sees(view("n2", 7)));
    let (code, text) = ask(&cluster, "shop/web", "shop/db:5432")
        .await
        .expect("an answer");
    assert_eq!(code, exit::DONE);
    let by = " by       n1 (egress, revision 3), n2 (ingress, revision 7)\n";
    assert!(text.ends_with(by), "{text}");
}

#[tokio::test]
async fn every_node_of_a_service_is_asked_once_for_its_own() {
    let cluster = StandIn::start().await;
    for (node, revision) in [("n1", 3), ("n2", 7), ("n3", 9)] {
        cluster.agent(node, sees(view_of(OBJECTS, node, revision)));
    }
    let (code, text) = ask(&cluster, "shop/web", "svc/shop/db")
        .await
        .expect("an answer");
    assert_eq!(code, exit::DONE);
    assert!(
        text.starts_with("VERDICT  MIXED (Service shop/db, 5432/tcp: 1 of 3 backends denied)\n"),
        "{text}"
    );
    let by = " by       n1 (egress and ingress, revision 3), n2 (ingress, revision 7)\n";
    assert!(text.ends_with(by), "{text}");
    let execs = cluster.asked().into_iter();
    let execs = execs.filter(|asked| asked.path.contains("/exec"));
    assert_eq!(
        execs.count(),
        3,
        "the first for who is behind it, then both nodes"
    );
}

#[tokio::test]
async fn another_agent_stands_in_for_one_that_is_not_there() {
    let cluster = StandIn::start().await;
    cluster.agent("n1", sees(view_of(OBJECTS, "n1", 3)));
    let (code, text) = ask(&cluster, "shop/web", "svc/shop/db")
        .await
        .expect("an answer");
    assert_eq!(code, exit::UNREACHABLE);
    let expected = " by       n1 (egress and ingress, revision 3)
! n2 does not answer for its pod, another agent did: no agent could be asked: none runs there
";
    assert!(text.ends_with(expected), "{text}");
}

#[tokio::test]
async fn what_the_agents_refuse_is_the_answer() {
    let cluster = StandIn::start().await;
    cluster.agent("n1", sees(view_of(OBJECTS, "n1", 3)));
    let failure = ask(&cluster, "shop/web", "svc/shop/nobody:80").await;
    let failure = failure.expect_err("there is no such Service");
    assert_eq!((failure.code, failure.exit_code()), ("PC5004", exit::USAGE));
    assert_eq!(failure.why, "there is no such Service");
}
