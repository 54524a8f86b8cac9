//! A value that copies share: a snapshot copies nothing, and a change copies all of it.
//!
//! For small values; of a hundred thousand entries one changes, and those stand in an [`imbl::OrdMap`], which copies the way to that one.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_value_is_copied_when_it_changes() {
        let one = Shared::<Vec<u8>>::default();
        let mut other = one.clone();
        assert!(one.is(&other));
        other.push(1);
        assert!(!one.is(&other));
        assert_eq!((one.len(), other.len()), (0, 1));
    }
}
