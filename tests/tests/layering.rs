//! Who may depend on whom, as data; and the rules a compiler does not check: file sizes, where `unsafe`, clocks
//! and atomics may be named. Each rule is also shown a text that breaks it.
#![allow(clippy::unwrap_used, reason = "helpers of tests end the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Modules of `dataplane` from the lowest layer up, and what of the crate each may name.
const LAYERS: &[(&str, &[&str])] = &[
    ("sync", &[]),
    ("ids", &[]),
    ("verdict", &[]),
    ("clock", &[]),
    ("stats", &["sync", "verdict"]),
    ("packet", &["verdict"]),
    (
        "flow",
        &[
            "packet::tuple",
            "packet::checksum::Delta",
            "packet::layout::L4Flags",
            "packet::sctp::Chunk",
            "packet::segment::Numbers",
            "ids",
            "sync",
            "clock",
        ],
    ),
    ("service", &["packet::tuple", "packet::alias", "ids", "sync", "clock", "verdict"]),
    ("nat", &["service", "flow", "packet", "ids", "clock", "stats", "verdict"]),
    ("engine", &["nat", "service", "flow", "packet", "ids", "clock", "stats", "verdict"]),
    ("io", &["packet::vnet", "packet::frame", "verdict"]),
    ("worker", &["engine", "io", "service", "packet", "ids", "clock", "stats", "sync", "verdict"]),
    (
        "plane",
        &["worker", "engine", "io", "service", "flow", "packet", "ids", "clock", "stats", "sync", "verdict"],
    ),
];

/// Files that may say `unsafe`, each with `#![allow(unsafe_code, reason = …)]`.
const UNSAFE: &[&str] = &[
    "dataplane/src/io/sys.rs",
    "dataplane/src/io/uring_queue.rs",
    "dataplane/src/flow/map.rs",
    "dataplane/src/flow/prefetch.rs",
    "dataplane/src/service/publish.rs",
    // A global allocator that counts: the trait's methods are unsafe.
    "tests/src/alloc.rs",
];

/// What `dataplane` may depend on.
const DATAPLANE_CRATES: &[&str] = &[
    "crossbeam",
    "dashmap",
    "etherparse",
    "libc",
    "loom",
    "nix",
    "proptest",
    "smoltcp",
    "tempfile",
    "thiserror",
    "tracing",
    "tun",
];

const LINES: usize = 400;

#[test]
fn modules_depend_on_lower_layers_only() {
    let mut wrong = Vec::new();
    for (path, text) in sources(&["dataplane/src"]) {
        wrong.extend(edges_not_allowed(&path, &text));
    }
    assert!(wrong.is_empty(), "edges that are not in the table:\n{}", wrong.join("\n"));
}

#[test]
fn the_table_itself_points_downwards() {
    for (index, (module, uses)) in LAYERS.iter().enumerate() {
        for used in *uses {
            let top = used.split("::").next().unwrap();
            let at = LAYERS.iter().position(|(name, _)| *name == top);
            assert!(at.is_some_and(|at| at < index), "{module} may not use {used}");
        }
    }
}

#[test]
fn no_file_is_longer_than_400_lines() {
    let long: Vec<_> = sources(&["dataplane", "control", "tests", "bench"])
        .into_iter()
        .map(|(path, text)| (text.lines().count(), path))
        .filter(|(lines, _)| *lines > LINES)
        .collect();
    assert!(long.is_empty(), "{long:#?}");
}

