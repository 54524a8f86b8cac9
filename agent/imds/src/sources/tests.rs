//! The real client and the real cache against a stub of STS and EKS Auth.

mod stub;

use std::sync::Mutex;
use std::time::{Duration, Instant};

use aws_sdk_sts::config::{Credentials as SdkCredentials, SharedCredentialsProvider};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde_json::json;

use super::*;
use crate::cache::{Cache, Lease, World};
use crate::credentials::{ASSUME_ROLE_UNAUTHORIZED, Outcome};
use crate::sts;
use stub::{Step, Stub};

/// Who makes tokens here. Each is another one, unless it is told to stay; the first `missing` kinds have none.
#[derive(Clone, Default)]
struct Mint(Arc<Mutex<Minted>>);

#[derive(Default)]
struct Minted {
    number: u32,
    /// Of these ways there is no token.
    missing: Vec<SourceKind>,
    /// The kubelet has not written another one.
    stays: bool,
    asked: Vec<SourceKind>,
}

impl Tokens for Mint {
    async fn token(
        &self,
        owner: &Owner,
        audience: &str,
        source: SourceKind,
    ) -> Result<Secret, Fault> {
        let mut minted = self.0.lock().expect("one test");
        minted.asked.push(source);
        if minted.missing.contains(&source) {
            return Err(Fault {
                class: Class::NoToken,
                code: "NoToken".to_owned(),
                message: "none".to_owned(),
            });
        }
        if !minted.stays {
            minted.number += 1;
        }
        let claims = json!({
            "iss": "https://cluster", "aud": [audience], "exp": Timestamp::now().as_second() + 600,
            "sub": format!("system:serviceaccount:{}:{}", owner.namespace, owner.service_account),
            "jti": minted.number.to_string(),
        });
        let part = |text: String| URL_SAFE_NO_PAD.encode(text);
        Ok(Secret::new(format!(
            "{}.{}.{}",
            part("{}".to_owned()),
            part(claims.to_string()),
            part(format!("signature-{}", minted.number))
        )))
    }
}

/// Sources on a stub, with keys of their own.
struct Stage {
    stub: Stub,
    mint: Mint,
    metrics: Arc<Metrics>,
}

impl Stage {
    async fn new() -> Self {
        Self {
            stub: Stub::start().await,
            mint: Mint::default(),
            metrics: Arc::default(),
        }
    }

    fn sources(&self) -> Sources<Mint> {
        let own = SdkCredentials::new("own", "own-secret", None, None, "test");
        let own = Some(SharedCredentialsProvider::new(own));
        let http = sts::http_client();
        let eks_auth = EksAuth::new(
            "blue",
            &self.stub.url,
            "eu-west-1",
            own.clone(),
            http.clone(),
        );
        let sts = Sts::new("eu-west-1", own, http);
        let eks_auth = Some(eks_auth.expect("a cluster's name"));
        Sources::new(self.mint.clone(), sts, eks_auth, Arc::clone(&self.metrics))
    }

    fn cache(&self) -> Cache<Sources<Mint>> {
        let world = World {
            now: Arc::new(Timestamp::now),
            chance: Arc::new(|| 0.5),
        };
        Cache::new(self.sources(), world)
    }

    fn key(&self, sources: &[SourceKind], role: &str) -> Key {
        Key {
            sources: sources.to_vec(),
            endpoint: self.stub.url.clone(),
            role: Some(arn(role)),
            through: Some(arn("first")),
            external_id: None,
            session_name: "shop.web".to_owned(),
            tags: Vec::new(),
            source_identity: None,
            policy: None,
            policy_arns: Vec::new(),
            audience: Some("sts.amazonaws.com".to_owned()),
            owner: owner("web"),
        }
    }

    async fn fetch(&self, key: &Key) -> Result<Credentials, Fault> {
        self.sources().fetch(key, &key.owner).await
    }
}

fn arn(name: &str) -> RoleArn {
    format!("arn:aws:iam::123456789012:role/{name}")
        .parse()
        .expect("an ARN")
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

fn hold(cache: &Cache<Sources<Mint>>, key: &Key) -> Lease<Sources<Mint>> {
    cache.hold(key, &key.owner, false)
}

fn id(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Ready(keys) => keys.access_key_id.clone(),
        Outcome::Denied { code, .. } => code.clone(),
        Outcome::Nothing { .. } => "nothing".to_owned(),
        Outcome::Transient => "transient".to_owned(),
    }
}

