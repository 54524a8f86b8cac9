//! Roles of pods on a real cluster: tokens that the API server makes behind the shipped admission policy, keys of an STS that says whose they are.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use portcullis_lab::NetNs;
use portcullis_tests::cloud::talk::{Danced, Talk};
use portcullis_tests::cloud::{LISTING, TOKEN, TTL};
use portcullis_tests::cluster::sts::{Sts, forget_last_address, is_free};
use portcullis_tests::cluster::{Ground, Node, agent, answer, apply, object, said, try_kubectl};
use portcullis_tests::scene::{SOON, ip, wait_until};
use serde_json::{Value, json};

const ACCOUNT: &str = "arn:aws:iam::123456789012:role/";
/// Where pods ask.
const EC2: [&str; 2] = ["169.254.169.254", "fd00:ec2::254"];
/// For a container to be started again on a busy machine; the first time the kubelet does so at once.
const AGAIN: Duration = Duration::from_secs(30);
const AGENT: &str = "system:serviceaccount:portcullis:portcullis";

/// A service account with a role by web identity.
fn account(ground: &Ground, name: &str, role: &str) {
    let annotations = json!({"eks.amazonaws.com/role-arn": format!("{ACCOUNT}{role}")});
    let metadata = json!({"name": name, "namespace": ground.name, "annotations": annotations});
    apply(&json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}).to_string());
}

/// A pod of an account, once it runs.
fn pod(ground: &mut Ground, node: &str, name: &str, account: &str) {
    let container =
        json!({"name": "box", "image": "cluster.test/box:1", "imagePullPolicy": "IfNotPresent"});
    apply(
        &json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": ground.name},
            "spec": {"nodeName": node, "serviceAccountName": account, "automountServiceAccountToken": false,
                "terminationGracePeriodSeconds": 0, "containers": [container]}})
        .to_string(),
    );
    ground.found(&[name]);
}

fn dance(from: &NetNs, to: &str) -> std::io::Result<Danced> {
    Talk::open(from, ip(to), SOON)?.dance()
}

/// The keys that a pod gets; it has to get some, at once.
fn keys(from: &NetNs, to: &str) -> Value {
    let danced = dance(from, to).expect("the responder answers");
    assert_eq!(danced.answer.status, 200, "{to}: {:?}", danced.answer);
    let keys: Value = serde_json::from_str(&danced.answer.body).expect("they are JSON");
    assert_eq!(keys["Code"], "Success", "{to}");
    keys
}

/// Waits for a pod's first keys: the right to ask for its token, STS and this machine may be slow. How long it took.
fn gets_keys(ground: &Ground, pod: &str) -> Duration {
    let started = Instant::now();
    wait_until(&format!("{pod} gets keys"), AGAIN, || {
        dance(ground.netns(pod), EC2[0]).is_ok_and(|danced| {
            let status = danced.answer.status;
            assert!(status == 200 || status == 503, "{:?}", danced.answer);
            status == 200
        })
    });
    started.elapsed()
}

/// Whose a pod's keys are: at both addresses the same session of its own role.
fn is(sts: &Sts, ground: &Ground, pod: &str, role: &str) {
    for to in EC2 {
        let keys = keys(ground.netns(pod), to);
        let session = format!("{}.{pod}", ground.name);
        let expected = format!("arn:aws:sts::123456789012:assumed-role/{role}/{session}");
        assert_eq!(sts.whose(&keys), expected, "{pod} at {to}");
    }
}

