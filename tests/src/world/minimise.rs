//! Makes a world that fails small: drops whatever is not needed for the failure, greedily, until nothing more can go.

use serde_json::Value;

use super::World;
use crate::oracle::Oracle;

/// The smallest world found by leaving out probes, objects, rules, peers, ports and labels, for which `fails` still holds.
///
/// A world that does not fail comes back as it is. Probes always stay answerable.
#[must_use]
pub fn minimise(world: &World, fails: impl Fn(&World) -> bool) -> World {
    let mut smallest = world.clone();
    let fails = |candidate: &World| is_answerable(candidate) && fails(candidate);
    if !fails(&smallest) {
        return smallest;
    }
    drop_probes(&mut smallest, &fails);
    loop {
        let objects = drop_objects(&mut smallest, &fails);
        let parts = drop_parts(&mut smallest, &fails);
        if !objects && !parts {
            return smallest;
        }
    }
}

fn is_answerable(world: &World) -> bool {
    let oracle = Oracle::new(&world.objects);
    world.probes.iter().all(|probe| oracle.judge(probe).is_ok())
}

/// Mostly one probe is enough; else halves, quarters and so on are left out.
fn drop_probes(world: &mut World, fails: &impl Fn(&World) -> bool) {
    let alone = world
        .probes
        .iter()
        .map(|probe| World {
            probes: vec![probe.clone()],
            ..world.clone()
        })
        .find(|world| fails(world));
    if let Some(alone) = alone {
        *world = alone;
        return;
    }
    let mut size = world.probes.len().div_ceil(2);
    while size > 0 {
        let mut start = 0;
        while start < world.probes.len() {
            let mut candidate = world.clone();
            let end = world.probes.len().min(start + size);
            candidate.probes.drain(start..end);
            if fails(&candidate) {
                *world = candidate;
            } else {
                start = end;
            }
        }
        size /= 2;
    }
}

fn drop_objects(world: &mut World, fails: &impl Fn(&World) -> bool) -> bool {
    let before = world.objects.len();
    for index in (0..before).rev() {
        let mut candidate = world.clone();
        candidate.objects.remove(index);
        if fails(&candidate) {
            *world = candidate;
        }
    }
    world.objects.len() < before
}

fn drop_parts(world: &mut World, fails: &impl Fn(&World) -> bool) -> bool {
    let mut dropped = false;
    for index in 0..world.objects.len() {
        let mut paths = Vec::new();
        parts(&world.objects[index], &mut Vec::new(), &mut paths);
        // the deepest and last ones first, so that the paths found stay valid
        for path in paths.iter().rev() {
            let mut candidate = world.clone();
            remove(&mut candidate.objects[index], path);
            if fails(&candidate) {
                *world = candidate;
                dropped = true;
            }
        }
    }
    dropped
}

/// Paths of entries that can go without making the object one of another sort: of lists, and of maps of labels.
fn parts(value: &Value, here: &mut Vec<String>, paths: &mut Vec<Vec<String>>) {
    let of_labels = matches!(
        here.last().map(String::as_str),
        Some("labels" | "matchLabels")
    );
    let of_a_list = !matches!(
        here.last().map(String::as_str),
        Some("values" | "policyTypes" | "podIPs" | "addresses" | "containers")
    );
    let entries: Vec<(String, &Value, bool)> = match value {
        Value::Array(values) => values
            .iter()
            .enumerate()
            .map(|(index, value)| (index.to_string(), value, of_a_list))
            .collect(),
        Value::Object(fields) => fields
            .iter()
            .map(|(key, value)| (key.clone(), value, of_labels))
            .collect(),
        _ => Vec::new(),
    };
    for (key, value, removable) in entries {
        here.push(key);
        if removable {
            paths.push(here.clone());
        }
        parts(value, here, paths);
        here.pop();
    }
}

fn remove(object: &mut Value, path: &[String]) {
    let Some((last, parents)) = path.split_last() else {
        return;
    };
    let mut value = object;
    for key in parents {
        value = match value {
            Value::Array(values) => {
                &mut values[key.parse::<usize>().expect("lists are walked by number")]
            }
            other => &mut other[key.as_str()],
        };
    }
    match value {
        Value::Array(values) => {
            values.remove(last.parse().expect("lists are walked by number"));
        }
        Value::Object(fields) => {
            fields.shift_remove(last);
        }
        _ => {}
    }
}
