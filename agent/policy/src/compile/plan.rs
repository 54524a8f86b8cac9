//! The rules of one table in the order in which they are asked, and the walk along them for one class.

use std::sync::Arc;

use crate::asked::{Asked, ListIx, named};
use crate::cell::{Names, Walk, spans};
use crate::govern::{Governed, rules};
use crate::model::{AtEnd, Policy, PolicyRef, Ports, Rule, RuleAction};
use crate::tables::{Cell, Direction, RuleRef};

/// The rules of one direction of some policies, in the order in which they are asked.
pub(super) struct Plan {
    pub(super) direction: Direction,
    policies: Vec<(Arc<Policy>, Arc<PolicyRef>)>,
    pub(super) steps: Vec<Step>,
    tiers: Vec<TierPart>,
}

/// A rule.
pub(super) struct Step {
    /// The list of its peers; `None` = anyone.
    pub(super) peers: Option<ListIx>,
    /// Place of its policy in the plan, and its own there.
    policy: u32,
    index: u32,
}

/// A tier that counts because one of its policies governs.
struct TierPart {
    at_end: AtEnd,
    /// The first policy and the first step behind it.
    behind: (usize, u32),
}

impl Plan {
    pub(super) fn new(
        governed: &Governed,
        asked: &Asked,
        direction: Direction,
        governing: &[usize],
    ) -> Self {
        let mut plan = Self {
            direction,
            policies: Vec::with_capacity(governing.len()),
            steps: Vec::new(),
            tiers: Vec::new(),
        };
        let mut tier: Option<&str> = None;
        for &rank in governing {
            let ranked = &governed.policies[rank];
            let place = plan.policies.len() as u32;
            let peers = asked.peers(&ranked.policy, direction);
            let steps = (0..).zip(peers).map(|(index, peers)| Step {
                peers: *peers,
                policy: place,
                index,
            });
            plan.steps.extend(steps);
            let name = Arc::new(ranked.policy.name.clone());
            plan.policies.push((Arc::clone(&ranked.policy), name));
            if tier != Some(&ranked.policy.tier) {
                tier = Some(&ranked.policy.tier);
                plan.tiers.push(TierPart {
                    at_end: ranked.at_end,
                    behind: (0, 0),
                });
            }
            if let Some(part) = plan.tiers.last_mut() {
                part.behind = (plan.policies.len(), plan.steps.len() as u32);
            }
        }
        plan
    }

    pub(super) fn rule(&self, step: u32) -> &Rule {
        let step = &self.steps[step as usize];
        let (policy, _) = &self.policies[step.policy as usize];
        &rules(policy, self.direction).unwrap_or_default()[step.index as usize]
    }

    /// Whether a rule asks for port names of the peer.
    pub(super) fn asks_names(&self) -> bool {
        let mut steps = 0..self.steps.len() as u32;
        self.direction == Direction::Egress
            && steps.any(|step| named(&self.rule(step).ports).next().is_some())
    }

    /// Steps that anyone fits.
    pub(super) fn for_anyone(&self) -> Vec<u32> {
        (0..)
            .zip(&self.steps)
            .filter(|(_, step)| step.peers.is_none())
            .map(|(number, _)| number)
            .collect()
    }

    /// Of some steps, ascending, those that can decide something: behind a final rule for every protocol nothing else is asked, unless a Pass
    /// before it has put something aside for a later tier.
    pub(super) fn deciding(&self, steps: impl Iterator<Item = u32>) -> Vec<u32> {
        let mut deciding = Vec::new();
        let mut passed = false;
        for step in steps {
            deciding.push(step);
            let rule = self.rule(step);
            passed |= rule.action == RuleAction::Pass;
            if rule.ports == Ports::Any && !passed {
                break;
            }
        }
        deciding
    }

    /// The walk through the steps that fit a class; `names` are what port names mean there.
    pub(super) fn walk(&self, fitting: &[u32], names: &Names<'_>) -> Cell {
        let mut walk = Walk::new();
        let mut fitting = fitting.iter().copied().peekable();
        for tier in &self.tiers {
            while let Some(number) = fitting.next_if(|number| *number < tier.behind.1) {
                let rule = self.rule(number);
                walk.rule(rule.action, &spans(&rule.ports, names), number);
            }
            walk.end_of_tier(tier.at_end);
        }
        walk.finish(|number| {
            let step = &self.steps[number as usize];
            RuleRef {
                policy: Arc::clone(&self.policies[step.policy as usize].1),
                index: step.index,
                direction: self.direction,
            }
        })
    }

    pub(super) fn isolated_by(&self) -> Vec<PolicyRef> {
        let mut names = Vec::new();
        let mut first = 0;
        for tier in &self.tiers {
            let policies = &self.policies[first..tier.behind.0];
            first = tier.behind.0;
            if tier.at_end == AtEnd::Deny {
                names.extend(policies.iter().map(|(_, name)| PolicyRef::clone(name)));
            }
        }
        names.sort_unstable();
        names
    }
}