const CLASSIC: &[SourceKind] = &[SourceKind::AssumeRole];
const WEB: &[SourceKind] = &[SourceKind::TokenRequest];
const CHAINED: &[SourceKind] = &[SourceKind::Chained];
const EKS: &[SourceKind] = &[SourceKind::EksAuth];

#[tokio::test]
async fn k1_another_external_id_is_another_call_and_other_keys() {
    let stage = Stage::new().await;
    let cache = stage.cache();
    let one = Key {
        external_id: Some("one".to_owned()),
        ..stage.key(CLASSIC, "app")
    };
    let two = Key {
        external_id: Some("two".to_owned()),
        ..one.clone()
    };
    let (first, second) = (
        id(&hold(&cache, &one).get().await),
        id(&hold(&cache, &two).get().await),
    );
    assert_ne!(first, second);
    let ids: Vec<_> = stage
        .stub
        .calls()
        .into_iter()
        .map(|call| call.fields["ExternalId"].clone())
        .collect();
    assert_eq!(ids, ["one", "two"]);
}

#[tokio::test]
async fn k2_a2_sixty_four_askers_make_one_call_and_have_its_answer_together() {
    let stage = Stage::new().await;
    let cache = stage.cache();
    let pause = Duration::from_millis(200);
    stage.stub.script("app", [Step::After(pause)]);
    let lease = Arc::new(hold(&cache, &stage.key(WEB, "app")));
    let askers: Vec<_> = (0..64)
        .map(|_| {
            let lease = Arc::clone(&lease);
            tokio::spawn(async move { (id(&lease.get().await), Instant::now()) })
        })
        .collect();
    let mut answered = Vec::new();
    for asker in askers {
        let (id, at) = asker.await.expect("it ends");
        assert_eq!(id, "ASIA1");
        answered.push(at);
    }
    let (first, last) = (answered.iter().min(), answered.iter().max());
    let spread = last.zip(first).map(|(last, first)| *last - *first);
    assert!(spread < Some(Duration::from_millis(10)), "{spread:?}");
    assert_eq!(stage.stub.calls().len(), 1);
}

#[tokio::test]
async fn k3_a_call_goes_to_the_endpoint_of_its_key() {
    let (regional, global) = (Stage::new().await, Stage::new().await);
    let key = regional.key(WEB, "app");
    let elsewhere = Key {
        endpoint: global.stub.url.clone(),
        ..key.clone()
    };
    for (key, stage) in [(&key, &regional), (&elsewhere, &global)] {
        regional.fetch(key).await.expect("credentials");
        let [call] = &stage.stub.calls()[..] else {
            panic!("{:?}", stage.stub.calls());
        };
        assert_eq!(format!("http://{}", call.host), stage.stub.url);
    }
}

#[tokio::test]
async fn k4_a_hundred_misses_share_their_connections() {
    let stage = Stage::new().await;
    let sources = stage.sources();
    for number in 0..50 {
        let role = format!("app-{number}");
        for sources_of_key in [WEB, CLASSIC] {
            let key = stage.key(sources_of_key, &role);
            sources.fetch(&key, &key.owner).await.expect("credentials");
        }
    }
    let calls = stage.stub.calls();
    assert_eq!(calls.len(), 100);
    // Nothing else was asked: no regions, no identity.
    assert!(
        calls
            .iter()
            .all(|call| call.action.starts_with("AssumeRole"))
    );
    assert!(
        stage.stub.connections() <= 2,
        "{}",
        stage.stub.connections()
    );
}

#[tokio::test]
async fn i10_a_refusal_is_asked_about_once_however_many_ask() {
    let stage = Stage::new().await;
    let cache = stage.cache();
    stage
        .stub
        .script("app", vec![Step::Error(403, "AccessDenied"); 100]);
    let lease = hold(&cache, &stage.key(WEB, "app"));
    for _ in 0..100 {
        assert_eq!(id(&lease.get().await), ASSUME_ROLE_UNAUTHORIZED);
    }
    assert_eq!(stage.stub.calls().len(), 1);
}