#[test]
fn pods_get_the_role_of_their_account_by_tokens_of_the_api_server() {
    let mut ground = Ground::with("roles", &["n1/plain"]);
    account(&ground, "web", "web-reader");
    account(&ground, "db", "db-writer");
    let sts = Sts::with_overlay("tokenrequest");
    pod(&mut ground, "n1", "web", "web");
    pod(&mut ground, "n1", "db", "db");
    pod(&mut ground, "n2", "far", "web");
    for name in ["web", "db", "far"] {
        println!(
            "roles: {name} has keys {:?} after it is Ready",
            gets_keys(&ground, name)
        );
    }
    is(&sts, &ground, "web", "web-reader");
    is(&sts, &ground, "db", "db-writer");
    is(&sts, &ground, "far", "web-reader");
    for to in EC2 {
        let danced = dance(ground.netns("plain"), to).expect("the responder answers");
        assert_eq!(danced.role, None);
        assert_eq!(danced.answer.status, 404, "a pod without a role");
    }

    let tokens = sts.tokens();
    let accounts = [("web", "web"), ("db", "db"), ("far", "web")];
    for (name, account) in accounts {
        let session = format!("{}.{name}", ground.name);
        let own: Vec<&Value> = tokens
            .iter()
            .filter(|call| call["session"] == *session)
            .collect();
        assert_eq!(own.len(), 1, "one call for each pod: {tokens:#?}");
        assert_eq!(own[0]["action"], "AssumeRoleWithWebIdentity");
        let claims = &own[0]["claims"];
        assert_ne!(*claims, Value::Null, "the API server's keys signed it");
        let subject = format!("system:serviceaccount:{}:{account}", ground.name);
        assert_eq!(claims["sub"], subject);
        assert_eq!(claims["aud"], json!(["sts.amazonaws.com"]));
        let bound = &claims["kubernetes.io"]["pod"];
        assert_eq!(bound["name"], name);
        assert_eq!(bound["uid"], ground.pod(name).uid);
        let life = claims["exp"].as_i64().zip(claims["iat"].as_i64());
        assert!(life.is_some_and(|(end, start)| end - start <= 3600));
    }
    assert_eq!(tokens.len(), accounts.len(), "{tokens:#?}");

    // A connection and a session token of a pod that goes are worth nothing to who has its address next.
    let node = Node::n1();
    forget_last_address(&node);
    pod(&mut ground, "n1", "old", "web");
    let _ = gets_keys(&ground, "old");
    is(&sts, &ground, "old", "web-reader");
    let addresses = ground.pod("old").addresses.clone();
    let mut open = Talk::open(ground.netns("old"), ip(EC2[0]), SOON).expect("it connects");
    let session = open
        .ask("PUT", "/latest/api/token", &[(TTL, "21600")])
        .expect("it answers");
    let session = session.body;
    ground.remove("old");
    // Its object may go a moment before its interface does.
    wait_until("the connection ends with its pod", SOON, || {
        open.ask("GET", LISTING, &[(TOKEN, &session)]).is_err()
    });
    wait_until("its address is free", SOON, || is_free(&node, addresses[0]));
    forget_last_address(&node);
    pod(&mut ground, "n1", "new", "db");
    assert_eq!(ground.pod("new").addresses, addresses, "as it was meant");
    let mut fresh = Talk::open(ground.netns("new"), ip(EC2[0]), SOON).expect("it connects");
    let foreign = fresh.ask("GET", LISTING, &[(TOKEN, &session)]);
    assert_eq!(foreign.expect("it answers").status, 401);
    let _ = gets_keys(&ground, "new");
    is(&sts, &ground, "new", "db-writer");
}

/// Asks for metadata until it is there again. How long that took.
fn answers_again(from: &NetNs, expected: &Value, what: &str) -> Duration {
    let started = Instant::now();
    wait_until(what, AGAIN, || {
        let danced = dance(from, EC2[0]);
        danced.is_ok_and(|danced| {
            let keys: Value = serde_json::from_str(&danced.answer.body).unwrap_or_default();
            // Whatever answers meanwhile, it is never anybody else's keys.
            assert!(
                keys["AccessKeyId"].is_null() || keys["Type"] == "AWS-HMAC",
                "{}",
                danced.answer.status
            );
            danced.role.as_deref() == expected.as_str() && keys["Code"] == "Success"
        })
    });
    started.elapsed()
}

