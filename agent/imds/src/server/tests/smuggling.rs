//! Requests that two readers would read differently. Whoever sends them gets a refusal and a closed connection, and what hides behind them is never read.

use proptest::prelude::*;

use super::corpus::{CORPUS, SMUGGLED};
use super::*;
use connection::serve;

#[tokio::test]
async fn m7_whoever_smuggles_gets_a_refusal_and_a_closed_connection() {
    let running = Running::start().await;
    let token = with_token(&running.token(APP).await);
    for (what, text) in CORPUS {
        let text = text.replace("SMUGGLED", SMUGGLED).replace("TOKEN", &token);
        let mut client = running.imds(APP).await;
        client.send(text.as_bytes()).await;
        let (said, is_reset) = client.rest().await;
        assert!(!is_reset, "{what}: the refusal may be lost");
        assert_eq!(
            said.matches("\r\nServer: EC2ws\r\n").count(),
            1,
            "{what}: {said}"
        );
        let status: u16 = said[9..12].parse().expect("a status");
        assert!([400, 403, 417].contains(&status), "{what}: {said}");
        assert!(said.contains("\r\nConnection: close\r\n"), "{what}: {said}");
        let (_, body) = said.split_once("\r\n\r\n").expect("a whole answer");
        assert!(
            crate::reason::Reason::ALL
                .iter()
                .any(|reason| body == format!("portcullis: {}", reason.text())),
            "{what}: {body}"
        );
    }
    assert_eq!(
        running.agent.0.fetches.load(Relaxed),
        0,
        "nothing went further"
    );
}

/// Pieces that requests are made of, so that random bytes get past the first check now and then.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => proptest::sample::select(vec![
            "GET ", "PUT ", "HEAD ", "POST ", "/latest/meta-data/iam/security-credentials/app", "/latest/api/token", "/", "latest", "%61", "?", "#",
            " HTTP/1.1\r\n", " HTTP/1.0\r\n", "Host: 169.254.169.254\r\n", "Host: x\r\n", "\r\n", "\n", "\r", "X-aws-ec2-metadata-token: ",
            "X-aws-ec2-metadata-token-ttl-seconds: 60\r\n", "Content-Length: 0\r\n", "Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n",
            "Connection: close\r\n", "Connection: keep-alive\r\n", "Expect: 100-continue\r\n", "Upgrade: h2c\r\n", ": ", " ", "\t", "\0",
            "GET /latest/meta-data/iam/security-credentials/app HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n",
            "PUT /latest/api/token HTTP/1.1\r\nHost: 169.254.169.254\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\n\r\n",
        ]).prop_map(|text| text.as_bytes().to_vec()),
        1 => proptest::collection::vec(any::<u8>(), 0..20),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Without a token there are no credentials, whatever is sent; and whatever is sent is answered with whole answers of the table or not at all.
    #[test]
    fn no_bytes_panic_and_none_get_credentials(pieces in proptest::collection::vec(piece(), 1..30)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
        let (said, fetches) = runtime.block_on(async {
            let agent = Agent::new();
            let server = server(&agent);
            let (mut ours, theirs) = tokio::io::duplex(64 * 1024);
            let peer = SocketAddr::from((Ipv4Addr::new(127, 0, 0, APP), 1));
            let hosts = Hosts::new(Service::ImdsV4, Vec::new());
            let (_stopping, stopped) = watch::channel(false);
            let serving = serve(times::Wire::new(theirs), peer, &server, &hosts, stopped);
            let talking = async {
                for piece in pieces {
                    if ours.write_all(&piece).await.is_err() {
                        break;
                    }
                }
                // Closed already, where it was refused.
                let _ = ours.shutdown().await;
                let mut said = String::new();
                ours.read_to_string(&mut said).await.expect("text");
                said
            };
            let ((), said) = tokio::join!(serving, talking);
            (said, agent.0.fetches.load(Relaxed))
        });
        prop_assert!(fetches == 0 && !said.contains(SECRET));
        prop_assert!(said.is_empty() || said.starts_with("HTTP/1.1 "), "{}", said);
    }
}
