//! Reads a TOML document key by key, keeping the place of everything, and collects every fault instead of stopping at the first.
//!
//! A [`Section`] is asked for its keys one at a time. What was asked for is what is known: when the section is finished, each
//! key nobody asked for is a fault, with the nearest known key as the suggestion. So the list of keys stands in one place, the
//! code that reads them.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    fmt,
    ops::Range,
    rc::Rc,
};

use toml::de::{DeTable, DeValue};

/// One thing wrong with a configuration, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong, and what to do.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}: {}", self.line, self.column, self.message)
    }
}

/// Where in the text something stands, in bytes.
pub type Span = Range<usize>;

/// The faults found so far, shared by all sections of one document.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    found: Rc<RefCell<Vec<(Span, String)>>>,
    warnings: Rc<RefCell<Vec<(Span, String)>>>,
}

impl Faults {
    /// Notes a fault at `span`.
    pub fn add(&self, span: &Span, message: impl Into<String>) {
        self.found.borrow_mut().push((span.clone(), message.into()));
    }

    /// Notes something legal that is probably not meant.
    pub fn warn(&self, span: &Span, message: impl Into<String>) {
        self.warnings.borrow_mut().push((span.clone(), message.into()));
    }

    /// How many faults so far.
    pub fn count(&self) -> usize {
        self.found.borrow().len()
    }

    /// All faults in the order of the text, as places in it.
    pub fn faults(&self, text: &str) -> Vec<Fault> {
        located(text, &self.found.borrow())
    }

    /// All warnings in the order of the text.
    pub fn warnings(&self, text: &str) -> Vec<Fault> {
        located(text, &self.warnings.borrow())
    }
}

fn located(text: &str, found: &[(Span, String)]) -> Vec<Fault> {
    let mut sorted: Vec<&(Span, String)> = found.iter().collect();
    sorted.sort_by_key(|(span, _)| span.start);
    sorted
        .into_iter()
        .map(|(span, message)| {
            let mut start = span.start.min(text.len());
            while !text.is_char_boundary(start) {
                start -= 1;
            }
            let before = &text[..start];
            let line_start = before.rfind('\n').map_or(0, |at| at + 1);
            Fault {
                line: before.matches('\n').count() + 1,
                column: before[line_start..].chars().count() + 1,
                message: message.clone(),
            }
        })
        .collect()
}

/// Something read, with its place.
#[derive(Debug, Clone, PartialEq)]
pub struct At<T> {
    /// What.
    pub value: T,
    /// Where.
    pub span: Span,
}

/// A value of the document, not yet of any type.
#[derive(Clone)]
pub struct Value<'a> {
    inner: &'a DeValue<'a>,
    /// Where it stands.
    pub span: Span,
    path: String,
    /// Where faults go.
    pub faults: Faults,
}

/// A table of the document that is read key by key.
pub struct Section<'a> {
    entries: BTreeMap<String, (Span, Value<'a>)>,
    asked: RefCell<BTreeSet<String>>,
    finished: Cell<bool>,
    /// Where the table stands: its header.
    pub span: Span,
    /// Its dotted name, for messages.
    pub path: String,
    /// Where faults go.
    pub faults: Faults,
}

impl<'a> Section<'a> {
    /// The whole document.
    pub fn root(table: &'a DeTable<'a>, faults: &Faults) -> Self {
        Self::new(table, 0..0, String::new(), faults)
    }

    fn new(table: &'a DeTable<'a>, span: Span, path: String, faults: &Faults) -> Self {
        let entries = table
            .iter()
            .map(|(key, value)| {
                let name = key.get_ref().to_string();
                let child = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                let value = Value { inner: value.get_ref(), span: value.span(), path: child, faults: faults.clone() };
                (name, (key.span(), value))
            })
            .collect();
        Self { entries, asked: RefCell::default(), finished: Cell::new(false), span, path, faults: faults.clone() }
    }