#[test]
fn folders_are_named_beside_their_file() {
    let files = sources(&["dataplane", "control", "tests", "bench"]);
    let wrong: Vec<_> = files.iter().filter(|(path, _)| path.ends_with("/mod.rs")).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn unsafe_stays_in_the_files_that_are_named() {
    let mut wrong = Vec::new();
    for (path, text) in sources(&["dataplane", "control", "tests", "bench"]) {
        if has_word(&code(&text), "unsafe") {
            if !UNSAFE.contains(&path.as_str()) {
                wrong.push(format!("{path}: not one of the files that may"));
            } else if !reasoned(&text) {
                wrong.push(format!("{path}: without #![allow(unsafe_code, reason = …)]"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn only_the_clock_reads_time_and_only_sync_names_atomics() {
    let mut wrong = Vec::new();
    for (path, text) in sources(&["dataplane/src"]) {
        let code = code(&text);
        for (name, home) in [
            ("Instant::now", "clock.rs"),
            ("SystemTime", "clock.rs"),
            ("clock_gettime", "clock.rs"),
            ("sync::atomic", "sync.rs"),
        ] {
            // Tests with real threads of their own may keep score as they like.
            let score = name == "sync::atomic" && path.ends_with("tests.rs");
            if code.contains(name) && !score && path != format!("dataplane/src/{home}") {
                wrong.push(format!("{path}: {name}"));
            }
        }
        for word in ["control", "tokio", "kube", "async", "await"] {
            if has_word(&code, word) {
                wrong.push(format!("{path}: {word}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn crates_depend_one_way() {
    for (member, allowed) in [("control", &["dataplane"][..]), ("tests", &["dataplane", "control"][..])] {
        let used = dependencies(member);
        for of_ours in ["dataplane", "control", "tests", "bench"] {
            assert!(!used.contains(of_ours) || allowed.contains(&of_ours), "{member} depends on {of_ours}");
        }
    }
    for name in dependencies("dataplane") {
        assert!(DATAPLANE_CRATES.contains(&name.as_str()), "dataplane depends on {name}");
    }
}

#[test]
fn the_rules_find_what_they_forbid() {
    let bad = edges_not_allowed("dataplane/src/flow/key.rs", "use crate::{ids::FlowIx, engine::Engine};");
    assert_eq!(bad, ["dataplane/src/flow/key.rs: flow → engine::Engine"]);
    let bad = edges_not_allowed("dataplane/src/flow/key.rs", "fn f() { super::super::io::Queue }");
    assert_eq!(bad, ["dataplane/src/flow/key.rs: flow → io::Queue"]);
    let bad = edges_not_allowed("dataplane/src/flow.rs", "use crate::packet::layout::{L4Flags, Layout};");
    assert_eq!(bad, ["dataplane/src/flow.rs: flow → packet::layout::Layout"]);
    let inside = "mod inner { use super::super::super::io::Queue; } use super::super::flow;";
    let bad = edges_not_allowed("dataplane/src/flow/key.rs", inside);
    assert_eq!(bad, ["dataplane/src/flow/key.rs: flow → io::Queue"]);
    let bad = edges_not_allowed("dataplane/src/stray.rs", "");
    assert_eq!(bad, ["dataplane/src/stray.rs: not in the table"]);
    assert!(edges_not_allowed("dataplane/src/flow/key.rs", "// crate::engine\nuse super::word;").is_empty());
    assert!(has_word("unsafe { }", "unsafe") && !has_word("deny(unsafe_code)", "unsafe"));
    assert!(!code("let a = \"unsafe\"; // unsafe\n/* unsafe */").contains("unsafe"));
    assert_eq!(code("a('\"'); b // x").trim_end(), "a('\"'); b");
}

/// Edges of one file of `dataplane` that the table does not have.
fn edges_not_allowed(path: &str, text: &str) -> Vec<String> {
    let inside = path.trim_start_matches("dataplane/src/").trim_end_matches(".rs");
    let modules: Vec<&str> = inside.split('/').collect();
    if modules == ["lib"] {
        return Vec::new();
    }
    let table: BTreeMap<_, _> = LAYERS.iter().copied().collect();
    let Some(allowed) = table.get(modules[0]) else { return vec![format!("{path}: not in the table")] };
    let code = code(text);
    let mut named = paths_after(&code, "crate::");
    // From a file two modules deep, `super::super::` is the crate; a module inside the file adds one.
    let deeper = modules.len() + 2;
    for depth in modules.len()..deeper {
        named.extend(paths_where(&code, &"super::".repeat(depth), |at| {
            modules.len() + modules_around(&code, at) == depth
        }));
    }
    let ok = |named: &str| {
        named.split("::").next() == Some(modules[0])
            || allowed.iter().any(|prefix| named == *prefix || named.starts_with(&format!("{prefix}::")))
    };
    named.iter().filter(|named| !ok(named)).map(|named| format!("{path}: {} → {named}", modules[0])).collect()
}

/// Every path that follows `root`, braces expanded.
fn paths_after(code: &str, root: &str) -> BTreeSet<String> {
    paths_where(code, root, |_| true)
}

/// As [`paths_after`], of the places that `counts` accepts.
fn paths_where(code: &str, root: &str, counts: impl Fn(usize) -> bool) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices(root) {
        let before = code[..at].chars().next_back();
        if counts(at) && !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '$' || c == ':') {
            tree(&mut code[at + root.len()..].chars().peekable(), "", &mut found);
        }
    }
    found
}

/// How many `mod name {` of the file are open at a place.
fn modules_around(code: &str, at: usize) -> usize {
    let mut open = Vec::new();
    for (index, brace) in code[..at].match_indices(['{', '}']) {
        if brace == "{" {
            let mut before = code[..index].split_whitespace().rev();
            open.push(before.nth(1) == Some("mod"));
        } else {
            open.pop();
        }
    }
    open.into_iter().filter(|is_module| *is_module).count()
}

/// Reads one use-tree behind `prefix`.
fn tree(rest: &mut std::iter::Peekable<std::str::Chars<'_>>, prefix: &str, found: &mut BTreeSet<String>) {
    let join = |name: &str| if prefix.is_empty() { name.into() } else { format!("{prefix}::{name}") };
    let skip = |rest: &mut std::iter::Peekable<std::str::Chars<'_>>| {
        while rest.next_if(|c| c.is_whitespace()).is_some() {}
    };
    skip(rest);
    if rest.next_if_eq(&'{').is_some() {
        loop {
            tree(rest, prefix, found);
            skip(rest);
            if rest.next_if_eq(&',').is_none() {
                rest.next_if_eq(&'}');
                return;
            }
            skip(rest);
            if rest.next_if_eq(&'}').is_some() {
                return;
            }
        }
    }
    let mut name = String::new();
    while let Some(c) = rest.next_if(|c| c.is_alphanumeric() || *c == '_' || *c == '*') {
        name.push(c);
    }
    let mut ahead = rest.clone();
    if !name.is_empty() && ahead.next() == Some(':') && ahead.next() == Some(':') {
        *rest = ahead;
        // A turbofish ends the path.
        if rest.peek() == Some(&'<') {
            found.insert(join(&name));
        } else {
            tree(rest, &join(&name), found);
        }
    } else {
        // `use a::b as c` and `self` name the module itself.
        found.insert(if name.is_empty() || name == "self" { prefix.into() } else { join(&name) });
        for _ in 0..2 {
            skip(rest);
            while rest.next_if(|c| c.is_alphanumeric() || *c == '_').is_some() {}
        }
    }
}

/// The text without comments and string contents; line structure stays.
fn code(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let skip = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if rest.starts_with("'\"'") || rest.starts_with("'\\'") {
            out.push_str(&rest[..3]);
            3
        } else if let Some(body) = rest.strip_prefix("r#\"") {
            3 + body.find("\"#").map_or(body.len(), |end| end + 2)
        } else if let Some(body) = rest.strip_prefix('"') {
            let mut escaped = false;
            let end = body.find(|c: char| {
                let closes = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                closes
            });
            1 + end.map_or(body.len(), |end| end + 1)
        } else {
            out.push(c);
            c.len_utf8()
        };
        rest = &rest[skip..];
    }
    out
}

fn has_word(code: &str, word: &str) -> bool {
    let part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    code.match_indices(word)
        .any(|(at, _)| !part(code[..at].chars().next_back()) && !part(code[at + word.len()..].chars().next()))
}

fn reasoned(text: &str) -> bool {
    let flat: String = text.split_whitespace().collect();
    flat.contains("allow(unsafe_code,reason=")
}

/// The names in a member's dependency tables.
fn dependencies(member: &str) -> BTreeSet<String> {
    let text = fs::read_to_string(root().join(member).join("Cargo.toml")).expect("a manifest");
    let mut inside = false;
    let mut names = BTreeSet::new();
    for line in text.lines() {
        if line.starts_with('[') {
            inside = line.contains("dependencies");
        } else if inside
            && let Some(name) = line.split(['.', ' ', '=']).next().filter(|name| !name.is_empty())
        {
            names.insert(name.to_owned());
        }
    }
    names
}

/// Every Rust file below these folders, by its path from the workspace's root.
fn sources(folders: &[&str]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut todo: Vec<PathBuf> = folders.iter().map(|folder| root().join(folder)).collect();
    while let Some(folder) = todo.pop() {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
                todo.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root()).expect("below the root").to_string_lossy().into_owned();
                found.push((name, fs::read_to_string(&path).expect("a source")));
            }
        }
    }
    assert!(found.len() > 1, "no sources below {folders:?}");
    found.sort();
    found
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace")
}
