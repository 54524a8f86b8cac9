use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::{Value, json};

use super::*;

const ISSUER: &str = "https://kubernetes.default.svc";
const NOW: i64 = 1_800_000_000;

/// A cluster's signing key, made for this test.
struct Signer {
    pair: EcdsaKeyPair,
    random: SystemRandom,
    kid: String,
}

impl Signer {
    fn new(kid: &str) -> Self {
        let random = SystemRandom::new();
        let document =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).expect("a key");
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &random)
                .expect("the key that was made");
        Self {
            pair,
            random,
            kid: kid.to_owned(),
        }
    }

    fn jwk(&self) -> Jwk {
        let point = self.pair.public_key().as_ref();
        Jwk {
            kty: "EC".to_owned(),
            kid: self.kid.clone(),
            usage: Some("sig".to_owned()),
            alg: Some("ES256".to_owned()),
            crv: Some("P-256".to_owned()),
            x: Some(URL_SAFE_NO_PAD.encode(&point[1..33])),
            y: Some(URL_SAFE_NO_PAD.encode(&point[33..])),
            ..Jwk::default()
        }
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let signed = format!("{}.{}", part(header), part(claims));
        let signature = self
            .pair
            .sign(&self.random, signed.as_bytes())
            .expect("it signs");
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    fn token(&self, claims: &Value) -> String {
        self.sign(&json!({"alg": "ES256", "kid": self.kid}), claims)
    }

    fn set(&self) -> KeySet {
        KeySet {
            issuer: ISSUER.to_owned(),
            keys: vec![self.jwk()],
        }
    }
}

fn part(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

fn owner() -> Owner {
    Owner {
        namespace: "shop".to_owned(),
        service_account: "api".to_owned(),
        service_account_uid: "uid-api".to_owned(),
        pod: "web-0".to_owned(),
        pod_uid: "uid-web-0".to_owned(),
    }
}

/// As the API server makes them.
fn good() -> Value {
    json!({
        "aud": [POD_IDENTITY_AUDIENCE],
        "exp": NOW + 3600,
        "iat": NOW,
        "nbf": NOW,
        "iss": ISSUER,
        "jti": "0d5f0a1c",
        "sub": "system:serviceaccount:shop:api",
        "kubernetes.io": {
            "namespace": "shop",
            "node": {"name": "n1", "uid": "uid-n1"},
            "pod": {"name": "web-0", "uid": "uid-web-0"},
            "serviceaccount": {"name": "api", "uid": "uid-api"},
        },
    })
}

fn checked(token: &str, set: &KeySet) -> Result<(), Wrong> {
    let now = Timestamp::from_second(NOW).expect("a time");
    check(token, set, POD_IDENTITY_AUDIENCE, &owner(), now)
}

/// The good claims with the value at `pointer` changed; gone if there is none.
fn with(pointer: &str, value: Option<Value>) -> Value {
    let mut claims = good();
    let (parent, name) = pointer.rsplit_once('/').expect("a pointer");
    let parent = claims.pointer_mut(parent).expect("it is there");
    match value {
        Some(value) => parent[name.replace("~1", "/")] = value,
        None => drop(parent.as_object_mut().expect("an object").remove(name)),
    }
    claims
}

#[test]
fn a_good_token_passes() {
    let signer = Signer::new("k1");
    assert_eq!(checked(&signer.token(&good()), &signer.set()), Ok(()));
    let one = with("/aud", Some(json!(POD_IDENTITY_AUDIENCE)));
    assert_eq!(checked(&signer.token(&one), &signer.set()), Ok(()));
    let said = claims(&signer.token(&good())).expect("claims");
    assert_eq!(said.pod_uid(), Some("uid-web-0"));
}

#[test]
fn every_claim_is_looked_at() {
    let signer = Signer::new("k1");
    let kubernetes = |rest: &str| format!("/kubernetes.io/{rest}");
    for (pointer, value, wrong) in [
        ("/iss", Some(json!("https://other")), Wrong::Issuer),
        ("/iss", Some(json!(format!("{ISSUER}/"))), Wrong::Issuer),
        ("/iss", None, Wrong::Form),
        ("/aud", Some(json!(["sts.amazonaws.com"])), Wrong::Audience),
        ("/aud", Some(json!([])), Wrong::Audience),
        ("/aud", None, Wrong::Form),
        ("/exp", Some(json!(NOW - 10)), Wrong::Time),
        ("/exp", None, Wrong::Form),
        ("/exp", Some(json!("never")), Wrong::Form),
        ("/nbf", Some(json!(NOW + 11)), Wrong::Time),
        (
            "/sub",
            Some(json!("system:serviceaccount:shop:other")),
            Wrong::Owner,
        ),
        ("/sub", None, Wrong::Form),
        ("/kubernetes.io", None, Wrong::Owner),
        (&kubernetes("namespace"), Some(json!("ops")), Wrong::Owner),
        (&kubernetes("pod"), None, Wrong::Owner),
        (
            &kubernetes("pod/uid"),
            Some(json!("uid-other")),
            Wrong::Owner,
        ),
        (&kubernetes("pod/name"), Some(json!("web-1")), Wrong::Owner),
        (&kubernetes("serviceaccount"), None, Wrong::Owner),
        (
            &kubernetes("serviceaccount/name"),
            Some(json!("other")),
            Wrong::Owner,
        ),
        (
            &kubernetes("serviceaccount/uid"),
            Some(json!("uid-old")),
            Wrong::Owner,
        ),
    ] {
        let token = signer.token(&with(pointer, value.clone()));
        assert_eq!(
            checked(&token, &signer.set()),
            Err(wrong),
            "{pointer} {value:?}"
        );
    }
}

#[test]
fn clocks_may_be_ten_seconds_apart() {
    let signer = Signer::new("k1");
    for claims in [
        with("/exp", Some(json!(NOW - 9))),
        with("/nbf", Some(json!(NOW + 10))),
    ] {
        assert_eq!(checked(&signer.token(&claims), &signer.set()), Ok(()));
    }
}

#[test]
fn the_algorithm_is_the_keys_and_no_choice_of_the_header() {
    let signer = Signer::new("k1");
    for alg in [
        "none", "None", "HS256", "RS256", "ES384", "PS256", "EdDSA", "",
    ] {
        let token = signer.sign(&json!({"alg": alg, "kid": "k1"}), &good());
        assert_eq!(
            checked(&token, &signer.set()),
            Err(Wrong::Algorithm),
            "{alg}"
        );
    }
    // Without a signature at all.
    let header = part(&json!({"alg": "none", "kid": "k1"}));
    let bare = format!("{header}.{}.", part(&good()));
    assert_eq!(checked(&bare, &signer.set()), Err(Wrong::Algorithm));
    // The public key as the secret of an HMAC.
    let header = part(&json!({"alg": "HS256", "kid": "k1"}));
    let signed = format!("{header}.{}", part(&good()));
    let secret = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, signer.pair.public_key().as_ref());
    let tag = ring::hmac::sign(&secret, signed.as_bytes());
    let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag));
    assert_eq!(checked(&token, &signer.set()), Err(Wrong::Algorithm));
    // A key that is meant for something else.
    for change in [
        (|key: &mut Jwk| key.alg = Some("ES384".to_owned())) as fn(&mut Jwk),
        |key| key.usage = Some("enc".to_owned()),
        |key| key.crv = Some("P-384".to_owned()),
        |key| key.kty = "oct".to_owned(),
    ] {
        let mut set = signer.set();
        change(&mut set.keys[0]);
        let token = signer.token(&good());
        assert_eq!(checked(&token, &set), Err(Wrong::Algorithm));
    }
    let critical = json!({"alg": "ES256", "kid": "k1", "crit": ["x"], "x": 1});
    let token = signer.sign(&critical, &good());
    assert_eq!(checked(&token, &signer.set()), Err(Wrong::Algorithm));
}

