//! `metav1.LabelSelector` (policy-spec 1.4). Missing and empty are different things, and the field that holds it says what missing means.

use portcullis_policy::model::{LabelSelector, Requirement};
use serde_json::Value;

use super::field::{self, Fields, Path, only};
use crate::kube::problem::{Problem, Reason, excerpt};

/// A label selector; `None` if missing, which is never the same as empty by itself.
pub(super) fn optional_selector(
    fields: &Fields,
    name: &str,
    path: &Path<'_>,
) -> Result<Option<LabelSelector>, Problem> {
    let Some(fields) = field::object(fields, name, path)? else {
        return Ok(None);
    };
    let path = path.field(name);
    only(fields, &["matchLabels", "matchExpressions"], &path)?;
    let mut requirements: Vec<_> = field::strings(fields, "matchLabels", &path)?
        .into_iter()
        .map(|(key, value)| Requirement::In(key, vec![value]))
        .collect();
    let list_path = path.field("matchExpressions");
    for (index, item) in field::list(fields, "matchExpressions", &path)?
        .iter()
        .enumerate()
    {
        requirements.push(requirement(item, &list_path.item(index))?);
    }
    Ok(Some(LabelSelector(requirements)))
}

fn requirement(item: &Value, path: &Path<'_>) -> Result<Requirement, Problem> {
    let item = field::as_object(item, path)?;
    only(item, &["key", "operator", "values"], path)?;
    let key = field::required(item, "key", path)?.to_owned();
    let list_path = path.field("values");
    let values = field::list(item, "values", path)?
        .iter()
        .enumerate()
        .map(|(index, value)| Ok(field::as_string(value, &list_path.item(index))?.to_owned()))
        .collect::<Result<Vec<_>, _>>()?;
    let some = |values: Vec<String>| {
        if values.is_empty() {
            Err(list_path.problem(Reason::ValuesMissing))
        } else {
            Ok(values)
        }
    };
    let none = |values: &[String]| {
        if values.is_empty() {
            Ok(())
        } else {
            Err(list_path.problem(Reason::ValuesForbidden))
        }
    };
    match field::required(item, "operator", path)? {
        "In" => Ok(Requirement::In(key, some(values)?)),
        "NotIn" => Ok(Requirement::NotIn(key, some(values)?)),
        "Exists" => none(&values).map(|()| Requirement::Exists(key)),
        "DoesNotExist" => none(&values).map(|()| Requirement::DoesNotExist(key)),
        other => Err(path
            .field("operator")
            .problem(Reason::Operator(excerpt(other)))),
    }
}
