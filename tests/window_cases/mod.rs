//! The published cases of `tests/cases/windows.json`, as whole runs are held against them.

use serde_json::Value;

/// The cases of this kind.
pub fn cases(kind: &str) -> Vec<Value> {
    let file: Value = serde_json::from_str(include_str!("../cases/windows.json")).expect("the cases are JSON");
    let cases = file["cases"].as_array().expect("a list");
    cases.iter().filter(|case| case["spec"]["kind"] == kind).cloned().collect()
}

pub fn int(value: &Value) -> i64 {
    value.as_i64().expect("an integer")
}

/// Key, start, end and value.
pub type Firing = (String, i64, i64, i64);

/// Each firing, and the time of each late row, in order. What one event fires comes in the order end, start,
/// key here; the cases list it by key.
pub fn expected(case: &Value) -> (Vec<Firing>, Vec<i64>) {
    let list = |key: &str| case["expected"][key].as_array().cloned().unwrap_or_default();
    let mut firings: Vec<(i64, i64, i64, String, i64)> = list("firings")
        .iter()
        .map(|f| (int(&f[0]), int(&f[3]), int(&f[2]), f[1].as_str().expect("a key").to_owned(), int(&f[4])))
        .collect();
    firings.sort();
    let firings = firings.into_iter().map(|(_, end, start, key, value)| (key, start, end, value)).collect();
    (firings, list("late").iter().map(|row| int(&row[2])).collect())
}