#[test]
fn a_signature_is_of_the_key_that_it_names() {
    let (signer, other) = (Signer::new("k1"), Signer::new("k2"));
    let mut both = signer.set();
    both.keys.push(other.jwk());
    assert_eq!(checked(&other.token(&good()), &both), Ok(()));
    // The key of one under the name of the other.
    let swapped = signer.sign(&json!({"alg": "ES256", "kid": "k2"}), &good());
    assert_eq!(checked(&swapped, &both), Err(Wrong::Signature));
    assert_eq!(
        checked(&other.token(&good()), &signer.set()),
        Err(Wrong::UnknownKey)
    );
    let nameless = signer.sign(&json!({"alg": "ES256"}), &good());
    assert_eq!(checked(&nameless, &both), Err(Wrong::UnknownKey));
    // Claims of one token under the signature of another.
    let token = signer.token(&good());
    let (head, signature) = token.rsplit_once('.').expect("three parts");
    let (header, _) = head.split_once('.').expect("three parts");
    let forged = with("/kubernetes.io/pod/uid", Some(json!("uid-other")));
    let forged = format!("{header}.{}.{signature}", part(&forged));
    assert_eq!(checked(&forged, &both), Err(Wrong::Signature));
}

/// Made by OpenSSL, signed by OpenSSL: another implementation than the one that checks.
#[test]
fn rsa_keys_of_an_api_server_are_taken() {
    let set: KeySet = serde_json::from_str(include_str!("rsa-keys.json")).expect("a set");
    let token = include_str!("rsa-token.txt").trim();
    assert_eq!(checked(token, &set), Ok(()));
    let mut other = set.clone();
    let n = other.keys[0].n.as_mut().expect("a modulus");
    n.replace_range(4..5, if n[4..5] == *"A" { "B" } else { "A" });
    assert_eq!(checked(token, &other), Err(Wrong::Signature));
}

#[test]
fn what_is_no_token_is_none() {
    let signer = Signer::new("k1");
    for text in [
        String::new(),
        "a.b".to_owned(),
        "a.b.c".to_owned(),
        "a.b.c.d".to_owned(),
        "e30.e30.e30".to_owned(),
        format!("{}x", "e30.".repeat(3)),
        "a".repeat(LONGEST + 1),
        format!("{}=", signer.token(&good())),
    ] {
        assert_eq!(checked(&text, &signer.set()), Err(Wrong::Form), "{text}");
    }
    let nothing = KeySet::default();
    assert_eq!(
        checked(&signer.token(&good()), &nothing),
        Err(Wrong::UnknownKey)
    );
}