    /// The value of `key`, if it is there; the key is known from now on.
    pub fn get(&self, key: &str) -> Option<Value<'a>> {
        self.asked.borrow_mut().insert(key.to_owned());
        self.entries.get(key).map(|(_, value)| value.clone())
    }

    /// Whether `key` is there.
    pub fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// Notes a fault at this section's header.
    pub fn fault(&self, message: impl Into<String>) {
        self.faults.add(&self.span, message);
    }

    /// Notes a fault at `key`, or at the header if it is not there.
    pub fn fault_at(&self, key: &str, message: impl Into<String>) {
        let span = self.entries.get(key).map_or(&self.span, |(_, value)| &value.span);
        self.faults.add(span, message);
    }

    /// The place of `key`'s value, or of the header.
    pub fn span_of(&self, key: &str) -> Span {
        self.entries.get(key).map_or(self.span.clone(), |(_, value)| value.span.clone())
    }

    /// The value of a key that must be there.
    pub fn required(&self, key: &str) -> Option<Value<'a>> {
        let value = self.get(key);
        if value.is_none() {
            let place = if self.path.is_empty() { "the document".to_owned() } else { format!("[{}]", self.path) };
            self.fault(format!("{place} needs `{key}`: add it"));
        }
        value
    }

    /// Text, or `default`.
    pub fn string_or(&self, key: &str, default: &str) -> String {
        self.get(key).and_then(|value| value.string()).unwrap_or_else(|| default.to_owned())
    }

    /// Text, if there.
    pub fn string(&self, key: &str) -> Option<String> {
        self.get(key).and_then(|value| value.string())
    }

    /// Text that must be there.
    pub fn required_string(&self, key: &str) -> Option<String> {
        self.required(key).and_then(|value| value.string())
    }

    /// A duration in nanoseconds, or `default_ns`.
    pub fn duration_or(&self, key: &str, default_ns: i64) -> i64 {
        self.get(key).and_then(|value| value.duration()).unwrap_or(default_ns)
    }

    /// A number, or `default`.
    pub fn number_or(&self, key: &str, default: f64) -> f64 {
        self.get(key).and_then(|value| value.number()).unwrap_or(default)
    }

    /// A whole number in `range`, or `default`.
    pub fn integer_or(&self, key: &str, default: i64, range: Range<i64>) -> i64 {
        self.get(key).and_then(|value| value.integer(range)).unwrap_or(default)
    }

    /// A count of bytes such as "20GB", or `default`.
    pub fn bytes_or(&self, key: &str, default: u64) -> u64 {
        self.get(key).and_then(|value| value.bytes()).unwrap_or(default)
    }

    /// True or false, or `default`.
    pub fn bool_or(&self, key: &str, default: bool) -> bool {
        self.get(key).and_then(|value| value.bool()).unwrap_or(default)
    }

    /// One of `choices` by name, or `default`.
    pub fn choice_or<T: Clone>(&self, key: &str, choices: &[(&str, T)], default: T) -> T {
        self.get(key).and_then(|value| value.choice(choices)).unwrap_or(default)
    }

    /// A list of texts; empty if not there.
    pub fn strings(&self, key: &str) -> Vec<At<String>> {
        self.get(key).map_or_else(Vec::new, |value| value.strings())
    }

    /// A sub-table, if there.
    pub fn section(&self, key: &str) -> Option<Section<'a>> {
        self.get(key).and_then(|value| value.section())
    }

    /// The sub-tables of a table of tables (`[streams.*]`), in the order of the text.
    pub fn sections(&self, key: &str) -> Vec<(At<String>, Section<'a>)> {
        let Some(table) = self.section(key) else { return Vec::new() };
        let children = table.rest().into_iter().filter_map(|(name, value)| Some((name, value.section()?))).collect();
        table.finish();
        children
    }

    /// Every entry, in the order of the text; all keys are known.
    pub fn rest(&self) -> Vec<(At<String>, Value<'a>)> {
        let mut all: Vec<_> = self
            .entries
            .iter()
            .map(|(name, (span, value))| (At { value: name.clone(), span: span.clone() }, value.clone()))
            .collect();
        self.asked.borrow_mut().extend(self.entries.keys().cloned());
        all.sort_by_key(|(name, _)| name.span.start);
        all
    }

    /// Reports the keys that nobody asked for.
    pub fn finish(&self) {
        self.finished.set(true);
        let asked = self.asked.borrow();
        for (name, (span, _)) in self.entries.iter().filter(|(name, _)| !asked.contains(*name)) {
            let place = if self.path.is_empty() { String::new() } else { format!(" in [{}]", self.path) };
            let hint = nearest(name, asked.iter().map(String::as_str))
                .map_or_else(|| "remove it".to_owned(), |known| format!("did you mean `{known}`?"));
            self.faults.add(span, format!("unknown key `{name}`{place}: {hint}"));
        }
    }
}

