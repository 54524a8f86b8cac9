//! What was measured, as a table for people and as JSON for tools.

use std::fmt::Write as _;
use std::fs;

use serde_json::{Value, json};

use super::case::{Case, Hook, Path};
use super::live::{GOAL, Live, Traffic};
use super::node::Rights;
use super::rounds::{Measured, median};

/// One line: a case with both families' and hooks' ratios of one kind of rights.
fn line(results: &[Measured], case: &Case, rights: Rights) -> Vec<f64> {
    let mut ratios = Vec::new();
    for v6 in [false, true] {
        for hook in Hook::ALL {
            let wanted = Case { v6, hook, ..*case };
            let found = results
                .iter()
                .find(|result| result.case == wanted && result.rights == rights);
            ratios.extend(found.map(Measured::ratio));
        }
    }
    ratios
}

/// The table. `verified` = instructions that the verifier followed, by rights and hook.
#[must_use]
pub fn table(results: &[Measured], verified: &[(Rights, Hook, u32)]) -> String {
    let mut text = String::new();
    for rights in Rights::ALL {
        if !results.iter().any(|result| result.rights == rights) {
            continue;
        }
        let title = match rights {
            Rights::WithPerfmon => "loaded with CAP_PERFMON",
            Rights::WithoutPerfmon => "loaded without CAP_PERFMON",
        };
        let _ = writeln!(
            text,
            "{title:<28} {:>10} {:>10} {:>10} {:>10} {:>8}",
            "v4 from", "v4 to", "v6 from", "v6 to", "goal"
        );
        let rows = results.iter().filter(|result| {
            result.rights == rights && !result.case.v6 && result.case.hook == Hook::FromPod
        });
        for row in rows {
            let _ = write!(text, "{:<28}", row.case.title());
            for ratio in line(results, &row.case, rights) {
                let over = row.case.goal().is_some_and(|goal| ratio > goal);
                let _ = write!(
                    text,
                    " {:>10}",
                    format!("{ratio:.2}{}", if over { "!" } else { " " })
                );
            }
            let _ = writeln!(
                text,
                " {:>8}",
                row.case
                    .goal()
                    .map_or_else(|| "-".to_owned(), |goal| format!("{goal:.1}"))
            );
        }
        let _ = write!(text, "{:<28}", "most / fewest peers");
        for ratio in growth(results, rights) {
            let _ = write!(
                text,
                " {:>10}",
                format!("{ratio:.2}{}", if ratio > 1.1 { "!" } else { " " })
            );
        }
        let _ = writeln!(text, " {:>8}", "1.1");
        let counts: Vec<String> = verified
            .iter()
            .filter(|(of, ..)| *of == rights)
            .map(|(_, hook, count)| format!("{} {count}", hook.program()))
            .collect();
        let _ = writeln!(text, "instructions verified: {}\n", counts.join(", "));
    }
    text.push_str("Times an empty program of the same run (medians of interleaved rounds); ! = more than the goal.\n");
    text
}

/// What a new flow costs with the most peers, times what it costs with the fewest.
fn growth(results: &[Measured], rights: Rights) -> Vec<f64> {
    let mut growth = Vec::new();
    for v6 in [false, true] {
        for hook in Hook::ALL {
            let of_kind = results.iter().filter(|result| {
                result.rights == rights
                    && result.case.path == Path::NewFlow
                    && result.case.v6 == v6
                    && result.case.hook == hook
            });
            let ratios: Vec<f64> = of_kind.map(Measured::ratio).collect();
            growth.push(match ratios[..] {
                [fewest, .., most] => most / fewest,
                _ => 1.0,
            });
        }
    }
    growth
}

/// The table of live traffic.
#[must_use]
pub fn live_table(results: &[Live]) -> String {
    let mut text = format!(
        "\n{:<28} {:>10} {:>10} {:>8}\n",
        "live, two pods of a node", "perfmon", "ratio", "goal"
    );
    for live in results {
        let perfmon = if live.rights == Rights::WithPerfmon {
            "yes"
        } else {
            "no"
        };
        let over = if live.ratio > GOAL { "!" } else { " " };
        let ratio = format!("{:.2}{over}", live.ratio);
        let _ = writeln!(
            text,
            "{:<28} {perfmon:>10} {ratio:>10} {GOAL:>8.1}",
            name(live.traffic)
        );
    }
    text.push_str("Run time for each run of both pods' programs, times that of empty programs on the same hooks.\n");
    text
}

fn name(traffic: Traffic) -> &'static str {
    match traffic {
        Traffic::Datagrams => "datagram of 64 bytes",
        Traffic::RoundTrips => "TCP round trip of 64 bytes",
    }
}

/// The same for tools.
#[must_use]
pub fn json(results: &[Measured], verified: &[(Rights, Hook, u32)], live: &[Live]) -> Value {
    let cases: Vec<Value> = results
        .iter()
        .map(|result| {
            json!({
                "case": result.case.title(),
                "family": if result.case.v6 { 6 } else { 4 },
                "program": result.case.hook.program(),
                "perfmon": result.rights == Rights::WithPerfmon,
                "peers": result.case.size.peers,
                "flows": result.case.size.flows,
                "ratio": result.ratio(),
                "goal": result.case.goal(),
                "ns": median(&result.ns),
                "ratios": result.ratios,
            })
        })
        .collect();
    let programs: Vec<Value> = verified
        .iter()
        .map(|(rights, hook, count)| {
            json!({"program": hook.program(), "perfmon": *rights == Rights::WithPerfmon, "verifiedInstructions": count})
        })
        .collect();
    let live: Vec<Value> = live
        .iter()
        .map(|live| {
            json!({
                "traffic": name(live.traffic), "perfmon": live.rights == Rights::WithPerfmon,
                "ratio": live.ratio, "goal": GOAL, "ns": live.ns,
            })
        })
        .collect();
    json!({"kernel": kernel(), "testRun": cases, "programs": programs, "live": live})
}

fn kernel() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}
