//! Rounds: in each, every case once, between two runs of the empty program. The result of a case is the median of its rounds' ratios.

use anyhow::{Context as _, Result};

use super::case::Case;
use super::node::{Node, Rights, What, check};
use super::program;

/// What was measured of one case.
#[derive(Clone, Debug)]
pub struct Measured {
    /// The case.
    pub case: Case,
    /// What the programs were loaded with.
    pub rights: Rights,
    /// Ratio to the empty program, of each round.
    pub ratios: Vec<f64>,
    /// Nanoseconds, of each round: for orientation only.
    pub ns: Vec<f64>,
}

impl Measured {
    /// Median of the ratios.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        median(&self.ratios)
    }
}

/// The middle of some numbers; 0 of none.
#[must_use]
pub fn median(numbers: &[f64]) -> f64 {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        length if length % 2 == 1 => sorted[length / 2],
        length => f64::midpoint(sorted[length / 2 - 1], sorted[length / 2]),
    }
}

/// Measures all cases on their nodes.
pub fn run(nodes: &[(Rights, Node)], cases: &[Case], rounds: u32) -> Result<Vec<Measured>> {
    let mut results: Vec<Measured> = Vec::new();
    for (rights, node) in nodes {
        let of_node = cases.iter().filter(|case| case.size == node.size());
        results.extend(of_node.map(|case| Measured {
            case: *case,
            rights: *rights,
            ratios: Vec::new(),
            ns: Vec::new(),
        }));
    }
    // The first round warms everything up and does not count.
    for round in 0..=rounds {
        for (rights, node) in nodes {
            let of_node = results
                .iter_mut()
                .filter(|result| result.rights == *rights && result.case.size == node.size());
            let of_node: Vec<&mut Measured> = of_node.collect();
            node.netns().run(|| {
                for result in of_node {
                    let (ns, ratio) = once(node, &result.case)
                        .with_context(|| format!("{} {rights:?}", result.case.title()))?;
                    if round > 0 {
                        result.ns.push(ns);
                        result.ratios.push(ratio);
                    }
                }
                Ok(())
            })?;
        }
    }
    Ok(results)
}

/// One run of a case: its ns and its ratio.
fn once(node: &Node, case: &Case) -> Result<(f64, f64)> {
    let frame = case.frame();
    let opens = case.path == super::case::Path::NewFlow;
    let before = node.counts()?;
    let (first, _) = node.time(case, &frame, What::Empty)?;
    let (mut ns, verdict) = node.time(case, &frame, What::Case)?;
    let (second, empty_verdict) = node.time(case, &frame, What::Empty)?;
    check(
        case,
        before,
        node.counts()?,
        verdict,
        u64::from(case.repeat()),
    )?;
    anyhow::ensure!(
        empty_verdict == program::NEXT,
        "the empty program answers {empty_verdict}"
    );
    let empty = f64::midpoint(first, second);
    if case.changes_port() {
        // What changing the port costs is not the case's.
        let (behind, _) = node.time(case, &frame, What::EmptyBehindChange)?;
        ns -= behind - empty;
    }
    if opens {
        node.forget_new_flows()?;
    }
    Ok((ns, ns / empty))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
        assert!((median(&[4.0, 1.0]) - 2.5).abs() < f64::EPSILON);
    }
}
