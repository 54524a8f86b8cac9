//! Whether a pod may ask without a session token (`IMDSv1`).

use super::object::{Namespace, Pod};

/// `--imds-v1`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Imdsv1 {
    /// Nobody may. The default.
    #[default]
    Deny,
    /// Pods of namespaces that say `allow`.
    Namespace,
    /// Everybody but where a namespace says `deny`.
    Allow,
}

/// `portcullis.dev/imds-v1`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// May ask without a session token.
    Allow,
    /// Must not.
    Deny,
}

/// Whether a pod may. A value that cannot be read is `deny`; a pod's `allow` changes nothing, because who writes pods need not be who may loosen a
/// namespace.
#[must_use]
pub fn imds_v1_allowed(setting: Imdsv1, namespace: &Namespace, pod: &Pod) -> bool {
    let namespace = match namespace.imds_v1 {
        Ok(Some(Access::Allow)) => setting != Imdsv1::Deny,
        Ok(None) => setting == Imdsv1::Allow,
        Ok(Some(Access::Deny)) | Err(_) => false,
    };
    namespace && matches!(pod.imds_v1, Ok(None | Some(Access::Allow)))
}

#[cfg(test)]
mod tests {
    use super::super::reader::{Annotations, Reader};
    use super::*;

    fn allowed(setting: Imdsv1, namespace: Option<&str>, pod: Option<&str>) -> bool {
        let under = |value: Option<&str>| -> Annotations {
            value
                .map(|value| ("portcullis.dev/imds-v1".to_owned(), value.to_owned()))
                .into_iter()
                .collect()
        };
        let reader = Reader::default();
        imds_v1_allowed(
            setting,
            &reader.namespace("shop", &under(namespace)),
            &reader.pod("uid", "shop", "api", "default", &under(pod)),
        )
    }

    #[test]
    fn a_pod_can_only_tighten_and_what_cannot_be_read_denies() {
        use Imdsv1::{Allow, Deny, Namespace};
        let namespaces = [None, Some("allow"), Some("deny"), Some("Allow"), Some("")];
        for (setting, expected) in [
            (Deny, [false; 5]),
            (Namespace, [false, true, false, false, false]),
            (Allow, [true, true, false, false, false]),
        ] {
            for (namespace, expected) in namespaces.into_iter().zip(expected) {
                for pod in [None, Some("allow")] {
                    assert_eq!(
                        allowed(setting, namespace, pod),
                        expected,
                        "{setting:?} {namespace:?} {pod:?}"
                    );
                }
                for pod in ["deny", "", "yes", "allow "] {
                    assert!(!allowed(setting, namespace, Some(pod)), "{pod:?}");
                }
            }
        }
    }
}
