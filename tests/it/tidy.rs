//! The house rules that no compiler checks: imports flow one way, files stay short, links lead somewhere.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

const LINES_MAX: usize = 500;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The files below `directory` whose name ends in `.extension`, with their text. Paths are relative to the package.
fn files(directory: &str, extension: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut open = vec![root().join(directory)];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|it| it == extension) {
                let name = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
                found.push((name, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

fn rust_files() -> Vec<(String, String)> {
    let all: Vec<_> = ["src", "tests", "benches"].iter().flat_map(|directory| files(directory, "rs")).collect();
    assert!(all.len() > 30, "the walk found only {} files", all.len());
    all
}

/// The text before the unit tests, without comment lines.
fn code(text: &str) -> String {
    let end = text.find("#[cfg(test)]").unwrap_or(text.len());
    let lines = text[..end].lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.fold(String::new(), |code, line| code + line + "\n")
}

/// The modules of this crate that a source text names, by `crate::name` or in a `crate::{...}` group.
fn modules_used(text: &str) -> BTreeSet<String> {
    let text = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let identifier = |text: &str| -> String { text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect() };
    let mut used = BTreeSet::new();
    for (at, found) in text.match_indices("crate::") {
        if text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let rest = &text[at + found.len()..];
        let Some(group) = rest.strip_prefix('{') else {
            used.insert(identifier(rest));
            continue;
        };
        let (mut depth, mut name_expected) = (0, true);
        for (index, character) in group.char_indices() {
            match character {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => name_expected = true,
                c if name_expected && !c.is_whitespace() => {
                    used.insert(identifier(&group[index..]));
                    name_expected = false;
                }
                _ => {}
            }
        }
    }
    used
}

fn fail_with(problems: &[String]) {
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

#[test]
fn imports_flow_one_way() {
    let lib = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let order: Vec<&str> =
        lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.split_once(';')).map(|(name, _)| name).collect();
    assert!(order.len() >= 16, "{order:?}");
    let mut problems = Vec::new();
    for (path, text) in files("src", "rs") {
        let module = path.trim_start_matches("src/").trim_end_matches(".rs").split('/').next().unwrap();
        if module == "lib" || module == "main" {
            continue;
        }
        let own =
            order.iter().position(|it| *it == module).unwrap_or_else(|| panic!("{path} is in no module of lib.rs"));
        for used in modules_used(&text) {
            match order.iter().position(|it| *it == used) {
                Some(place) if place <= own => {}
                Some(_) => {
                    problems.push(format!("{path}: `{module}` imports `{used}`, which stands below it in src/lib.rs"))
                }
                None => problems.push(format!("{path}: `crate::{used}` is no module of src/lib.rs")),
            }
        }
    }
    fail_with(&problems);
}

#[test]
fn finds_the_modules_in_an_import() {
    let text = "use crate::{\n    error::{Error, Result},\n    store::Store,\n};\nlet x = crate::clock::now_ms();\n// crate::no\n";
    assert_eq!(modules_used(text).into_iter().collect::<Vec<_>>(), ["clock", "error", "store"]);
}

#[test]
fn sources_are_short_and_ascii() {
    let mut problems = Vec::new();
    let scripts = ["js", "css", "html", "mjs"].iter().flat_map(|it| [files("src", it), files("tests", it)]).flatten();
    // A library of somebody else's, as it is.
    let own = scripts.filter(|(path, _)| !path.ends_with("uplot.js"));
    for (path, text) in rust_files().into_iter().chain(own) {
        if text.lines().count() > LINES_MAX {
            problems.push(format!("{path}: {} lines, at most {LINES_MAX}", text.lines().count()));
        }
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.is_ascii()) {
            problems.push(format!("{path}:{}: not ASCII: {line}", number + 1));
        }
    }
    fail_with(&problems);
}

#[test]
fn nothing_unfinished_and_no_unwrap() {
    let banned = [concat!("to", "do!("), concat!("unimple", "mented!("), concat!("db", "g!("), concat!("FIX", "ME")];
    let mut problems = Vec::new();
    for (path, text) in rust_files() {
        for word in banned.iter().filter(|word| text.contains(**word)) {
            problems.push(format!("{path}: {word}"));
        }
        let is_test = path.starts_with("tests/") || path.starts_with("benches/") || path.ends_with("tests.rs");
        if !is_test && code(&text).contains(".unwrap()") {
            problems.push(format!("{path}: .unwrap() outside tests"));
        }
    }
    fail_with(&problems);
}

/// Relative links, and the paths in backticks that begin with a directory of ours, of one Markdown text.
fn paths_named(text: &str) -> Vec<String> {
    let links = text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target);
    let links = links.filter(|target| !target.contains("://") && !target.starts_with("mailto:"));
    let quoted = text.split('`').skip(1).step_by(2).filter(|it| {
        let ours = ["src/", "tests/", "benches/", "scripts/", "sql/", "models/", ".ci/"];
        ours.iter().any(|directory| it.starts_with(directory)) && !it.contains(['*', ' ', '<', '{'])
    });
    links.chain(quoted).map(|target| target.split('#').next().unwrap_or_default().to_owned()).collect()
}

#[test]
fn documents_name_only_what_exists() {
    let mut documents: Vec<PathBuf> = fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().path()).collect();
    documents.extend(
        ["sql", "models", "tests", "benches"]
            .iter()
            .filter_map(|it| fs::read_dir(root().join(it)).ok())
            .flat_map(|directory| directory.map(|entry| entry.unwrap().path())),
    );
    documents.retain(|path| path.extension().is_some_and(|it| it == "md"));
    let mut problems = Vec::new();
    for document in &documents {
        let text = fs::read_to_string(document).unwrap();
        for target in paths_named(&text).iter().filter(|target| !target.is_empty()) {
            let beside = document.parent().unwrap_or(Path::new("")).join(target);
            if !beside.exists() && !root().join(target).exists() {
                problems.push(format!("{}: {target} does not exist", document.display()));
            }
        }
    }
    fail_with(&problems);
}

#[test]
fn finds_the_paths_in_a_document() {
    let text = "See [a](b/c.md#d), [e](https://f.g) and `src/h.rs`, but `src/*.rs` and `cargo i` not. [here](#here)";
    assert_eq!(paths_named(text), ["b/c.md", "", "src/h.rs"]);
}
