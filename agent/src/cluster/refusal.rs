//! What the API server or a kubeconfig refuses, in three lines.

use std::error::Error;

use kube::error::Status;

use crate::failure::Failure;

/// Why `doing` something did not work: `list pods in namespace portcullis`.
pub(super) fn failure(doing: &str, error: &kube::Error) -> Failure {
    match error {
        kube::Error::Api(status) => refused(doing, status),
        kube::Error::Auth(_) => Failure::new(
            "PC5007",
            "the kubeconfig cannot be used",
            in_full(error),
            "log in again as for kubectl; `kubectl get nodes` has to work first",
        ),
        kube::Error::InferConfig(_)
        | kube::Error::InferKubeconfig(_)
        | kube::Error::ProxyProtocolUnsupported { .. }
        | kube::Error::ProxyProtocolDisabled { .. }
        | kube::Error::RustlsTls(_) => kubeconfig(error),
        _ => Failure::new(
            "PC4001",
            format!("cannot {doing}: the API server cannot be reached"),
            in_full(error),
            "see whether `kubectl version` reaches it with the same --kubeconfig and --context",
        ),
    }
}

/// Why objects could not be listed by the labels that somebody typed; `instead` is what they can do without the right to.
pub(super) fn selection(doing: &str, labels: &str, instead: &str, error: &kube::Error) -> Failure {
    match error {
        kube::Error::Api(status) if status.code == 400 => Failure::new(
            "PC5001",
            format!("cannot read the labels {labels:?}"),
            status.message.clone(),
            "write them as for kubectl: KEY=VALUE, KEY!=VALUE, 'KEY in (VALUE, VALUE)', KEY or '!KEY', with commas between them",
        ),
        kube::Error::Api(status)
            if status.code == 403 && !status.message.contains("cannot impersonate") =>
        {
            Failure {
                do_: instead.to_owned(),
                ..failure(doing, error)
            }
        }
        _ => failure(doing, error),
    }
}

/// A kubeconfig that is not there, or is not one.
pub(super) fn kubeconfig(error: &dyn Error) -> Failure {
    Failure::new(
        "PC5007",
        "the kubeconfig cannot be used",
        in_full(error),
        "name one with --kubeconfig or KUBECONFIG, and one of its contexts with --context",
    )
}

fn refused(doing: &str, status: &Status) -> Failure {
    match status.code {
        401 => Failure::new(
            "PC4006",
            format!("you may not {doing}"),
            format!(
                "the API server does not know who you are: {}",
                status.message
            ),
            "log in again as for kubectl",
        ),
        // What may be done as somebody else is not asked before this.
        403 if status.message.contains("cannot impersonate") => Failure::new(
            "PC4006",
            "you may not act as somebody else",
            status.message.clone(),
            "have the right to impersonate them, or leave --as and --as-group out",
        ),
        403 => Failure::new(
            "PC4006",
            format!("you may not {doing}"),
            status.message.clone(),
            "have the ClusterRole portcullis-viewer bound to you in that namespace (deploy/roles.yaml)",
        ),
        _ => Failure::new(
            "PC4001",
            format!("cannot {doing}"),
            format!("the API server answers {}: {}", status.code, status.message),
            "see whether kubectl can do it",
        ),
    }
}

/// The error and what stands behind it, each once.
pub(super) fn in_full(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::exit;

    fn api(code: u16, message: &str) -> kube::Error {
        kube::Error::Api(Box::new(Status {
            code,
            message: message.to_owned(),
            ..Status::default()
        }))
    }

    #[test]
    fn a_missing_right_is_named_as_the_api_server_names_it() {
        let message = "pods is forbidden: User \"eve\" cannot list resource \"pods\"";
        let refused = failure("list pods in namespace portcullis", &api(403, message));
        assert_eq!(
            (refused.code, refused.exit_code()),
            ("PC4006", exit::NOT_PERMITTED)
        );
        assert_eq!(
            refused.what,
            "you may not list pods in namespace portcullis"
        );
        assert_eq!(refused.why, message);
        assert!(refused.do_.contains("portcullis-viewer"));
        assert_eq!(failure("x", &api(401, "Unauthorized")).code, "PC4006");
    }

    #[test]
    fn who_may_not_act_as_another_is_not_sent_for_a_right_of_agents() {
        let message =
            "users \"root\" is forbidden: User \"eve\" cannot impersonate resource \"users\"";
        let refused = failure("list pods in namespace portcullis", &api(403, message));
        assert_eq!((refused.code, refused.why.as_str()), ("PC4006", message));
        assert!(refused.do_.contains("--as"), "{}", refused.do_);
    }

    #[test]
    fn an_api_server_in_trouble_is_not_the_persons_fault() {
        let away = failure("list pods", &api(503, "etcd is away"));
        assert_eq!((away.code, away.exit_code()), ("PC4001", exit::UNREACHABLE));
        let refused = std::io::Error::from_raw_os_error(libc::ECONNREFUSED);
        let away = failure("list pods", &kube::Error::Service(Box::new(refused)));
        assert_eq!((away.code, away.exit_code()), ("PC4001", exit::UNREACHABLE));
        assert!(away.why.contains("refused"), "{}", away.why);
    }

    #[test]
    fn a_kubeconfig_that_is_not_there_is_wrong_usage() {
        let error =
            kube::config::Kubeconfig::read_from("/nonexistent/config").expect_err("is not there");
        let failure = kubeconfig(&error);
        assert_eq!((failure.code, failure.exit_code()), ("PC5007", exit::USAGE));
        assert!(
            failure.why.contains("/nonexistent/config"),
            "{}",
            failure.why
        );
    }
}
