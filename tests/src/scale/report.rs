//! What was measured, as a table for people and as JSON for tools.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use super::node::Times;
use super::weight::{GROUPS, PEERS, WORKLOADS};
use super::{Cost, Measured};
use crate::bench::rounds::median;

/// Times of one line: the median of each stage.
struct Line {
    world: f64,
    compile: f64,
    plan: f64,
    write: f64,
    thinking: f64,
    writes: f64,
}

impl Line {
    fn of(times: &[Times]) -> Self {
        let median = |of: &dyn Fn(&Times) -> f64| median(&times.iter().map(of).collect::<Vec<_>>());
        Self {
            world: median(&|times| milliseconds(times.world)),
            compile: median(&|times| milliseconds(times.compile)),
            plan: median(&|times| milliseconds(times.plan)),
            write: median(&|times| milliseconds(times.write)),
            thinking: median(&|times| milliseconds(times.thinking())),
            writes: median(&|times| times.writes as f64),
        }
    }

    fn json(&self, title: &str, anew: f64) -> Value {
        json!({
            "change": title, "worldMs": self.world, "compileMs": self.compile, "planMs": self.plan, "writeMs": self.write,
            "toPlanMs": self.thinking, "ratio": self.thinking / anew, "writes": self.writes,
        })
    }
}

/// The table.
#[must_use]
pub fn table(measured: &Measured) -> String {
    let anew = Line::of(&measured.anew);
    let scale = measured.scale;
    let mut text = format!(
        "{} pods, {} policies, {} pods of the node: {} MiB resident\n\n{:<36} {:>8} {:>8} {:>8} {:>9} {:>8} {:>9} {:>8}\n",
        scale.pods,
        scale.policies,
        scale.local,
        measured.resident_mib,
        "ms of the thread",
        "world",
        "compile",
        "plan",
        "to plan",
        "x anew",
        "writing",
        "writes"
    );
    let mut line = |title: &str, line: &Line| {
        let _ = writeln!(
            text,
            "{title:<36} {:>8.1} {:>8.1} {:>8.1} {:>9.1} {:>8.2} {:>9.1} {:>8.0}",
            line.world,
            line.compile,
            line.plan,
            line.thinking,
            line.thinking / anew.thinking,
            line.write,
            line.writes
        );
    };
    line("everything, at first", &Line::of(&[measured.first]));
    line("everything anew, for comparison", &anew);
    for Cost { title, times } in &measured.changes {
        line(title, &Line::of(times));
    }
    line("a policy of 10,000 rules", &Line::of(&[measured.giant]));
    let _ = writeln!(
        text,
        "\n{PEERS} peers of {WORKLOADS} workloads, {GROUPS} rules each; KiB of kernel memory\n{:<36} {:>9} {:>9}",
        "map", "empty", "full"
    );
    for (name, (before, after)) in &measured.weight.maps {
        let _ = writeln!(
            text,
            "{name:<36} {:>9} {:>9}",
            before.div_ceil(1024),
            after.div_ceil(1024)
        );
    }
    let _ = writeln!(
        text,
        "{:<36} {:>9} {:>9}",
        "growth",
        "",
        measured.weight.grown().div_ceil(1024)
    );
    text
}

/// The same for tools.
#[must_use]
pub fn json(measured: &Measured) -> Value {
    let anew = Line::of(&measured.anew);
    let mut lines = vec![
        Line::of(&[measured.first]).json("everything, at first", anew.thinking),
        anew.json("everything anew", anew.thinking),
    ];
    let changes = measured.changes.iter();
    lines.extend(changes.map(|cost| Line::of(&cost.times).json(cost.title, anew.thinking)));
    lines.push(Line::of(&[measured.giant]).json("a policy of 10,000 rules", anew.thinking));
    let maps = measured.weight.maps.iter();
    let maps: Vec<Value> = maps
        .map(|(name, (before, after))| json!({"map": name, "empty": before, "full": after}))
        .collect();
    json!({
        "pods": measured.scale.pods, "policies": measured.scale.policies, "localPods": measured.scale.local,
        "residentMiB": measured.resident_mib, "changes": lines, "maps": maps, "growth": measured.weight.grown(),
    })
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
