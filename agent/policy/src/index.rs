//! Who matches which selector, for the selectors that matter on this node.
//!
//! ```text
//! selectors in use -> the labels that they ask about
//! workload -> its labels among those -> group -> selectors that hold
//! ```
//! Workloads that no selector in use can tell apart form one group, and each group is evaluated once, against the few selectors whose namespace and
//! first listed value fit: the cost follows the rules of this node, not the size of the cluster. Groups are kept from one compilation to the next. A
//! label that is asked about for the first time regroups the workloads that have it; one that nobody asks about any more only leaves groups finer than
//! they need to be, until there are too many of those.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::asked::AtomIx;
use crate::model::{Labels, NamespaceScope, PodSelector, Requirement, Workload};

/// Number of a group; the numbers of groups that are gone are used again.
pub(crate) type GroupIx = u32;

/// A label key and one of its listed values, as numbers; value 0 stands for every value that no selector lists.
type Pair = (u32, u32);

/// Selectors by a pair that they require; `None` = no such condition.
type ByPair = BTreeMap<Option<Pair>, Vec<(Arc<PodSelector>, AtomIx)>>;

/// Labels that are listed beyond those that are asked about, before everything is grouped anew.
const SPARE: usize = 256;

/// Groups of workloads and the selectors that hold for them.
#[derive(Default)]
pub(crate) struct Index {
    keys: BTreeMap<String, Key>,
    /// Selectors that look everywhere, and those that name their namespace.
    anywhere: ByPair,
    named: BTreeMap<String, ByPair>,
    numbers: BTreeMap<String, BTreeMap<Vec<Pair>, GroupIx>>,
    groups: Vec<Group>,
    free: Vec<GroupIx>,
}

/// A label key that is asked about.
#[derive(Default)]
struct Key {
    number: u32,
    values: BTreeMap<String, u32>,
}

#[derive(Default)]
struct Group {
    namespace: String,
    pairs: Vec<Pair>,
    members: usize,
    holding: Vec<AtomIx>,
}

/// Labels that were not asked about before: who has one of them has to be grouped again.
pub(crate) enum News {
    /// Everybody has to be.
    Everything,
    /// Keys, and values of keys that were known.
    Labels(BTreeSet<String>, BTreeMap<String, BTreeSet<String>>),
}

impl News {
    /// Whether a workload may be in another group now.
    pub(crate) fn concern(&self, labels: &Labels) -> bool {
        match self {
            Self::Everything => true,
            Self::Labels(keys, values) => {
                keys.iter().any(|key| labels.contains_key(key))
                    || values.iter().any(|(key, values)| {
                        labels.get(key).is_some_and(|value| values.contains(value))
                    })
            }
        }
    }

    /// Whether there is nothing new.
    pub(crate) fn is_none(&self) -> bool {
        matches!(self, Self::Labels(keys, values) if keys.is_empty() && values.is_empty())
    }
}

impl Index {
    /// Takes in other selectors. Nobody is evaluated yet: the caller moves those whom the news concern, then calls [`Index::evaluate_again`].
    pub(crate) fn set_selectors(&mut self, selectors: &BTreeMap<Arc<PodSelector>, AtomIx>) -> News {
        let news = self.learn(selectors.keys());
        self.anywhere.clear();
        self.named.clear();
        for (selector, atom) in selectors {
            let required = self.required(selector);
            let shelf = match &selector.namespaces {
                NamespaceScope::Named(name) => self.named.entry(name.clone()).or_default(),
                NamespaceScope::Selected(_) => &mut self.anywhere,
            };
            for pair in required {
                let entry = (Arc::clone(selector), *atom);
                shelf.entry(pair).or_default().push(entry);
            }
        }
        news
    }

    /// The group of a workload, which is one of its members from now on.
    pub(crate) fn join(
        &mut self,
        workload: &Workload,
        namespaces: &BTreeMap<String, Labels>,
    ) -> GroupIx {
        let pairs = self.pairs(&workload.labels);
        let known = self
            .numbers
            .get(&workload.namespace)
            .and_then(|numbers| numbers.get(&pairs));
        if let Some(number) = known {
            self.groups[*number as usize].members += 1;
            return *number;
        }
        let group = Group {
            namespace: workload.namespace.clone(),
            holding: self.evaluate(workload, &pairs, namespaces),
            pairs: pairs.clone(),
            members: 1,
        };
        let number = if let Some(number) = self.free.pop() {
            self.groups[number as usize] = group;
            number
        } else {
            self.groups.push(group);
            self.groups.len() as GroupIx - 1
        };
        let numbers = self.numbers.entry(workload.namespace.clone()).or_default();
        numbers.insert(pairs, number);
        number
    }