#[tokio::test]
async fn what_goes_wrong_at_aws_is_told_apart() {
    let slow = Step::After(Duration::from_secs(3));
    for (steps, class) in [
        (vec![Step::Error(403, "AccessDenied")], Class::Denied),
        (
            vec![Step::Error(400, "PackedPolicyTooLarge")],
            Class::Invalid,
        ),
        (vec![Step::Error(400, "Throttling"); 3], Class::Throttled),
        (vec![Step::Error(500, "InternalFailure"); 3], Class::Network),
        (vec![Step::Reset; 3], Class::Network),
        (vec![Step::Nonsense; 3], Class::Network),
        (vec![slow; 3], Class::Network),
        (vec![Step::Life(0); 3], Class::Network),
    ] {
        let stage = Stage::new().await;
        stage.stub.script("app", steps.clone());
        let began = Instant::now();
        let fault = stage.fetch(&stage.key(WEB, "app")).await;
        let fault = fault.expect_err("it fails");
        assert_eq!(fault.class, class, "{steps:?}: {fault:?}");
        assert!(!fault.message.contains("signature-"), "{fault:?}");
        assert!(began.elapsed() < Duration::from_millis(2500), "{steps:?}");
    }
}

#[tokio::test]
async fn a_hiccup_is_tried_again_within_the_call() {
    let stage = Stage::new().await;
    stage
        .stub
        .script("app", [Step::Error(500, "InternalFailure")]);
    let keys = stage.fetch(&stage.key(CLASSIC, "app")).await;
    assert_eq!(keys.expect("credentials").access_key_id, "ASIA2");
}

#[tokio::test]
async fn a5_a_token_that_has_ended_is_read_again_at_once_and_a_rotation_costs_no_keys() {
    for code in ["ExpiredTokenException", "InvalidIdentityToken"] {
        let stage = Stage::new().await;
        stage.stub.script("app", [Step::Error(400, code)]);
        let key = stage.key(WEB, "app");
        let keys = stage.fetch(&key).await.expect("with the next token");
        assert_eq!(keys.access_key_id, "ASIA2");
        let tokens: Vec<_> = stage
            .stub
            .calls()
            .into_iter()
            .map(|call| call.fields["WebIdentityToken"].clone())
            .collect();
        assert!(tokens.len() == 2 && tokens[0] != tokens[1], "{tokens:?}");
        // Where there is no other token, nothing is asked again.
        let stage = Stage::new().await;
        stage.mint.0.lock().expect("one test").stays = true;
        stage.stub.script("app", vec![Step::Error(400, code); 2]);
        let fault = stage.fetch(&stage.key(WEB, "app")).await;
        assert_eq!(fault.expect_err("refused").class, Class::BadToken);
        assert_eq!(stage.stub.calls().len(), 1);
    }
    // The token rotates while STS is down: keys are served as long as they are good.
    let stage = Stage::new().await;
    let cache = stage.cache();
    let lease = hold(&cache, &stage.key(WEB, "app"));
    assert_eq!(id(&lease.get().await), "ASIA1");
    stage.stub.script("app", vec![Step::Reset; 100]);
    stage.mint.0.lock().expect("one test").number += 1;
    assert_eq!(id(&lease.get().await), "ASIA1");
    assert_eq!(stage.stub.calls().len(), 1);
}

#[tokio::test]
async fn a_way_that_cannot_begin_gives_way_and_a_refusal_does_not() {
    use SourceKind::{AssumeRole, EksAuth, Projected, TokenRequest};
    let stage = Stage::new().await;
    stage.mint.0.lock().expect("one test").missing = vec![Projected];
    let key = stage.key(&[Projected, TokenRequest], "app");
    let keys = stage.fetch(&key).await.expect("by the second way");
    assert_eq!(keys.source, TokenRequest);
    assert_eq!(
        stage.mint.0.lock().expect("one test").asked,
        [Projected, TokenRequest]
    );
    // No association: the next one.
    let key = stage.key(&[EksAuth, TokenRequest], "app");
    let keys = stage.fetch(&key).await.expect("by the second way");
    assert_eq!(keys.source, TokenRequest);
    // AWS has spoken.
    stage.stub.script("app", [Step::Error(403, "AccessDenied")]);
    let key = stage.key(&[TokenRequest, AssumeRole], "app");
    let fault = stage.fetch(&key).await.expect_err("refused");
    assert_eq!(fault.class, Class::Denied);
}

