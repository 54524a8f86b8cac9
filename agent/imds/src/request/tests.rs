use super::*;
use crate::listener::Service;

fn read_at(service: Service, head: &str) -> Result<Request, Reason> {
    Request::read(head.as_bytes(), &Hosts::new(service, Vec::new()))
}

/// A `GET` of `/latest` with more header lines, each with its end.
fn with(lines: &str) -> Result<Request, Reason> {
    read_at(
        Service::ImdsV4,
        &format!("GET /latest HTTP/1.1\r\nHost: 169.254.169.254\r\n{lines}\r\n"),
    )
}

fn refusal(lines: &str) -> Option<Reason> {
    with(lines).err()
}

#[test]
fn a_plain_request_is_read() {
    let request = with("X-Aws-EC2-Metadata-Token:  abc \r\nAccept: */*\r\n").expect("it is plain");
    assert_eq!((request.method, request.keep_alive), (Method::Get, true));
    assert_eq!(request.route, Route::Tree(String::new()));
    assert_eq!(request.token, Field::Once(Secret::new("abc".to_owned())));
    assert_eq!((request.ttl, request.forwarded), (Field::Absent, false));
}

#[test]
fn a_request_prints_no_token() {
    let request =
        with("X-aws-ec2-metadata-token: hidden\r\nAuthorization: hidden\r\n").expect("it is plain");
    assert!(!format!("{request:?}").contains("hidden"));
}

#[test]
fn a_body_is_refused_however_it_is_announced() {
    for lines in [
        "Content-Length: 1\r\n",
        "Content-Length: 00\r\n",
        "Content-Length: +0\r\n",
        "Content-Length: \r\n",
        "Content-Length: 0\r\nContent-Length: 0\r\n",
        "Content-Length: 0, 0\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding: identity\r\n",
        "transfer-encoding: xchunked\r\n",
        "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n",
    ] {
        assert_eq!(refusal(lines), Some(Reason::Body), "{lines:?}");
    }
    assert!(with("Content-Length: 0\r\n").is_ok());
}

#[test]
fn an_expectation_is_refused_with_417() {
    assert_eq!(refusal("Expect: 100-continue\r\n"), Some(Reason::Expect));
    assert_eq!(Reason::Expect.status(), 417);
}

#[test]
fn another_protocol_is_refused() {
    for lines in [
        "Upgrade: websocket\r\nConnection: Upgrade\r\n",
        "Upgrade: h2c\r\n",
        "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n",
        "Connection: Upgrade\r\n",
        "Connection: X-aws-ec2-metadata-token\r\n",
        "Connection: close, Host\r\n",
    ] {
        assert_eq!(refusal(lines), Some(Reason::Upgrade), "{lines:?}");
    }
}

#[test]
fn there_is_one_host_and_it_is_the_service() {
    let head = |lines: &str, version: &str| format!("GET /latest HTTP/{version}\r\n{lines}\r\n");
    let at = |lines: &str, version: &str| read_at(Service::ImdsV4, &head(lines, version)).err();
    assert_eq!(at("", "1.1"), Some(Reason::NoHost));
    assert_eq!(at("", "1.0"), None);
    let host = "Host: 169.254.169.254\r\n";
    assert_eq!(at(host, "1.0"), None);
    assert_eq!(at(&format!("{host}{host}"), "1.1"), Some(Reason::TwoHosts));
    assert_eq!(
        at(&format!("{host}hOST: x\r\n"), "1.0"),
        Some(Reason::TwoHosts)
    );
    assert_eq!(
        at("Host: rebound.example.com\r\n", "1.1"),
        Some(Reason::ForeignHost)
    );
    assert_eq!(
        at("Host: 169.254.170.23\r\n", "1.1"),
        Some(Reason::ForeignHost)
    );
    assert_eq!(at("Host:\r\n", "1.1"), Some(Reason::ForeignHost));
    assert_eq!(Reason::ForeignHost.status(), 403);
    let v6 =
        |host: &str| read_at(Service::ImdsV6, &head(&format!("Host: {host}\r\n"), "1.1")).err();
    assert_eq!(
        (v6("[fd00:ec2::254]"), v6("169.254.169.254")),
        (None, Some(Reason::ForeignHost))
    );
}

