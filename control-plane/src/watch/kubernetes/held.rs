//! What was last seen of one kind: what a list that begins anew means for the snapshot, and the mistakes that are still there.
//!
//! No object is held here, only its version: the snapshot has the objects.

use super::super::{Change, Problem, Severity};
use super::kinds::Kind;
use super::read::{Read, is_ours, problem, read};
use crate::snapshot::ObjectKey;
use heddle_crds::ObjectId;
use kube::core::DynamicObject;
use kube::runtime::watcher::Event;
use std::collections::{BTreeMap, BTreeSet};

/// One kind.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) kind: &'static Kind,
    /// The version that is watched; `None`: the kind is not served.
    pub(super) version: Option<&'static str>,
    /// How often in a row it was said not to be served, while it is watched.
    pub(super) absences: u32,
    /// Why it cannot be listed.
    pub(super) trouble: Option<Problem>,
    seen: BTreeMap<ObjectKey, Seen>,
    /// While a list is under way: what was seen and not listed yet.
    missing: Option<BTreeSet<ObjectKey>>,
    is_whole: bool,
    changes: BTreeMap<ObjectKey, Change>,
    problems: BTreeMap<ObjectKey, Vec<Problem>>,
}

/// An object as it was last seen.
#[derive(Debug)]
struct Seen {
    /// Its `resourceVersion`.
    version: Box<str>,
    /// Whether the snapshot has it, in this version or an earlier one.
    in_force: bool,
}

impl Held {
    /// Nothing was seen, and nothing is watched.
    pub(super) fn new(kind: &'static Kind) -> Self {
        Self {
            kind,
            version: None,
            absences: 0,
            trouble: None,
            seen: BTreeMap::new(),
            missing: None,
            is_whole: false,
            changes: BTreeMap::new(),
            problems: BTreeMap::new(),
        }
    }

    /// Whether nothing more is to be waited for before the first answers are given.
    pub(super) fn is_whole(&self) -> bool {
        self.version.is_none() || self.is_whole
    }

    /// Takes in what the watch says.
    pub(super) fn take(&mut self, event: Event<DynamicObject>) {
        match event {
            Event::Init => self.missing = Some(self.seen.keys().cloned().collect()),
            Event::InitApply(object) => {
                let key = key_of(&object);
                if let Some(missing) = &mut self.missing {
                    missing.remove(&key);
                }
                let version = object.metadata.resource_version.as_deref().unwrap_or_default();
                // Nearly all of what is listed again has not changed.
                if self.seen.get(&key).is_none_or(|seen| *seen.version != *version) {
                    self.apply(key, object);
                }
            }
            Event::InitDone => {
                self.missing.take().into_iter().flatten().for_each(|key| self.delete(key));
                self.is_whole = true;
                self.trouble = None;
            }
            Event::Apply(object) => self.apply(key_of(&object), object),
            Event::Delete(object) => self.delete(key_of(&object)),
        }
    }

    /// The kind is not served any more: all of it is gone.
    pub(super) fn retire(&mut self) {
        let keys: Vec<_> = self.seen.keys().cloned().collect();
        keys.into_iter().for_each(|key| self.delete(key));
        (self.version, self.missing, self.trouble, self.is_whole, self.absences) = (None, None, None, false, 0);
    }

    /// What has changed since the last call. While a list is under way nothing is told: half of it never was a state of the cluster.
    pub(super) fn take_changes(&mut self) -> BTreeMap<ObjectKey, Change> {
        if self.missing.is_some() { BTreeMap::new() } else { std::mem::take(&mut self.changes) }
    }

    /// Everything that is wrong now.
    pub(super) fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.trouble.iter().chain(self.problems.values().flatten())
    }

    fn apply(&mut self, key: ObjectKey, object: DynamicObject) {
        let version = object.metadata.resource_version.as_deref().unwrap_or_default().into();
        if !is_ours(self.kind, &object) {
            // It may have been.
            self.delete(key.clone());
            self.seen.insert(key, Seen { version, in_force: false });
            return;
        }
        let Read { change, mut problems } = read(self.kind, self.version.unwrap_or_default(), &key, object);
        let was_in_force = self.seen.get(&key).is_some_and(|seen| seen.in_force);
        if change.is_none() && was_in_force {
            problems.push(problem(Severity::Note, self.kind, &key, "", "the last good version stays in force"));
        }
        self.seen.insert(key.clone(), Seen { version, in_force: was_in_force || change.is_some() });
        if problems.is_empty() {
            self.problems.remove(&key);
        } else {
            self.problems.insert(key.clone(), problems);
        }
        if let Some(change) = change {
            self.changes.insert(key, change);
        }
    }

    fn delete(&mut self, key: ObjectKey) {
        self.problems.remove(&key);
        if self.seen.remove(&key).is_some_and(|seen| seen.in_force) {
            let namespace = Some(key.namespace.to_string()).filter(|namespace| !namespace.is_empty());
            let id = ObjectId { kind: self.kind.name.to_owned(), namespace, name: key.name.to_string() };
            self.changes.insert(key, Change::Delete(id));
        }
    }
}

fn key_of(object: &DynamicObject) -> ObjectKey {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    ObjectKey::new(&text(&object.metadata.namespace), &text(&object.metadata.name))
}
