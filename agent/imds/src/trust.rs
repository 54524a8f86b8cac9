//! Whom calls to AWS trust: the certificate authorities of Mozilla's list, compiled in, because the image's root is empty and has no list of its own.
//!
//! AWS' isolated partitions and proxies that open TLS have authorities of their own: `SSL_CERT_FILE` or `SSL_CERT_DIR` names them, and they are trusted too.

use std::env;

use aws_smithy_http_client::tls::{TlsContext, TrustStore};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use webpki_root_certs::TLS_SERVER_ROOT_CERTS;

/// What says that there are others.
const NAMED_BY: [&str; 2] = ["SSL_CERT_FILE", "SSL_CERT_DIR"];

/// For every client that speaks to AWS.
#[must_use]
pub fn roots() -> TlsContext {
    let others = NAMED_BY.iter().any(|name| env::var_os(name).is_some());
    let store = TrustStore::empty()
        .with_native_roots(others)
        .with_pem_certificate(pem());
    let built = TlsContext::builder().with_trust_store(store).build();
    built.expect("a trust store is all that it takes")
}

/// The list as text: the SDK takes no other form.
fn pem() -> Vec<u8> {
    let mut text = String::new();
    for certificate in TLS_SERVER_ROOT_CERTS {
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        BASE64_STANDARD.encode_string(certificate, &mut text);
        text.push_str("\n-----END CERTIFICATE-----\n");
    }
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    use aws_smithy_http_client::tls::Provider;
    use aws_smithy_http_client::tls::rustls_provider::CryptoMode;

    use super::*;

    #[test]
    fn every_authority_of_the_list_can_be_read() {
        let text = String::from_utf8(pem()).expect("it is text");
        let ends = text.matches("-----END CERTIFICATE-----").count();
        assert_eq!(ends, TLS_SERVER_ROOT_CERTS.len());
        assert!(ends > 100, "{ends}");
        // Whose certificates AWS has. Names stand in certificates as they are.
        for name in [
            "Amazon Root CA 1",
            "Amazon Root CA 4",
            "DigiCert Global Root G2",
        ] {
            let has = |certificate: &[u8]| {
                let mut parts = certificate.windows(name.len());
                parts.any(|part| part == name.as_bytes())
            };
            assert!(TLS_SERVER_ROOT_CERTS.iter().any(|one| has(one)), "{name}");
        }
        // The provider reads them when the client is made, and panics on one that it cannot read.
        let _client = aws_smithy_http_client::Builder::new()
            .tls_provider(Provider::Rustls(CryptoMode::Ring))
            .tls_context(roots())
            .build_https();
    }
}
