//! Label selectors on label sets: the only place that says what a requirement means (policy-spec 1.4).
//!
//! Everything here is a pure question about one object. Who has to be asked at all is [`crate::index`]'s business.

use std::collections::BTreeMap;

use crate::model::{LabelSelector, Labels, NamespaceScope, PodSelector, Requirement, Workload};

impl LabelSelector {
    /// Whether all requirements hold; the empty selector matches everything.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|requirement| requirement.holds(labels))
    }
}

impl Requirement {
    /// Whether `labels` satisfy this requirement.
    #[must_use]
    pub fn holds(&self, labels: &Labels) -> bool {
        match self {
            Self::In(key, values) => labels.get(key).is_some_and(|value| values.contains(value)),
            Self::NotIn(key, values) => labels.get(key).is_none_or(|value| !values.contains(value)),
            Self::Exists(key) => labels.contains_key(key),
            Self::DoesNotExist(key) => !labels.contains_key(key),
        }
    }

    /// The label key that it asks about.
    #[must_use]
    pub fn key(&self) -> &str {
        let (Self::In(key, _) | Self::NotIn(key, _) | Self::Exists(key) | Self::DoesNotExist(key)) =
            self;
        key
    }

    /// The values that it tells apart.
    #[must_use]
    pub fn values(&self) -> &[String] {
        match self {
            Self::In(_, values) | Self::NotIn(_, values) => values,
            Self::Exists(_) | Self::DoesNotExist(_) => &[],
        }
    }
}

impl NamespaceScope {
    /// Whether the namespace called `name` is in scope. Of a namespace whose labels are unknown only the empty selector holds: a negative
    /// requirement must not open a peer because its namespace has not been seen yet.
    #[must_use]
    pub fn holds(&self, name: &str, namespaces: &BTreeMap<String, Labels>) -> bool {
        match self {
            Self::Named(wanted) => wanted == name,
            Self::Selected(selector) if selector.0.is_empty() => true,
            Self::Selected(selector) => namespaces
                .get(name)
                .is_some_and(|labels| selector.matches(labels)),
        }
    }
}

impl PodSelector {
    /// Whether namespace and labels of `workload` fit. It does not ask whether the workload is an endpoint.
    #[must_use]
    pub fn selects(&self, workload: &Workload, namespaces: &BTreeMap<String, Labels>) -> bool {
        self.namespaces.holds(&workload.namespace, namespaces)
            && self.pods.matches(&workload.labels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::labels;

    fn holds(requirement: Requirement, text: &str) -> bool {
        LabelSelector(vec![requirement]).matches(&labels(text))
    }

    fn values(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn the_empty_selector_matches_every_label_set() {
        assert!(LabelSelector::default().matches(&labels("")));
        assert!(LabelSelector::default().matches(&labels("app=web")));
    }

    #[test]
    fn all_requirements_have_to_hold() {
        let both = LabelSelector(vec![
            Requirement::In("app".into(), values("web")),
            Requirement::Exists("tier".into()),
        ]);
        assert!(both.matches(&labels("app=web tier=front")));
        assert!(!both.matches(&labels("app=web")));
        assert!(!both.matches(&labels("tier=front")));
    }

    #[test]
    fn an_absent_key_satisfies_only_the_negative_operators() {
        assert!(!holds(Requirement::In("k".into(), values("v")), "other=v"));
        assert!(holds(
            Requirement::NotIn("k".into(), values("v")),
            "other=v"
        ));
        assert!(!holds(Requirement::Exists("k".into()), "other=v"));
        assert!(holds(Requirement::DoesNotExist("k".into()), "other=v"));
    }

    #[test]
    fn a_key_with_an_empty_value_is_present() {
        assert!(holds(Requirement::Exists("k".into()), "k="));
        assert!(holds(
            Requirement::In("k".into(), vec![String::new()]),
            "k="
        ));
        assert!(!holds(Requirement::In("k".into(), vec![String::new()]), ""));
        assert!(holds(Requirement::NotIn("k".into(), values("v")), "k="));
        assert!(!holds(Requirement::DoesNotExist("k".into()), "k="));
    }

    #[test]
    fn keys_and_values_compare_byte_by_byte() {
        assert!(!holds(
            Requirement::In("App".into(), values("web")),
            "app=web"
        ));
        assert!(!holds(
            Requirement::In("app".into(), values("Web")),
            "app=web"
        ));
    }

    #[test]
    fn an_unseen_namespace_satisfies_only_the_empty_selector() {
        let every = NamespaceScope::Selected(LabelSelector::default());
        let not_red = NamespaceScope::Selected(LabelSelector(vec![Requirement::NotIn(
            "team".into(),
            values("red"),
        )]));
        let known = BTreeMap::from([("a".to_owned(), Labels::new())]);
        assert!(every.holds("b", &known) && every.holds("a", &known));
        assert!(not_red.holds("a", &known) && !not_red.holds("b", &known));
    }
}
