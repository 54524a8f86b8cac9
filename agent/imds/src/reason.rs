//! Why a request got anything but what it asked for. One closed list: the status, the label of the counter and the line of the body come from here.

/// A reason. Append only: the labels are in people's dashboards.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "kebab-case")]
#[repr(usize)]
pub enum Reason {
    /// The head is not HTTP/1.0 or 1.1 as the RFC writes it: bare line feeds, folded lines, control characters, another protocol.
    BadHead,
    /// The target is not a plain path: another form, a query, a fragment, `//`, `.`, `..`, `;`, `\`, or percent-encoding outside of a role's name.
    BadTarget,
    /// The last segment behind `security-credentials/` is no name that a role can have.
    BadRoleName,
    /// The target is longer than 2 KiB.
    TargetTooLong,
    /// More header bytes or lines than are taken.
    HeadTooLarge,
    /// A body, `Transfer-Encoding`, or a `Content-Length` that is not one zero.
    Body,
    /// `Expect`.
    Expect,
    /// `Upgrade`, or a `Connection` that names anything but `close`, `keep-alive` and `te`.
    Upgrade,
    /// No `Host` in HTTP/1.1.
    NoHost,
    /// More than one `Host`.
    TwoHosts,
    /// `Host` is not the address of the service.
    ForeignHost,
    /// The path does not take this method.
    Method,
    /// Nothing that this pod may read is at that path.
    Nothing,
    /// No session token where one is needed.
    NoToken,
    /// A session token that is wrong, expired or of another pod.
    BadToken,
    /// The TTL of a session token is missing, no number, out of range or there twice.
    BadTtl,
    /// A token was asked for through a proxy.
    Forwarded,
    /// It is not known yet whose pod this is.
    Undecided,
    /// The source of credentials failed for now.
    SourceFailing,
    /// The pod asks faster than it may.
    TooFast,
    /// The pod has no role.
    NoRole,
    /// The pod's role was refused.
    RoleRefused,
    /// Credentials of a role that is not this pod's.
    ForeignRole,
    /// STS refuses the role, for good.
    RoleDenied,
    /// No web-identity token at EKS's address.
    NoWebIdentity,
    /// What was sent is no web-identity token.
    MalformedWebIdentity,
    /// A web-identity token that is expired, not signed by this cluster, or meant for somebody else.
    BadWebIdentity,
    /// A web-identity token of another pod.
    ForeignWebIdentity,
    /// The cluster's keys are not at hand.
    KeysUnavailable,
    /// A value of the node that is not known yet: its metadata service has not answered.
    FactPending,
}

impl Reason {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 30] = [
        Self::BadHead,
        Self::BadTarget,
        Self::BadRoleName,
        Self::TargetTooLong,
        Self::HeadTooLarge,
        Self::Body,
        Self::Expect,
        Self::Upgrade,
        Self::NoHost,
        Self::TwoHosts,
        Self::ForeignHost,
        Self::Method,
        Self::Nothing,
        Self::NoToken,
        Self::BadToken,
        Self::BadTtl,
        Self::Forwarded,
        Self::Undecided,
        Self::SourceFailing,
        Self::TooFast,
        Self::NoRole,
        Self::RoleRefused,
        Self::ForeignRole,
        Self::RoleDenied,
        Self::NoWebIdentity,
        Self::MalformedWebIdentity,
        Self::BadWebIdentity,
        Self::ForeignWebIdentity,
        Self::KeysUnavailable,
        Self::FactPending,
    ];

    /// The label of its counter.
    #[must_use]
    pub fn label(self) -> &'static str {
        self.line().0
    }

    /// What it is answered with.
    #[must_use]
    pub fn status(self) -> u16 {
        self.line().1
    }

    /// What the body says behind `portcullis: `.
    #[must_use]
    pub fn text(self) -> &'static str {
        self.line().2
    }

    fn line(self) -> (&'static str, u16, &'static str) {
        match self {
            Self::BadHead => (
                "bad-head",
                400,
                "the head of the request is not valid HTTP/1.1",
            ),
            Self::BadTarget => ("bad-target", 400, "the request target is not a plain path"),
            Self::BadRoleName => ("bad-role-name", 400, "this is no name of a role"),
            Self::TargetTooLong => (
                "target-too-long",
                414,
                "the request target is longer than 2 KiB",
            ),
            Self::HeadTooLarge => ("head-too-large", 431, "too many or too long header lines"),
            Self::Body => ("body", 400, "requests have no body here"),
            Self::Expect => ("expect", 417, "no expectation is met here"),
            Self::Upgrade => ("upgrade", 400, "only HTTP/1.1 is spoken here"),
            Self::NoHost => ("no-host", 400, "the Host header is missing"),
            Self::TwoHosts => ("two-hosts", 400, "there is more than one Host header"),
            Self::ForeignHost => (
                "foreign-host",
                403,
                "the Host header is not this service's address",
            ),
            Self::Method => ("method", 405, "the path does not take this method"),
            Self::Nothing => ("nothing", 404, "nothing that this pod may read is here"),
            Self::NoToken => ("no-token", 401, "a session token is needed (IMDSv2)"),
            Self::BadToken => (
                "bad-token",
                401,
                "the session token is not valid for this pod, or not any more",
            ),
            Self::BadTtl => (
                "bad-ttl",
                400,
                "X-aws-ec2-metadata-token-ttl-seconds has to be one number from 1 to 21600",
            ),
            Self::Forwarded => (
                "forwarded",
                403,
                "no session token is given through a proxy",
            ),
            Self::Undecided => ("undecided", 503, "this pod is not known yet, try again"),
            Self::SourceFailing => (
                "source-failing",
                503,
                "credentials are not to be had just now, try again",
            ),
            Self::TooFast => (
                "too-fast",
                503,
                "too many requests from this pod, try again",
            ),
            Self::NoRole => ("no-role", 404, "this pod has no role"),
            Self::RoleRefused => ("role-refused", 404, "this pod's role was refused"),
            Self::ForeignRole => ("foreign-role", 403, "this is not this pod's role"),
            Self::RoleDenied => ("role-denied", 404, "the role cannot be assumed"),
            Self::NoWebIdentity => (
                "no-web-identity",
                400,
                "the Authorization header is missing",
            ),
            Self::MalformedWebIdentity => (
                "malformed-web-identity",
                400,
                "the Authorization header holds no web-identity token",
            ),
            Self::BadWebIdentity => (
                "bad-web-identity",
                401,
                "the web-identity token is expired or not valid here",
            ),
            Self::ForeignWebIdentity => (
                "foreign-web-identity",
                403,
                "the web-identity token is not this pod's",
            ),
            Self::KeysUnavailable => (
                "keys-unavailable",
                503,
                "the cluster's keys are not at hand, try again",
            ),
            Self::FactPending => (
                "fact-pending",
                503,
                "this value of the node is not known yet, try again",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_in_the_order_of_the_numbers_and_labels_differ() {
        for (number, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, number);
        }
        let labels: std::collections::BTreeSet<_> = Reason::ALL.map(Reason::label).into();
        assert_eq!(labels.len(), Reason::ALL.len());
    }

    #[test]
    fn no_text_has_a_line_end_or_a_full_stop() {
        for reason in Reason::ALL {
            assert!(!reason.text().contains(['\n', '\r']) && !reason.text().ends_with('.'));
        }
    }
}