    /// A member leaves.
    pub(crate) fn leave(&mut self, number: GroupIx) {
        let group = &mut self.groups[number as usize];
        group.members -= 1;
        if group.members > 0 {
            return;
        }
        let group = std::mem::take(group);
        self.free.push(number);
        if let Some(numbers) = self.numbers.get_mut(&group.namespace) {
            numbers.remove(&group.pairs);
            if numbers.is_empty() {
                self.numbers.remove(&group.namespace);
            }
        }
    }

    /// Evaluates groups again, by one member each: those in `within`, or all.
    pub(crate) fn evaluate_again<'w>(
        &mut self,
        members: impl Iterator<Item = (&'w Workload, GroupIx)>,
        namespaces: &BTreeMap<String, Labels>,
        within: Option<&BTreeSet<&str>>,
    ) {
        let mut done = vec![false; self.groups.len()];
        if let Some(within) = within {
            for (done, group) in done.iter_mut().zip(&self.groups) {
                *done = !within.contains(group.namespace.as_str());
            }
        }
        for (workload, number) in members {
            let number = number as usize;
            if !std::mem::replace(&mut done[number], true) {
                let holding = self.evaluate(workload, &self.groups[number].pairs, namespaces);
                self.groups[number].holding = holding;
            }
        }
    }

    /// The selectors that hold for a group, ascending.
    pub(crate) fn holding(&self, group: GroupIx) -> &[AtomIx] {
        &self.groups[group as usize].holding
    }

    /// Whether nobody was in the group before its last member.
    pub(crate) fn is_new(&self, group: GroupIx) -> bool {
        self.groups[group as usize].members == 1
    }

