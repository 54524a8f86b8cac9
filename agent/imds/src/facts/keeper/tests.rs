//! The task against a service in this process. The clock is tokio's: it stands still but for what the test lets pass.

use super::*;
use crate::facts::Facts;
use crate::upstream::tests::service::{Reply, Service};

const DOCUMENT_TEXT: &str = r#"{"accountId":"123456789012","architecture":"arm64","availabilityZone":"eu-west-1a","imageId":"ami-node","instanceId":"i-node","instanceType":"m7g.large","kernelId":null,"privateIp":"10.0.7.10","region":"eu-west-1","version":"2017-09-30"}"#;
const MAC: &str = "meta-data/network/interfaces/macs/0e:49:61:0f:c3:11";

/// A node, and the task that knows it.
struct Node {
    service: Service,
    wanted: watch::Sender<Wanted>,
    known: watch::Receiver<Arc<Known>>,
}

fn wanted(paths: &[&str]) -> Wanted {
    let parse = |path: &&str| path.parse().expect(path);
    paths.iter().map(parse).collect()
}

async fn service() -> Service {
    let service = Service::start([
        ("meta-data/placement/region", "eu-west-1"),
        ("meta-data/placement/availability-zone", "eu-west-1a"),
        ("meta-data/placement/availability-zone-id", "euw1-az1"),
        ("meta-data/instance-id", "i-node"),
        ("meta-data/instance-type", "m7g.large"),
        ("meta-data/services/domain", "amazonaws.com"),
        ("meta-data/services/partition", "aws"),
        ("dynamic/instance-identity/document", DOCUMENT_TEXT),
        ("dynamic/instance-identity/pkcs7", "SIGNED\nTWICE"),
        ("meta-data/ami-id", "ami-node"),
        (
            "meta-data/network/interfaces/macs/",
            "0e:49:61:0f:c3:11/\n../\n",
        ),
        ("meta-data/tags/instance/", "Name\nteam"),
        ("meta-data/tags/instance/Name", "node-1"),
        ("meta-data/tags/instance/team", "blue"),
    ])
    .await;
    service.set(&format!("{MAC}/vpc-id"), Reply::ok("vpc-1"));
    service
}

impl Node {
    fn of(service: Service) -> Self {
        let (wanted, receiver) = watch::channel(Wanted::new());
        let upstream = Upstream::new(service.endpoint(), Arc::default());
        Self {
            service,
            wanted,
            known: keep(upstream, receiver),
        }
    }

    /// The table of whoever asks for these, once it is as it should be.
    async fn until(&mut self, paths: &[&str], is_right: impl Fn(&Facts) -> bool) -> Facts {
        let asked = wanted(paths);
        self.wanted.send_if_modified(|wanted| {
            let news = *wanted != asked;
            wanted.clone_from(&asked);
            news
        });
        let wait = self.known.wait_for(|known| is_right(&known.table(&asked)));
        let known = tokio::time::timeout(Duration::from_secs(20), wait).await;
        known
            .expect("in time")
            .expect("the task lives")
            .table(&asked)
    }

    fn counts(&self, paths: &[&str]) -> Vec<usize> {
        paths.iter().map(|path| self.service.asked(path)).collect()
    }
}

fn text<'a>(facts: &'a Facts, path: &str) -> Option<&'a str> {
    facts.value(path).map(|fact| fact.text.as_str())
}

fn has_everything(facts: &Facts) -> bool {
    !facts.is_expected("")
}

#[tokio::test]
async fn every_pod_reads_the_common_values_and_the_document_with_six_fields() {
    let mut node = Node::of(service().await);
    let facts = node.until(&[], has_everything).await;
    let paths: Vec<&str> = facts.paths().collect();
    assert_eq!(
        paths,
        [
            "dynamic/instance-identity/document",
            "meta-data/instance-id",
            "meta-data/instance-type",
            "meta-data/placement/availability-zone",
            "meta-data/placement/availability-zone-id",
            "meta-data/placement/region",
            "meta-data/services/domain",
            "meta-data/services/partition",
        ]
    );
    assert_eq!(
        text(&facts, "meta-data/placement/region"),
        Some("eu-west-1")
    );
    assert_eq!(
        text(&facts, "dynamic/instance-identity/document"),
        Some(
            r#"{"accountId":"123456789012","architecture":"arm64","availabilityZone":"eu-west-1a","instanceType":"m7g.large","region":"eu-west-1","version":"2017-09-30"}"#
        )
    );
}

#[tokio::test]
async fn with_a_signature_the_document_is_the_original() {
    let mut node = Node::of(service().await);
    let path = "dynamic/instance-identity/pkcs7";
    let facts = node.until(&[path], has_everything).await;
    assert_eq!(text(&facts, path), Some("SIGNED\nTWICE"));
    assert_eq!(
        text(&facts, "dynamic/instance-identity/document"),
        Some(DOCUMENT_TEXT)
    );
    // In the same moment the others have the short one.
    let others = node.known.borrow().table(&Wanted::new());
    let document = text(&others, "dynamic/instance-identity/document");
    assert!(document.is_some_and(|text| !text.contains("i-node")));
    assert!(text(&others, path).is_none());
}

#[tokio::test]
async fn interfaces_and_tags_are_those_that_the_service_lists() {
    let mut node = Node::of(service().await);
    let asked = [
        "network/interfaces/macs/*/vpc-id",
        "network/interfaces/macs/0e:49:61:0f:c3:99/vpc-id",
        "tags/instance/team",
        "tags/instance/secret",
    ];
    let facts = node.until(&asked, has_everything).await;
    assert_eq!(text(&facts, &format!("{MAC}/vpc-id")), Some("vpc-1"));
    assert_eq!(text(&facts, "meta-data/tags/instance/team"), Some("blue"));
    assert_eq!(facts.paths().count(), 8 + 2);
    for path in node.service.paths() {
        assert!(
            !path.contains("..") && !path.contains("c3:99") && !path.contains("secret"),
            "{path}"
        );
    }
    assert_eq!(node.counts(&["meta-data/tags/instance/Name"]), [0]);
}

