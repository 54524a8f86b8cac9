//! The tables, asked over sockets.

use super::*;

#[tokio::test]
async fn the_dance_of_an_sdk_ends_with_credentials() {
    let running = Running::start().await;
    let mut client = running.imds(APP).await;
    let ttl = "X-aws-ec2-metadata-token-ttl-seconds";
    let token = client
        .ask(
            "PUT /latest/api/token",
            &format!("Content-Length: 0\r\n{ttl}: 21600\r\n"),
        )
        .await;
    assert_eq!((token.status, token.header(ttl)), (200, Some("21600")));
    assert_eq!(token.header("Content-Type"), Some("text/plain"));
    let headers = with_token(&token.body);
    let name = client.ask(&format!("GET {ROLES}/"), &headers).await;
    assert_eq!((name.status, name.body.as_str()), (200, "app"));
    let document = client.ask(&format!("GET {ROLES}/app"), &headers).await;
    assert_eq!(
        (document.status, document.header("Content-Type")),
        (200, Some("application/json"))
    );
    let document: serde_json::Value = serde_json::from_str(&document.body).expect("JSON");
    assert_eq!(
        (&document["Code"], &document["Token"]),
        (&"Success".into(), &SECRET.into())
    );
}

#[tokio::test]
async fn every_answer_has_the_headers_of_the_service() {
    let running = Running::start().await;
    let token = running.token(APP).await;
    let headers = with_token(&token);
    for (line, headers, status) in [
        (
            "GET /latest/meta-data/placement/region",
            headers.as_str(),
            200,
        ),
        ("GET /latest/nothing", &headers, 404),
        ("GET /latest", "", 401),
        ("POST /latest", &headers, 405),
        ("PUT /latest/api/token", "", 400),
        ("GET /latest?x", &headers, 400),
        ("GET /latest", "Host: x\r\n", 400),
        ("GET /latest", "Expect: 100-continue\r\n", 417),
        ("nonsense", "", 400),
    ] {
        let reply = running.imds(APP).await.ask(line, headers).await;
        assert_eq!(reply.status, status, "{line}");
        assert_eq!(reply.header("Server"), Some("EC2ws"), "{line}");
        assert_eq!(reply.header("Cache-Control"), Some("no-store"), "{line}");
        assert_eq!(reply.header("Content-Type"), Some("text/plain"), "{line}");
        let date = reply.header("Date").expect("there is a date");
        assert!(date.len() == 29 && date.ends_with(" GMT"), "{date}");
        assert_eq!(reply.header("Transfer-Encoding"), None);
        assert!(
            !reply.body.is_empty() && !reply.body.ends_with('\n'),
            "{:?}",
            reply.body
        );
    }
}

