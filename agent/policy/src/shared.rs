//! Values that copies share: a snapshot copies nothing, and a change copies only what it touches.
//!
//! [`Shared`] is one value, copied as a whole when it changes. [`SharedMap`] is for a hundred thousand entries of which one changes:
//!
//! ```text
//! map ── leaves ─┬─ a b c ─┐            a change of `e` copies one leaf and the list of leaves;
//! copy ─ leaves ─┼─ d e f  ├─ shared     what both maps share is neither copied nor compared
//!                └─ g h i ─┘
//! ```
//! Invariant of the map: keys ascend within a leaf and from leaf to leaf, and no leaf is empty or longer than `LONGEST`.

use std::borrow::Borrow;
use std::fmt;
use std::ops::{Deref, DerefMut, Index};
use std::sync::Arc;

/// A leaf that would be longer is cut in two.
const LONGEST: usize = 256;

/// A value that its copies share until one of them changes.
#[derive(Default, PartialEq, Eq)]
pub struct Shared<T>(Arc<T>);

impl<T> Shared<T> {
    /// Whether both are copies of one value that nobody has changed since. `false` says nothing: equal values may have come by different ways.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Clone> DerefMut for Shared<T> {
    fn deref_mut(&mut self) -> &mut T {
        Arc::make_mut(&mut self.0)
    }
}

impl<T: fmt::Debug> fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

type Leaf<K, V> = Arc<Vec<(K, V)>>;

/// An ordered map whose copies share what is equal in them.
pub struct SharedMap<K, V> {
    leaves: Arc<Vec<Leaf<K, V>>>,
    len: usize,
}

/// An entry that differs between two maps: key, before, after. One of the two is there.
pub type Difference<'a, K, V> = (&'a K, Option<&'a V>, Option<&'a V>);

impl<K, V> SharedMap<K, V> {
    /// Whether both are copies of one map that nobody has changed since. `false` says nothing: equal maps may have come by different ways.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.leaves, &other.leaves)
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All entries, by key.
    #[must_use]
    pub fn iter(&self) -> Iter<'_, K, V> {
        Iter {
            leaves: self.leaves.iter(),
            entries: [].iter(),
        }
    }

    /// All keys, ascending.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    /// All values, by key.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }
}

impl<K: Ord, V> SharedMap<K, V> {
    /// The value of a key.
    #[must_use]
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let leaf = &self.leaves[self.leaf(key)?];
        let at = leaf.binary_search_by(|(of, _)| of.borrow().cmp(key)).ok()?;
        Some(&leaf[at].1)
    }

    /// Whether a key is there.
    #[must_use]
    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get(key).is_some()
    }

    /// What differs from `old`, by key. Costs what differs and the number of leaves, not the number of entries.
    #[must_use]
    pub fn differences<'a>(&'a self, old: &'a Self) -> Vec<Difference<'a, K, V>>
    where
        V: PartialEq,
    {
        let mut found = Vec::new();
        let (mut before, mut after) = (Cursor::new(old), Cursor::new(self));
        loop {
            if let (Some(a), Some(b)) = (before.whole_leaf(), after.whole_leaf())
                && Arc::ptr_eq(a, b)
            {
                before.skip_leaf();
                after.skip_leaf();
                continue;
            }
            let order = match (before.entry(), after.entry()) {
                (None, None) => return found,
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some((a, _)), Some((b, _))) => a.cmp(b),
            };
            let gone = before.entry().filter(|_| order.is_le());
            let new = after.entry().filter(|_| order.is_ge());
            if let Some((key, _)) = new.or(gone)
                && new.map(|(_, value)| value) != gone.map(|(_, value)| value)
            {
                found.push((key, gone.map(|(_, v)| v), new.map(|(_, v)| v)));
            }
            if gone.is_some() {
                before.next_entry();
            }
            if new.is_some() {
                after.next_entry();
            }
        }
    }

    /// The only leaf that may hold a key: the last one that does not begin behind it.
    fn leaf<Q: Ord + ?Sized>(&self, key: &Q) -> Option<usize>
    where
        K: Borrow<Q>,
    {
        let behind = self
            .leaves
            .partition_point(|leaf| leaf[0].0.borrow() <= key);
        behind.checked_sub(1)
    }
}