#[tokio::test]
async fn a_value_is_asked_for_once_whoever_wants_it_and_never_because_it_is_read() {
    let mut node = Node::of(service().await);
    let facts = node.until(&["ami-id"], has_everything).await;
    for _ in 0..1000 {
        let known = node.known.borrow().clone();
        assert_eq!(known.table(&wanted(&["ami-id"])), facts);
        assert_eq!(known.table(&Wanted::new()).paths().count(), 8);
    }
    let before = node.service.heads().len();
    assert_eq!(before, 1 + 8 + 1, "a token and nine values");
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(node.service.heads().len(), before);
}

/// Time goes by at once, but not while the service is at work: the clock is paused only between rounds.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

#[tokio::test]
async fn what_stays_is_cached_for_an_hour_and_what_changes_for_five_seconds() {
    let mut node = Node::of(service().await);
    let spot = "meta-data/spot/instance-action";
    node.service.set(spot, Reply::ok("none"));
    let asked = ["spot/instance-action", "ami-id"];
    node.until(&asked, has_everything).await;
    let counted = [spot, "meta-data/ami-id"];
    pass(Duration::from_secs(3)).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(node.counts(&counted), [1, 1]);
    node.service.set(spot, Reply::ok("terminate"));
    pass(Duration::from_secs(2)).await;
    node.until(&asked, |facts| text(facts, spot) == Some("terminate"))
        .await;
    assert_eq!(node.counts(&counted), [2, 1]);
    node.service.set("meta-data/ami-id", Reply::ok("ami-new"));
    pass(STATIC).await;
    node.until(&asked, |facts| {
        text(facts, "meta-data/ami-id") == Some("ami-new")
    })
    .await;
    assert_eq!(node.counts(&counted)[1], 2);
}

#[tokio::test]
async fn what_is_absent_or_failed_is_asked_for_again_after_five_seconds() {
    let mut node = Node::of(service().await);
    let (ip, spot) = ("meta-data/public-ipv4", "meta-data/spot/termination-time");
    node.service.set(spot, Reply::status(500));
    let asked = ["public-ipv4", "spot/termination-time"];
    let is_there = |facts: &Facts| !facts.is_expected(ip) && facts.is_expected(spot);
    let facts = node.until(&asked, is_there).await;
    assert_eq!((text(&facts, ip), text(&facts, spot)), (None, None));
    while node.service.asked(spot) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let asked_before = node.counts(&[ip, spot]);
    pass(Duration::from_secs(3)).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(node.counts(&[ip, spot]), asked_before);
    node.service.set(ip, Reply::ok("192.0.2.1"));
    node.service.set(spot, Reply::ok("2026-11-22T00:00:00Z"));
    pass(Duration::from_secs(2)).await;
    let facts = node.until(&asked, has_everything).await;
    assert_eq!(text(&facts, ip), Some("192.0.2.1"));
    // From here on both fail: the address stays, the interruption is not guessed.
    node.service.set(ip, Reply::status(500));
    node.service.set(spot, Reply::ok(&"x".repeat(17 * 1024)));
    pass(STATIC).await;
    let facts = node.until(&asked, |facts| facts.is_expected(spot)).await;
    assert_eq!(text(&facts, ip), Some("192.0.2.1"));
}

#[tokio::test]
async fn a_service_that_is_not_there_is_asked_once_a_round() {
    let service = service().await;
    service.set("api/token", Reply::status(403));
    let mut node = Node::of(service);
    let asked = ["ami-id", "tags/instance/*"];
    node.until(&asked, |facts| {
        facts.is_expected("meta-data/tags/instance/x")
    })
    .await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let before = node.service.paths();
    assert!(
        before.len() <= 2 && before.iter().all(|path| path == "/latest/api/token"),
        "{before:?}"
    );
    pass(NEGATIVE).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(node.service.heads().len(), before.len() + 1);
    node.service.unset("api/token");
    pass(NEGATIVE).await;
    node.until(&asked, has_everything).await;
}

#[tokio::test]
async fn what_cannot_be_shown_is_no_value() {
    let service = service().await;
    service.set("meta-data/ami-id", Reply::ok("ami\u{0}"));
    service.set("meta-data/hostname", Reply::ok("a\u{1b}[31m"));
    service.set(
        "dynamic/instance-identity/document",
        Reply::ok(r#"{"accountId":"123456789012"}"#),
    );
    let mut node = Node::of(service);
    let pending = ["meta-data/ami-id", "meta-data/hostname", DOCUMENT.as_str()];
    // Known behind all that cannot be shown: those were asked for by then.
    let facts = node.until(&["ami-id", "hostname", "mac"], |facts| {
        !facts.is_expected("meta-data/mac")
    });
    let facts = facts.await;
    for path in pending {
        assert!(
            facts.is_expected(path) && text(&facts, path).is_none(),
            "{path}"
        );
    }
}

#[tokio::test]
async fn what_nobody_wants_any_more_is_not_asked_for() {
    let mut node = Node::of(service().await);
    let spot = "meta-data/spot/instance-action";
    node.service.set(spot, Reply::ok("none"));
    node.until(&["spot/instance-action"], has_everything).await;
    node.until(&[], |_| true).await;
    node.known
        .wait_for(|known| known.0.len() == 8)
        .await
        .expect("the task lives");
    pass(CHANGING * 2).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(node.counts(&[spot]), [1]);
}
