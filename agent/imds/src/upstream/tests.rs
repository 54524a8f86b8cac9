//! The client against a service in this process, which says what a script says and remembers what it was asked.

pub(crate) mod service;

use super::*;
use service::{Reply, Service};

const REGION: Path = Path::fixed("meta-data/placement/region", PathClass::Static);

/// A client of `service`, and what it counts.
fn client(service: &Service) -> (Upstream, Arc<Counters>) {
    let counters = Arc::<Counters>::default();
    let upstream = Upstream::new(service.endpoint(), Arc::clone(&counters));
    (upstream, counters)
}

async fn region(upstream: &mut Upstream) -> Result<String, String> {
    let answer = upstream.get(&REGION).await;
    answer
        .map(|text| text.to_string())
        .map_err(|error| error.to_string())
}

#[tokio::test]
async fn a_request_is_made_of_constants_and_our_own_session_token() {
    let service = Service::start([("meta-data/placement/region", "eu-west-1")]).await;
    let (mut upstream, counters) = client(&service);
    assert_eq!(region(&mut upstream).await, Ok("eu-west-1".to_owned()));
    assert_eq!(region(&mut upstream).await, Ok("eu-west-1".to_owned()));
    let host = service.endpoint();
    let get = format!(
        "GET /latest/meta-data/placement/region HTTP/1.1\r\nHost: {host}\r\nX-aws-ec2-metadata-token: node-token-1\r\nConnection: close\r\n\r\n"
    );
    let put = format!(
        "PUT /latest/api/token HTTP/1.1\r\nHost: {host}\r\nX-aws-ec2-metadata-token-ttl-seconds: 21600\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    );
    assert_eq!(service.heads(), [put, get.clone(), get]);
    assert_eq!(counters.requests(PathClass::Token, UpstreamCode::Ok), 1);
    assert_eq!(counters.requests(PathClass::Static, UpstreamCode::Ok), 2);
}

#[tokio::test]
async fn a_session_token_is_renewed_before_its_end() {
    let service = Service::start([("meta-data/placement/region", "eu-west-1")]).await;
    let (mut upstream, _) = client(&service);
    region(&mut upstream).await.expect("it answers");
    let token = upstream.token.as_mut().expect("it has one");
    let left = token.until - Instant::now();
    assert!(left + RENEW > Duration::from_secs(21_590) && left + RENEW <= Duration::from_hours(6));
    // Its time has come, although the service would still take it.
    token.until = Instant::now();
    region(&mut upstream).await.expect("it answers");
    assert_eq!(service.tokens(), 2);
    assert!(service.heads()[3].contains("metadata-token: node-token-2\r\n"));
}

#[tokio::test]
async fn a_session_token_that_is_refused_is_fetched_anew_once() {
    let service = Service::start([("meta-data/placement/region", "eu-west-1")]).await;
    let (mut upstream, counters) = client(&service);
    region(&mut upstream).await.expect("it answers");
    service.forget_tokens();
    assert_eq!(region(&mut upstream).await, Ok("eu-west-1".to_owned()));
    assert_eq!(service.tokens(), 2);
    let refused =
        |counters: &Counters| counters.requests(PathClass::Static, UpstreamCode::Unauthorized);
    assert_eq!(refused(&counters), 1);
    // A service that refuses every token is asked twice and no more.
    service.set("meta-data/placement/region", Reply::status(401));
    let before = service.heads().len();
    assert_eq!(
        region(&mut upstream).await,
        Err("the metadata service answered with status 401".to_owned())
    );
    assert_eq!(service.heads().len() - before, 3, "GET, PUT, GET");
    assert_eq!(refused(&counters), 3);
}

#[tokio::test]
async fn an_answer_is_taken_whole_or_not_at_all() {
    let whole = "x".repeat(MOST_BODY);
    let (too_long, chunked) = ("x".repeat(17 * 1024), "4\r\nregi\r\n0\r\n\r\n");
    let no_length = |body: &str| Reply::raw(format!("HTTP/1.0 200 OK\r\n\r\n{body}").as_bytes());
    let raw = |head: &str, body: &str| Reply::raw(format!("{head}\r\n\r\n{body}").as_bytes());
    let answered = |status| format!("the metadata service answered with status {status}");
    let long = format!("the metadata service answered with more than {MOST_BODY} bytes");
    let malformed = "the metadata service gave an answer that cannot be read".to_owned();
    let cases = [
        ("16 KiB", Reply::ok(&whole), Ok(whole.clone())),
        ("nothing", Reply::ok(""), Ok(String::new())),
        (
            "until the end",
            no_length("eu-west-1"),
            Ok("eu-west-1".to_owned()),
        ),
        ("16 KiB until the end", no_length(&whole), Ok(whole.clone())),
        ("17 KiB", Reply::ok(&too_long), Err(long.clone())),
        (
            "17 KiB until the end",
            no_length(&too_long),
            Err(long.clone()),
        ),
        (
            "a length of 17 KiB",
            raw("HTTP/1.1 200 OK\r\nContent-Length: 17408", ""),
            Err(long.clone()),
        ),
        (
            "a head of 17 KiB",
            Reply::raw(format!("HTTP/1.1 200 OK\r\nA: {too_long}").as_bytes()),
            Err(long),
        ),
        ("404", Reply::status(404), Err(answered(404))),
        ("500", Reply::status(500), Err(answered(500))),
        ("201", Reply::status(201), Err(answered(201))),
        ("no answer at all", Reply::raw(b""), Err(malformed.clone())),
        (
            "another protocol",
            Reply::raw(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"),
            Err(malformed.clone()),
        ),
        ("bytes", Reply::raw(&[0; 512]), Err(malformed.clone())),
        (
            "a body that breaks off",
            raw("HTTP/1.1 200 OK\r\nContent-Length: 20", "eu-west-1"),
            Err(malformed.clone()),
        ),
        (
            "chunks",
            raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked", chunked),
            Err(malformed.clone()),
        ),
        (
            "two lengths",
            raw(
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 9",
                "eu-west-1",
            ),
            Err(malformed.clone()),
        ),
        (
            "a length that is none",
            raw("HTTP/1.1 200 OK\r\nContent-Length: +9", "eu-west-1"),
            Err(malformed.clone()),
        ),
        (
            "no text",
            Reply::raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n\xff\xfe"),
            Err(malformed),
        ),
    ];
    let service = Service::start([]).await;
    for (what, reply, wanted) in cases {
        let (mut upstream, _) = client(&service);
        service.set("meta-data/placement/region", reply);
        assert!(region(&mut upstream).await == wanted, "{what}");
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = Service::start([("meta-data/placement/region", "elsewhere")]).await;
    let service = Service::start([]).await;
    let to = format!(
        "HTTP/1.1 302 Found\r\nLocation: http://{}/latest/meta-data/placement/region\r\nContent-Length: 0\r\n\r\n",
        elsewhere.endpoint()
    );
    service.set("meta-data/placement/region", Reply::raw(to.as_bytes()));
    let (mut upstream, _) = client(&service);
    assert_eq!(
        region(&mut upstream).await,
        Err("the metadata service answered with status 302".to_owned())
    );
    assert!(elsewhere.heads().is_empty());
    assert_eq!(
        service.paths(),
        ["/latest/api/token", "/latest/meta-data/placement/region"]
    );
}

#[tokio::test]
async fn a_service_that_takes_400_ms_is_not_waited_for() {
    let service = Service::start([]).await;
    let slow = Reply::ok("eu-west-1").after(Duration::from_millis(400));
    service.set("meta-data/placement/region", slow);
    let (mut upstream, counters) = client(&service);
    // With the token at hand, so that one exchange is measured.
    upstream.token().await.expect("a token");
    let asked = Instant::now();
    assert_eq!(
        region(&mut upstream).await,
        Err("the metadata service did not answer within 300 ms".to_owned())
    );
    let took = asked.elapsed();
    assert!(
        took >= WITHIN && took < Duration::from_millis(390),
        "{took:?}"
    );
    assert_eq!(
        counters.requests(PathClass::Static, UpstreamCode::Timeout),
        1
    );
}

#[tokio::test]
async fn without_a_session_token_nothing_is_asked() {
    let service = Service::start([("meta-data/placement/region", "eu-west-1")]).await;
    for (what, reply) in [
        ("switched off", Reply::status(403)),
        ("a header of its own", Reply::ok("a\r\nX-Evil: 1")),
        ("empty", Reply::ok("")),
        ("endless", Reply::ok(&"a".repeat(LONGEST_TOKEN + 1))),
    ] {
        service.set("api/token", reply);
        let (mut upstream, _) = client(&service);
        let error = upstream.get(&REGION).await.expect_err(what);
        assert!(error.is_of_all_paths(), "{what}: {error}");
    }
    assert_eq!(service.paths(), ["/latest/api/token"; 4]);
}

#[tokio::test]
async fn a_service_that_is_not_there_is_told_from_one_without_the_value() {
    let endpoint = {
        let service = Service::start([]).await;
        service.endpoint()
    };
    let counters = Arc::<Counters>::default();
    let mut upstream = Upstream::new(endpoint, Arc::clone(&counters));
    let error = upstream.get(&REGION).await.expect_err("nobody listens");
    assert!(error.is_of_all_paths());
    assert_eq!(
        counters.requests(PathClass::Token, UpstreamCode::Unreachable),
        1
    );
}