impl<K: Ord + Clone, V: Clone> SharedMap<K, V> {
    /// Puts an entry in; returns the value that the key had.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let number = self.leaf(&key).unwrap_or(0);
        let leaves = Arc::make_mut(&mut self.leaves);
        let Some(leaf) = leaves.get_mut(number) else {
            leaves.push(Arc::new(vec![(key, value)]));
            self.len = 1;
            return None;
        };
        let leaf = Arc::make_mut(leaf);
        match leaf.binary_search_by(|(of, _)| of.cmp(&key)) {
            Ok(at) => return Some(std::mem::replace(&mut leaf[at].1, value)),
            Err(at) => leaf.insert(at, (key, value)),
        }
        if leaf.len() > LONGEST {
            // Keys that come in their order leave full leaves behind.
            let is_last = number + 1 == leaves.len();
            let leaf = Arc::make_mut(&mut leaves[number]);
            let half = if is_last { LONGEST } else { LONGEST / 2 };
            let rest = Arc::new(leaf.split_off(half));
            leaves.insert(number + 1, rest);
        }
        self.len += 1;
        None
    }

    /// Takes an entry out; returns its value.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let number = self.leaf(key)?;
        // Nothing is copied for what is not there.
        let at = self.leaves[number]
            .binary_search_by(|(of, _)| of.borrow().cmp(key))
            .ok()?;
        let leaves = Arc::make_mut(&mut self.leaves);
        let leaf = Arc::make_mut(&mut leaves[number]);
        let (_, value) = leaf.remove(at);
        if leaf.is_empty() {
            leaves.remove(number);
        }
        self.len -= 1;
        Some(value)
    }

    /// Takes out the entries that `keeps` says no of.
    pub fn retain(&mut self, mut keeps: impl FnMut(&K, &V) -> bool) {
        let entries = self.iter().filter(|(key, value)| !keeps(key, value));
        let gone: Vec<K> = entries.map(|(key, _)| key.clone()).collect();
        for key in &gone {
            self.remove(key);
        }
    }
}

/// A place in a map.
struct Cursor<'a, K, V> {
    leaves: &'a [Leaf<K, V>],
    at: usize,
}

impl<'a, K, V> Cursor<'a, K, V> {
    fn new(map: &'a SharedMap<K, V>) -> Self {
        Self {
            leaves: &map.leaves,
            at: 0,
        }
    }

    /// The leaf that begins here.
    fn whole_leaf(&self) -> Option<&'a Leaf<K, V>> {
        self.leaves.first().filter(|_| self.at == 0)
    }

    fn skip_leaf(&mut self) {
        self.leaves = &self.leaves[1..];
        self.at = 0;
    }

    fn entry(&self) -> Option<&'a (K, V)> {
        Some(&self.leaves.first()?[self.at])
    }

    fn next_entry(&mut self) {
        self.at += 1;
        if self
            .leaves
            .first()
            .is_some_and(|leaf| leaf.len() == self.at)
        {
            self.skip_leaf();
        }
    }
}

/// Entries of a map, by key.
pub struct Iter<'a, K, V> {
    leaves: std::slice::Iter<'a, Leaf<K, V>>,
    entries: std::slice::Iter<'a, (K, V)>,
}

impl<'a, K, V> Iterator for Iter<'a, K, V> {
    type Item = (&'a K, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((key, value)) = self.entries.next() {
                return Some((key, value));
            }
            self.entries = self.leaves.next()?.iter();
        }
    }
}

impl<'a, K, V> IntoIterator for &'a SharedMap<K, V> {
    type Item = (&'a K, &'a V);
    type IntoIter = Iter<'a, K, V>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<K, V> Default for SharedMap<K, V> {
    fn default() -> Self {
        Self {
            leaves: Arc::default(),
            len: 0,
        }
    }
}

impl<K, V> Clone for SharedMap<K, V> {
    fn clone(&self) -> Self {
        Self {
            leaves: Arc::clone(&self.leaves),
            len: self.len,
        }
    }
}

impl<K: PartialEq, V: PartialEq> PartialEq for SharedMap<K, V> {
    fn eq(&self, other: &Self) -> bool {
        // Two ways to the same entries may have cut them into leaves differently.
        self.len == other.len && self.iter().eq(other)
    }
}

