//! The rules of one table in the order in which they are asked, and the walk along them for one class.

use crate::cell::{Names, Span, Walk, spans};
use crate::govern::{Governed, rules};
use crate::model::{AtEnd, PolicyRef, Rule};
use crate::tables::{Cell, Direction, RuleRef};

/// The rules of one direction of some policies, in the order in which they are asked.
pub(super) struct Plan<'a, 'w> {
    governed: &'a Governed<'w>,
    direction: Direction,
    pub(super) steps: Vec<Step<'w>>,
    tiers: Vec<TierPart<'w>>,
}

pub(super) struct Step<'w> {
    policy: &'w PolicyRef,
    index: u32,
    pub(super) rule: &'w Rule,
}

/// A tier that counts because one of its policies governs.
struct TierPart<'w> {
    name: &'w str,
    at_end: AtEnd,
    ranks: Vec<usize>,
    /// The first step behind it.
    end: u32,
}

impl<'a, 'w> Plan<'a, 'w> {
    pub(super) fn new(
        governed: &'a Governed<'w>,
        direction: Direction,
        governing: &[usize],
    ) -> Self {
        let mut plan = Self {
            governed,
            direction,
            steps: Vec::new(),
            tiers: Vec::new(),
        };
        for &rank in governing {
            let standing = &governed.policies[rank];
            let policy = standing.policy;
            let steps = (0..).zip(rules(policy, direction).unwrap_or_default());
            plan.steps.extend(steps.map(|(index, rule)| Step {
                policy: &policy.name,
                index,
                rule,
            }));
            let end = plan.steps.len() as u32;
            match plan
                .tiers
                .last_mut()
                .filter(|tier| tier.name == policy.tier)
            {
                Some(tier) => {
                    tier.ranks.push(rank);
                    tier.end = end;
                }
                None => plan.tiers.push(TierPart {
                    name: &policy.tier,
                    at_end: standing.at_end,
                    ranks: vec![rank],
                    end,
                }),
            }
        }
        plan
    }

    /// The walk through the steps that fit a class. `fixed` holds the spans of steps that need no names of the class.
    pub(super) fn walk(
        &self,
        fitting: &[u32],
        fixed: &[Option<Vec<Span>>],
        names: &Names<'_>,
    ) -> Cell {
        let mut walk = Walk::new();
        let mut fitting = fitting.iter().copied().peekable();
        for tier in &self.tiers {
            while let Some(number) = fitting.next_if(|number| *number < tier.end) {
                let rule = self.steps[number as usize].rule;
                match &fixed[number as usize] {
                    Some(spans) => walk.rule(rule.action, spans, number),
                    None => walk.rule(rule.action, &spans(&rule.ports, names), number),
                }
            }
            walk.end_of_tier(tier.at_end);
        }
        walk.finish(|number| {
            let step = &self.steps[number as usize];
            RuleRef {
                policy: step.policy.clone(),
                index: step.index,
                direction: self.direction,
            }
        })
    }

    pub(super) fn isolated_by(&self) -> Vec<PolicyRef> {
        let isolating = self.tiers.iter().filter(|tier| tier.at_end == AtEnd::Deny);
        let mut names: Vec<PolicyRef> = isolating
            .flat_map(|tier| &tier.ranks)
            .map(|rank| self.governed.policies[*rank].policy.name.clone())
            .collect();
        names.sort_unstable();
        names
    }
}