#[test]
fn metadata_is_back_within_seconds_when_responder_or_agent_are_killed() {
    let mut ground = Ground::with("roles-killed", &["n1/plain"]);
    account(&ground, "web", "web-reader");
    let sts = Sts::with_overlay("tokenrequest");
    pod(&mut ground, "n1", "web", "web");
    let _ = gets_keys(&ground, "web");
    is(&sts, &ground, "web", "web-reader");
    let node = Node::n1();
    let from = ground.netns("web");
    let mut talk = Talk::open(from, ip(EC2[0]), SOON).expect("it connects");
    let session = talk
        .ask("PUT", "/latest/api/token", &[(TTL, "21600")])
        .expect("it answers");
    drop(talk);
    for (what, process) in [
        ("the responder", agent::responder_on(&node)),
        ("the agent", agent::process_on(&node)),
    ] {
        kill(Pid::from_raw(process), Signal::SIGKILL).expect("it runs");
        let role = json!("web-reader");
        let took = answers_again(from, &role, &format!("{what} is killed"));
        println!("roles: {what} killed, keys again {took:?} later");
        is(&sts, &ground, "web", "web-reader");
        let mut talk = Talk::open(from, ip(EC2[0]), SOON).expect("it connects");
        let listing = talk.ask("GET", LISTING, &[(TOKEN, &session.body)]);
        let listing = listing.expect("it answers");
        assert_eq!(
            listing.status, 200,
            "session tokens outlive it: {listing:?}"
        );
    }
}

#[test]
fn a_responder_has_no_token_no_capability_and_no_file_of_the_node() {
    let node = Node::n1();
    let process = agent::responder_on(&node);
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("it runs");
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let words = line.unwrap_or_default().split_whitespace();
        words.map(ToOwned::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(field("Uid:"), ["65532"; 4]);
    assert_eq!(field("Gid:"), ["65532"; 4]);
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(field(set), ["0000000000000000"], "{set}");
    }
    assert_eq!(field("NoNewPrivs:"), ["1"]);
    assert_eq!(field("Seccomp:"), ["2"], "a filter");
    let root = format!("/proc/{process}/root");
    assert!(!fs::exists(format!("{root}/var/run/secrets")).unwrap_or(true));
    assert!(!fs::exists(format!("{root}/run/secrets")).unwrap_or(true));
    let mounts = fs::read_to_string(format!("/proc/{process}/mounts")).expect("it runs");
    let writable: Vec<&str> = mounts
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ').skip(1);
            let (place, options) = (words.next()?, words.nth(1)?);
            let kernels = ["/proc", "/dev", "/sys"];
            let is_kernels = kernels.iter().any(|own| place.starts_with(own));
            (!is_kernels && !options.split(',').any(|word| word == "ro")).then_some(place)
        })
        .collect();
    // /etc/hosts and /etc/resolv.conf are the kubelet's, on its own disk, and nobody may write them with this uid.
    for place in &writable {
        assert!(
            *place == "/run/portcullis-responder" || place.starts_with("/etc/"),
            "{mounts}"
        );
    }
    for secret in [
        "/sys/fs/bpf",
        "/var/lib/kubelet",
        "/var/lib/cni",
        "/run/portcullis ",
    ] {
        assert!(!mounts.contains(secret), "{secret} in {mounts}");
    }
    let token = "var/run/secrets/kubernetes.io/serviceaccount/token";
    let agents = format!("/proc/{}/root/{token}", agent::process_on(&node));
    assert!(fs::exists(agents).unwrap_or_default(), "the agent has one");
}

/// kubectl with the token of the agent on the first node: `create token` of an account, with these words more.
fn create_token(ground: &Ground, account: &str, words: &[&str]) -> (bool, String) {
    let process = agent::process_on(&Node::n1());
    let place = format!("/proc/{process}/root/var/run/secrets/kubernetes.io/serviceaccount/token");
    let token = fs::read_to_string(place).expect("the agent has a token");
    let own = format!("--token={token}");
    let mut all = vec![
        "--kubeconfig=/dev/null",
        "--server=https://10.78.0.1:6443",
        "--certificate-authority=/var/lib/portcullis-cluster/pki/ca.crt",
        &own,
        "-n",
        &ground.name,
        "create",
        "token",
        account,
    ];
    all.extend(words);
    let output = try_kubectl(&all, "");
    (output.status.success(), said(&output))
}

