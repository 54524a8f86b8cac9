//! Explanations in words. Rules are counted from 1 here, as people do.

use std::fmt;

use super::{Explanation, Reason, Side, Verdict};

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sides = [("egress", &self.egress), ("ingress", &self.ingress)];
        let denying = sides.iter().find(|(_, side)| side.verdict == Verdict::Deny);
        match denying {
            Some((direction, side)) => {
                let reason = side.reason.map_or("", Reason::as_str);
                writeln!(f, "VERDICT  DENY ({direction}, {reason})")?;
            }
            None => writeln!(f, "VERDICT  ALLOW")?,
        }
        let ends = sides
            .iter()
            .map(|(_, side)| side.end.len())
            .max()
            .unwrap_or(0);
        let sentences = sides.map(|(direction, side)| sentence(direction, side));
        let width = sentences.iter().map(String::len).max().unwrap_or(0);
        for ((direction, side), sentence) in sides.iter().zip(sentences) {
            let verdict = verdict(side.verdict);
            let line = format!(
                " {direction:<7}  {:<ends$}  {sentence:<width$}  {verdict}",
                side.end
            );
            writeln!(f, "{}", line.trim_end())?;
            steps(f, side)?;
        }
        Ok(())
    }
}

fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Allow => "allow",
        Verdict::Deny => "deny",
        Verdict::None => "-",
    }
}

/// Rules that matched and near misses; the rest is only counted.
fn steps(f: &mut fmt::Formatter<'_>, side: &Side) -> fmt::Result {
    let shown: Vec<_> = side
        .steps
        .iter()
        .filter(|step| step.missed.len() < 2)
        .collect();
    let says = shown.iter().map(|step| step.says.len()).max().unwrap_or(0);
    let mut policy = "";
    for step in &shown {
        if policy != step.policy {
            policy = &step.policy;
            writeln!(f, "   {policy}")?;
        }
        let outcome = if step.missed.is_empty() {
            "match"
        } else {
            &step.why_not
        };
        writeln!(
            f,
            "     rule {}  {:<says$}  {outcome}",
            step.rule + 1,
            step.says
        )?;
    }
    match side.steps.len() - shown.len() {
        0 => Ok(()),
        1 => writeln!(f, "   1 other rule matches neither peer nor port"),
        others => writeln!(f, "   {others} other rules match neither peer nor port"),
    }
}

fn sentence(direction: &str, side: &Side) -> String {
    let Some(reason) = side.reason else {
        return "no endpoint, so no policy here".to_owned();
    };
    let rule = || {
        let policy = side.policy.as_deref().unwrap_or_default();
        format!("{policy}, rule {}", side.rule.map_or(0, |rule| rule + 1))
    };
    match reason {
        Reason::AllowRule => format!("allowed by {}", rule()),
        Reason::DenyRule => format!("denied by {}", rule()),
        Reason::NotIsolated if direction == "egress" => {
            "no policy with policyType Egress isolates it".to_owned()
        }
        Reason::NotIsolated => "no policy with policyType Ingress isolates it".to_owned(),
        Reason::DefaultDeny => format!("isolated by {}", side.isolated_by.join(", ")),
        Reason::HostExempt => "comes from its own node".to_owned(),
        Reason::MetadataGuard => "the metadata service is out of reach of pods".to_owned(),
        Reason::Loopback => "a loopback address is not reached over the network".to_owned(),
        Reason::NoFlow => "a reply or error that belongs to no connection".to_owned(),
        Reason::IcmpType => "an ICMP type that is never let through".to_owned(),
        Reason::Tunnel => "tunnels are not let through".to_owned(),
        Reason::Itself => "talks to itself".to_owned(),
        Reason::Neighbour => "neighbour discovery is always let through".to_owned(),
        Reason::RogueServer => "only a router or a DHCP server sends this".to_owned(),
        Reason::NotReady => "not among the objects".to_owned(),
    }
}
