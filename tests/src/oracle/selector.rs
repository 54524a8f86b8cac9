//! `metav1.LabelSelector`: does it hold for a set of labels (part 1.4).
//!
//! A missing selector is not this module's business: what absence means depends on the field.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

/// Labels of a pod or namespace.
pub(crate) type Labels = BTreeMap<String, String>;

/// A selector that was understood as a whole.
#[derive(Clone, Debug)]
pub(crate) struct Selector {
    labels: Labels,
    expressions: Vec<Expression>,
}

impl Selector {
    /// Everything: what `{}` means.
    pub(crate) fn everything() -> Self {
        Self {
            labels: Labels::new(),
            expressions: Vec::new(),
        }
    }

    /// `None`: not understood, so the caller must not treat it as "everything".
    pub(crate) fn read(value: &Value) -> Option<Self> {
        let written: Written = serde_json::from_value(value.clone()).ok()?;
        let expressions: Option<Vec<Expression>> = written
            .match_expressions
            .unwrap_or_default()
            .into_iter()
            .map(Expression::read)
            .collect();
        Some(Self {
            labels: written.match_labels.unwrap_or_default(),
            expressions: expressions?,
        })
    }

    /// All parts have to hold.
    pub(crate) fn holds(&self, labels: &Labels) -> bool {
        self.labels
            .iter()
            .all(|(key, value)| labels.get(key) == Some(value))
            && self
                .expressions
                .iter()
                .all(|expression| expression.holds(labels))
    }
}

#[derive(Clone, Debug)]
enum Expression {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    DoesNotExist(String),
}

impl Expression {
    fn read(written: WrittenExpression) -> Option<Self> {
        let values = written.values.unwrap_or_default();
        match (written.operator.as_str(), values.is_empty()) {
            ("In", false) => Some(Self::In(written.key, values)),
            ("NotIn", false) => Some(Self::NotIn(written.key, values)),
            ("Exists", true) => Some(Self::Exists(written.key)),
            ("DoesNotExist", true) => Some(Self::DoesNotExist(written.key)),
            _ => None,
        }
    }

    fn holds(&self, labels: &Labels) -> bool {
        match self {
            Self::In(key, values) => labels.get(key).is_some_and(|value| values.contains(value)),
            Self::NotIn(key, values) => labels.get(key).is_none_or(|value| !values.contains(value)),
            Self::Exists(key) => labels.contains_key(key),
            Self::DoesNotExist(key) => !labels.contains_key(key),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    match_labels: Option<Labels>,
    match_expressions: Option<Vec<WrittenExpression>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenExpression {
    key: String,
    operator: String,
    values: Option<Vec<String>>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn holds(selector: &Value, labels: &Value) -> bool {
        Selector::read(selector)
            .unwrap()
            .holds(&serde_json::from_value(labels.clone()).unwrap())
    }

    #[test]
    fn every_operator_answers_for_absent_empty_and_other_values() {
        let expression = |operator: &str, values: &Value| json!({"matchExpressions": [{"key": "k", "operator": operator, "values": values}]});
        // columns: key absent, empty, "v", "w"
        let table = [
            (
                json!({"matchLabels": {"k": ""}}),
                [false, true, false, false],
            ),
            (
                json!({"matchLabels": {"k": "v"}}),
                [false, false, true, false],
            ),
            (
                expression("In", &json!(["v", ""])),
                [false, true, true, false],
            ),
            (
                expression("NotIn", &json!(["v"])),
                [true, true, false, true],
            ),
            (
                expression("Exists", &json!(null)),
                [false, true, true, true],
            ),
            (
                expression("DoesNotExist", &json!([])),
                [true, false, false, false],
            ),
            (json!({}), [true, true, true, true]),
        ];
        let labels = [
            json!({}),
            json!({"k": ""}),
            json!({"k": "v"}),
            json!({"k": "w"}),
        ];
        for (selector, expected) in table {
            for (labels, expected) in labels.iter().zip(expected) {
                assert_eq!(holds(&selector, labels), expected, "{selector} on {labels}");
            }
        }
    }

    #[test]
    fn labels_and_expressions_together_all_have_to_hold() {
        let selector = json!({"matchLabels": {"a": "1"}, "matchExpressions": [
            {"key": "b", "operator": "Exists"}, {"key": "c", "operator": "DoesNotExist"}]});
        assert!(holds(&selector, &json!({"a": "1", "b": ""})));
        assert!(!holds(&selector, &json!({"a": "1"})));
        assert!(!holds(&selector, &json!({"a": "1", "b": "", "c": ""})));
        assert!(!holds(&selector, &json!({"b": ""})));
    }

    #[test]
    fn what_is_not_understood_is_not_everything() {
        for selector in [
            json!({"matchExpressions": [{"key": "k", "operator": "Gt", "values": ["1"]}]}),
            json!({"matchExpressions": [{"key": "k", "operator": "In", "values": []}]}),
            json!({"matchExpressions": [{"key": "k", "operator": "NotIn"}]}),
            json!({"matchExpressions": [{"key": "k", "operator": "Exists", "values": ["v"]}]}),
            json!({"matchExpressions": [{"key": "k", "operator": "in", "values": ["v"]}]}),
            json!({"matchFields": {}}),
            json!("app=web"),
        ] {
            assert!(Selector::read(&selector).is_none(), "{selector}");
        }
    }
}