#[test]
fn lines_end_as_the_rfc_writes_it() {
    let host = "Host: 169.254.169.254";
    for head in [
        format!("GET /latest HTTP/1.1\n{host}\n\n"),
        format!("GET /latest HTTP/1.1\n{host}\r\n\r\n"),
        format!("GET /latest HTTP/1.1\r\n{host}\nA: b\r\n\r\n"),
        format!("GET /latest HTTP/1.1\r\n{host}\rA: b\r\n\r\n"),
        format!("GET /latest HTTP/1.1\r\n{host}\r\nA: b\r\n c\r\n\r\n"),
        format!("GET /latest HTTP/1.1\r\n{host}\r\nA: b\r\n\tc\r\n\r\n"),
        format!("GET /latest HTTP/1.1\r\n {host}\r\n\r\n"),
        format!("GET /latest HTTP/1.1\r\n{host}\r\nA : b\r\n\r\n"),
        format!("GET /latest HTTP/1.1\r\n{host}\r\nA b\r\n\r\n"),
        format!("GET /latest HTTP/1.1\r\n{host}\r\n: b\r\n\r\n"),
        format!("GET /latest HTTP/1.1\r\n{host}\r\nA: b\0c\r\n\r\n"),
        format!("GET  /latest HTTP/1.1\r\n{host}\r\n\r\n"),
        format!("GET /latest  HTTP/1.1\r\n{host}\r\n\r\n"),
        format!("GET\t/latest HTTP/1.1\r\n{host}\r\n\r\n"),
        format!("get /latest HTTP/1.1\r\n{host}\r\n\r\n"),
        format!("\r\nGET /latest HTTP/1.1\r\n{host}\r\n\r\n"),
        format!("GET /latest HTTP/1.2\r\n{host}\r\n\r\n"),
        format!("GET /latest HTTP/2.0\r\n{host}\r\n\r\n"),
        format!("GET /latest HTTP/0.9\r\n{host}\r\n\r\n"),
        "GET /latest\r\n\r\n".to_owned(),
        "PRI * HTTP/2.0\r\n\r\n".to_owned(),
        "\r\n\r\n".to_owned(),
    ] {
        assert_eq!(
            read_at(Service::ImdsV4, &head).err(),
            Some(Reason::BadHead),
            "{head:?}"
        );
    }
}

#[test]
fn http_1_0_ends_unless_it_asks_to_go_on() {
    let keeps = |version: &str, lines: &str| {
        let head = format!("GET /latest HTTP/{version}\r\nHost: 169.254.169.254\r\n{lines}\r\n");
        read_at(Service::ImdsV4, &head)
            .expect("it is plain")
            .keep_alive
    };
    assert!(
        keeps("1.1", "")
            && keeps("1.1", "Connection: TE\r\n")
            && keeps("1.0", "Connection: Keep-Alive\r\n")
    );
    assert!(
        !keeps("1.1", "Connection: close\r\n")
            && !keeps("1.0", "")
            && !keeps("1.1", "Connection: keep-alive, Close\r\n")
    );
}

#[test]
fn header_lines_are_limited_in_number_and_in_bytes() {
    let lines = |count: usize| "A: b\r\n".repeat(count - 1);
    assert!(with(&lines(64)).is_ok());
    assert_eq!(refusal(&lines(65)), Some(Reason::HeadTooLarge));
    let block = |service: Service, host: &str, length: usize| {
        let fixed = format!("Host: {host}\r\nA: \r\n\r\n").len();
        let path = "/v1/credentials";
        let filler = "b".repeat(length - fixed);
        read_at(
            service,
            &format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nA: {filler}\r\n\r\n"),
        )
        .err()
    };
    let imds = |length| block(Service::ImdsV4, "169.254.169.254", length);
    let eks = |length| block(Service::EksV6, "[fd00:ec2::23]", length);
    assert_eq!((imds(8192), imds(8193)), (None, Some(Reason::HeadTooLarge)));
    assert_eq!((eks(16384), eks(16385)), (None, Some(Reason::HeadTooLarge)));
    assert_eq!(Reason::HeadTooLarge.status(), 431);
}

#[test]
fn a_long_target_is_414_whether_its_end_arrived_or_not() {
    let target = format!("/{}", "a".repeat(LONGEST_TARGET));
    let head = format!("GET {target} HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n");
    assert_eq!(
        read_at(Service::ImdsV4, &head).err(),
        Some(Reason::TargetTooLong)
    );
    let part = format!("GET {target}");
    assert_eq!(
        extent(part.as_bytes(), 0, Surface::Imds),
        Err(Reason::TargetTooLong)
    );
    assert_eq!(Reason::TargetTooLong.status(), 414);
}

#[test]
fn what_can_be_no_request_is_refused_before_it_ends() {
    let part = |bytes: &[u8]| extent(bytes, 0, Surface::Imds);
    for bytes in [
        b"".as_slice(),
        b"G",
        b"GET",
        b"GET ",
        b"GET /latest HTTP/1.1",
        b"GET / HTTP/1.1\r\nHost",
    ] {
        assert_eq!(part(bytes), Ok(Extent::Part));
    }
    for bytes in [
        b"\x16\x03\x01".as_slice(),
        b" GET",
        b"get /",
        b"\r\n",
        b"\0",
        b"GET\t/",
        b"Get /",
    ] {
        assert_eq!(part(bytes), Err(Reason::BadHead), "{bytes:?}");
    }
    assert_eq!(part(&[b'A'; 33]), Err(Reason::BadHead));
    let line = format!("GET / {}", "x".repeat(3000));
    assert_eq!(part(line.as_bytes()), Err(Reason::BadHead));
    let headers = format!("GET / HTTP/1.1\r\n{}", "x".repeat(8193));
    assert_eq!(part(headers.as_bytes()), Err(Reason::HeadTooLarge));
    assert_eq!(
        part(&headers.as_bytes()[..headers.len() - 1]),
        Ok(Extent::Part)
    );
}

#[test]
fn the_end_of_a_head_is_found_wherever_its_pieces_were_cut() {
    let head = b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET /next";
    let end = head.len() - "GET /next".len();
    for known in 0..end {
        assert_eq!(extent(&head[..known], 0, Surface::Imds), Ok(Extent::Part));
        assert_eq!(
            extent(head, known, Surface::Imds),
            Ok(Extent::Whole(end)),
            "{known}"
        );
    }
}
