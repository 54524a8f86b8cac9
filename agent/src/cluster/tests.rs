//! The way to agents, from a kubeconfig to their answers.

use std::time::Duration;

use super::stand_in::StandIn;
use super::*;
use crate::api::Request;
use crate::report::NodeStatus;

const LIMIT: Duration = Duration::from_secs(20);

/// An agent that is called `name` and says so.
fn named(name: &str) -> impl Fn(Request) + Send + 'static + use<> {
    let node = name.to_owned();
    move |request| {
        if let Request::Status(answer) = request {
            let status = NodeStatus {
                node: node.clone(),
                ..NodeStatus::default()
            };
            let _ = answer.send(status);
        }
    }
}

async fn nodes(cluster: &Cluster) -> Vec<String> {
    let fleet = cluster.fleet().await.expect("there are agents");
    let question = |_: &Agent, mut line: Line| async move {
        let status: NodeStatus = line.ask("/v1/status").await?;
        Ok(status.node)
    };
    let asked = cluster.each(&fleet.agents, LIMIT, question).await;
    asked
        .into_iter()
        .map(|(node, answer)| {
            assert_eq!(answer, Ok(node.clone()), "every agent says who it is");
            node
        })
        .collect()
}

#[tokio::test]
async fn every_agent_is_asked_by_exec() {
    let cluster = StandIn::start().await;
    for node in ["n2", "n1"] {
        cluster.agent(node, named(node));
    }
    let access = cluster.access().connect().await.expect("a kubeconfig");
    assert_eq!(nodes(&access).await, ["n1", "n2"]);
}

#[tokio::test]
async fn who_acts_as_somebody_does_so_in_every_request() {
    let cluster = StandIn::start().await;
    cluster.agent("n1", named("n1"));
    let as_whom = AsWhom {
        user: Some("eve".to_owned()),
        groups: vec!["ops".to_owned(), "dev".to_owned()],
    };
    let access = Access {
        as_whom,
        ..cluster.access()
    };
    let access = access.connect().await.expect("a kubeconfig");
    assert_eq!(nodes(&access).await, ["n1"]);
    let asked = cluster.asked();
    let lists = asked.iter().filter(|asked| !asked.path.contains("/exec"));
    assert!(lists.count() >= 1 && asked.iter().any(|asked| asked.path.contains("/exec")));
    for asked in asked {
        let all = |name| {
            let values = asked.headers.get_all(name).iter();
            values.filter_map(|value| value.to_str().ok()).collect()
        };
        let (user, groups): (Vec<_>, Vec<_>) = (all("impersonate-user"), all("impersonate-group"));
        assert_eq!(user, ["eve"], "{}", asked.path);
        assert_eq!(groups, ["ops", "dev"], "{}", asked.path);
    }
}

#[tokio::test]
async fn groups_without_a_user_are_nobodys() {
    let cluster = StandIn::start().await;
    let as_whom = AsWhom {
        user: None,
        groups: vec!["ops".to_owned()],
    };
    let access = Access {
        as_whom,
        ..cluster.access()
    };
    let failure = access.connect().await.err().expect("is refused");
    assert_eq!(failure.code, "PC5001");
    assert!(cluster.asked().is_empty(), "nobody was asked");
}

#[tokio::test]
async fn nodes_without_an_agent_are_missed_by_name_where_nodes_may_be_listed() {
    let cluster = StandIn::start().await;
    cluster.agent("n1", named("n1"));
    cluster.wants_agents(2);
    let access = cluster.access().connect().await.expect("a kubeconfig");
    let missing = |among: &[&str]| Missing {
        count: 1,
        among: among.iter().map(ToString::to_string).collect(),
    };
    let fleet = access.fleet().await.expect("there is an agent");
    assert_eq!(fleet.missing, missing(&[]));
    cluster.nodes(&[("n1", &[]), ("n2", &[])]);
    let fleet = access.fleet().await.expect("there is an agent");
    assert_eq!(fleet.missing, missing(&["n2"]));
}

#[tokio::test]
async fn nodes_are_chosen_by_their_labels() {
    let cluster = StandIn::start().await;
    for node in ["n1", "n2", "n3"] {
        cluster.agent(node, named(node));
    }
    cluster.wants_agents(5);
    let access = Access {
        labels: Some("zone=a".to_owned()),
        ..cluster.access()
    };
    let refused = access.clone().connect().await.expect("a kubeconfig");
    let failure = refused.fleet().await.expect_err("nodes may not be listed");
    assert_eq!(
        (failure.code, failure.what.as_str()),
        ("PC4006", "you may not list nodes")
    );
    assert!(failure.do_.contains("--node"), "{}", failure.do_);
    let (a, b): (&[_], &[_]) = (&[("zone", "a")], &[("zone", "b")]);
    cluster.nodes(&[("n1", a), ("n2", b), ("n3", a), ("n4", a), ("n5", b)]);
    let chosen = access.clone().connect().await.expect("a kubeconfig");
    assert_eq!(nodes(&chosen).await, ["n1", "n3"]);
    let fleet = chosen.fleet().await.expect("there are agents");
    let among = vec!["n4".to_owned()];
    assert_eq!(fleet.missing, Missing { count: 1, among });
    let nobody = Access {
        labels: Some("zone=c".to_owned()),
        ..access.clone()
    };
    let nobody = nobody.connect().await.expect("a kubeconfig");
    let failure = nobody.fleet().await.expect_err("no node has them");
    assert_eq!(failure.code, "PC4007");
    // One node lacks an agent, n4 or n5: it may be that of zone b.
    cluster.wants_agents(4);
    let both = Access {
        labels: Some("zone=b".to_owned()),
        ..access
    };
    let both = both.connect().await.expect("a kubeconfig");
    let fleet = both.fleet().await.expect("there are agents");
    assert_eq!((fleet.missing.count, fleet.missing.among.len()), (1, 1));
}

#[tokio::test]
async fn a_line_that_stays_open_is_opened_again_when_it_broke() {
    let stand_in = StandIn::start().await;
    stand_in.agent("n1", named("n1"));
    let cluster = stand_in.access().connect().await.expect("a kubeconfig");
    let fleet = cluster.fleet().await.expect("there is an agent");
    let mut lines = Lines::default();
    let execs = || {
        let asked = stand_in.asked().into_iter();
        asked.filter(|asked| asked.path.contains("/exec")).count()
    };
    for (round, opened) in [(1, 1), (2, 1), (3, 2), (4, 2)] {
        if round == 3 {
            stand_in.hang_up();
        }
        let asked = lines.ask::<NodeStatus>(&cluster, &fleet.agents, LIMIT, "/v1/status");
        let (node, answer) = asked.await.pop().expect("one agent");
        let said = answer.map(|status| status.node);
        assert_eq!((node.as_str(), said), ("n1", Ok("n1".to_owned())));
        assert_eq!(execs(), opened, "in round {round}");
    }
    let nobody = lines.ask::<NodeStatus>(&cluster, &[], LIMIT, "/v1/status");
    assert!(nobody.await.is_empty());
    lines
        .ask::<NodeStatus>(&cluster, &fleet.agents, LIMIT, "/v1/status")
        .await;
    assert_eq!(execs(), 3, "lines to agents that are not asked are closed");
}
