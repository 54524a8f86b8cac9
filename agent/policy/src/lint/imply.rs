//! Which selector takes in which other one, whatever pods, namespaces and labels there are.
//!
//! All requirements of a selector hold together, and those on different keys know nothing of each other. So what a selector says of one key is a small
//! set of facts, and another selector's requirement follows from it or does not; there is nothing to search.

use crate::model::{LabelSelector, NamespaceScope, PodSelector, Requirement};

/// The label that every namespace carries with its own name (policy-spec A10).
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// A pod selector, made ready for comparing.
pub(super) struct Selection {
    namespaces: Facts,
    pods: Facts,
}

impl Selection {
    pub(super) fn new(selector: &PodSelector) -> Self {
        let namespaces = match &selector.namespaces {
            NamespaceScope::Named(name) => {
                let name = Requirement::In(NAME_LABEL.to_owned(), vec![name.clone()]);
                Facts::new(&LabelSelector(vec![name]))
            }
            NamespaceScope::Selected(selector) => Facts::new(selector),
        };
        Self {
            namespaces,
            pods: Facts::new(&selector.pods),
        }
    }

    /// Whether no pod can match.
    pub(super) fn is_contradiction(&self) -> bool {
        self.namespaces.is_contradiction() || self.pods.is_contradiction()
    }

    /// Whether every pod that `inner` can match is one of these.
    pub(super) fn takes_in(&self, inner: &Self) -> bool {
        inner.is_contradiction()
            || inner.namespaces.imply(&self.namespaces) && inner.pods.imply(&self.pods)
    }
}

/// Whether no labels satisfy the selector.
pub(super) fn is_contradiction(selector: &LabelSelector) -> bool {
    Facts::new(selector).is_contradiction()
}

/// What a selector says, key by key. Selectors are short: all of this is plain lists.
struct Facts {
    requirements: Vec<Requirement>,
    keys: Vec<Key>,
}

/// What is known of a key.
#[derive(Default)]
struct Key {
    name: String,
    /// It is one of these.
    one_of: Option<Vec<String>>,
    /// It is none of these, or absent.
    none_of: Vec<String>,
    present: bool,
    absent: bool,
}

impl Facts {
    fn new(selector: &LabelSelector) -> Self {
        let mut keys: Vec<Key> = Vec::new();
        for requirement in &selector.0 {
            let name = requirement.key();
            let at = keys.iter().position(|key| key.name == name);
            let at = at.unwrap_or_else(|| {
                keys.push(Key {
                    name: name.to_owned(),
                    ..Key::default()
                });
                keys.len() - 1
            });
            keys[at].learn(requirement);
        }
        for key in &mut keys {
            if let Some(one_of) = &mut key.one_of {
                one_of.retain(|value| !key.none_of.contains(value));
            }
        }
        Self {
            requirements: selector.0.clone(),
            keys,
        }
    }

    fn is_contradiction(&self) -> bool {
        self.keys
            .iter()
            .any(|key| key.present && key.absent || key.one_of.as_ref().is_some_and(Vec::is_empty))
    }

    /// Whether what satisfies these satisfies `others` too. These are no contradiction.
    fn imply(&self, others: &Self) -> bool {
        let nothing = Key::default();
        others.requirements.iter().all(|requirement| {
            let known = self.keys.iter().find(|key| key.name == requirement.key());
            known.unwrap_or(&nothing).implies(requirement)
        })
    }
}

impl Key {
    fn learn(&mut self, requirement: &Requirement) {
        match requirement {
            Requirement::In(_, values) => {
                match &mut self.one_of {
                    Some(known) => known.retain(|value| values.contains(value)),
                    None => self.one_of = Some(values.clone()),
                }
                self.present = true;
            }
            Requirement::NotIn(_, values) => self.none_of.extend(values.iter().cloned()),
            Requirement::Exists(_) => self.present = true,
            Requirement::DoesNotExist(_) => self.absent = true,
        }
    }

