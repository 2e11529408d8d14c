//! What results say by name.
//!
//! A busy window gives thousands of results at once, with the same key as the time before and with the same names of values: what does
//! not change is shared between results, so that one more of them costs its numbers alone.

use std::{
    collections::BTreeMap,
    ops::{Deref, Index},
    sync::Arc,
};

use serde::{Deserialize, Serialize, Serializer};

use super::Number;

/// Facts by name, shared between copies.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Named<V>(Arc<BTreeMap<Arc<str>, V>>);

/// The values of the grouping tags, by tag name.
pub type Key = Named<Option<Arc<str>>>;

impl<V> Named<V> {
    /// Nothing.
    pub fn new() -> Self {
        Self(Arc::default())
    }
}

impl<V> Default for Named<V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<V> Deref for Named<V> {
    type Target = BTreeMap<Arc<str>, V>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl<V> FromIterator<(Arc<str>, V)> for Named<V> {
    fn from_iter<I: IntoIterator<Item = (Arc<str>, V)>>(facts: I) -> Self {
        Self(Arc::new(facts.into_iter().collect()))
    }
}

impl<V, const N: usize> From<[(Arc<str>, V); N]> for Named<V> {
    fn from(facts: [(Arc<str>, V); N]) -> Self {
        facts.into_iter().collect()
    }
}

/// Numbers by name, in the order of the names.
#[derive(Debug, Clone, PartialEq)]
pub struct Values {
    names: Arc<[Arc<str>]>,
    numbers: Box<[Number]>,
}

impl Values {
    /// The numbers that belong to `names`, which rise; as many of each.
    pub fn new(names: &Arc<[Arc<str>]>, numbers: impl Iterator<Item = Number>) -> Self {
        Self { names: Arc::clone(names), numbers: numbers.collect() }
    }

    /// The number called `name`.
    pub fn get(&self, name: &str) -> Option<&Number> {
        let at = self.names.iter().position(|known| **known == *name)?;
        self.numbers.get(at)
    }

    /// Names and numbers, by name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&Arc<str>, &Number)> {
        self.names.iter().zip(&self.numbers)
    }
}

impl Index<&str> for Values {
    type Output = Number;

    /// The number called `name`; panics if there is none.
    fn index(&self, name: &str) -> &Number {
        self.get(name).unwrap_or_else(|| panic!("no value is called `{name}`"))
    }
}

impl Serialize for Values {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_map(self.iter())
    }
}
