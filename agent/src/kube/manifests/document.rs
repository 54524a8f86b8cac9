//! From the bytes of a file to one JSON value for each document.
//!
//! Documents are cut apart before any of them is parsed, as kubectl does, so that a broken one does not take its neighbours along. A document that
//! cannot be parsed but seems to hold a NetworkPolicy still closes the namespace that it names.

use serde_json::Value;

use crate::kube::problem::Reason;

/// One document of a YAML file.
pub(super) struct Document<'t> {
    /// Number of its first line in the file, counted from 1.
    pub(super) line: u64,
    /// Its text, the `---` that opens it included.
    pub(super) text: &'t [u8],
}

/// Cuts a YAML file at its `---` lines; documents without content are left out.
pub(super) fn split(file: &[u8]) -> Vec<Document<'_>> {
    let file = file.strip_prefix(b"\xef\xbb\xbf").unwrap_or(file);
    let mut documents = Vec::new();
    let (mut start, mut start_line) = (0, 1);
    let (mut offset, mut line) = (0, 1);
    for text in file.split_inclusive(|byte| *byte == b'\n') {
        let opens = text
            .strip_prefix(b"---")
            .is_some_and(|rest| rest.first().is_none_or(u8::is_ascii_whitespace));
        if opens && offset > start {
            documents.push(Document {
                line: start_line,
                text: &file[start..offset],
            });
            (start, start_line) = (offset, line);
        }
        offset += text.len();
        line += 1;
    }
    documents.push(Document {
        line: start_line,
        text: &file[start..],
    });
    documents.retain(|document| has_content(document.text));
    documents
}

/// Whether there is more than comments, directives and markers.
fn has_content(text: &[u8]) -> bool {
    text.split(|byte| *byte == b'\n')
        .map(<[u8]>::trim_ascii)
        .any(|line| {
            !(line.is_empty()
                || line == b"---"
                || line == b"..."
                || line.starts_with(b"#")
                || line.starts_with(b"%"))
        })
}

/// The document as JSON.
///
/// Scalars are read as YAML 1.2 means them where 1.1 and 1.2 differ, `yes` and `012` being text, so that a label keeps its spelling and a number
/// with two readings is no number; see `normalize` for the fields that take booleans.
pub(super) fn parse(document: &Document<'_>) -> Result<Value, Reason> {
    let Ok(text) = std::str::from_utf8(document.text) else {
        return Err(Reason::Syntax {
            message: "not UTF-8".to_owned(),
            line: Some(document.line),
        });
    };
    // An alias may stand for more than it takes to write, but a few lines for no millions of values: that takes seconds for each of them.
    let replayed = (4 * text.len()).clamp(1_000, 1_000_000);
    // Limits that a directory of tens of thousands of objects stays below.
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: 200_000_000,
            max_nodes: 100_000_000,
            max_total_scalar_bytes: 1 << 30,
            max_total_comment_bytes: 1 << 30,
            max_buffered_comment_events: 1 << 20,
            enforce_alias_anchor_ratio: false,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: replayed },
        strict_booleans: true,
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let line = error
            .location()
            .map(|location| document.line + location.line().saturating_sub(1));
        let message = error.without_snippet().to_string();
        Reason::Syntax {
            message: one_line(&message),
            line: line.or(Some(document.line)),
        }
    })
}

/// The objects of a JSON file, which may hold several one behind the other; what follows a mistake cannot be read.
pub(super) fn parse_json(file: &[u8]) -> Vec<Result<Value, Reason>> {
    serde_json::Deserializer::from_slice(file)
        .into_iter::<Value>()
        .map(|result| {
            result.map_err(|error| Reason::Syntax {
                message: one_line(&error.to_string()),
                line: Some(error.line() as u64),
            })
        })
        .collect()
}

fn one_line(message: &str) -> String {
    let line = message.lines().next().unwrap_or_default();
    line.chars()
        .take(200)
        .flat_map(char::escape_debug)
        .filter(|c| *c != '\\')
        .collect()
}

/// What an unparsable document seems to close: namespace and name of a NetworkPolicy for each namespace that it mentions.
///
/// Guesswork by lines, on the closing side: too many namespaces are only isolated, and the report says which document did it.
pub(super) fn salvage_policies(text: &[u8]) -> Vec<(String, Option<String>)> {
    let text = String::from_utf8_lossy(text);
    let mut policy = false;
    let mut namespaces = Vec::new();
    let mut names = Vec::new();
    for line in text.split(['\n', ',', '{', '}']) {
        let line = line.trim_start_matches([' ', '\t', '-', '"', '\'']);
        let Some((key, value)) = line.split_once(':') else {
            continue;
        };
        let value = value.split(" #").next().unwrap_or_default();
        let value = value.trim_matches(|c: char| c.is_whitespace() || matches!(c, '"' | '\''));
        match key.trim_end_matches(['"', '\'', ' ']) {
            "kind" => policy |= matches!(value, "NetworkPolicy" | "NetworkPolicyList"),
            "namespace" if is_name(value) => namespaces.push(value.to_owned()),
            "name" if is_name(value) => names.push(value.to_owned()),
            _ => {}
        }
    }
    if !policy {
        return Vec::new();
    }
    namespaces.sort_unstable();
    namespaces.dedup();
    if namespaces.is_empty() {
        namespaces.push("default".to_owned());
    }
    let name = names.into_iter().next();
    namespaces
        .into_iter()
        .map(|namespace| (namespace, name.clone()))
        .collect()
}

fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 253
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.')
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use serde_json::json;

    use super::*;

    fn values(file: &str) -> Vec<Result<Value, Reason>> {
        split(file.as_bytes()).iter().map(parse).collect()
    }

    #[test]
    fn documents_are_cut_at_markers_and_empty_ones_left_out() {
        let file = "\u{feff}# comment\n%YAML 1.2\n---\na: 1\n---\n# nothing\n--- {b: 2}\n---\nc: |\n  --- not a marker\n...\n";
        let values: Vec<_> = values(file).into_iter().map(Result::unwrap).collect();
        assert_eq!(
            values,
            [
                json!({"a": 1}),
                json!({"b": 2}),
                json!({"c": "--- not a marker\n"})
            ]
        );
    }

    #[test]
    fn a_broken_document_does_not_take_its_neighbours_along() {
        let results = values("a: 1\n---\nb: [\n---\nc: 3\nc: 4\n---\nd: 5\n");
        assert!(results[0].is_ok() && results[3].is_ok());
        let Err(Reason::Syntax {
            line: Some(line), ..
        }) = &results[1]
        else {
            panic!("{:?}", results[1]);
        };
        assert!((3..=5).contains(line), "line {line}");
        assert!(results[2].is_err(), "a duplicate key has two readings");
    }

    #[test]
    fn scalars_with_two_readings_stay_text() {
        let value = values("a: yes\nb: 012\nc: y\nd: 1_000\ne: true\nf: 80\ng: \"80\"\nh: ~\n")
            .remove(0)
            .unwrap();
        let expected = json!({"a": "yes", "b": "012", "c": "y", "d": "1_000", "e": true, "f": 80, "g": "80", "h": null});
        assert_eq!(value, expected);
    }

    #[test]
    fn large_documents_fit_the_budget() {
        let mut file = String::from("apiVersion: v1\nkind: List\nitems:\n");
        for index in 0..40_000 {
            write!(
                file,
                "- kind: Pod\n  metadata: {{name: p{index}, labels: {{a: b, c: d}}}}\n"
            )
            .unwrap();
        }
        let value = values(&file).remove(0).unwrap();
        assert_eq!(value["items"].as_array().unwrap().len(), 40_000);
    }

    #[test]
    fn aliases_of_aliases_are_refused_before_they_cost_much_and_honest_ones_are_read() {
        let mut bomb = String::from("a: &a [x, x, x, x, x, x, x, x]\n");
        for (before, name) in ["a", "b", "c", "d", "e"]
            .iter()
            .zip(["b", "c", "d", "e", "f"])
        {
            let eight = vec![format!("*{before}"); 8].join(", ");
            writeln!(bomb, "{name}: &{name} [{eight}]").unwrap();
        }
        let Err(Reason::Syntax { message, .. }) = values(&bomb).remove(0) else {
            panic!("thirty thousand values of 200 bytes")
        };
        assert!(message.contains("alias replay limit"), "{message}");
        let many = format!("a: &a {{app: web}}\nb: [{}]\n", vec!["*a"; 5000].join(", "));
        let value = values(&many).remove(0).unwrap();
        assert_eq!(value["b"].as_array().unwrap().len(), 5000);
    }

    #[test]
    fn json_files_may_hold_several_objects() {
        let results = parse_json(b"{\"a\":1}\n{\"b\":2} {\"c\":");
        assert_eq!(results.len(), 3);
        assert!(results[0].is_ok() && results[1].is_ok() && results[2].is_err());
        let Err(Reason::Syntax { message, .. }) = &results[2] else {
            panic!()
        };
        assert!(!message.is_empty());
    }

    #[test]
    fn an_unparsable_policy_still_names_what_it_closes() {
        let yaml =
            b"kind: NetworkPolicy\nmetadata:\n  name: guard # mine\n  namespace: 'shop'\nspec: [";
        assert_eq!(
            salvage_policies(yaml),
            [("shop".to_owned(), Some("guard".to_owned()))]
        );
        let json = br#"{"kind": "NetworkPolicy", "metadata": {"name": "guard"}, "spec": "#;
        assert_eq!(
            salvage_policies(json),
            [("default".to_owned(), Some("guard".to_owned()))]
        );
        let list = b"kind: NetworkPolicyList\nitems:\n- metadata: {namespace: shop}\n  spec: [";
        assert_eq!(salvage_policies(list), [("shop".to_owned(), None)]);
        assert_eq!(salvage_policies(b"kind: Pod\nmetadata: ["), []);
    }
}
