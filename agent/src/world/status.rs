//! What the world says about itself: for `status`, metrics and `wait`, never for a verdict.

use std::time::{Duration, SystemTime};

use crate::kube::{Kind, Problem, Trouble};

/// An object that was refused, whole or in part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Why, at least one.
    pub problems: Vec<Problem>,
    /// Nothing of the object is in force.
    pub whole: bool,
    /// Since when these problems stand.
    pub since: SystemTime,
}

/// Trouble that is over sooner than this is not worth a node that is not ready: a connection that broke is open again within a second or two.
const BRIEF: Duration = Duration::from_secs(10);

/// State of one kind's feed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Feed {
    /// Its objects have been listed completely once.
    pub in_sync: bool,
    /// What fails now.
    pub trouble: Option<Trouble>,
}

impl Feed {
    /// Whether the objects may be other by now than those that are known: never listed, not to be read, or out of reach for a while.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        let lasting =
            |trouble: &Trouble| trouble.lacks.is_some() || trouble.since.elapsed() >= BRIEF;
        !self.in_sync || self.trouble.as_ref().is_some_and(lasting)
    }

    /// What is wrong with it, in a sentence.
    #[must_use]
    pub fn problem(&self, kind: Kind) -> Option<String> {
        let reason = |trouble: &Trouble| match &trouble.lacks {
            Some(right) => format!("PC4005: the agent may not {right}: {}", trouble.reason),
            None => trouble.reason.clone(),
        };
        match &self.trouble {
            None if self.in_sync => None,
            None => Some(format!("{kind} objects are not listed yet")),
            Some(trouble) if !self.in_sync => {
                let reason = reason(trouble);
                Some(format!("{kind} objects are not listed yet: {reason}"))
            }
            Some(trouble) => {
                let secs = trouble.since.elapsed().as_secs();
                let reason = reason(trouble);
                Some(format!("{kind} objects are as of {secs} s ago: {reason}"))
            }
        }
    }
}

/// How many objects there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Namespaces.
    pub namespaces: usize,
    /// Nodes.
    pub nodes: usize,
    /// Pods of the cluster.
    pub pods: usize,
    /// Pods bound to this node.
    pub local_pods: usize,
    /// Policies of all kinds.
    pub policies: usize,
    /// Services.
    pub services: usize,
    /// Ready backends of all Services.
    pub ready_backends: usize,
    /// Objects refused, whole or in part.
    pub refused: usize,
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn trouble(secs: u64, lacks: Option<&str>) -> Trouble {
        Trouble {
            reason: "refused".to_owned(),
            since: Instant::now()
                .checked_sub(Duration::from_secs(secs))
                .expect("the clock started longer ago"),
            lacks: lacks.map(str::to_owned),
        }
    }

    #[test]
    fn a_feed_is_stale_until_it_is_listed_and_once_it_fails_for_long() {
        let feed = |in_sync, trouble| Feed { in_sync, trouble };
        assert!(feed(false, None).is_stale());
        assert!(!feed(true, None).is_stale());
        assert!(!feed(true, Some(trouble(1, None))).is_stale());
        assert!(feed(true, Some(trouble(11, None))).is_stale());
        assert!(feed(true, Some(trouble(0, Some("list pods")))).is_stale());
    }

    #[test]
    fn a_problem_names_kind_age_and_reason() {
        let problem = |in_sync, trouble| Feed { in_sync, trouble }.problem(Kind::Pod);
        assert_eq!(problem(true, None), None);
        assert_eq!(
            problem(true, Some(trouble(42, None))).as_deref(),
            Some("Pod objects are as of 42 s ago: refused")
        );
        assert_eq!(
            problem(false, Some(trouble(0, Some("list pods")))).as_deref(),
            Some("Pod objects are not listed yet: PC4005: the agent may not list pods: refused")
        );
    }
}
