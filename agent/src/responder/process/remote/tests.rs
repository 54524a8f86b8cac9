//! A responder whose agent is this test: what it believes of web-identity tokens, by what it was told.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use portcullis_imds::jwt::{Jwk, POD_IDENTITY_AUDIENCE};
use portcullis_imds::sts;
use portcullis_imds::upstream::Endpoint;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::json;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use super::*;

const ISSUER: &str = "https://kubernetes.default.svc";

/// A key of the cluster.
struct Signer {
    pair: EcdsaKeyPair,
    kid: &'static str,
}

impl Signer {
    fn new(kid: &'static str) -> Self {
        let (algorithm, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).expect("a key");
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random);
        Self {
            pair: pair.expect("the key that was made"),
            kid,
        }
    }

    fn jwk(&self) -> Jwk {
        let point = self.pair.public_key().as_ref();
        Jwk {
            kty: "EC".to_owned(),
            kid: self.kid.to_owned(),
            crv: Some("P-256".to_owned()),
            x: Some(URL_SAFE_NO_PAD.encode(&point[1..33])),
            y: Some(URL_SAFE_NO_PAD.encode(&point[33..])),
            ..Jwk::default()
        }
    }

    fn token(&self, owner: &Owner, audience: &str) -> String {
        let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let now = Timestamp::now().as_second();
        let claims = json!({
            "iss": ISSUER, "aud": [audience], "nbf": now, "exp": now + 600,
            "sub": format!("system:serviceaccount:{}:{}", owner.namespace, owner.service_account),
            "kubernetes.io": {
                "namespace": owner.namespace,
                "pod": {"name": owner.pod, "uid": owner.pod_uid},
                "serviceaccount": {"name": owner.service_account, "uid": owner.service_account_uid},
            },
        });
        let header = json!({"alg": "ES256", "kid": self.kid});
        let signed = format!("{}.{}", part(header), part(claims));
        let signature = self
            .pair
            .sign(&SystemRandom::new(), signed.as_bytes())
            .expect("it signs");
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// The agent's end.
struct Agent {
    read: BufReader<OwnedReadHalf>,
    write: OwnedWriteHalf,
}

impl Agent {
    async fn say(&mut self, said: &FromAgent) {
        let mut line = serde_json::to_vec(said).expect("it is an object");
        line.push(b'\n');
        self.write.write_all(&line).await.expect("it listens");
    }

    async fn keys(&mut self, signers: &[&Signer]) {
        let set = KeySet {
            issuer: ISSUER.to_owned(),
            keys: signers.iter().map(|signer| signer.jwk()).collect(),
        };
        let set = Box::new(set);
        self.say(&FromAgent::Keys { set }).await;
    }

    async fn hear(&mut self) -> FromResponder {
        let mut line = String::new();
        self.read.read_line(&mut line).await.expect("it speaks");
        serde_json::from_str(&line).expect("a question")
    }
}

fn owner(pod: &str) -> Owner {
    Owner {
        namespace: "shop".to_owned(),
        service_account: "api".to_owned(),
        service_account_uid: "uid-api".to_owned(),
        pod: pod.to_owned(),
        pod_uid: format!("uid-{pod}"),
    }
}

/// Until the responder has heard what was said last.
async fn until(what: impl Fn() -> bool) {
    let patience = timeout(Duration::from_secs(5), async {
        while !what() {
            tokio::task::yield_now().await;
        }
    });
    patience.await.expect("it hears");
}

const WEB: Attachment = Attachment([1; 16]);
const DB: Attachment = Attachment([2; 16]);

#[tokio::test]
async fn a_token_is_good_for_its_own_pod_by_the_clusters_newest_keys() {
    let endpoints = Endpoints {
        regional: "http://127.0.0.1:1".to_owned(),
        global: "http://127.0.0.1:1".to_owned(),
    };
    let counters = Arc::<Upstream>::default();
    let remote = Remote::new(
        endpoints,
        (Sessions::default(), POD_IDENTITY_AUDIENCE),
        (Sts::new("eu-west-1", None, sts::http_client()), None),
        Client::new(Endpoint::default(), Arc::clone(&counters)),
        counters,
    );
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let talking = remote.clone();
    let talk = tokio::spawn(async move { talking.talk(ours).await });
    let (read, write) = theirs.into_split();
    let mut agent = Agent {
        read: BufReader::new(read),
        write,
    };
    let (old, new) = (Signer::new("old"), Signer::new("new"));
    let mine = old.token(&owner("web"), POD_IDENTITY_AUDIENCE);
    // Of a pod that nobody knows.
    assert_eq!(remote.prove(WEB, &mine).await, Proof::Unavailable);
    for (attachment, pod) in [(WEB, "web"), (DB, "db")] {
        let pod = link::Pod {
            owner: owner(pod),
            assigned: link::Assigned::None {
                why: "none".to_owned(),
            },
            imds_v1: false,
            metadata_paths: std::collections::BTreeSet::new(),
        };
        let pod = Some(Box::new(pod));
        agent.say(&FromAgent::Pod { attachment, pod }).await;
    }
    until(|| lock(&remote.callers).contains_key(&DB)).await;
    // Before the keys are known.
    assert_eq!(remote.prove(WEB, &mine).await, Proof::Unavailable);
    agent.keys(&[&old]).await;
    until(|| remote.shared.keys.borrow().is_some()).await;
    assert_eq!(remote.prove(WEB, &mine).await, Proof::Good);
    // A stolen one.
    assert_eq!(remote.prove(DB, &mine).await, Proof::Foreign);
    let other = old.token(&owner("web"), "sts.amazonaws.com");
    assert_eq!(remote.prove(WEB, &other).await, Proof::Bad);
    assert_eq!(remote.prove(WEB, "a.b.c").await, Proof::Malformed);
    // The cluster has a new key: it is asked for, once, and the token is looked at again.
    let newer = new.token(&owner("web"), POD_IDENTITY_AUDIENCE);
    let (proof, asked) = tokio::join!(remote.prove(WEB, &newer), async {
        let asked = agent.hear().await;
        agent.keys(&[&old, &new]).await;
        asked
    });
    assert_eq!((proof, asked), (Proof::Good, FromResponder::Keys));
    // A key that there is not: nobody waits for long.
    let forged = Signer::new("forged").token(&owner("web"), POD_IDENTITY_AUDIENCE);
    let began = Instant::now();
    assert_eq!(remote.prove(WEB, &forged).await, Proof::Bad);
    assert!(began.elapsed() < Duration::from_millis(900));
    talk.abort();
}

#[test]
fn i2_whoever_has_an_attachment_after_another_pod_has_none_of_its_connections() {
    let pod = |name: &str| link::Pod {
        owner: owner(name),
        assigned: link::Assigned::Undecided,
        imds_v1: false,
        metadata_paths: Wanted::new(),
    };
    let mut held = Held::new();
    assert!(!held.is_anothers(None) && !held.is_anothers(Some(&pod("web"))));
    held.owner = Some(owner("web"));
    assert!(!held.is_anothers(Some(&pod("web"))));
    assert!(held.is_anothers(Some(&pod("db"))) && held.is_anothers(None));
}