    fn implies(&self, requirement: &Requirement) -> bool {
        match requirement {
            Requirement::In(_, values) => self
                .one_of
                .as_ref()
                .is_some_and(|known| known.iter().all(|value| values.contains(value))),
            Requirement::NotIn(_, values) => {
                let excluded = || values.iter().all(|value| self.none_of.contains(value));
                let others =
                    |known: &Vec<String>| !values.iter().any(|value| known.contains(value));
                self.absent || self.one_of.as_ref().map_or_else(excluded, others)
            }
            Requirement::Exists(_) => self.present,
            Requirement::DoesNotExist(_) => self.absent,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;
    use crate::fixture::{labels, selector};

    fn implies(inner: &str, outer: &str) -> bool {
        let (inner, outer) = (Facts::new(&selector(inner)), Facts::new(&selector(outer)));
        inner.is_contradiction() || inner.imply(&outer)
    }

    #[test]
    fn a_selector_takes_in_what_says_at_least_as_much() {
        for (inner, outer, expected) in [
            ("app=a", "", true),
            ("", "app=a", false),
            ("app=a", "app=a,b", true),
            ("app=a,b", "app=a", false),
            ("app=a,b app!=b", "app=a", true),
            ("app=a", "app", true),
            ("app", "app=a", false),
            ("app=a", "app!=b", true),
            ("app!=b", "app!=b", true),
            ("app!=b", "app", false),
            ("!app", "app!=b", true),
            ("app!=b", "!app", false),
            ("app=a tier=f", "tier=f", true),
            ("app=a", "tier!=f", false),
            ("app=a app=b", "tier=f", true),
            ("app !app", "tier=f", true),
        ] {
            assert_eq!(implies(inner, outer), expected, "{inner} within {outer}");
        }
    }

    #[test]
    fn a_named_namespace_is_the_one_with_its_name_as_label() {
        let named = |name: &str| PodSelector {
            namespaces: NamespaceScope::Named(name.to_owned()),
            pods: selector("app=a"),
        };
        let selected = |text: &str| PodSelector {
            namespaces: NamespaceScope::Selected(selector(text)),
            pods: selector(""),
        };
        let takes_in = |outer: &PodSelector, inner: &PodSelector| {
            Selection::new(outer).takes_in(&Selection::new(inner))
        };
        let by_label = selected("kubernetes.io/metadata.name=a");
        assert!(takes_in(&by_label, &named("a")) && !takes_in(&by_label, &named("b")));
        assert!(takes_in(&selected(""), &named("a")));
        assert!(!takes_in(&selected("team=red"), &named("a")));
        assert!(!takes_in(&named("a"), &selected("")));
        assert!(!takes_in(&named("a"), &by_label), "its pods are any");
    }

    fn a_selector() -> impl Strategy<Value = LabelSelector> {
        let word = select(vec![
            "app=a", "app=b", "app=a,b", "app!=a", "app!=b,c", "app", "!app", "tier=f", "tier!=f",
            "!tier",
        ]);
        prop::collection::vec(word, 0..4).prop_map(|words| selector(&words.join(" ")))
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

        /// On these keys and values, and one value that nobody lists, every label set there can be.
        #[test]
        fn it_is_exactly_what_label_sets_say(inner in a_selector(), outer in a_selector()) {
            let mut every = Vec::new();
            for app in ["", "app=a", "app=b", "app=c", "app=other"] {
                for tier in ["", "tier=f", "tier=other"] {
                    every.push(labels(&format!("{app} {tier}")));
                }
            }
            let matching: Vec<_> = every.iter().filter(|labels| inner.matches(labels)).collect();
            let (inner, outer_facts) = (Facts::new(&inner), Facts::new(&outer));
            prop_assert_eq!(inner.is_contradiction(), matching.is_empty());
            let within = matching.iter().all(|labels| outer.matches(labels));
            prop_assert_eq!(inner.is_contradiction() || inner.imply(&outer_facts), within);
        }
    }
}
