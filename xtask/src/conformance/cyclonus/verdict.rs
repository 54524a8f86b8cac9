//! What a case of Cyclonus says of us.
//!
//! Cyclonus expects otherwise than the API in two places. Nothing is left out for that: what it says is
//! kept apart from what is right and from what is wrong, counted, and explained on the page.
//!
//! 1. A pod that calls itself. Kubernetes: "exception: a pod cannot block access to itself"; its own tests leave
//!    those probes out (kubernetes/kubernetes#95879). Cyclonus holds policies against them.
//! 2. A pod that a case created or relabelled, called by its Service's address. Cyclonus forgets that address
//!    (`Pod.SetLabels` and `Resources.CreatePod` of its `pkg/connectivity/probe` do not set `ServiceIP`) and calls
//!    ":80", which is the caller itself.

use super::Destination;
use super::cases::{Case, OPEN, SHUT, Surprise};

/// The pods that cases create or relabel.
const FORGOTTEN: &[(&str, &[&str])] = &[
    ("Create/delete namespace", &["y-2/a", "y-2/b"]),
    ("Create/delete pod", &["x/d"]),
    (
        "Update pod so that policy applies, then again so it no longer applies",
        &["y/b"],
    ),
    ("should allow ingress access from updated pod", &["x/b"]),
    ("should allow ingress access on one named port", &["w/a"]),
    ("should deny ingress access to updated pod", &["x/a"]),
];

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) probes: usize,
    /// Probes of a pod to itself that got through, as they should.
    pub(crate) itself: usize,
    /// Probes that called nobody.
    pub(crate) aimless: usize,
    /// Probes that we got wrong.
    pub(crate) wrong: Vec<Surprise>,
    /// Why the case is no judgement.
    pub(crate) broken: Vec<String>,
}

impl Verdict {
    pub(crate) fn of(case: &Case, destination: Destination) -> Self {
        let forgotten = FORGOTTEN
            .iter()
            .filter(|(words, _)| *words == case.name.words)
            .flat_map(|(_, pods)| *pods);
        let forgotten: Vec<&str> = if destination == Destination::ServiceIp && case.aimless {
            forgotten.copied().collect()
        } else {
            Vec::new()
        };
        let mut verdict = Self {
            probes: case.probes,
            broken: case.broken.clone(),
            ..Self::default()
        };
        for surprise in &case.surprises {
            let got_through = surprise.expected == SHUT && surprise.found == OPEN;
            if got_through && surprise.from == surprise.to {
                verdict.itself += 1;
            } else if got_through && forgotten.contains(&surprise.to.as_str()) {
                verdict.aimless += 1;
            } else {
                verdict.wrong.push(surprise.clone());
            }
        }
        verdict
    }

    pub(crate) fn is_good(&self) -> bool {
        self.wrong.is_empty() && self.broken.is_empty()
    }

    pub(crate) fn word(&self) -> &'static str {
        if self.is_good() { "passed" } else { "FAILED" }
    }

    /// What a row says: the word, what Cyclonus expected otherwise, the first of what is wrong.
    pub(crate) fn said(&self) -> String {
        let mut said = vec![self.word().to_owned()];
        for (count, what) in [(self.itself, "itself"), (self.aimless, "aimless")] {
            if count > 0 {
                said.push(format!("{count} {what}"));
            }
        }
        if let Some(first) = self.wrong.first() {
            said.push(format!("{} wrong: {first}", self.wrong.len()));
        }
        if let Some(first) = self.broken.first() {
            said.push(format!("{} broken: {first}", self.broken.len()));
        }
        said.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::cyclonus::cases::Name;

    fn surprise(from: &str, to: &str, expected: char, found: char) -> Surprise {
        Surprise {
            step: 1,
            from: from.to_owned(),
            to: to.to_owned(),
            port: "TCP/80".to_owned(),
            expected,
            found,
        }
    }

    fn case(words: &str, surprises: Vec<Surprise>) -> Case {
        Case {
            name: Name {
                words: words.to_owned(),
                ..Name::default()
            },
            probes: 324,
            surprises,
            aimless: true,
            ..Case::default()
        }
    }

    #[test]
    fn a_pod_may_call_itself_and_nobody_else_against_policy() {
        let through = case("a", vec![surprise("x/a", "x/a", SHUT, OPEN)]);
        let verdict = Verdict::of(&through, Destination::PodIp);
        assert!(verdict.is_good() && verdict.said() == "passed, 1 itself");
        for wrong in [
            surprise("x/a", "x/b", SHUT, OPEN),
            surprise("x/a", "x/a", OPEN, SHUT),
            surprise("x/a", "x/a", SHUT, '!'),
        ] {
            let verdict = Verdict::of(&case("a", vec![wrong]), Destination::PodIp);
            assert!(!verdict.is_good());
            assert!(
                verdict
                    .said()
                    .starts_with("FAILED, 1 wrong: step 1, x/a to x/")
            );
        }
    }

    #[test]
    fn a_forgotten_address_explains_only_the_pods_of_its_case_and_only_services() {
        let surprises = || vec![surprise("x/a", "x/d", SHUT, OPEN)];
        let created = case("Create/delete pod", surprises());
        assert_eq!(
            Verdict::of(&created, Destination::ServiceIp).said(),
            "passed, 1 aimless"
        );
        assert!(!Verdict::of(&created, Destination::PodIp).is_good());
        assert!(!Verdict::of(&case("other", surprises()), Destination::ServiceIp).is_good());
        // The log has to show it.
        let aimed = Case {
            aimless: false,
            ..created
        };
        assert!(!Verdict::of(&aimed, Destination::ServiceIp).is_good());
    }

    #[test]
    fn a_broken_case_is_no_success() {
        let mut broken = case("a", Vec::new());
        broken.broken.push("it tried again".to_owned());
        let verdict = Verdict::of(&broken, Destination::PodIp);
        assert_eq!(verdict.said(), "FAILED, 1 broken: it tried again");
    }
}
