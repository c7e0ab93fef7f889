//! The layers of `docs/ARCHITECTURE.md`, kept by a scan of the sources: modules import downwards only, each foreign
//! interface has one home, files stay readable, and every `unsafe` says why.

use std::fs;
use std::path::{Path, PathBuf};

/// Every module with its layer. A module may name itself and what lies below it; equals do not see each other.
const LAYERS: &[(&str, u32)] = &[
    ("types", 0),
    ("store", 1),
    ("audit", 2),
    ("engine", 3),
    ("version", 4),
    ("sql", 5),
    ("vfs", 5),
    ("control", 5),
    ("fuse", 6),
    ("cli", 7),
];

/// Crates that only one place may know.
const HOMES: &[(&str, &str)] = &[("fuser", "src/fuse/"), ("rusqlite", "src/store/sqlite/")];

/// Lines that a source file may have.
const LINES_MAX: usize = 900;

fn layer(module: &str) -> Option<u32> {
    LAYERS.iter().find(|(name, _)| *name == module).map(|(_, layer)| *layer)
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())) {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// The sources of the library and the command with their paths relative to the package.
fn package() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = Vec::new();
    sources(&root.join("src"), &mut paths);
    paths.sort();
    paths
        .into_iter()
        .map(|path| {
            let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
            (name, fs::read_to_string(&path).unwrap())
        })
        .collect()
}

/// `text` without comments; what a comment held becomes blanks, so that lines keep their numbers.
fn code(text: &str) -> String {
    text.lines()
        .map(|line| match line.find("//") {
            // A `//` inside a string literal (an odd number of quotes before it) is no comment.
            Some(at) if line[..at].matches('"').count() % 2 == 0 => &line[..at],
            _ => line,
        })
        .collect::<Vec<_>>()
        .join("\n")
}

fn identifier(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    &text[..end]
}

/// The modules named after every `prefix::` of `code`, groups (`crate::{a::b, c}`) included, with their lines.
fn named_after(code: &str, prefix: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let needle = format!("{prefix}::");
    for (at, _) in code.match_indices(&needle) {
        if code[..at].chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':' || c == '$') {
            continue;
        }
        let line = code[..at].matches('\n').count() + 1;
        let rest = code[at + needle.len()..].trim_start();
        let Some(group) = rest.strip_prefix('{') else {
            found.push((line, identifier(rest).to_owned()));
            continue;
        };
        let (mut depth, mut start) = (0, true);
        for (i, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => start = true,
                c if c.is_whitespace() => {}
                _ if start && depth == 0 => {
                    found.push((line, identifier(&group[i..]).to_owned()));
                    start = false;
                }
                _ => {}
            }
        }
    }
    found
}

#[test]
fn modules_import_downwards_only() {
    let mut wrong = Vec::new();
    for (path, text) in package() {
        let own = path.trim_start_matches("src/").split('/').next().unwrap().trim_end_matches(".rs").to_owned();
        if own == "lib" || own == "main" {
            continue;
        }
        let Some(own_layer) = layer(&own) else {
            wrong.push(format!("{path}: module {own} is in no layer"));
            continue;
        };
        for (line, module) in named_after(&code(&text), "crate") {
            match layer(&module) {
                _ if module == own => {}
                Some(other) if other < own_layer => {}
                Some(_) => wrong.push(format!("{path}:{line}: {own} (L{own_layer}) names crate::{module}")),
                None => wrong.push(format!("{path}:{line}: crate::{module} is in no layer")),
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn foreign_interfaces_have_one_home() {
    let mut wrong = Vec::new();
    for (path, text) in package() {
        for (line, text) in code(&text).lines().enumerate() {
            for (name, home) in HOMES {
                let named = text.match_indices(name).any(|(at, _)| {
                    let before = text[..at].chars().next_back();
                    let after = &text[at + name.len()..];
                    !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '"') && after.starts_with("::")
                });
                if named && !path.starts_with(home) {
                    wrong.push(format!("{path}:{}: {name} outside of {home}", line + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn files_stay_readable() {
    let long: Vec<String> = package()
        .into_iter()
        .filter(|(_, text)| text.lines().count() > LINES_MAX)
        .map(|(path, text)| format!("{path}: {} lines", text.lines().count()))
        .collect();
    assert!(long.is_empty(), "more than {LINES_MAX} lines:\n{}", long.join("\n"));
}

#[test]
fn every_unsafe_says_why() {
    let mut wrong = Vec::new();
    for (path, text) in package() {
        let lines: Vec<&str> = text.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let bare = line.trim_start();
            if bare.starts_with("//") || !line.contains("allow(unsafe_code") {
                continue;
            }
            let around = &lines[at.saturating_sub(4)..(at + 4).min(lines.len())];
            let reasoned = around.iter().any(|l| l.contains("reason =") || l.contains("SAFETY:"))
                || lines[..at].last().is_some_and(|l| l.trim_start().starts_with("//"));
            if !reasoned {
                wrong.push(format!("{path}:{}: {bare}", at + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "unsafe without a reason:\n{}", wrong.join("\n"));
}

/// `docs/SEMANTICS.md` promises a test for each claim: those that it names exist.
#[test]
fn every_claim_names_a_real_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = Vec::new();
    sources(&root.join("src"), &mut paths);
    sources(&root.join("tests"), &mut paths);
    let code: String = paths.iter().map(|p| fs::read_to_string(p).unwrap()).collect();
    let text = fs::read_to_string(root.join("docs/SEMANTICS.md")).unwrap();
    let (mut named, mut missing) = (0, Vec::new());
    for line in text.lines().filter(|l| l.starts_with("| ") && l.ends_with(" |")) {
        let column = line.trim_end_matches(" |").rsplit(" | ").next().unwrap();
        for name in column.split('`').skip(1).step_by(2) {
            named += 1;
            let exists = match name.strip_prefix("scripts/") {
                Some(_) => root.join(name).exists(),
                None => code.contains(&format!("fn {name}(")),
            };
            if !exists {
                missing.push(name.to_owned());
            }
        }
    }
    assert!(named > 20, "the tables of docs/SEMANTICS.md are not understood");
    assert!(missing.is_empty(), "docs/SEMANTICS.md names tests that do not exist: {missing:?}");
}

/// What `scripts/powercut` and `scripts/kill9` compare with finds each state of a writer, and nothing that is none.
#[test]
fn the_writers_prefixes_are_found() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/writer.py");
    let output = std::process::Command::new("python3").arg(script).arg("--check").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_scan_finds_what_it_looks_for() {
    let text = "use crate::store::Store;\nuse crate::{\n    types::{Ino, Seq},\n    fuse,\n};\nfn f() { crate::cli::run() } // crate::vfs\n";
    let found: Vec<String> = named_after(&code(text), "crate").into_iter().map(|(_, m)| m).collect();
    assert_eq!(found, ["store", "types", "fuse", "cli"]);
}
