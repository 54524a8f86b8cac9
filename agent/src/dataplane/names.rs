//! Numbers that the kernel reports, back to names: rules, and the policies that isolate.
//!
//! A rule's number is a digest of its name, so that a fresh agent without memory gives every rule the number that the pinned tables already hold.
//! Names are kept while the agent runs: events that come late still find theirs.

use std::collections::BTreeMap;

use portcullis_policy::model::PolicyRef;
use portcullis_policy::shared::Shared;
use portcullis_policy::tables::{Direction, RuleRef};

/// The two-way table of rule numbers, and who isolates under a policy id. A copy shares it until one of the two changes.
#[derive(Clone, Debug, Default)]
pub struct Names {
    rules: Shared<BTreeMap<u32, RuleRef>>,
    numbers: Shared<BTreeMap<RuleRef, u32>>,
    isolated_by: Shared<BTreeMap<u32, Vec<PolicyRef>>>,
}

impl Names {
    /// The number of a rule, never 0. Two rules with one digest get neighbouring numbers.
    pub fn number(&mut self, rule: &RuleRef) -> u32 {
        if let Some(number) = self.numbers.get(rule) {
            return *number;
        }
        let mut number = digest(rule).max(1);
        while self.rules.contains_key(&number) {
            number = number.wrapping_add(1).max(1);
        }
        self.rules.insert(number, rule.clone());
        self.numbers.insert(rule.clone(), number);
        number
    }

    /// The rule behind a number.
    #[must_use]
    pub fn rule(&self, number: u32) -> Option<&RuleRef> {
        self.rules.get(&number)
    }

    /// Who isolates under a policy id; `None` for an id that an earlier agent gave out.
    #[must_use]
    pub fn isolated_by(&self, policy: u32) -> Option<&[PolicyRef]> {
        self.isolated_by.get(&policy).map(Vec::as_slice)
    }

    /// Notes who isolates under a policy id.
    pub fn set_isolated_by(&mut self, policy: u32, by: &[PolicyRef]) {
        if self.isolated_by(policy) != Some(by) {
            self.isolated_by.insert(policy, by.to_vec());
        }
    }
}

/// FNV-1a over the rule's name.
fn digest(rule: &RuleRef) -> u32 {
    let direction = match rule.direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    };
    let text = format!("{}\0{direction}\0{}", rule.policy, rule.index);
    text.bytes().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

/// The 16 bytes by which an endpoint record knows its pod: a UUID's own, or a digest of whatever else stands as the uid.
#[must_use]
pub fn uid_digest(uid: &str) -> [u8; 16] {
    let digits: String = uid.chars().filter(|c| *c != '-').collect();
    if digits.len() == 32
        && let Ok(number) = u128::from_str_radix(&digits, 16)
    {
        return number.to_be_bytes();
    }
    let hash = uid.bytes().fold(
        0x6c62_272e_07bb_0142_62b8_2175_6295_c58d_u128,
        |hash, byte| {
            (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
        },
    );
    hash.to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_keeps_its_bytes_and_other_uids_differ() {
        assert_eq!(uid_digest("00000000-0000-0000-0000-00000000000f")[15], 15);
        assert_ne!(uid_digest("static-pod-a"), uid_digest("static-pod-b"));
    }
}
