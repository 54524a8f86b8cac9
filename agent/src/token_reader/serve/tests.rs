//! Both ends of the socket, over directories laid out as the kubelet does it.

use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;

use super::super::Reader;
use super::*;

const POD: &str = "0c9f4a52-7c0b-4c83-9c9e-7a4f0b5f0001";
const OTHER: &str = "0c9f4a52-7c0b-4c83-9c9e-7a4f0b5f0002";
const STS: &str = "sts.amazonaws.com";
const SOON: Duration = Duration::from_secs(5);

/// A kubelet's directory and a reader on it.
struct Stage {
    directory: PathBuf,
    reader: Reader,
    serving: tokio::task::JoinHandle<Result<()>>,
}

impl Stage {
    fn new() -> Self {
        Self::for_agent(nix::unistd::getuid().as_raw())
    }

    fn for_agent(agent_uid: u32) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!(
            "portcullis-token-reader-{}-{number}",
            std::process::id()
        ));
        fs::create_dir_all(directory.join("pods")).expect("a directory");
        let socket = directory.join("reader.sock");
        let listener = listen(&socket).expect("it listens");
        let pods = Arc::new(Pods::open(&directory.join("pods")).expect("it is there"));
        Self {
            reader: Reader {
                socket,
                uid: nix::unistd::getuid().as_raw(),
            },
            serving: tokio::spawn(accept(listener, pods, agent_uid)),
            directory,
        }
    }

    fn volume(&self, pod: &str, name: &str) -> PathBuf {
        let pods = self.directory.join("pods");
        pods.join(volumes::of_pod(pod)).join(name)
    }

    /// Writes files as the kubelet does: a new directory, a link to it that is swapped, links to the files.
    fn write(&self, pod: &str, volume: &str, version: &str, files: &[(&str, String)]) {
        let volume = self.volume(pod, volume);
        let versioned = volume.join(format!("..{version}"));
        for (name, text) in files {
            let path = versioned.join(name);
            fs::create_dir_all(path.parent().expect("a directory")).expect("it can be made");
            fs::write(path, text).expect("a file");
        }
        let draft = volume.join("..data_tmp");
        symlink(format!("..{version}"), &draft).expect("a link");
        fs::rename(draft, volume.join("..data")).expect("it is swapped");
        for (name, _) in files {
            let first = name.split('/').next().expect("a name");
            let _ = symlink(format!("..data/{first}"), volume.join(first));
        }
    }

    async fn ask(&self, pod: &str, audience: &str, wait: Duration) -> Result<String, String> {
        let token = self.reader.token(pod, audience, wait).await?;
        Ok(token.expose().to_owned())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.serving.abort();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// A token of a pod; `mark` tells it from others. Nobody checks signatures here: STS does.
fn token(pod: &str, audience: &str, mark: &str) -> String {
    let now = jiff::Timestamp::now().as_second();
    with_times(pod, audience, mark, now - 5, now + 3600)
}

fn with_times(pod: &str, audience: &str, mark: &str, begin: i64, end: i64) -> String {
    let claims = json!({
        "iss": "https://kubernetes.default.svc", "aud": [audience], "sub": "system:serviceaccount:shop:api",
        "nbf": begin, "exp": end, "jti": mark,
        "kubernetes.io": {
            "namespace": "shop",
            "pod": {"name": "web", "uid": pod},
            "serviceaccount": {"name": "api", "uid": "uid-api"},
        },
    });
    let part = |text: String| URL_SAFE_NO_PAD.encode(text);
    format!(
        "{}.{}.{}",
        part(json!({"alg": "RS256", "kid": "k"}).to_string()),
        part(claims.to_string()),
        part("signature".to_owned())
    )
}

const NOW: Duration = Duration::ZERO;

#[tokio::test]
async fn the_pods_own_token_for_the_audience_is_found_wherever_it_lies() {
    let stage = Stage::new();
    let (api, sts, vault) = (
        token(POD, "https://kubernetes.default.svc", "api"),
        token(POD, STS, "sts"),
        token(POD, "vault", "vault"),
    );
    stage.write(
        POD,
        "kube-api-access-x2x",
        "1",
        &[("token", api), ("ca.crt", "certificate".to_owned())],
    );
    stage.write(POD, "all-in-one", "1", &[("sts/deep/token", sts.clone())]);
    stage.write(POD, "all-in-two", "1", &[("vault", format!("{vault}\n"))]);
    assert_eq!(stage.ask(POD, STS, NOW).await, Ok(sts));
    assert_eq!(stage.ask(POD, "vault", NOW).await, Ok(vault));
    assert!(stage.ask(POD, "nobody", NOW).await.is_err());
    assert!(stage.ask(OTHER, STS, NOW).await.is_err());
    // The webhook's volume is the one that counts.
    let webhook = token(POD, STS, "webhook");
    stage.write(POD, "aws-iam-token", "1", &[("token", webhook.clone())]);
    assert_eq!(stage.ask(POD, STS, NOW).await, Ok(webhook));
}

#[tokio::test]
async fn a_token_is_read_again_each_time() {
    let stage = Stage::new();
    for mark in ["first", "second"] {
        let now = token(POD, STS, mark);
        stage.write(POD, "aws-iam-token", mark, &[("token", now.clone())]);
        assert_eq!(stage.ask(POD, STS, NOW).await, Ok(now));
    }
}

#[tokio::test]
async fn what_is_not_the_pods_or_not_good_now_is_no_token() {
    let stage = Stage::new();
    let now = jiff::Timestamp::now().as_second();
    for (number, text) in [
        token(OTHER, STS, "another pod's"),
        with_times(POD, STS, "ended", now - 7200, now - 60),
        with_times(POD, STS, "not begun", now + 60, now + 3600),
        "no token".to_owned(),
        String::new(),
        format!("{}{}", token(POD, STS, "too long"), "x".repeat(17 * 1024)),
    ]
    .into_iter()
    .enumerate()
    {
        let version = number.to_string();
        stage.write(POD, "aws-iam-token", &version, &[("token", text)]);
        assert!(stage.ask(POD, STS, NOW).await.is_err(), "{number}");
    }
}

#[tokio::test]
async fn nothing_is_followed_out_of_a_volume() {
    let stage = Stage::new();
    let mine = token(POD, STS, "elsewhere");
    let outside = stage.directory.join("outside");
    fs::write(&outside, &mine).expect("a file");
    let volume = stage.volume(POD, "aws-iam-token");
    fs::create_dir_all(&volume).expect("a volume");
    symlink(&outside, volume.join("absolute")).expect("a link");
    symlink("../../../../../outside", volume.join("relative")).expect("a link");
    symlink("/proc/self/cwd", volume.join("magic")).expect("a link");
    assert!(stage.ask(POD, STS, NOW).await.is_err());
    // Nor is a volume that is a link, nor a pod.
    let foreign = stage.directory.join("foreign");
    fs::create_dir_all(&foreign).expect("a directory");
    fs::write(foreign.join("token"), &mine).expect("a file");
    symlink(&foreign, stage.volume(POD, "linked")).expect("a link");
    assert!(stage.ask(POD, STS, NOW).await.is_err());
    for uid in [
        "..",
        ".",
        "",
        "a/b",
        "../pods/0c9f4a52-7c0b-4c83-9c9e-7a4f0b5f0001",
        &"a".repeat(65),
    ] {
        assert!(stage.ask(uid, STS, NOW).await.is_err(), "{uid:?}");
    }
    // The same in its place is found.
    fs::write(volume.join("token"), &mine).expect("a file");
    assert_eq!(stage.ask(POD, STS, NOW).await, Ok(mine));
}

#[tokio::test]
async fn the_token_of_a_pod_that_is_starting_is_waited_for() {
    let stage = Stage::new();
    let starting = token(POD, STS, "starting");
    let waits = stage.ask(POD, STS, SOON);
    let starts = async {
        // The reader waits before there is even a directory of the pod.
        tokio::time::sleep(Duration::from_millis(50)).await;
        fs::create_dir_all(stage.volume(POD, "aws-iam-token")).expect("a volume");
        tokio::time::sleep(Duration::from_millis(50)).await;
        stage.write(POD, "aws-iam-token", "1", &[("token", starting.clone())]);
        Instant::now()
    };
    let (found, written) = tokio::join!(waits, starts);
    assert_eq!(found, Ok(starting.clone()));
    assert!(written.elapsed() < Duration::from_secs(1));
    let short = Instant::now();
    let none = stage.ask(OTHER, STS, Duration::from_millis(100)).await;
    assert!(none.is_err() && short.elapsed() < Duration::from_secs(1));
}

/// A volume is mounted after its directory was made, and no directory tells that.
#[tokio::test]
async fn a_volume_that_is_mounted_late_is_noticed() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("needs root: mounts a tmpfs");
        return;
    }
    let stage = Stage::new();
    let starting = token(POD, STS, "mounted");
    let volume = stage.volume(POD, "aws-iam-token");
    let waits = stage.ask(POD, STS, SOON);
    let starts = async {
        fs::create_dir_all(&volume).expect("a volume");
        tokio::time::sleep(Duration::from_millis(100)).await;
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(Some("tmpfs"), &volume, Some("tmpfs"), flags, None::<&str>)
            .expect("a tmpfs");
        tokio::time::sleep(Duration::from_millis(100)).await;
        stage.write(POD, "aws-iam-token", "1", &[("token", starting.clone())]);
    };
    let (found, ()) = tokio::join!(waits, starts);
    let _ = nix::mount::umount2(&volume, nix::mount::MntFlags::MNT_DETACH);
    assert_eq!(found, Ok(starting));
}

#[tokio::test]
async fn each_end_looks_who_the_other_is() {
    let me = nix::unistd::getuid().as_raw();
    let mine = token(POD, STS, "mine");
    let closed = Stage::for_agent(me + 1);
    closed.write(POD, "aws-iam-token", "1", &[("token", mine.clone())]);
    assert!(closed.ask(POD, STS, NOW).await.is_err());
    let open = Stage::new();
    open.write(POD, "aws-iam-token", "1", &[("token", mine.clone())]);
    let doubtful = Reader {
        uid: me + 1,
        ..open.reader.clone()
    };
    let error = doubtful
        .token(POD, STS, NOW)
        .await
        .expect_err("not that uid's");
    assert!(error.contains("holds its socket"), "{error}");
    assert_eq!(open.ask(POD, STS, NOW).await, Ok(mine));
}
