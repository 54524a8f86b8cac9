//! A role's keys, and the documents in which clients expect them.
//!
//! Instance metadata wraps them with `Code` and reports a definite refusal with status 200; container addresses have neither. Times are true UTC in whole
//! seconds, rounded down: an `Expiration` is never later than the real one.

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::role::{RoleArn, SourceKind};
use crate::secret::Secret;

/// What STS calls a role that it does not let this pod have, as real instance metadata words it.
pub const ASSUME_ROLE_UNAUTHORIZED: &str = "AssumeRoleUnauthorizedAccess";

/// Keys of a role. `Debug` shows neither the secret key nor the token.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// `ASIA...`: who it is, in every log of the cloud, so no secret.
    pub access_key_id: String,
    /// The secret key.
    pub secret_access_key: Secret,
    /// The session token.
    pub token: Secret,
    /// When the keys end.
    pub expiration: Timestamp,
    /// When they were issued.
    pub last_updated: Timestamp,
    /// The account of the role.
    pub account_id: String,
    /// The number under which AWS knows the call.
    pub request_id: Option<String>,
    /// The way in which they were got.
    pub source: SourceKind,
    /// The role, where nobody but AWS knew it before.
    pub role: Option<RoleArn>,
}

/// What came of asking for a role's keys.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// The keys.
    Ready(Arc<Credentials>),
    /// A definite refusal: asking again will not help.
    Denied {
        /// [`ASSUME_ROLE_UNAUTHORIZED`] where STS denies the role.
        code: String,
        /// What the pod is told. Nothing of others in it.
        message: String,
    },
    /// There is no role after all.
    Nothing {
        /// Why. Nothing of others in it.
        message: String,
    },
    /// Not now.
    Transient,
}

/// How the answer to a question for keys was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(usize)]
pub enum Found {
    /// They were there.
    Hit,
    /// They were fetched for this question.
    Miss,
    /// They were being fetched already.
    Joined,
    /// They were there, and newer ones are not to be had.
    Stale,
    /// A failure was remembered.
    Negative,
}

impl Found {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 5] = [
        Self::Hit,
        Self::Miss,
        Self::Joined,
        Self::Stale,
        Self::Negative,
    ];

    /// Its word in records, and the label `result`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Joined => "joined",
            Self::Stale => "stale",
            Self::Negative => "negative",
        }
    }
}

/// What came of asking for a role's keys, and how it was found.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// What came of it.
    pub outcome: Outcome,
    /// How; none if nobody was asked.
    pub found: Option<Found>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct MetadataDocument<'a> {
    code: &'a str,
    last_updated: String,
    r#type: &'a str,
    access_key_id: &'a str,
    secret_access_key: &'a str,
    token: &'a str,
    expiration: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ContainerDocument<'a> {
    access_key_id: &'a str,
    secret_access_key: &'a str,
    token: &'a str,
    account_id: &'a str,
    expiration: String,
}

impl Credentials {
    /// The document of instance metadata.
    #[must_use]
    pub fn metadata_document(&self) -> Zeroizing<Vec<u8>> {
        self.write(&MetadataDocument {
            code: "Success",
            last_updated: utc(self.last_updated),
            r#type: "AWS-HMAC",
            access_key_id: &self.access_key_id,
            secret_access_key: self.secret_access_key.expose(),
            token: self.token.expose(),
            expiration: utc(self.expiration),
        })
    }

    /// The document of container addresses.
    #[must_use]
    pub fn container_document(&self) -> Zeroizing<Vec<u8>> {
        self.write(&ContainerDocument {
            access_key_id: &self.access_key_id,
            secret_access_key: self.secret_access_key.expose(),
            token: self.token.expose(),
            account_id: &self.account_id,
            expiration: utc(self.expiration),
        })
    }

    /// Into a buffer that does not have to grow: a grown one leaves its old bytes behind.
    fn write(&self, document: &impl Serialize) -> Zeroizing<Vec<u8>> {
        let values = self.access_key_id.len()
            + self.secret_access_key.expose().len()
            + self.token.expose().len()
            + self.account_id.len();
        // The longest escape of a byte has six; names, times and punctuation take less than 300.
        let mut text = Zeroizing::new(Vec::with_capacity(6 * values + 300));
        serde_json::to_writer(&mut *text, document).expect("a struct of strings is JSON");
        text
    }
}

/// `YYYY-MM-DDTHH:MM:SSZ`, whatever the zone of the node.
#[must_use]
pub fn utc(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn credentials() -> Credentials {
        Credentials {
            access_key_id: "ASIAEXAMPLE".to_owned(),
            secret_access_key: Secret::new("hidden/key".to_owned()),
            token: Secret::new("hidden+token==".to_owned()),
            expiration: "2026-11-22T23:59:59.999Z".parse().expect("a time"),
            last_updated: "2026-11-22T22:59:59.5Z".parse().expect("a time"),
            account_id: "123456789012".to_owned(),
            request_id: None,
            source: SourceKind::TokenRequest,
            role: None,
        }
    }

    #[test]
    fn the_documents_are_what_sdks_read() {
        let metadata = credentials().metadata_document();
        assert_eq!(
            String::from_utf8_lossy(&metadata),
            r#"{"Code":"Success","LastUpdated":"2026-11-22T22:59:59Z","Type":"AWS-HMAC","AccessKeyId":"ASIAEXAMPLE","SecretAccessKey":"hidden/key","Token":"hidden+token==","Expiration":"2026-11-22T23:59:59Z"}"#
        );
        let container = credentials().container_document();
        assert_eq!(
            String::from_utf8_lossy(&container),
            r#"{"AccessKeyId":"ASIAEXAMPLE","SecretAccessKey":"hidden/key","Token":"hidden+token==","AccountId":"123456789012","Expiration":"2026-11-22T23:59:59Z"}"#
        );
    }

    #[test]
    fn credentials_print_no_secret() {
        for text in [
            format!("{:?}", credentials()),
            format!("{:#?}", Outcome::Ready(Arc::new(credentials()))),
        ] {
            assert!(
                text.contains("ASIAEXAMPLE") && !text.contains("hidden"),
                "{text}"
            );
        }
    }

    #[test]
    fn no_document_outgrows_its_buffer() {
        let mut credentials = credentials();
        credentials.token = Secret::new("\u{1}".repeat(2000));
        let room = 6 * (11 + 10 + 2000 + 12) + 300;
        assert!(credentials.metadata_document().len() <= room);
        assert!(credentials.container_document().len() <= room);
    }

    /// The zone is read once for each process, so the test runs itself again in another one.
    #[test]
    fn k9_times_are_utc_on_a_node_in_tokyo() {
        if std::env::var_os("TZ").is_some_and(|zone| zone == "Asia/Tokyo") {
            assert_eq!(
                utc("2026-11-22T23:59:59Z".parse().expect("a time")),
                "2026-11-22T23:59:59Z"
            );
            let now = Timestamp::now().as_second();
            let printed: Timestamp = utc(Timestamp::now()).parse().expect("RFC 3339");
            assert!((printed.as_second() - now).abs() <= 1);
            return;
        }
        let this = std::env::current_exe().expect("the path of the test");
        let output = Command::new(this)
            .args([
                "--exact",
                "credentials::tests::k9_times_are_utc_on_a_node_in_tokyo",
            ])
            .env("TZ", "Asia/Tokyo")
            .output()
            .expect("the test runs itself");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && said.contains("1 passed"),
            "{said}"
        );
    }
}