    /// Gives numbers to labels that are asked about for the first time.
    fn learn<'s>(&mut self, selectors: impl Iterator<Item = &'s Arc<PodSelector>>) -> News {
        let mut asked: BTreeMap<&str, BTreeSet<&String>> = BTreeMap::new();
        for requirement in selectors.flat_map(|selector| &selector.pods.0) {
            let values = asked.entry(requirement.key()).or_default();
            values.extend(requirement.values());
        }
        let count = asked.values().map(BTreeSet::len).sum::<usize>() + asked.len();
        let listed = self
            .keys
            .values()
            .map(|key| key.values.len())
            .sum::<usize>();
        let mut news = if listed + self.keys.len() > 2 * count + SPARE {
            *self = Self::default();
            News::Everything
        } else {
            News::Labels(BTreeSet::new(), BTreeMap::new())
        };
        for (name, values) in asked {
            let known = self.keys.contains_key(name);
            if !known {
                let number = self.keys.len() as u32;
                let key = Key {
                    number,
                    values: BTreeMap::new(),
                };
                self.keys.insert(name.to_owned(), key);
                if let News::Labels(keys, _) = &mut news {
                    keys.insert(name.to_owned());
                }
            }
            let Some(key) = self.keys.get_mut(name) else {
                continue;
            };
            for value in values {
                if key.values.contains_key(value) {
                    continue;
                }
                let number = key.values.len() as u32 + 1;
                key.values.insert(value.clone(), number);
                if let (true, News::Labels(_, values)) = (known, &mut news) {
                    let values = values.entry(name.to_owned()).or_default();
                    values.insert(value.clone());
                }
            }
        }
        news
    }

    fn pairs(&self, labels: &Labels) -> Vec<Pair> {
        let mut pairs = Vec::new();
        for (key, value) in labels {
            if let Some(key) = self.keys.get(key) {
                let value = key.values.get(value).copied().unwrap_or(0);
                pairs.push((key.number, value));
            }
        }
        pairs
    }

    /// The pairs one of which a workload must have: those of the first `In`.
    fn required(&self, selector: &PodSelector) -> Vec<Option<Pair>> {
        let first_in = selector
            .pods
            .0
            .iter()
            .find_map(|requirement| match requirement {
                Requirement::In(key, values) => Some((&self.keys[key], values)),
                _ => None,
            });
        let Some((key, values)) = first_in else {
            return vec![None];
        };
        let mut pairs: Vec<Option<Pair>> = values
            .iter()
            .map(|value| Some((key.number, key.values[value])))
            .collect();
        pairs.sort_unstable();
        pairs.dedup();
        pairs
    }

    fn evaluate(
        &self,
        workload: &Workload,
        pairs: &[Pair],
        namespaces: &BTreeMap<String, Labels>,
    ) -> Vec<AtomIx> {
        let mut holding = Vec::new();
        let shelves = [Some(&self.anywhere), self.named.get(&workload.namespace)];
        for shelf in shelves.into_iter().flatten() {
            for pair in pairs.iter().copied().map(Some).chain([None]) {
                let candidates = shelf.get(&pair).into_iter().flatten();
                holding.extend(
                    candidates
                        .filter(|(selector, _)| selector.selects(workload, namespaces))
                        .map(|(_, atom)| *atom),
                );
            }
        }
        holding.sort_unstable();
        holding
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Fixture, pod, pods_where};
    use crate::model::{Peer, World};

    fn world() -> World {
        Fixture::on("n1")
            .namespace("b", "team=red")
            .pod(pod("b/x-0").label("app", "x").label("pod-name", "x-0"))
            .pod(pod("b/x-1").label("app", "x").label("pod-name", "x-1"))
            .pod(pod("b/y-0").label("app", "y").label("pod-name", "y-0"))
            .world()
    }

    fn numbered(peers: &[Peer]) -> BTreeMap<Arc<PodSelector>, AtomIx> {
        let selectors = peers.iter().filter_map(|peer| match peer {
            Peer::Pods(selector) => Some(Arc::new(selector.clone())),
            Peer::Cidr { .. } => None,
        });
        selectors.zip(10..).collect()
    }

    #[test]
    fn workloads_that_differ_in_unasked_labels_share_a_group() {
        let world = world();
        let mut index = Index::default();
        let peers = [pods_where("team=red", "app=x"), pods_where("", "pod-name")];
        index.set_selectors(&numbered(&peers));
        let mut group = |name: &str| {
            let group = index.join(&world.workloads[name], &world.namespaces);
            (group, index.is_new(group), index.holding(group).to_vec())
        };
        let x = group("b/x-0");
        assert_eq!((x.1, &x.2[..]), (true, &[10, 11][..]));
        assert_eq!(group("b/x-1"), (x.0, false, x.2));
        let y = group("b/y-0");
        assert_ne!(y.0, x.0);
        assert_eq!((y.1, &y.2[..]), (true, &[11][..]));
    }

    #[test]
    fn labels_that_are_asked_about_for_the_first_time_concern_those_who_have_them() {
        let world = world();
        let mut index = Index::default();
        index.set_selectors(&numbered(&[pods_where("", "app=x")]));
        let mut concerned = |peers: &[Peer]| -> Vec<&str> {
            let news = index.set_selectors(&numbered(peers));
            let workloads = world.workloads.values();
            workloads
                .filter(|workload| news.concern(&workload.labels))
                .map(|workload| workload.name.as_str())
                .collect()
        };
        assert_eq!(concerned(&[pods_where("", "app=x,y")]), ["y-0"]);
        assert!(concerned(&[pods_where("", "app=z app")]).is_empty());
        assert_eq!(concerned(&[pods_where("", "pod-name")]).len(), 3);
        assert!(concerned(&[pods_where("", "pod-name app=x")]).is_empty());
        // Too many that nobody asks about any more.
        let many: Vec<String> = (0..SPARE + 8).map(|value| format!("v{value}")).collect();
        concerned(&[pods_where("", &format!("other={}", many.join(",")))]);
        assert_eq!(concerned(&[pods_where("", "app=x")]).len(), 3);
    }

    #[test]
    fn a_group_without_members_is_gone_and_its_number_another_s() {
        let world = world();
        let mut index = Index::default();
        index.set_selectors(&numbered(&[pods_where("", "app=x")]));
        let x = index.join(&world.workloads["b/x-0"], &world.namespaces);
        index.leave(x);
        let y = index.join(&world.workloads["b/y-0"], &world.namespaces);
        assert!(index.is_new(y) && index.holding(y).is_empty());
        assert_eq!((x, index.numbers.len(), index.groups.len()), (y, 1, 1));
    }
}
