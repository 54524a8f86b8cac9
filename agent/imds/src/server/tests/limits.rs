//! Who may connect, how many, how fast, and what becomes of them at the end.

use super::*;
use crate::reason::Reason;

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_connection_without_an_origin_is_reset() {
    let running = Running::start().await;
    for stranger in [250, NOBODY] {
        let mut client = running.imds(stranger).await;
        // Where the reset is faster than this, there is nothing to write to.
        let _ = client.stream.write_all(b"GET / HTTP/1.1\r\n").await;
        assert_eq!(client.rest().await, (String::new(), true));
    }
    assert_eq!(running.metrics.unknown_origins.load(Relaxed), 2);
}

#[tokio::test]
async fn a_pods_oldest_idle_connection_makes_room_for_its_65th() {
    let running = Running::start().await;
    let mut clients = Vec::new();
    for number in 1..=64 {
        clients.push(running.imds(APP).await);
        let open = || running.metrics.connections.load(Relaxed) == number;
        until("it is accepted", open).await;
    }
    let mut newest = running.imds(APP).await;
    assert_eq!(clients[0].rest().await.0, "");
    assert_eq!(newest.ask("GET /latest", "").await.status, 401);
    assert_eq!(clients[1].ask("GET /latest", "").await.status, 401);
    let mut other = running.imds(BARE).await;
    assert_eq!(other.ask("GET /latest", "").await.status, 401);
    assert_eq!(running.metrics.evicted.load(Relaxed), 1);
}

#[tokio::test]
async fn a_65th_connection_is_reset_while_all_others_are_busy() {
    let running = Running::start().await;
    let token = with_token(&running.token(APP).await);
    running
        .agent
        .answer_after(Duration::from_millis(800), ready());
    let mut clients = Vec::new();
    for _ in 0..64 {
        let mut client = running.imds(APP).await;
        let get = format!("GET {ROLES}/app HTTP/1.1\r\nHost: 169.254.169.254\r\n{token}\r\n");
        client.send(get.as_bytes()).await;
        clients.push(client);
    }
    until("all wait", || running.agent.0.fetches.load(Relaxed) == 64).await;
    assert_eq!(running.imds(APP).await.rest().await, (String::new(), true));
    assert_eq!(running.metrics.over_pod_limit.load(Relaxed), 1);
    for client in &mut clients {
        assert_eq!(client.reply().await.status, 200);
    }
}

#[tokio::test]
async fn a_pod_that_asks_too_fast_is_told_so_and_another_is_not() {
    let running = Running::start().await;
    let mut clients = Vec::new();
    for _ in 0..60 {
        clients.push(running.imds(APP).await);
    }
    // Fifteen from each: behind the burst, more of them ask at a time than the queue has places.
    let request = "GET /latest HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n".repeat(15);
    for client in &mut clients {
        client.send(request.as_bytes()).await;
    }
    let mut statuses = HashMap::new();
    for client in &mut clients {
        for _ in 0..15 {
            *statuses.entry(client.reply().await.status).or_insert(0) += 1;
        }
    }
    let (answered, refused) = (statuses[&401], statuses[&503]);
    assert_eq!(answered + refused, 900);
    assert!(answered >= 400 && refused > 0, "{statuses:?}");
    assert_eq!(running.metrics.refused(Reason::TooFast), refused);
    assert_eq!(
        running.imds(BARE).await.ask("GET /latest", "").await.status,
        401
    );
    assert_eq!(
        running.token(APP).await.len(),
        82,
        "a session token is given all the same"
    );
}

#[tokio::test]
async fn nobody_is_served_beyond_the_nodes_slots() {
    let agent = Agent::new();
    let server = server(&agent);
    let slots = server
        .slots
        .try_acquire_many(MOST_CONNECTIONS as u32)
        .expect("nobody is connected");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let at = listener.local_addr().expect("it is bound");
    let (client, accepted) = tokio::join!(TcpStream::connect(at), listener.accept());
    let (stream, peer) = accepted.expect("a connection");
    let (_stopping, stopped) = watch::channel(false);
    let hosts = Hosts::new(Service::ImdsV4, Vec::new());
    connection::serve(stream, peer, &server, &hosts, stopped).await;
    let mut client = Client {
        stream: client.expect("a connection"),
        read: Vec::new(),
    };
    assert_eq!(client.rest().await, (String::new(), true));
    assert_eq!(server.metrics.over_node_limit.load(Relaxed), 1);
    drop(slots);
    assert_eq!(server.slots.available_permits(), MOST_CONNECTIONS);
}

#[tokio::test]
async fn a_stop_finishes_what_was_begun_and_takes_nothing_new() {
    let mut running = Running::start().await;
    let token = with_token(&running.token(APP).await);
    running
        .agent
        .answer_after(Duration::from_millis(300), ready());
    let mut idle = running.imds(BARE).await;
    assert_eq!(idle.ask("GET /latest", "").await.status, 401);
    let mut busy = running.imds(APP).await;
    let get = format!("GET {ROLES}/app HTTP/1.1\r\nHost: 169.254.169.254\r\n{token}\r\n");
    busy.send(get.as_bytes()).await;
    until("it waits", || running.agent.0.fetches.load(Relaxed) == 1).await;
    let begun = Instant::now();
    drop(running.stop.take());
    assert_eq!(idle.rest().await, (String::new(), false));
    let reply = busy.reply().await;
    assert_eq!(
        (reply.status, reply.header("Connection")),
        (200, Some("close"))
    );
    drop(busy);
    running.ended.await.expect("it stopped");
    assert!(begun.elapsed() < STOP_WITHIN + Duration::from_secs(1));
    let late = TcpStream::connect(running.ports[&Service::ImdsV4]).await;
    assert!(late.is_err(), "nobody listens");
    assert_eq!(
        (
            running.metrics.connections.load(Relaxed),
            running.agent.watchers(APP)
        ),
        (0, 0)
    );
}

#[tokio::test]
async fn too_long_is_said_before_the_connection_closes() {
    let running = Running::start().await;
    let long = |count: usize| "x".repeat(count);
    for (text, status) in [
        (
            format!(
                "GET /{} HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n",
                long(2048)
            ),
            414,
        ),
        (format!("GET /{}", long(30_000)), 414),
        (
            format!(
                "GET / HTTP/1.1\r\nHost: 169.254.169.254\r\nA: {}",
                long(30_000)
            ),
            431,
        ),
        (
            format!(
                "GET / HTTP/1.1\r\nHost: 169.254.169.254\r\n{}\r\n",
                "A: b\r\n".repeat(64)
            ),
            431,
        ),
        (
            format!(
                "PUT /latest/api/token HTTP/1.1\r\nHost: 169.254.169.254\r\nContent-Length: 30000\r\n\r\n{}",
                long(30_000)
            ),
            400,
        ),
    ] {
        let mut client = running.imds(APP).await;
        client.send(text.as_bytes()).await;
        let (said, is_reset) = client.rest().await;
        assert!(
            said.starts_with(&format!("HTTP/1.1 {status} ")) && !is_reset,
            "{said}"
        );
        assert!(said.contains("\r\nConnection: close\r\n"));
    }
    assert_eq!(running.metrics.refused(Reason::TargetTooLong), 2);
    assert_eq!(running.metrics.refused(Reason::HeadTooLarge), 2);
}
