//! The objects of one kind by name, and an index over them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use super::ObjectKey;

/// What a kind is looked up by, besides its name.
pub(crate) trait Stored: PartialEq {
    /// What the index is ordered by.
    type Index: Ord + Clone + fmt::Debug;

    /// Under which entries of the index an object is found.
    fn index(key: &ObjectKey, object: &Self) -> BTreeSet<Self::Index>;
}

/// The objects of one kind, and an index over them.
///
/// Both are flat: a change copies them while a view holds the old ones, and ten thousand pods must not mean ten thousand allocations.
#[derive(Debug)]
pub(crate) struct Store<T: Stored> {
    objects: BTreeMap<ObjectKey, Arc<T>>,
    index: BTreeSet<(T::Index, ObjectKey)>,
}

impl<T: Stored> Store<T> {
    pub(crate) fn get(&self, key: &ObjectKey) -> Option<&T> {
        self.objects.get(key).map(|object| &**object)
    }

    pub(crate) fn get_key_value(&self, key: &ObjectKey) -> Option<(&ObjectKey, &T)> {
        self.objects.get_key_value(key).map(|(key, object)| (key, &**object))
    }

    pub(crate) fn len(&self) -> usize {
        self.objects.len()
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.objects.is_empty() && self.index.is_empty()
    }

    /// All objects by namespace and name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&ObjectKey, &T)> {
        self.objects.iter().map(|(key, object)| (key, &**object))
    }

    /// The objects of a namespace by name.
    pub(crate) fn in_namespace(&self, namespace: &str) -> impl Iterator<Item = (&ObjectKey, &T)> {
        let first = ObjectKey::new(namespace, "");
        let namespace = first.namespace.clone();
        self.objects.range(first..).take_while(move |(key, _)| key.namespace == namespace).map(|(key, object)| (key, &**object))
    }

    /// The objects under an entry of the index, by namespace and name.
    pub(crate) fn by_index(&self, entry: &T::Index) -> impl Iterator<Item = (&ObjectKey, &T)> {
        let entry = entry.clone();
        let first = (entry.clone(), ObjectKey::new("", ""));
        let keys = self.index.range(first..).take_while(move |(found, _)| *found == entry);
        keys.filter_map(|(_, key)| self.get_key_value(key))
    }

    pub(super) fn insert(&mut self, key: ObjectKey, object: T) {
        self.remove(&key);
        self.index.extend(T::index(&key, &object).into_iter().map(|entry| (entry, key.clone())));
        self.objects.insert(key, Arc::new(object));
    }

    pub(super) fn remove(&mut self, key: &ObjectKey) -> bool {
        let Some(object) = self.objects.remove(key) else {
            return false;
        };
        for entry in T::index(key, &object) {
            self.index.remove(&(entry, key.clone()));
        }
        true
    }
}

// Not derived: a derive would ask for `T: Clone` and `T: Default`, although only pointers are copied.
impl<T: Stored> Clone for Store<T> {
    fn clone(&self) -> Self {
        Self { objects: self.objects.clone(), index: self.index.clone() }
    }
}

impl<T: Stored> Default for Store<T> {
    fn default() -> Self {
        Self { objects: BTreeMap::new(), index: BTreeSet::new() }
    }
}
