//! Requests that two readers would read differently. A file of its own: pods send them to the whole responder too.

/// Heads and what follows them; `TOKEN` stands for a good session token of the pod that sends them.
pub(crate) const CORPUS: &[(&str, &str)] = &[
    (
        "absolute form",
        "GET http://169.254.169.254/latest/meta-data/iam/security-credentials/app HTTP/1.1\r\nHost: 169.254.169.254\r\nTOKEN\r\n",
    ),
    (
        "absolute form to another host",
        "GET http://example.com/latest HTTP/1.1\r\nHost: 169.254.169.254\r\nTOKEN\r\n",
    ),
    (
        "absolute form without a host",
        "GET http:///latest HTTP/1.1\r\nHost: 169.254.169.254\r\nTOKEN\r\n",
    ),
    (
        "opaque target",
        "GET x:opaque HTTP/1.1\r\nHost: 169.254.169.254\r\nTOKEN\r\n",
    ),
    (
        "authority form",
        "CONNECT 169.254.169.254:80 HTTP/1.1\r\nHost: 169.254.169.254\r\nTOKEN\r\n",
    ),
    (
        "asterisk form",
        "OPTIONS * HTTP/1.1\r\nHost: 169.254.169.254\r\nTOKEN\r\n",
    ),
    (
        "length and chunked",
        "PUT /latest/api/token HTTP/1.1\r\nHost: 169.254.169.254\r\nTOKENContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nSMUGGLED",
    ),
    (
        "two lengths",
        "GET /latest HTTP/1.1\r\nHost: 169.254.169.254\r\nTOKENContent-Length: 0\r\nContent-Length: 60\r\n\r\nSMUGGLED",
    ),
    (
        "one length twice",
        "GET /latest HTTP/1.1\r\nHost: 169.254.169.254\r\nTOKENContent-Length: 0\r\nContent-Length: 0\r\n\r\nSMUGGLED",
    ),
    (
        "a list of lengths",
        "GET /latest HTTP/1.1\r\nHost: 169.254.169.254\r\nTOKENContent-Length: 0, 60\r\n\r\nSMUGGLED",
    ),
    (
        "a body that is a request",
        "GET /latest HTTP/1.1\r\nHost: 169.254.169.254\r\nTOKENContent-Length: 60\r\n\r\nSMUGGLED",
    ),
    (
        "an over-long chunk size",
        "GET /latest HTTP/1.1\r\nHost: 169.254.169.254\r\nTOKENTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff0\r\nSMUGGLED",
    ),
    (
        "a chunk extension",
        "GET /latest HTTP/1.1\r\nHost: 169.254.169.254\r\nTOKENTransfer-Encoding: chunked\r\n\r\n0;a=\n\r\n\r\nSMUGGLED",
    ),
    (
        "chunked in disguise",
        "GET /latest HTTP/1.1\r\nHost: 169.254.169.254\r\nTOKENTransfer-Encoding:\x0bchunked\r\n\r\nSMUGGLED",
    ),
    (
        "a space before the colon",
        "GET /latest HTTP/1.1\r\nHost: 169.254.169.254\r\nTOKENTransfer-Encoding : chunked\r\n\r\nSMUGGLED",
    ),
    (
        "an end-to-end header named by Connection",
        "GET /latest HTTP/1.1\r\nHost: 169.254.169.254\r\nTOKENConnection: keep-alive, X-aws-ec2-metadata-token\r\n\r\nSMUGGLED",
    ),
    (
        "Host named by Connection",
        "GET /latest HTTP/1.1\r\nHost: 169.254.169.254\r\nTOKENConnection: close, Host\r\n\r\nSMUGGLED",
    ),
    (
        "two slashes",
        "GET //latest/meta-data HTTP/1.1\r\nHost: 169.254.169.254\r\nTOKEN\r\nSMUGGLED",
    ),
    (
        "two slashes inside",
        "GET /latest//meta-data HTTP/1.1\r\nHost: 169.254.169.254\r\nTOKEN\r\nSMUGGLED",
    ),
    (
        "an encoded slash",
        "GET /latest%2fmeta-data HTTP/1.1\r\nHost: 169.254.169.254\r\nTOKEN\r\nSMUGGLED",
    ),
    (
        "an encoded slash in a role",
        "GET /latest/meta-data/iam/security-credentials/x%2fapp HTTP/1.1\r\nHost: 169.254.169.254\r\nTOKEN\r\nSMUGGLED",
    ),
    (
        "encoded dots",
        "GET /latest/meta-data/%2e%2e/user-data HTTP/1.1\r\nHost: 169.254.169.254\r\nTOKEN\r\nSMUGGLED",
    ),
    (
        "encoded dots as a role",
        "GET /latest/meta-data/iam/security-credentials/%2e%2e HTTP/1.1\r\nHost: 169.254.169.254\r\nTOKEN\r\nSMUGGLED",
    ),
    (
        "dots",
        "GET /latest/meta-data/../user-data HTTP/1.1\r\nHost: 169.254.169.254\r\nTOKEN\r\nSMUGGLED",
    ),
    (
        "parameters",
        "GET /latest;x=y/meta-data HTTP/1.1\r\nHost: 169.254.169.254\r\nTOKEN\r\nSMUGGLED",
    ),
    (
        "a backslash",
        "GET /latest\\meta-data HTTP/1.1\r\nHost: 169.254.169.254\r\nTOKEN\r\nSMUGGLED",
    ),
    (
        "a query",
        "GET /latest?ip=127.0.0.9 HTTP/1.1\r\nHost: 169.254.169.254\r\nTOKEN\r\nSMUGGLED",
    ),
    (
        "a fragment",
        "GET /latest#/../user-data HTTP/1.1\r\nHost: 169.254.169.254\r\nTOKEN\r\nSMUGGLED",
    ),
    (
        "a line end in a value",
        "GET /latest HTTP/1.1\r\nHost: 169.254.169.254\r\nTOKENX: a\nTransfer-Encoding: chunked\r\n\r\nSMUGGLED",
    ),
    (
        "a carriage return in a value",
        "GET /latest HTTP/1.1\r\nHost: 169.254.169.254\r\nTOKENX: a\rY: b\r\n\r\nSMUGGLED",
    ),
    (
        "an encoded line end in a target",
        "GET /latest/%0d%0aX:%20y HTTP/1.1\r\nHost: 169.254.169.254\r\nTOKEN\r\nSMUGGLED",
    ),
    (
        "a folded line",
        "GET /latest HTTP/1.1\r\nHost: 169.254.169.254\r\nTOKENX: a\r\n b\r\n\r\nSMUGGLED",
    ),
    (
        "lines that end in line feeds",
        "GET /latest HTTP/1.1\nHost: 169.254.169.254\nTOKEN\r\n\r\nSMUGGLED",
    ),
    (
        "an empty line in front",
        "\r\nGET /latest HTTP/1.1\r\nHost: 169.254.169.254\r\nTOKEN\r\nSMUGGLED",
    ),
    (
        "a zero in a target",
        "GET /latest\0 HTTP/1.1\r\nHost: 169.254.169.254\r\nTOKEN\r\nSMUGGLED",
    ),
    (
        "a zero in a value",
        "GET /latest HTTP/1.1\r\nHost: 169.254.169.254\r\nTOKENX: a\0b\r\n\r\nSMUGGLED",
    ),
    (
        "a zero in a name",
        "GET /latest HTTP/1.1\r\nHost: 169.254.169.254\r\nTOKENX\0Y: a\r\n\r\nSMUGGLED",
    ),
    (
        "two hosts",
        "GET /latest HTTP/1.1\r\nHost: 169.254.169.254\r\nTOKENHost: example.com\r\n\r\nSMUGGLED",
    ),
    ("no host", "GET /latest HTTP/1.1\r\nTOKEN\r\nSMUGGLED"),
    (
        "a rebound host",
        "GET /latest HTTP/1.1\r\nHost: rebound.example.com\r\nTOKEN\r\nSMUGGLED",
    ),
    (
        "a web socket",
        "GET /latest HTTP/1.1\r\nHost: 169.254.169.254\r\nTOKENUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nSMUGGLED",
    ),
    (
        "h2c",
        "GET /latest HTTP/1.1\r\nHost: 169.254.169.254\r\nTOKENUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABk\r\n\r\nSMUGGLED",
    ),
    (
        "the preface of HTTP/2",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
    ),
    (
        "an expectation",
        "PUT /latest/api/token HTTP/1.1\r\nHost: 169.254.169.254\r\nTOKENExpect: 100-continue\r\n\r\nSMUGGLED",
    ),
    ("HTTP/0.9", "GET /latest\r\n\r\nSMUGGLED"),
    ("TLS", "\x16\x03\x01\x02\0\x01\0\x01\u{fc}\x03\x03"),
];

/// What hides behind some of them.
pub(crate) const SMUGGLED: &str = "GET /latest/meta-data/iam/security-credentials/app HTTP/1.1\r\nHost: 169.254.169.254\r\nTOKEN\r\n";
