//! Holds the code's imports against the table in ARCHITECTURE.md.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// `module → what it may import`, from the rows between the two markers of ARCHITECTURE.md.
fn table() -> BTreeMap<String, BTreeSet<String>> {
    let page = fs::read_to_string("ARCHITECTURE.md").expect("ARCHITECTURE.md is in the root");
    let start = page.find("<!-- imports -->").expect("the table has its first marker");
    let end = page.find("<!-- /imports -->").expect("the table has its last marker");
    let words = |cell: &str| -> Vec<String> {
        cell.split([' ', ','])
            .map(|word| word.trim_matches('`'))
            .filter(|word| !word.is_empty() && *word != "—")
            .map(str::to_owned)
            .collect()
    };
    let mut table = BTreeMap::new();
    for line in page[start..end].lines().filter(|line| line.starts_with('|')).skip(2) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').collect();
        let imports: BTreeSet<String> = words(cells[1]).into_iter().collect();
        for module in words(cells[0]) {
            table.insert(module, imports.clone());
        }
    }
    assert!(table.len() > 15, "the table was read: {table:?}");
    table
}

fn sources(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("the folder is there") {
        let path = entry.expect("its entries can be read").path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

/// The modules that `text` names as `crate::module` (also in a `use crate::{…}` list) or `firmware_bridge::`; docs and tests left out.
fn imports(text: &str, modules: &BTreeSet<String>) -> BTreeSet<String> {
    let code: String = text
        .split("#[cfg(test)]")
        .next()
        .unwrap_or_default()
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n");
    let mut found = BTreeSet::new();
    let mut rest = code.as_str();
    while let Some(at) = rest.find("crate::") {
        rest = &rest[at + 7..];
        if let Some(list) = rest.strip_prefix('{') {
            let mut depth = 1;
            let mut word = String::new();
            for character in list.chars() {
                match character {
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    _ => {}
                }
                if depth == 1 && (character.is_alphanumeric() || character == '_') {
                    word.push(character);
                } else {
                    if depth <= 1 && character != '}' || depth == 0 {
                        found.insert(std::mem::take(&mut word));
                    }
                    word.clear();
                }
                if depth == 0 {
                    break;
                }
            }
        } else {
            found.insert(rest.chars().take_while(|character| character.is_alphanumeric() || *character == '_').collect());
        }
    }
    if code.contains("firmware_bridge::") {
        found.insert("firmware_bridge".into());
    }
    found.retain(|name| modules.contains(name) || name == "firmware_bridge");
    found
}

#[test]
fn every_import_is_in_the_table() {
    let table = table();
    let modules: BTreeSet<String> = table.keys().cloned().collect();
    let mut files = Vec::new();
    sources(Path::new("src"), &mut files);
    assert!(files.len() > 30, "the sources were found");
    let mut wrong = Vec::new();
    for file in files {
        let inside = file.strip_prefix("src").expect("it was found there");
        let module = inside.components().next().expect("it has a name").as_os_str().to_string_lossy().replace(".rs", "");
        if module == "lib" {
            continue;
        }
        let allowed = table.get(&module).unwrap_or_else(|| panic!("{module} is not in the table"));
        let text = fs::read_to_string(&file).expect("a source can be read");
        for import in imports(&text, &modules) {
            if import != module && !allowed.contains(&import) && !allowed.contains("everything") {
                wrong.push(format!("{} imports {import}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_core_has_no_clock_file_lock_or_await() {
    let forbidden = [
        "async fn",
        ".await",
        "std::fs",
        "std::time::Instant",
        "SystemTime",
        "Instant::now",
        "Mutex",
        "RwLock",
        "tracing::",
        "mpsc",
        "println!",
        "eprintln!",
        "rand::",
        "tokio",
    ];
    let mut files = Vec::new();
    for module in ["model", "buffer", "dataflow", "voxel", "spc", "quality", "expr", "ingest/decode"] {
        sources(&Path::new("src").join(module), &mut files);
    }
    files.push("src/engine.rs".into());
    sources(Path::new("firmware-bridge/src"), &mut files);
    assert!(files.len() > 20, "the sources were found");
    let mut wrong = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).expect("a source can be read");
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for line in code.lines().filter(|line| !line.trim_start().starts_with("//")) {
            for word in forbidden.iter().filter(|word| line.contains(**word)) {
                wrong.push(format!("{}: {word}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
