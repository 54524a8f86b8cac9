//! From an error chain to a code. In this order:
//! 1. a [`Failure`] anywhere in the chain is the answer;
//! 2. a typed error of one of our modules says what to do;
//! 3. a message that already has its three lines keeps them;
//! 4. a refusal by the system for want of rights;
//! 5. what came from the kernel's BPF interface;
//! 6. anything else.

use std::error::Error;
use std::io;

use portcullis_policy::probe::ProbeError;

use super::Failure;
use crate::client::ClientError;
use crate::dataplane::error::{OpenError, WriteError, is_ours};
use crate::dataplane::preflight::OLDEST_KERNEL;
use crate::kube::manifests::ManifestError;

pub(super) fn failure(error: &anyhow::Error) -> Failure {
    if let Some(failure) = find::<Failure>(error) {
        return failure.clone();
    }
    typed(error)
        .or_else(|| three_lines(error))
        .or_else(|| refused(error))
        .unwrap_or_else(|| other(error))
}

fn find<T: Error + 'static>(error: &anyhow::Error) -> Option<&T> {
    error.chain().find_map(|link| link.downcast_ref())
}

fn typed(error: &anyhow::Error) -> Option<Failure> {
    if let Some(error) = find::<OpenError>(error) {
        return Some(open(error));
    }
    if let Some(error) = find::<ClientError>(error) {
        return Some(client(error));
    }
    if let Some(found) = find::<ManifestError>(error) {
        return Some(Failure::new(
            "PC5002",
            found.to_string(),
            causes(found),
            "name YAML or JSON files, or a directory of them, that this user may read",
        ));
    }
    if let Some(found) = find::<::kube::Error>(error) {
        return Some(Failure::new(
            "PC4001",
            "the API server cannot be reached",
            format!("{found}: {}", causes(found)),
            "run in a pod with a service account, set KUBECONFIG, or read files with --manifests DIR",
        ));
    }
    if let Some(found) = find::<ProbeError>(error) {
        return Some(Failure::new(
            "PC5004",
            found.to_string(),
            "the objects and the probe do not fit together",
            "mend that field, or the objects",
        ));
    }
    if let Some(found) = find::<WriteError>(error) {
        return Some(Failure::new(
            "PC1009",
            found.to_string(),
            causes(found),
            "see which map is full with `portcullis bpf maps`",
        ));
    }
    None
}

fn open(error: &OpenError) -> Failure {
    let what = error.to_string();
    match error {
        OpenError::NoObject => Failure::new(
            "PC1001",
            what,
            "it was built by plain cargo, which does not build the kernel programs",
            "build it with `cargo xtask build`",
        ),
        OpenError::NoBpffs { parent, .. } => Failure::new(
            "PC1002",
            what,
            format!(
                "{} is on another file system; pins have to outlive the agent",
                parent.display()
            ),
            "mount -t bpf bpf /sys/fs/bpf, or name a directory of a bpffs with --bpffs",
        ),
        OpenError::Taken { .. } => Failure::new(
            "PC1010",
            what,
            "two agents would overwrite each other's tables",
            "end the other agent, or name other directories with --bpffs and --socket",
        ),
        OpenError::NotPermitted { source, .. } => Failure::new(
            "PC1003",
            what,
            source.as_ref().map_or_else(
                || "this process does not have it".to_owned(),
                |source| format!("the kernel says: {source}"),
            ),
            "run as root, or with the capabilities CAP_BPF and CAP_NET_ADMIN",
        ),
        OpenError::OldKernel(_) => {
            let (major, minor) = OLDEST_KERNEL;
            Failure::new(
                "PC1004",
                what,
                format!("the programs are tested on {major}.{minor} and newer"),
                "use a newer kernel on this node",
            )
        }
        OpenError::NoBtf => Failure::new(
            "PC1005",
            what,
            "/sys/kernel/btf/vmlinux is not there",
            "use a kernel with CONFIG_DEBUG_INFO_BTF, and mount sysfs",
        ),
        OpenError::NoClassifier => Failure::new(
            "PC1005",
            what,
            "programs of type sched_cls cannot be loaded",
            "use a kernel with CONFIG_NET_CLS_ACT and CONFIG_NET_SCH_INGRESS",
        ),
        OpenError::Refused { log, source, .. } => {
            let last = log
                .lines()
                .rfind(|line| !line.trim().is_empty() && !line.starts_with("processed "));
            let why = last.map_or_else(|| source.to_string(), |last| format!("{source}: {last}"));
            Failure::new(
                "PC1006",
                what,
                why,
                "report it with `uname -r` and the log, where the verifier's last lines stand",
            )
        }
    }
}

fn client(error: &ClientError) -> Failure {
    let what = error.to_string();
    match error {
        ClientError::Unreachable(source) if source.kind() == io::ErrorKind::PermissionDenied => {
            Failure::new(
                "PC5005",
                "the agent's socket may not be opened",
                source.to_string(),
                "run as root",
            )
        }
        ClientError::Unreachable(source) => Failure::new(
            "PC4002",
            what,
            source.to_string(),
            "see whether the agent runs, and name its socket with --socket; `kubectl portcullis` asks the agents of a cluster",
        ),
        ClientError::Broken(source) => Failure::new(
            "PC4002",
            what,
            source.to_string(),
            "see in its log whether the agent was stopped or restarted",
        ),
        // What the agent says in three lines is the answer.
        ClientError::Refused(_, text) => Failure::from_json(text).unwrap_or_else(|| {
            Failure::new(
                "PC4004",
                what,
                if text.is_empty() {
                    "it says no more; perhaps it is of another version"
                } else {
                    text
                },
                "see `portcullis status` and the agent's log",
            )
        }),
        ClientError::Unreadable(source) => Failure::new(
            "PC4004",
            what,
            source.to_string(),
            "use the agent's version of this program",
        ),
        ClientError::Long(source) => Failure::new(
            "PC4002",
            what,
            source.to_string(),
            "see in its log whether the agent was stopped or restarted",
        ),
        ClientError::TimedOut => Failure::new(
            "PC4003",
            what,
            "the agent was not done before the time limit",
            "see with `portcullis status` what it waits for, or raise --timeout",
        ),
    }
}

