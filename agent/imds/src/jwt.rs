//! Web-identity tokens of service accounts: what they say, and whether it is true.
//!
//! ```text
//! header.claims.signature   RFC 7519, each part base64url
//! kid -> key of the cluster's set (RFC 7517) -> RS256 or ES256 over "header.claims"
//! ```
//! Checked here and nowhere else, so that no check needs a network. Order: form, algorithm, key, signature, issuer, audience, time, owner. Nothing of the
//! claims is believed before the signature is good, but for [`claims`], whose readers hold the token from the kubelet itself.
//!
//! The algorithm is the key's, never the header's choice: a header that names another one is refused, so neither `none` nor an HMAC with a public key as its
//! secret has a way in.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use ring::signature::{ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256};
use ring::signature::{RsaPublicKeyComponents, UnparsedPublicKey};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::cache::Owner;

/// For whom tokens of EKS Pod Identity are.
pub const POD_IDENTITY_AUDIENCE: &str = "pods.eks.amazonaws.com";

/// How far clocks may be apart.
const SKEW_SECS: i64 = 10;
/// No token is longer: the head of a request has no room for it.
const LONGEST: usize = 16 * 1024;

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Claims {
    /// Who made it.
    pub iss: String,
    /// For whom it is.
    pub aud: Audience,
    /// When it ends, in seconds since 1970.
    pub exp: i64,
    /// Before when it is not good.
    pub nbf: Option<i64>,
    /// `system:serviceaccount:NAMESPACE:NAME`.
    pub sub: String,
    /// What Kubernetes adds.
    #[serde(rename = "kubernetes.io")]
    pub kubernetes: Option<Kubernetes>,
}

/// One name or several.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Audience {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

/// Whose a token is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Kubernetes {
    /// Namespace of pod and service account.
    pub namespace: String,
    /// The pod that it is bound to.
    pub pod: Option<Named>,
    /// Its service account.
    pub serviceaccount: Option<Named>,
}

/// An object, by name and uid.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Named {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

/// What a cluster's tokens are checked with.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeySet {
    /// What `iss` has to be.
    pub issuer: String,
    /// Public keys.
    pub keys: Vec<Jwk>,
}

/// A public key, as the API server publishes it. Fields of other kinds of keys are not looked at.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Jwk {
    /// `RSA` or `EC`.
    pub kty: String,
    /// Its name.
    #[serde(default)]
    pub kid: String,
    /// `sig`, if it says.
    #[serde(rename = "use", default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<String>,
    /// `RS256` or `ES256`, if it says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alg: Option<String>,
    /// RSA: the modulus.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n: Option<String>,
    /// RSA: the exponent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub e: Option<String>,
    /// EC: the curve, `P-256`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crv: Option<String>,
    /// EC: the point.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub x: Option<String>,
    /// EC: the point.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub y: Option<String>,
}

/// Why a token is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Wrong {
    /// It is none.
    #[error("not a web-identity token")]
    Form,
    /// Signed by an algorithm that is not taken, or that is not its key's.
    #[error("the token is signed by an algorithm that is not taken")]
    Algorithm,
    /// Signed with a key that the cluster did not publish, as far as is known.
    #[error("the token is signed with an unknown key")]
    UnknownKey,
    /// Changed, or signed by somebody else.
    #[error("the token's signature is wrong")]
    Signature,
    /// Another cluster's.
    #[error("the token is of another issuer")]
    Issuer,
    /// For somebody else.
    #[error("the token is for another audience")]
    Audience,
    /// It has ended, or has not begun.
    #[error("the token has ended, or has not begun")]
    Time,
    /// Another pod's.
    #[error("the token is another pod's")]
    Owner,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: String,
    /// Extensions that have to be understood (RFC 7515, 4.1.11). None is.
    crit: Option<serde_json::Value>,
}

impl Audience {
    /// Whether `name` is among them.
    #[must_use]
    pub fn is_for(&self, name: &str) -> bool {
        match self {
            Self::One(one) => one == name,
            Self::Many(many) => many.iter().any(|one| one == name),
        }
    }
}

impl Claims {
    /// Whether it says that it is for `audience`.
    #[must_use]
    pub fn is_for(&self, audience: &str) -> bool {
        self.aud.is_for(audience)
    }

    /// The uid of the pod that it says it is bound to.
    #[must_use]
    pub fn pod_uid(&self) -> Option<&str> {
        Some(&self.kubernetes.as_ref()?.pod.as_ref()?.uid)
    }

