//! What a check finds: a field and a sentence. The reader of manifests adds the place; a webhook can add the object.

use std::borrow::Cow;

/// One mistake in an object: which field, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Path of the field from the object's root, such as `spec.rules[0].timeouts.request`.
    pub field_path: Cow<'static, str>,
    /// What is wrong, in a lower-case sentence without a full stop.
    pub message: String,
}

/// A list of mistakes in the making, bounded: nobody reads the hundredth.
#[derive(Debug, Default)]
pub(crate) struct Mistakes(Vec<Mistake>);

/// Most mistakes reported of one object.
pub(crate) const MAX_MISTAKES: usize = 50;

impl Mistakes {
    pub(crate) fn add(&mut self, field_path: impl Into<Cow<'static, str>>, message: String) {
        if self.0.len() < MAX_MISTAKES {
            self.0.push(Mistake { field_path: field_path.into(), message });
        }
    }

    pub(crate) fn into_vec(self) -> Vec<Mistake> {
        self.0
    }
}