impl<K: Eq, V: Eq> Eq for SharedMap<K, V> {}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for SharedMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self).finish()
    }
}

impl<K: Ord + Clone, V: Clone> Extend<(K, V)> for SharedMap<K, V> {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, entries: I) {
        for (key, value) in entries {
            self.insert(key, value);
        }
    }
}

impl<K: Ord + Clone, V: Clone> FromIterator<(K, V)> for SharedMap<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut map = Self::default();
        map.extend(entries);
        map
    }
}

impl<K: Ord + Borrow<Q>, V, Q: Ord + ?Sized> Index<&Q> for SharedMap<K, V> {
    type Output = V;

    fn index(&self, key: &Q) -> &V {
        self.get(key)
            .expect("an index is only used for a key that is there")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Entries that come and go: more keys than fit into three leaves.
    fn edits(most: usize) -> impl Strategy<Value = Vec<(u16, Option<u8>)>> {
        let edit = (0_u16..700, prop::option::weighted(0.7, 0_u8..4));
        prop::collection::vec(edit, 0..most)
    }

    fn edit(
        map: &mut SharedMap<u16, u8>,
        plain: &mut BTreeMap<u16, u8>,
        edits: &[(u16, Option<u8>)],
    ) {
        for (key, value) in edits {
            match value {
                Some(value) => assert_eq!(map.insert(*key, *value), plain.insert(*key, *value)),
                None => assert_eq!(map.remove(key), plain.remove(key)),
            }
        }
    }

    fn check(map: &SharedMap<u16, u8>, plain: &BTreeMap<u16, u8>) {
        assert!(map.iter().eq(plain.iter()));
        assert_eq!((map.len(), map.is_empty()), (plain.len(), plain.is_empty()));
        for key in 0..700 {
            assert_eq!(map.get(&key), plain.get(&key));
        }
        for leaf in map.leaves.iter() {
            assert!((1..=LONGEST).contains(&leaf.len()));
        }
    }

    fn differences(old: &BTreeMap<u16, u8>, new: &BTreeMap<u16, u8>) -> Vec<String> {
        (0..700)
            .map(|key| (key, old.get(&key), new.get(&key)))
            .filter(|(_, old, new)| old != new)
            .map(|difference| format!("{difference:?}"))
            .collect()
    }

    #[test]
    fn a_change_copies_one_leaf() {
        let map: SharedMap<u16, u8> = (0..2000).map(|key| (key, 0)).collect();
        let mut other = map.clone();
        assert!(map.is(&other));
        other.insert(700, 1);
        let copied = std::iter::zip(map.leaves.iter(), other.leaves.iter())
            .filter(|(a, b)| !Arc::ptr_eq(a, b));
        assert_eq!(copied.count(), 1);
        assert!(!map.is(&other));
        assert_eq!(map[&700], 0);
        other.retain(|key, _| *key < 1000);
        assert!(other.keys().copied().eq(0..1000));
    }

    #[test]
    fn taking_out_what_is_not_there_copies_nothing() {
        let map: SharedMap<u16, u8> = (0..2000).map(|key| (key, 0)).collect();
        let mut other = map.clone();
        assert_eq!(other.remove(&5000), None);
        other.retain(|_, _| true);
        assert!(map.is(&other));
    }

    #[test]
    fn a_shared_value_is_copied_when_it_changes() {
        let one = Shared::<Vec<u8>>::default();
        let mut other = one.clone();
        assert!(one.is(&other));
        other.push(1);
        assert!(!one.is(&other));
        assert_eq!((one.len(), other.len()), (0, 1));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

        #[test]
        fn a_shared_map_is_an_ordered_map(first in edits(900), then in edits(200)) {
            let (mut map, mut plain) = (SharedMap::default(), BTreeMap::new());
            edit(&mut map, &mut plain, &first);
            check(&map, &plain);
            let (old, old_plain) = (map.clone(), plain.clone());
            edit(&mut map, &mut plain, &then);
            check(&map, &plain);
            check(&old, &old_plain);
            let told: Vec<String> = map.differences(&old).iter().map(|difference| format!("{difference:?}")).collect();
            prop_assert_eq!(told, differences(&old_plain, &plain));
            prop_assert_eq!(map == old, plain == old_plain);
        }
    }
}