    /// Whether it says that it is good at this time.
    #[must_use]
    pub fn is_in_time(&self, now: Timestamp) -> bool {
        let now = now.as_second();
        now < self.exp.saturating_add(SKEW_SECS)
            && self
                .nbf
                .is_none_or(|begin| begin.saturating_sub(SKEW_SECS) <= now)
    }

    /// Whether every claim of ownership is there and names this owner.
    fn is_of(&self, owner: &Owner) -> bool {
        let Owner {
            namespace,
            service_account,
            service_account_uid,
            pod,
            pod_uid,
        } = owner;
        let Some(Kubernetes {
            namespace: said,
            pod: Some(of_pod),
            serviceaccount: Some(of_account),
        }) = &self.kubernetes
        else {
            return false;
        };
        self.sub == format!("system:serviceaccount:{namespace}:{service_account}")
            && said == namespace
            && of_pod.uid == *pod_uid
            && of_pod.name == *pod
            && of_account.name == *service_account
            && of_account.uid == *service_account_uid
    }
}

/// What a token says, believed or not.
pub fn claims(token: &str) -> Result<Claims, Wrong> {
    let (_, claims, _) = split(token)?;
    decode(claims)
}

/// Checks that a token was made by the cluster for `audience`, is good now, and is the owner's own.
pub fn check(
    token: &str,
    set: &KeySet,
    audience: &str,
    owner: &Owner,
    now: Timestamp,
) -> Result<(), Wrong> {
    let (header, said, signature) = split(token)?;
    let signed = &token[..header.len() + 1 + said.len()];
    let header: Header = decode(header)?;
    let signature = bytes(signature)?;
    if header.crit.is_some() {
        return Err(Wrong::Algorithm);
    }
    if !matches!(&*header.alg, "RS256" | "ES256") {
        return Err(Wrong::Algorithm);
    }
    let mut named = set
        .keys
        .iter()
        .filter(|key| key.kid == header.kid)
        .peekable();
    if named.peek().is_none() {
        return Err(Wrong::UnknownKey);
    }
    let key = named
        .find(|key| key.algorithm() == Some(&*header.alg))
        .ok_or(Wrong::Algorithm)?;
    key.verify(signed.as_bytes(), &signature)?;
    let claims: Claims = decode(said)?;
    if claims.iss != set.issuer {
        return Err(Wrong::Issuer);
    }
    if !claims.is_for(audience) {
        return Err(Wrong::Audience);
    }
    if !claims.is_in_time(now) {
        return Err(Wrong::Time);
    }
    if !claims.is_of(owner) {
        return Err(Wrong::Owner);
    }
    Ok(())
}

impl Jwk {
    /// The only algorithm that it is used with; none if it is of no use here.
    fn algorithm(&self) -> Option<&'static str> {
        let algorithm = match (&*self.kty, self.crv.as_deref()) {
            ("RSA", _) => "RS256",
            ("EC", Some("P-256")) => "ES256",
            _ => return None,
        };
        let agrees = self.alg.as_deref().is_none_or(|said| said == algorithm)
            && self.usage.as_deref().is_none_or(|said| said == "sig");
        agrees.then_some(algorithm)
    }

    fn verify(&self, signed: &[u8], signature: &[u8]) -> Result<(), Wrong> {
        let part = |text: &Option<String>| bytes(text.as_deref().unwrap_or_default());
        let verified = match self.algorithm() {
            Some("RS256") => {
                let (n, e) = (part(&self.n)?, part(&self.e)?);
                RsaPublicKeyComponents { n, e }.verify(
                    &RSA_PKCS1_2048_8192_SHA256,
                    signed,
                    signature,
                )
            }
            Some("ES256") => {
                let (x, y) = (part(&self.x)?, part(&self.y)?);
                // An uncompressed point (SEC 1, 2.3.3).
                let point = [&[4], &x[..], &y[..]].concat();
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(signed, signature)
            }
            _ => return Err(Wrong::Algorithm),
        };
        verified.map_err(|_unspecified| Wrong::Signature)
    }
}

fn split(token: &str) -> Result<(&str, &str, &str), Wrong> {
    if token.len() > LONGEST {
        return Err(Wrong::Form);
    }
    let mut parts = token.split('.');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(header), Some(claims), Some(signature), None) => Ok((header, claims, signature)),
        _ => Err(Wrong::Form),
    }
}

fn bytes(part: &str) -> Result<Vec<u8>, Wrong> {
    URL_SAFE_NO_PAD
        .decode(part)
        .map_err(|_not_base64| Wrong::Form)
}

fn decode<T: for<'de> Deserialize<'de>>(part: &str) -> Result<T, Wrong> {
    serde_json::from_slice(&bytes(part)?).map_err(|_not_it| Wrong::Form)
}

#[cfg(test)]
mod tests;