#[tokio::test]
async fn a_chain_goes_through_the_accounts_role_and_carries_all_in_its_last_link() {
    let stage = Stage::new().await;
    let key = Key {
        external_id: Some("partner".to_owned()),
        tags: vec![("kubernetes-namespace".to_owned(), "shop".to_owned())],
        source_identity: Some("shop.web".to_owned()),
        policy: Some("{}".to_owned()),
        ..stage.key(CHAINED, "app")
    };
    let keys = stage.fetch(&key).await.expect("credentials");
    assert_eq!(
        (keys.access_key_id.as_str(), keys.source),
        ("ASIA2", SourceKind::Chained)
    );
    let [first, last] = &stage.stub.calls()[..] else {
        panic!("{:?}", stage.stub.calls());
    };
    assert_eq!(first.action, "AssumeRoleWithWebIdentity");
    assert_eq!(first.fields["RoleArn"], arn("first").as_str());
    assert!(!first.fields.contains_key("Policy"));
    assert_eq!(last.action, "AssumeRole");
    assert!(last.authorization.contains("Credential=ASIA1/"));
    for (name, value) in [
        ("RoleArn", arn("app").as_str()),
        ("ExternalId", "partner"),
        ("Tags.member.1.Key", "kubernetes-namespace"),
        ("Tags.member.1.Value", "shop"),
        ("SourceIdentity", "shop.web"),
        ("Policy", "{}"),
        ("DurationSeconds", "3600"),
    ] {
        assert_eq!(last.fields.get(name).map(String::as_str), Some(value));
    }
}

#[tokio::test]
async fn a_denial_with_tags_is_reported_and_never_tried_without_them() {
    let stage = Stage::new().await;
    stage.stub.script("app", [Step::Error(403, "AccessDenied")]);
    let key = Key {
        tags: vec![("kubernetes-namespace".to_owned(), "shop".to_owned())],
        ..stage.key(CLASSIC, "app")
    };
    let fault = stage.fetch(&key).await.expect_err("denied");
    assert_eq!(fault.class, Class::Denied);
    assert_eq!(stage.stub.calls().len(), 1);
}

#[tokio::test]
async fn an_association_gives_the_role_that_aws_says() {
    let stage = Stage::new().await;
    stage.stub.associate("app");
    let any = Key {
        role: None,
        ..stage.key(EKS, "app")
    };
    let keys = stage.fetch(&any).await.expect("credentials");
    assert_eq!(keys.role, Some(arn("app")));
    assert_eq!(keys.account_id, "123456789012");
    assert_eq!(keys.request_id.as_deref(), Some("request-1"));
    // Of the role that annotations name, else refused.
    stage
        .fetch(&stage.key(EKS, "team/app"))
        .await
        .expect("paths are not told");
    let fault = stage.fetch(&stage.key(EKS, "other")).await;
    let fault = fault.expect_err("another role");
    assert_eq!(
        (fault.class, fault.code.as_str()),
        (Class::Denied, "OtherRole")
    );
    let calls = stage.stub.calls();
    assert_eq!(
        calls[0].action,
        "/clusters/blue/assume-role-for-pod-identity"
    );
}

#[tokio::test]
async fn without_an_association_there_is_no_role() {
    let stage = Stage::new().await;
    let cache = stage.cache();
    let any = Key {
        role: None,
        ..stage.key(EKS, "app")
    };
    let lease = hold(&cache, &any);
    assert_eq!(id(&lease.get().await), "nothing");
    assert_eq!(id(&lease.get().await), "nothing");
    assert_eq!(stage.stub.calls().len(), 1);
}

#[tokio::test]
async fn what_goes_wrong_at_eks_auth_is_told_apart() {
    for (step, class) in [
        (Step::Error(403, "AccessDeniedException"), Class::Denied),
        (Step::Error(400, "ExpiredTokenException"), Class::BadToken),
        (Step::Error(400, "InvalidTokenException"), Class::BadToken),
        (Step::Error(400, "InvalidRequestException"), Class::Invalid),
        (
            Step::Error(404, "ResourceNotFoundException"),
            Class::NoAssociation,
        ),
        (Step::Error(429, "ThrottlingException"), Class::Throttled),
        (
            Step::Error(503, "ServiceUnavailableException"),
            Class::Network,
        ),
        (Step::Reset, Class::Network),
        (Step::Nonsense, Class::Network),
        (Step::Life(-5), Class::Network),
    ] {
        let stage = Stage::new().await;
        stage.stub.associate("app");
        stage.stub.script("eks-auth", vec![step; 6]);
        let fault = stage.fetch(&stage.key(EKS, "app")).await;
        let fault = fault.expect_err("it fails");
        assert_eq!(fault.class, class, "{step:?}: {fault:?}");
        assert!(!fault.message.contains("signature-"), "{fault:?}");
    }
}