impl Drop for Section<'_> {
    fn drop(&mut self) {
        if !self.finished.get() {
            self.finish();
        }
    }
}

impl<'a> Value<'a> {
    fn wrong<T>(&self, wanted: &str) -> Option<T> {
        self.fault(format!("`{}` is {}: write {wanted}", self.path, type_name(self.inner)));
        None
    }

    /// Notes a fault at this value.
    pub fn fault(&self, message: impl Into<String>) {
        self.faults.add(&self.span, message);
    }

    /// Whether this is text.
    pub fn is_string(&self) -> bool {
        matches!(self.inner, DeValue::String(_))
    }

    /// Whether this is a table.
    pub fn is_table(&self) -> bool {
        matches!(self.inner, DeValue::Table(_))
    }

    /// Whether this is a list.
    pub fn is_array(&self) -> bool {
        matches!(self.inner, DeValue::Array(_))
    }

    /// Text.
    pub fn string(&self) -> Option<String> {
        match self.inner {
            DeValue::String(text) => Some(text.to_string()),
            _ => self.wrong("a text in quotes"),
        }
    }

    /// True or false.
    pub fn bool(&self) -> Option<bool> {
        match self.inner {
            DeValue::Boolean(value) => Some(*value),
            _ => self.wrong("true or false"),
        }
    }

    /// A finite number.
    pub fn number(&self) -> Option<f64> {
        let number = match self.inner {
            DeValue::Float(value) => value.as_str().replace('_', "").parse::<f64>().ok(),
            DeValue::Integer(value) => i64::from_str_radix(value.as_str(), value.radix()).ok().map(|value| value as f64),
            _ => None,
        };
        match number.filter(|number| number.is_finite()) {
            Some(number) => Some(number),
            None => self.wrong("a finite number"),
        }
    }

    /// A whole number in `range`.
    pub fn integer(&self, range: Range<i64>) -> Option<i64> {
        let DeValue::Integer(value) = self.inner else { return self.wrong("a whole number") };
        let value = i64::from_str_radix(value.as_str(), value.radix()).ok();
        match value.filter(|value| range.contains(value)) {
            Some(value) => Some(value),
            None => {
                self.fault(format!(
                    "`{}` is out of range: write a whole number from {} to {}",
                    self.path,
                    range.start,
                    range.end - 1
                ));
                None
            }
        }
    }

    /// A duration text, in nanoseconds.
    pub fn duration(&self) -> Option<i64> {
        let DeValue::String(text) = self.inner else { return self.wrong("a duration such as \"250ms\", \"5s\" or \"12h\"") };
        match super::units::duration_ns(text) {
            Ok(ns) => Some(ns),
            Err(why) => {
                self.fault(format!("`{}`: {why}", self.path));
                None
            }
        }
    }

    /// A size text or a plain number, in bytes.
    pub fn bytes(&self) -> Option<u64> {
        if let DeValue::Integer(_) = self.inner {
            return self.integer(0..i64::MAX).map(|bytes| bytes as u64);
        }
        let DeValue::String(text) = self.inner else { return self.wrong("a size such as \"20GB\" or \"512MiB\"") };
        match super::units::bytes(text) {
            Ok(bytes) => Some(bytes),
            Err(why) => {
                self.fault(format!("`{}`: {why}", self.path));
                None
            }
        }
    }

    /// One of `choices` by name.
    pub fn choice<T: Clone>(&self, choices: &[(&str, T)]) -> Option<T> {
        let text = self.string()?;
        if let Some((_, choice)) = choices.iter().find(|(name, _)| *name == text) {
            return Some(choice.clone());
        }
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let hint = nearest(&text, names.iter().copied()).map_or(String::new(), |near| format!(" (did you mean `{near}`?)"));
        self.fault(format!("`{}` cannot be `{text}`: write one of {}{hint}", self.path, names.join(", ")));
        None
    }

