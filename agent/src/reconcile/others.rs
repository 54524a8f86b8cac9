//! What other tools have on the node: looked at now and then, told once in the log, and in the status for as long as it is there.
//!
//! Programs are looked for here, at our own hooks. Rules come from a thread of their own: a node may have a hundred thousand.

use std::collections::{BTreeMap, BTreeSet};

use tracing::{debug, info, warn};

use super::Node;
use crate::endpoint::foreign::{self, Filter, Rule};
use crate::failure::Failure;

/// As of the last look.
#[derive(Debug, Default)]
pub(super) struct Others {
    /// Rules, as they were last read.
    rules: Vec<Failure>,
    /// By what was found.
    found: BTreeMap<String, Failure>,
}

impl Others {
    /// What makes our verdicts void.
    pub(super) fn in_front(&self) -> impl Iterator<Item = String> {
        self.found
            .values()
            .filter(|found| found.code == "PC1101")
            .map(|found| format!("{}: {}", found.code, found.what))
    }

    /// What is only worth knowing.
    pub(super) fn beside(&self) -> impl Iterator<Item = String> {
        self.found
            .values()
            .filter(|found| found.code != "PC1101")
            .map(|found| format!("{}: {}", found.code, found.what))
    }
}

impl Node {
    /// Takes in what [`rules_of_others`] found.
    pub fn rules(&mut self, rules: Vec<Failure>) {
        self.others.rules = rules;
        self.look_around();
    }

    /// Looks for programs on our hooks that are not ours.
    pub fn look_around(&mut self) {
        let programs = self.programs_of_others();
        let rules = self.others.rules.iter().cloned();
        let found: BTreeMap<_, _> = programs
            .into_iter()
            .chain(rules)
            .map(|failure| (failure.what.clone(), failure))
            .collect();
        for failure in found.values() {
            if !self.others.found.contains_key(&failure.what) {
                warn!(code = failure.code, why = %failure.why, r#do = %failure.do_, "{}", failure.what);
            }
        }
        for failure in self.others.found.values() {
            if !found.contains_key(&failure.what) {
                info!(code = failure.code, "Gone: {}", failure.what);
            }
        }
        self.others.found = found;
    }

    fn programs_of_others(&mut self) -> Vec<Failure> {
        let ours = self.dataplane.hooks().programs();
        let interfaces: Vec<u32> = self.dataplane.hooks().attached().keys().copied().collect();
        let mut all = Vec::new();
        for ifindex in interfaces {
            let Some(interface) = self.observed.interfaces.get(&ifindex) else {
                continue;
            };
            let filters = foreign::filters(ifindex).unwrap_or_else(|error| {
                debug!(%error, interface = %interface.name, "Failed to list filters");
                Vec::new()
            });
            for egress in [false, true] {
                let tcx = self.dataplane.hooks().order(ifindex, egress);
                let tcx = tcx.unwrap_or_default().into_iter();
                let chain = tcx.map(|program| (program, String::new())).chain(
                    filters
                        .iter()
                        .filter(|filter| filter.egress == egress)
                        .map(|Filter { program, name, .. }| (*program, name.clone())),
                );
                let hook = if egress { "egress" } else { "ingress" };
                let place = format!("{} {hook}", interface.name);
                all.extend(strangers(chain.collect(), &ours, &place));
            }
        }
        all
    }
}

/// The programs of a chain that are not ours. A hook where we have none is not our business.
fn strangers(chain: Vec<(u32, String)>, ours: &BTreeSet<u32>, place: &str) -> Vec<Failure> {
    let Some(own) = chain.iter().position(|(program, _)| ours.contains(program)) else {
        return Vec::new();
    };
    chain
        .into_iter()
        .enumerate()
        .filter(|(_, (program, _))| !ours.contains(program))
        .map(|(at, (program, name))| {
            let whose =
                foreign::owner(&name).map_or_else(String::new, |owner| format!(" of {owner}"));
            let name = if name.is_empty() {
                String::new()
            } else {
                format!(" {name}")
            };
            if at < own {
                Failure::new(
                    "PC1101",
                    format!("program{name} (id {program}){whose} runs before ours on {place}"),
                    "if it ends the chain, ours is not asked",
                    "remove its agent from the node",
                )
            } else {
                Failure::new(
                    "PC1102",
                    format!("program{name} (id {program}){whose} runs behind ours on {place}"),
                    "a packet passes if both let it",
                    "remove its agent from the node, if it is not meant to be there",
                )
            }
        })
        .collect()
}

/// Rules that are not ours. Reads all that the node has, which may take long.
#[must_use]
pub fn rules_of_others() -> Vec<Failure> {
    let rules = foreign::rules().unwrap_or_else(|error| {
        debug!(%error, "Failed to list firewall rules");
        BTreeSet::new()
    });
    rules
        .into_iter()
        .map(|rule| match rule {
            Rule::Metadata(place) => Failure::new(
                "PC1103",
                format!("a firewall rule names the metadata service: {place}"),
                "kube2iam, kiam or somebody wrote it; pods on the allow list meet it",
                "remove it with the agent that wrote it",
            ),
            Rule::Agent(owner) => Failure::new(
                "PC1104",
                format!("chains of {owner} are in the firewall"),
                "their rules hold beside ours: a packet passes if both let it",
                "remove them, if their agent is gone",
            ),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(chain: &[(u32, &str)]) -> Vec<(&'static str, String)> {
        let chain = chain.iter().map(|(id, name)| (*id, (*name).to_owned()));
        strangers(chain.collect(), &BTreeSet::from([7]), "eni0 ingress")
            .into_iter()
            .map(|failure| (failure.code, failure.what))
            .collect()
    }

    #[test]
    fn whoever_is_in_front_is_told_from_whoever_is_behind() {
        assert_eq!(
            codes(&[(3, ""), (7, "pc_from_pod"), (9, "handle_ingress")]),
            [
                ("PC1101", "program (id 3) runs before ours on eni0 ingress".to_owned()),
                (
                    "PC1102",
                    "program handle_ingress (id 9) of the AWS network policy agent runs behind ours on eni0 ingress".to_owned()
                ),
            ]
        );
    }

    #[test]
    fn a_hook_without_our_program_is_left_alone() {
        assert_eq!(codes(&[(3, "cali_x")]), []);
        assert_eq!(codes(&[(7, "pc_from_pod")]), []);
    }
}