#[test]
fn the_admission_policy_lets_the_agent_ask_for_tokens_of_pods_for_aws_and_for_nothing_else() {
    let mut ground = Ground::with("roles-fence", &["n1/plain"]);
    account(&ground, "web", "web-reader");
    let _sts = Sts::with_overlay("tokenrequest");
    pod(&mut ground, "n1", "web", "web");
    pod(&mut ground, "n1", "other", "default");
    let uid = format!("--bound-object-uid={}", ground.pod("web").uid);
    let bound = ["--bound-object-kind=Pod", "--bound-object-name=web", &uid];
    let aws = "--audience=sts.amazonaws.com";
    let with = |words: &[&'static str]| [words, &["--duration=600s"]].concat();
    let bound_with = |words: &[&'static str]| [&bound[..], &with(words)].concat();
    // The policy may be a moment behind its right.
    wait_until("the policy is in force", SOON, || {
        !create_token(&ground, "web", &with(&[aws])).0
    });

    let (made, token) = create_token(&ground, "web", &bound_with(&[aws]));
    assert!(made, "{token}");
    let (made, said) = create_token(
        &ground,
        "web",
        &bound_with(&["--audience=pods.eks.amazonaws.com"]),
    );
    assert!(made, "{said}");
    // What it may have opens nothing here.
    let asked = try_kubectl(
        &[
            "--kubeconfig=/dev/null",
            "--server=https://10.78.0.1:6443",
            "--certificate-authority=/var/lib/portcullis-cluster/pki/ca.crt",
            &format!("--token={}", token.trim()),
            "auth",
            "whoami",
        ],
        "",
    );
    assert!(!asked.status.success(), "the API server takes it");

    let issuer = answer(&["get", "--raw", "/.well-known/openid-configuration"]);
    let issuer: Value = serde_json::from_str(&issuer).expect("it is JSON");
    let own = format!("--audience={}", issuer["issuer"].as_str().expect("a name"));
    let own_bound = [&bound[..], &[own.as_str(), "--duration=600s"]].concat();
    let long = [&bound[..], &[aws, "--duration=7200s"]].concat();
    let both = bound_with(&[aws, "--audience=pods.eks.amazonaws.com"]);
    let refused: [(&str, Vec<&str>); 7] = [
        ("without a pod", with(&[aws])),
        ("for the API server, by name", own_bound),
        ("for the API server, by default", bound_with(&[])),
        ("for somebody else", bound_with(&["--audience=vault"])),
        ("for two", both),
        ("for long", long),
        (
            "bound to a node",
            with(&[aws, "--bound-object-kind=Node", "--bound-object-name=n1"]),
        ),
    ];
    for (what, words) in refused {
        let (made, said) = create_token(&ground, "web", &words);
        assert!(!made, "{what}: a token was made");
        assert!(
            said.contains("ValidatingAdmissionPolicy 'portcullis-tokenrequest'")
                && said.contains("portcullis may ask for tokens"),
            "{what}: {said}"
        );
    }
    // The API server's own rule: a pod of another account.
    let other = format!("--bound-object-uid={}", ground.pod("other").uid);
    let strange = [
        "--bound-object-kind=Pod",
        "--bound-object-name=other",
        &other,
        aws,
        "--duration=600s",
    ];
    let (made, said) = create_token(&ground, "web", &strange);
    assert!(!made, "{said}");
    // Nobody else is fenced: the kubelet's tokens for pods, ours.
    let free = ["-n", &ground.name, "create", "token", "web"];
    assert!(try_kubectl(&free, "").status.success());
    // And by another name it would be no fence.
    let review = object(&["validatingadmissionpolicy", "portcullis-tokenrequest"]);
    let condition = review["spec"]["matchConditions"][0]["expression"].as_str();
    assert!(condition.is_some_and(|text| text.contains(AGENT)));
}