    /// The members of a list.
    pub fn items(&self) -> Vec<Value<'a>> {
        let DeValue::Array(array) = self.inner else {
            return self.wrong("a list in [ ]").unwrap_or_default();
        };
        array
            .iter()
            .enumerate()
            .map(|(at, item)| Value {
                inner: item.get_ref(),
                span: item.span(),
                path: format!("{}[{at}]", self.path),
                faults: self.faults.clone(),
            })
            .collect()
    }

    /// A list of texts.
    pub fn strings(&self) -> Vec<At<String>> {
        self.items().iter().filter_map(|item| Some(At { value: item.string()?, span: item.span.clone() })).collect()
    }

    /// Exactly `N` finite numbers.
    pub fn numbers<const N: usize>(&self) -> Option<[f64; N]> {
        let all: Vec<f64> = self.items().iter().filter_map(Value::number).collect();
        match all.try_into() {
            Ok(numbers) => Some(numbers),
            Err(_) => {
                self.fault(format!("`{}` needs exactly {N} numbers", self.path));
                None
            }
        }
    }

    /// The value without its places, for a type that deserialises itself.
    pub fn plain(&self) -> toml::Value {
        plain(self.inner)
    }

    /// A table.
    pub fn section(&self) -> Option<Section<'a>> {
        match self.inner {
            DeValue::Table(table) => Some(Section::new(table, self.span.clone(), self.path.clone(), &self.faults)),
            _ => self.wrong("a table"),
        }
    }
}

fn plain(value: &DeValue<'_>) -> toml::Value {
    match value {
        DeValue::String(text) => toml::Value::String(text.to_string()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or_else(|_| toml::Value::Float(f64::INFINITY), toml::Value::Integer),
        DeValue::Float(number) => toml::Value::Float(number.as_str().replace('_', "").parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(value) => toml::Value::Boolean(*value),
        DeValue::Datetime(time) => toml::Value::Datetime(*time),
        DeValue::Array(items) => toml::Value::Array(items.iter().map(|item| plain(item.get_ref())).collect()),
        DeValue::Table(table) => {
            toml::Value::Table(table.iter().map(|(key, value)| (key.get_ref().to_string(), plain(value.get_ref()))).collect())
        }
    }
}

fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// The known word most like `word`, if any is like it at all.
pub fn nearest<'k>(word: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    known
        .map(|candidate| (strsim::normalized_damerau_levenshtein(word, candidate), candidate))
        .filter(|(likeness, _)| *likeness >= 0.5)
        .max_by(|left, right| left.0.total_cmp(&right.0))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, with: impl FnOnce(&Section<'_>)) -> Vec<String> {
        let faults = Faults::default();
        let table = DeTable::parse(text).expect("the test's text is TOML");
        let root = Section::root(table.get_ref(), &faults);
        with(&root);
        drop(root);
        faults.faults(text).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn unknown_key_names_the_nearest_known_one() {
        let faults = read("[store]\nmax_byte = \"1GB\"\n", |root| {
            let store = root.section("store").expect("it is there");
            assert_eq!(store.bytes_or("max_bytes", 7), 7);
        });
        assert_eq!(faults, ["2:1: unknown key `max_byte` in [store]: did you mean `max_bytes`?"]);
    }

    #[test]
    fn every_fault_is_found_and_placed() {
        let faults = read("a = 1\nb = \"x\"\nc = \"7 parsecs\"\n", |root| {
            assert_eq!(root.string("a"), None);
            assert_eq!(root.choice_or("b", &[("y", 1), ("z", 2)], 0), 0);
            assert_eq!(root.duration_or("c", 5), 5);
            assert_eq!(root.required_string("d"), None);
        });
        assert_eq!(faults.len(), 4, "{faults:?}");
        assert!(faults[0].starts_with("1:1: the document needs `d`"), "{faults:?}");
        assert!(faults[1].starts_with("1:5: `a` is a whole number"), "{faults:?}");
        assert!(faults[3].starts_with("3:5: `c`: "), "{faults:?}");
    }
}
