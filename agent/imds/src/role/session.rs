//! What STS takes beside the role: session name, external id, session policies.
//!
//! Limits: STS API reference, `AssumeRole` (`RoleSessionName`, `ExternalId`, Policy, `PolicyArns`). They are checked when an annotation is read, so that a
//! mistake is reported on the object that holds it and not as a failed call.

use serde_json::{Map, Value};

use super::arn::{self, Head};
use super::malformed::Problem;

/// Most managed policies of a session.
pub(super) const MOST_POLICY_ARNS: usize = 10;
const MOST_SESSION_NAME: usize = 64;
const LEAST_EXTERNAL_ID: usize = 2;
const MOST_EXTERNAL_ID: usize = 1224;
const MOST_POLICY: usize = 2048;
const MOST_POLICY_NAME: usize = 128;

/// The whole session name. Always prefixed with the namespace and a dot, which no namespace's name has: nobody can pose as another namespace in
/// `CloudTrail`. What does not fit is malformed, not cut: two long names must not become one.
pub(super) fn name(namespace: &str, text: &str) -> Result<String, Problem> {
    let room = MOST_SESSION_NAME.saturating_sub(namespace.len() + 1);
    length(text, 1, room)?;
    characters(text, b"_+=,.@-")?;
    Ok(format!("{namespace}.{text}"))
}

pub(super) fn external_id(text: &str) -> Result<String, Problem> {
    length(text, LEAST_EXTERNAL_ID, MOST_EXTERNAL_ID)?;
    characters(text, b"_+=,.@:/-")?;
    Ok(text.to_owned())
}

/// An inline policy: whether it is a policy at all is for STS to say. It is passed on as it was written.
pub(super) fn policy(text: &str) -> Result<String, Problem> {
    length(text, 1, MOST_POLICY)?;
    let allowed = |character: char| {
        matches!(character, '\t' | '\n' | '\r') || (' '..='\u{ff}').contains(&character)
    };
    if let Some(character) = text.chars().find(|&character| !allowed(character)) {
        return Err(Problem::Character(character));
    }
    match serde_json::from_str::<Map<String, Value>>(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err(Problem::Object),
    }
}

pub(super) fn policy_arns(arns: Vec<String>) -> Result<Vec<String>, Problem> {
    match arns.iter().position(|text| !is_policy_arn(text)) {
        Some(index) => Err(Problem::PolicyArn(index + 1)),
        None => Ok(arns),
    }
}

/// Of an account or of AWS itself.
fn is_policy_arn(text: &str) -> bool {
    let word = "policy/";
    Head::parse_any_account(text, word).is_ok_and(|head| {
        (head.account == "aws" || Head::parse(text, word).is_ok())
            && arn::check_path_and_name(head.resource, MOST_POLICY_NAME).is_ok()
    })
}

/// Counted in characters, as AWS does.
pub(super) fn length(text: &str, least: usize, most: usize) -> Result<(), Problem> {
    let found = text.chars().count();
    if (least..=most).contains(&found) {
        Ok(())
    } else {
        Err(Problem::Length { found, least, most })
    }
}

/// Letters, digits and the others given.
fn characters(text: &str, others: &[u8]) -> Result<(), Problem> {
    let allowed = |character: char| {
        character.is_ascii_alphanumeric()
            || u8::try_from(character).is_ok_and(|byte| others.contains(&byte))
    };
    match text.chars().find(|&character| !allowed(character)) {
        Some(character) => Err(Problem::Character(character)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