#[tokio::test]
async fn a_head_request_gets_the_head_and_the_next_one_is_answered() {
    let running = Running::start().await;
    let token = running.token(APP).await;
    let get = format!(
        "GET {ROLES} HTTP/1.1\r\nHost: 169.254.169.254\r\n{}\r\n",
        with_token(&token)
    );
    let mut client = running.imds(APP).await;
    client
        .send(
            (get.replacen("GET", "HEAD", 1)
                + &get.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n"))
                .as_bytes(),
        )
        .await;
    let (text, _) = client.rest().await;
    let heads: Vec<&str> = text.split("\r\n\r\n").collect();
    assert_eq!(heads.len(), 3, "{text}");
    assert!(heads[0].contains("Content-Length: 3") && heads[1].starts_with("HTTP/1.1 200 OK\r\n"));
    assert_eq!(heads[2], "app");
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let running = Running::start().await;
    let headers = with_token(&running.token(APP).await);
    let mut client = running.imds(APP).await;
    let request =
        |path: &str| format!("GET {path} HTTP/1.1\r\nHost: 169.254.169.254\r\n{headers}\r\n");
    client
        .send(
            (request(ROLES) + &request("/latest/meta-data/placement") + &request("/latest/x"))
                .as_bytes(),
        )
        .await;
    let (first, second, third) = (
        client.reply().await,
        client.reply().await,
        client.reply().await,
    );
    assert_eq!(
        (first.body.as_str(), second.body.as_str(), third.status),
        ("app", "region", 404)
    );
}

#[tokio::test]
async fn a_token_of_another_pod_is_401() {
    let running = Running::start().await;
    let headers = with_token(&running.token(BARE).await);
    let reply = running
        .imds(APP)
        .await
        .ask(&format!("GET {ROLES}"), &headers)
        .await;
    assert_eq!(reply.status, 401);
    assert_eq!(running.metrics.refused(crate::reason::Reason::BadToken), 1);
}

#[tokio::test]
async fn k5_a_pod_without_a_role_is_told_so_in_one_line() {
    let running = Running::start().await;
    let headers = with_token(&running.token(BARE).await);
    let reply = running
        .imds(BARE)
        .await
        .ask(&format!("GET {ROLES}/"), &headers)
        .await;
    assert_eq!(
        (reply.status, reply.body.as_str()),
        (
            404,
            "portcullis: this pod has no role: no annotation names one"
        )
    );
}

#[tokio::test]
async fn k11_a_get_without_a_token_is_401() {
    let running = Running::start().await;
    for path in [
        ROLES,
        "/latest/meta-data/iam/security-credentials/app",
        "/latest/nothing",
    ] {
        let reply = running
            .imds(APP)
            .await
            .ask(&format!("GET {path}"), "")
            .await;
        assert_eq!(reply.status, 401);
    }
    assert_eq!(running.agent.0.fetches.load(Relaxed), 0);
}

#[tokio::test]
async fn m9_a_query_is_400_whomever_it_names() {
    let running = Running::start().await;
    let headers = with_token(&running.token(APP).await);
    for path in ["?ip=127.0.0.3", "/app?ip=127.0.0.3", "/?", "/app?"] {
        let mut client = running.imds(BARE).await;
        let reply = client.ask(&format!("GET {ROLES}{path}"), &headers).await;
        assert_eq!(
            (reply.status, reply.header("Connection")),
            (400, Some("close"))
        );
        assert_eq!(client.rest().await, (String::new(), false));
    }
}

#[tokio::test]
async fn container_addresses_ask_whose_token_it_is() {
    let running = Running::start().await;
    let ask = async |service: Service, host: &str, headers: &str| {
        let mut client = running.connect(APP, service).await;
        let head = format!("GET /v1/credentials HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n");
        client.send(head.as_bytes()).await;
        let reply = client.reply().await;
        assert_eq!(reply.header("Content-Type"), Some("application/json"));
        reply
    };
    let (eks, mine) = ("169.254.170.23", "Authorization: a.2.c\r\n");
    let document = ask(Service::EksV4, eks, mine).await;
    let document: serde_json::Value = serde_json::from_str(&document.body).expect("JSON");
    assert_eq!(
        (&document["AccountId"], &document["Code"]),
        (&"123456789012".into(), &serde_json::Value::Null)
    );
    assert_eq!(
        ask(Service::EksV6, "[fd00:ec2::23]", mine).await.status,
        200
    );
    assert_eq!(ask(Service::Ecs, "169.254.170.2", "").await.status, 200);
    assert_eq!(
        ask(Service::Ecs, "169.254.170.2", "Authorization: a.3.c\r\n")
            .await
            .status,
        403
    );
    assert_eq!(
        ask(Service::EksV4, eks, "Authorization: a.3.c\r\n")
            .await
            .status,
        403
    );
    assert_eq!(
        ask(Service::EksV4, eks, "Authorization: a.expired.c\r\n")
            .await
            .status,
        401
    );
    assert_eq!(ask(Service::EksV4, eks, "").await.status, 400);
    assert_eq!(
        ask(Service::EksV4, "169.254.169.254", mine).await.status,
        403
    );
    assert_eq!(running.agent.0.fetches.load(Relaxed), 3);
}

#[tokio::test]
async fn a_put_keeps_its_socket_on_the_node() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let listener = TcpListener::bind(address).await.expect("a port");
        let at = listener.local_addr().expect("it is bound");
        let (client, accepted) = tokio::join!(TcpStream::connect(at), listener.accept());
        let (stream, _) = accepted.expect("a connection");
        client.expect("a connection");
        stream
            .stay_on_the_node()
            .expect("an option that every socket has");
        stream
            .answer_at_once()
            .expect("an option that every socket has");
        let socket = SockRef::from(&stream);
        let hops = if at.is_ipv4() {
            socket.ttl_v4()
        } else {
            socket.unicast_hops_v6()
        };
        assert_eq!(
            hops.expect("an option that every socket has"),
            1,
            "{address}"
        );
        assert!(stream.nodelay().expect("an option that every socket has"));
    }
}