/// `what\nwhy:  ...\ndo:   ...`, as modules write it that have no type for it.
fn three_lines(error: &anyhow::Error) -> Option<Failure> {
    error.chain().find_map(|link| {
        let text = link.to_string();
        let (what, rest) = text.split_once("\nwhy:")?;
        let (why, todo) = rest.split_once("\ndo:")?;
        let code = match what.trim() {
            "the lab cannot run here" => "PC6001",
            "there is no such lab" => "PC6002",
            _ => "PC5000",
        };
        Some(Failure::new(code, what, why, todo))
    })
}

fn refused(error: &anyhow::Error) -> Option<Failure> {
    let source =
        find::<io::Error>(error).filter(|error| error.kind() == io::ErrorKind::PermissionDenied)?;
    if error.chain().any(is_ours) {
        return Some(open(&OpenError::NotPermitted {
            lacks: "CAP_BPF or CAP_NET_ADMIN",
            source: Some(copy(source)),
        }));
    }
    Some(Failure::new(
        "PC5005",
        error.to_string(),
        source.to_string(),
        "run as root",
    ))
}

fn copy(error: &io::Error) -> io::Error {
    error
        .raw_os_error()
        .map_or_else(|| error.kind().into(), io::Error::from_raw_os_error)
}

fn other(error: &anyhow::Error) -> Failure {
    let why = error
        .chain()
        .skip(1)
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ");
    let why = if why.is_empty() {
        "no further cause is known".to_owned()
    } else {
        why
    };
    if error.chain().any(is_ours) {
        return Failure::new(
            "PC1000",
            error.to_string(),
            why,
            "see `portcullis explain-error PC1000`",
        );
    }
    Failure::new(
        "PC5000",
        error.to_string(),
        why,
        "see `portcullis explain-error PC5000`",
    )
}

/// What stands behind an error, without the error itself.
fn causes(error: &dyn Error) -> String {
    let mut texts = Vec::new();
    let mut next = error.source();
    while let Some(cause) = next {
        texts.push(cause.to_string());
        next = cause.source();
    }
    if texts.is_empty() {
        "no further cause is known".to_owned()
    } else {
        texts.join(": ")
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use anyhow::{Context as _, anyhow};

    use super::super::exit;
    use super::*;

    #[test]
    fn a_failure_is_found_under_added_context() {
        let failure = Failure::new("PC5003", "a", "b", "c");
        let error = anyhow::Error::from(failure.clone()).context("while testing");
        assert_eq!(Failure::from(error), failure);
    }

    #[test]
    fn what_the_dataplane_lacks_has_its_own_code() {
        let missing = OpenError::NoBpffs {
            root: PathBuf::from("/tmp/x"),
            parent: PathBuf::from("/tmp"),
        };
        let failure = Failure::from(anyhow::Error::from(missing).context("opening the dataplane"));
        assert_eq!(
            (failure.code, failure.what.as_str()),
            ("PC1002", "no bpffs at /tmp/x")
        );
        let denied = OpenError::NotPermitted {
            lacks: "CAP_BPF",
            source: None,
        };
        assert_eq!(
            Failure::from(anyhow::Error::from(denied)).exit_code(),
            exit::NOT_PERMITTED
        );
    }

    #[test]
    fn a_refused_program_is_named_with_the_verifiers_last_word() {
        let log = "0: (b7)\nR1 invalid mem access\nprocessed 3 insns".to_owned();
        let error = OpenError::Refused {
            program: "pc_to_pod".to_owned(),
            log,
            source: io::Error::from_raw_os_error(libc::EACCES),
        };
        let failure = Failure::from(anyhow::Error::from(error));
        assert_eq!(failure.code, "PC1006");
        assert!(
            failure.why.ends_with("R1 invalid mem access"),
            "{}",
            failure.why
        );
    }

    #[test]
    fn three_lines_in_a_message_stay_three_lines() {
        let failure = Failure::from(anyhow!(
            "there is no such lab\nwhy:  it is gone\ndo:   make one"
        ));
        assert_eq!(
            failure,
            Failure::new("PC6002", "there is no such lab", "it is gone", "make one")
        );
    }

    #[test]
    fn refusals_of_the_system_end_with_their_own_exit_code() {
        let refused: Result<(), _> = Err(io::Error::from_raw_os_error(libc::EPERM));
        let failure = Failure::from(refused.context("opening a thing").expect_err("is an error"));
        assert_eq!(
            (failure.code, failure.exit_code()),
            ("PC5005", exit::NOT_PERMITTED)
        );
        let unreachable = ClientError::Unreachable(io::Error::from_raw_os_error(libc::ENOENT));
        assert_eq!(
            Failure::from(anyhow::Error::from(unreachable)).exit_code(),
            exit::UNREACHABLE
        );
        assert_eq!(
            Failure::from(anyhow::Error::from(ClientError::TimedOut)).exit_code(),
            exit::TIMED_OUT
        );
    }

    #[test]
    fn an_error_nobody_knows_keeps_its_chain() {
        let failure = Failure::from(anyhow!("no such thing").context("doing this"));
        assert_eq!(
            (failure.code, failure.what.as_str(), failure.why.as_str()),
            ("PC5000", "doing this", "no such thing")
        );
    }
}
