//! Holds docs/checklist.md to the tree: every row is there, and what a row names exists.

use std::{collections::BTreeSet, fs, path::Path};

const PAGE: &str = "docs/checklist.md";

/// The rows, by letter and last number, in the order of the page.
const GROUPS: [(char, usize); 6] = [('H', 52), ('R', 72), ('M', 29), ('C', 29), ('A', 44), ('X', 31)];

/// One row of the page.
struct Row {
    id: String,
    status: String,
    place: String,
    test: String,
}

fn page() -> String {
    fs::read_to_string(PAGE).expect("the checklist is in docs")
}

fn ids() -> Vec<String> {
    GROUPS.iter().flat_map(|(letter, last)| (1..=*last).map(move |number| format!("{letter}{number:02}"))).collect()
}

fn is_id(word: &str) -> bool {
    word.len() == 3
        && word.starts_with(|letter: char| letter.is_ascii_uppercase())
        && word[1..].bytes().all(|byte| byte.is_ascii_digit())
}

/// The lines of `page` whose first cell is the id of a row.
fn rows(page: &str) -> Vec<Row> {
    let row = |line: &str| {
        let cells: Vec<&str> = line.strip_prefix('|')?.strip_suffix('|')?.split('|').map(str::trim).collect();
        if !is_id(cells[0]) {
            return None;
        }
        let [id, _, status, place, test] = cells[..] else { panic!("{} has {} cells, not 5: {line}", cells[0], cells.len()) };
        Some(Row { id: id.into(), status: status.into(), place: place.into(), test: test.into() })
    };
    page.lines().filter_map(row).collect()
}

/// What stands between backticks in `text`.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The path in a quoted `path` or `path::test`; none if it is something else (a key, an endpoint, a command).
fn path(quoted: &str) -> Option<&str> {
    let path = quoted.split("::").next().unwrap_or_default();
    let is_file = [".rs", ".md", ".toml", ".json"].iter().any(|ending| path.ends_with(ending));
    (!path.contains(' ') && !path.starts_with('/') && (path.contains('/') || is_file)).then_some(path)
}

/// The paths and tests in a quoted `path::test`.
fn tests(text: &str) -> impl Iterator<Item = (&str, &str)> {
    quoted(text).filter_map(|quoted| Some((path(quoted)?, quoted.split_once("::")?.1)))
}

/// Whether `source` has a test of this name: a function with a test attribute above it.
fn has_test(source: &str, name: &str) -> bool {
    let lines: Vec<&str> = source.lines().map(str::trim_start).collect();
    let is_named = |line: &str| {
        let line = line.strip_prefix("async ").unwrap_or(line);
        line.strip_prefix("fn ").and_then(|rest| rest.strip_prefix(name)).is_some_and(|rest| rest.starts_with('('))
    };
    let is_above = |line: &&&str| line.starts_with("#[") || line.starts_with("//");
    let is_attribute = |line: &&str| line.starts_with("#[test]") || line.starts_with("#[tokio::test");
    let mut named = (0..lines.len()).filter(|at| is_named(lines[*at]));
    named.any(|at| lines[..at].iter().rev().take_while(is_above).any(is_attribute))
}

#[test]
fn every_row_is_there_once_and_in_its_order() {
    let found: Vec<String> = rows(&page()).into_iter().map(|row| row.id).collect();
    let known: BTreeSet<String> = found.iter().cloned().collect();
    let missing: Vec<String> = ids().into_iter().filter(|id| !known.contains(id)).collect();
    assert!(missing.is_empty(), "not on the page: {missing:?}");
    assert_eq!(found, ids(), "a row is there twice, out of order, or unknown");
}

#[test]
fn every_path_is_there() {
    let page = page();
    let paths: BTreeSet<&str> = quoted(&page).filter_map(path).collect();
    assert!(paths.len() > 100, "the paths were found: {}", paths.len());
    let wrong: Vec<&str> = paths.into_iter().filter(|path| !Path::new(path).exists()).collect();
    assert!(wrong.is_empty(), "no such file: {wrong:?}");
}

#[test]
fn every_test_is_there() {
    let page = page();
    let named: BTreeSet<(&str, &str)> = tests(&page).collect();
    assert!(named.len() > 100, "the tests were found: {}", named.len());
    let missing = |(path, test): &(&str, &str)| !fs::read_to_string(path).is_ok_and(|source| has_test(&source, test));
    let wrong: Vec<(&str, &str)> = named.into_iter().filter(missing).collect();
    assert!(wrong.is_empty(), "no such test: {wrong:?}");
}

#[test]
fn every_row_has_what_its_status_asks_for() {
    let mut wrong = Vec::new();
    let mut check = |row: &Row, holds: bool, what: &str| {
        if !holds {
            wrong.push(format!("{}: {what}", row.id));
        }
    };
    for row in rows(&page()) {
        let (word, reason) = row.status.split_once(": ").unwrap_or((&row.status, ""));
        let (has_place, has_test) = (quoted(&row.place).any(|quoted| path(quoted).is_some()), tests(&row.test).next().is_some());
        match word {
            "done" => {
                check(&row, reason.is_empty(), "done has no reservations");
                check(&row, has_place && has_test, "done names a file and a test");
            }
            "partly" => {
                check(&row, !reason.is_empty() && has_place, "partly says what is missing and names a file");
                check(&row, has_test || row.test == "planned", "partly names a test, or says that it is planned");
            }
            "planned" => check(&row, row.place == "planned" && row.test == "planned", "planned names nothing yet"),
            "not ours" => {
                check(&row, !reason.is_empty() && row.place == "—" && row.test == "—", "not ours says why and names nothing");
            }
            _ => check(&row, false, "no such status"),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_counts_on_top_are_those_of_the_rows() {
    let page = page();
    let rows = rows(&page);
    let count = |word: &str| rows.iter().filter(|row| row.status.split(": ").next() == Some(word)).count();
    let line = format!(
        "{} rows: {} done, {} partly, {} planned, {} not ours.",
        rows.len(),
        count("done"),
        count("partly"),
        count("planned"),
        count("not ours")
    );
    assert!(page.lines().any(|found| found == line), "the page should say: {line}");
}
