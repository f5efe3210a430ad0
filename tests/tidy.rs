//! What a program can check of the design's invariants and style, over every file of the repository.
//!
//! **Runs on: any.** Each check is a function from sources to complaints, run once over the
//! repository and once over a planted violation, so that a check that went blind fails too.
//! Exceptions are listed here with their reason, and one that is no longer needed is a complaint.

use std::fs;
use std::path::Path;

#[path = "tidy/rust.rs"]
mod rust;
#[path = "tidy/source.rs"]
mod source;

use rust::functions;
use source::{Source, repository, root};

/// The most lines of a function, of a Rust file, and of a folder's README.
const FUNCTION_LINES_MAX: usize = 70;
const FILE_LINES_MAX: usize = 900;
const README_LINES_MAX: usize = 60;

/// Functions that may be longer: `path::name`, reason.
const LONG_FUNCTIONS: &[(&str, &str)] = &[
    ("gateway/src/control/error.rs::fmt", "one arm for each error, each with its remedy"),
    ("proto/tests/protobuf.rs::commands_are_read", "one step for each request"),
    ("proto/tests/protobuf.rs::replies_and_pushes_are_written", "one step for each reply and push"),
];

/// Limits that may stand outside `limits.rs`: `path::NAME`, reason.
const LIMITS_ELSEWHERE: &[(&str, &str)] = &[
    ("core/src/journal/format.rs::COMMIT_HEADER_BYTES", "follows from the layout of a commit"),
    ("core/src/journal/format.rs::RECORD_HEADER_BYTES", "follows from the layout of a record"),
    ("core/src/metrics/page.rs::SIZE_BYTES", "follows from the page's layout, moved by nothing"),
    ("proto/src/ws/frame.rs::CLIENT_HEADER_BYTES", "follows from RFC 6455's layout of a header"),
];

/// What `proto` may name though it does no I/O: `path::word`, reason.
const PROTO_EXCEPTIONS: &[(&str, &str)] = &[(
    "proto/src/kafka/record/compression.rs::std::io",
    "the traits by which compression libraries read and write memory",
)];

/// Where `unsafe` may be, as DESIGN names it: the SIMD folder, rt, buf, metric pages, fd passing.
const UNSAFE_PLACES: &[&str] =
    &["proto/src/simd/", "core/src/rt/", "core/src/buf", "core/src/metrics/", "core/src/fd.rs"];

/// The packages whose code is the product.
const PRODUCT: &[&str] = &["proto/src/", "core/src/", "gateway/src/"];

/// What the root may hold beside dot files.
const ROOT: &[&str] = &[
    "proto",
    "core",
    "gateway",
    "kernel-tuning",
    "bench",
    "tests",
    "Cargo.toml",
    "Cargo.lock",
    "README.md",
    "LICENSE",
    "CHANGELOG.md",
    "clippy.toml",
    "deny.toml",
    "rust-toolchain.toml",
    "rustfmt.toml",
];

// ------------------------------------------------------------------ the repository

#[test]
fn only_one_folder_names_each_runtime() {
    fine(runtime_names(&repository()));
}

#[test]
fn proto_is_sans_io() {
    fine(impure_proto(&repository(), PROTO_EXCEPTIONS));
}

#[test]
fn unsafe_is_where_the_design_allows_it() {
    fine(stray_unsafe(&repository()));
}

#[test]
fn every_file_opens_with_what_it_owns() {
    fine(missing_openings(&repository()));
}

#[test]
fn limits_are_in_limits_rs() {
    fine(stray_limits(&repository(), LIMITS_ELSEWHERE));
}

#[test]
fn functions_and_files_are_short() {
    fine(long_functions(&repository(), LONG_FUNCTIONS));
    fine(long_files(&repository()));
}

#[test]
fn every_folder_has_a_short_readme() {
    fine(readmes(&repository()));
}

#[test]
fn nothing_names_a_machine_or_a_registry_host() {
    fine(foreign_names(&repository()));
}

#[test]
fn the_root_holds_only_what_the_design_lists() {
    let entries = fs::read_dir(root()).expect("the root is readable").flatten();
    let names: Vec<_> = entries.map(|entry| entry.file_name().display().to_string()).collect();
    fine(root_entries(&names));
}

#[track_caller]
fn fine(complaints: Vec<String>) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

// ------------------------------------------------------------------ the checks

fn runtime_names(sources: &[Source]) -> Vec<String> {
    let homes = [("monoio", "core/src/rt/"), ("glommio", "core/src/journal/disk/")];
    let mut complaints = Vec::new();
    for source in product(sources) {
        for (name, home) in homes {
            if !source.path.starts_with(home) {
                let what = format!("names {name}, which only {home} may");
                complaints.extend(source.find_code(&[name]).map(|at| format!("{at} {what}")));
            }
        }
    }
    complaints
}

fn impure_proto(sources: &[Source], exceptions: &[(&str, &str)]) -> Vec<String> {
    const FORBIDDEN: &[&str] = &[
        "std::net",
        "std::fs",
        "std::io",
        "std::time",
        "std::thread",
        "std::process",
        "std::env",
        "SystemTime",
        "Instant::",
        ".unwrap()",
        ".expect(",
        ".unwrap_err()",
        "panic!(",
        concat!("todo", "!("),
        "println!(",
        "eprintln!(",
    ];
    let proto = sources.iter().filter(|source| source.path.starts_with("proto/src/"));
    let proto = proto.filter(|source| !source.is_test());
    let found = proto.flat_map(|source| {
        // A whole file is excepted, so that the line does not matter.
        let named = source.find_code(FORBIDDEN);
        let words = named.filter_map(|at| at.rsplit_once(' ').map(|(_, word)| word.to_owned()));
        words.map(|word| format!("{}::{word}", source.path)).collect::<Vec<_>>()
    });
    except(found.collect(), exceptions, "does not belong in a sans-IO machine that never panics")
}

fn stray_unsafe(sources: &[Source]) -> Vec<String> {
    let mut complaints = Vec::new();
    for source in product(sources) {
        let allowed = UNSAFE_PLACES.iter().any(|place| source.path.starts_with(place));
        let lines: Vec<_> = source.text.lines().collect();
        for (number, line) in source.code().lines().enumerate() {
            let is_unsafe = ["unsafe {", "unsafe impl", "unsafe fn", "unsafe extern"]
                .iter()
                .any(|form| line.contains(form));
            // An unsafe function says in its doc what its caller owes; what it does with it is in
            // unsafe blocks of its own.
            let reason = lines[number.saturating_sub(8)..=number]
                .iter()
                .any(|line| line.contains("SAFETY:") || line.contains("# Safety"));
            let at = format!("{}:{}", source.path, number + 1);
            if is_unsafe && !allowed {
                complaints.push(format!("{at} unsafe is not allowed here"));
            } else if is_unsafe && !reason {
                complaints.push(format!("{at} unsafe without its SAFETY comment"));
            }
        }
    }
    complaints
}

fn missing_openings(sources: &[Source]) -> Vec<String> {
    let mut complaints = Vec::new();
    for source in sources.iter().filter(|source| source.is_rust()) {
        let opening: Vec<_> =
            source.text.lines().take_while(|line| line.starts_with("//!")).collect();
        let product = PRODUCT.iter().any(|place| source.path.starts_with(place));
        if opening.is_empty() {
            complaints.push(format!("{}:1 does not open with a //! comment", source.path));
        } else if product && !opening.join(" ").contains("Runs on:") {
            complaints.push(format!("{}:1 does not say what it runs on", source.path));
        }
    }
    complaints
}

fn stray_limits(sources: &[Source], exceptions: &[(&str, &str)]) -> Vec<String> {
    let mut found = Vec::new();
    for source in product(sources).filter(|source| !source.path.ends_with("/limits.rs")) {
        for line in source.code().lines() {
            let mut words = line.split_whitespace().skip_while(|word| *word != "const").skip(1);
            let Some(name) = words.next().and_then(|word| word.strip_suffix(':')) else { continue };
            let ends = ["_LIMIT", "_MAX", "_BYTES", "_MS"].iter().any(|end| name.ends_with(end));
            if ends || name.starts_with("MAX_") || name == "LIMIT" {
                found.push(format!("{}::{name}", source.path));
            }
        }
    }
    except(found, exceptions, "is a limit outside limits.rs")
}

fn long_functions(sources: &[Source], exceptions: &[(&str, &str)]) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources.iter().filter(|source| source.is_rust()) {
        let functions = functions(&source.code());
        let long = functions.iter().filter(|function| function.lines > FUNCTION_LINES_MAX);
        found.extend(long.map(|function| format!("{}::{}", source.path, function.name)));
    }
    except(found, exceptions, "is a function of more than 70 lines")
}

fn long_files(sources: &[Source]) -> Vec<String> {
    let rust = sources.iter().filter(|source| source.is_rust());
    let long = rust.filter(|source| source.text.lines().count() > FILE_LINES_MAX);
    long.map(|source| format!("{}:1 has more than {FILE_LINES_MAX} lines", source.path)).collect()
}

fn readmes(sources: &[Source]) -> Vec<String> {
    let is_readme = |source: &&Source| source.path.ends_with("/README.md");
    let long = sources.iter().filter(is_readme).filter_map(|source| {
        let lines = source.text.lines().count();
        (lines > README_LINES_MAX).then(|| format!("{}:1 has {lines} lines", source.path))
    });
    let packages = sources.iter().filter_map(|source| source.path.strip_suffix("/Cargo.toml"));
    let missing = packages.filter(|folder| !folder.contains('/')).filter_map(|folder| {
        let readme = format!("{folder}/README.md");
        let there = sources.iter().any(|source| source.path == readme);
        (!there).then(|| format!("{readme} is missing"))
    });
    long.chain(missing).collect()
}

fn foreign_names(sources: &[Source]) -> Vec<String> {
    const FORBIDDEN: &[&str] = &[
        // Each in two parts, so that it is none of them here. Domains, so that every host of a
        // registry is found, whatever its name is today.
        concat!("/wo", "rk/"),
        concat!("/ro", "ot/"),
        concat!("/ho", "me/"),
        concat!("npm", "js."),
        concat!("pypi", ".org"),
        concat!("python", "hosted"),
        concat!(".crates", ".io"),
        concat!("proxy.", "golang"),
        concat!("repo.", "maven"),
        concat!("maven", ".org"),
        concat!(".debian", ".org"),
    ];
    let own = sources.iter().filter(|source| !source.path.contains("/vendor/"));
    own.flat_map(|source| source.find_text(FORBIDDEN))
        .map(|at| format!("{at} is a place of one machine or a registry's host"))
        .collect()
}

fn root_entries(names: &[String]) -> Vec<String> {
    let ours = |name: &&String| !name.starts_with('.') && *name != "target";
    let strange = names.iter().filter(ours).filter(|name| !ROOT.contains(&name.as_str()));
    strange.map(|name| format!("{name} does not belong in the root")).collect()
}

fn product(sources: &[Source]) -> impl Iterator<Item = &Source> {
    let rust = sources.iter().filter(|source| source.is_rust());
    rust.filter(|source| PRODUCT.iter().any(|place| source.path.starts_with(place)))
}

/// What was found and isn't excepted, and exceptions that nothing needs.
fn except(found: Vec<String>, exceptions: &[(&str, &str)], what: &str) -> Vec<String> {
    let excepted = |name: &String| exceptions.iter().any(|(path, _)| path == name);
    let unneeded = exceptions.iter().filter(|(path, _)| !found.iter().any(|name| name == path));
    let unneeded: Vec<_> = unneeded.map(|(path, _)| format!("{path} needs no exception")).collect();
    let complaints = found.iter().filter(|name| !excepted(name));
    complaints.map(|name| format!("{name} {what}")).chain(unneeded).collect()
}

// ------------------------------------------------------------------ planted violations

#[track_caller]
fn fires(complaints: Vec<String>, times: usize) {
    assert_eq!(complaints.len(), times, "{complaints:#?}");
}

fn planted(path: &str, text: &str) -> [Source; 1] {
    [Source { path: path.to_owned(), text: text.to_owned() }]
}

#[test]
fn a_runtime_named_elsewhere_is_seen() {
    let code = "//! Talks of monoio.\nuse monoio::net::TcpStream;\n";
    fires(runtime_names(&planted("core/src/shard.rs", code)), 1);
    fires(runtime_names(&planted("core/src/rt/mod.rs", code)), 0);
    fires(runtime_names(&planted("gateway/src/edge.rs", "use glommio::io;")), 1);
}

#[test]
fn impurity_in_proto_is_seen() {
    let code = "use std::time::Instant;\nfn f() { x.unwrap(); y.unwrap_or(0); } // .unwrap()\n\
                #[cfg(test)]\nmod tests { fn g() { x.unwrap() } }\n";
    fires(impure_proto(&planted("proto/src/ws/mod.rs", code), &[]), 2);
    fires(impure_proto(&planted("proto/src/ws/tests.rs", code), &[]), 0);
    fires(impure_proto(&planted("core/src/shard.rs", code), &[]), 0);
    let excepted = [("proto/src/x.rs::std::time", "reason"), ("proto/src/x.rs::std::io", "reason")];
    fires(impure_proto(&planted("proto/src/x.rs", code), &excepted), 2);
}

#[test]
fn unsafe_out_of_place_or_unexplained_is_seen() {
    let bare = "fn f() {\n    unsafe { g() }\n}\n";
    let explained = "fn f() {\n    // SAFETY: g asks nothing.\n    unsafe { g() }\n}\n";
    fires(stray_unsafe(&planted("gateway/src/hub.rs", explained)), 1);
    fires(stray_unsafe(&planted("core/src/rt/ring.rs", bare)), 1);
    fires(stray_unsafe(&planted("core/src/rt/ring.rs", explained)), 0);
    fires(stray_unsafe(&planted("gateway/src/hub.rs", "// unsafe { is only a word }")), 0);
}

#[test]
fn a_missing_opening_is_seen() {
    fires(missing_openings(&planted("tests/src/x.rs", "use std::fs;\n")), 1);
    fires(missing_openings(&planted("core/src/x.rs", "//! Owns x.\n")), 1);
    fires(
        missing_openings(&planted("core/src/x.rs", "//! Owns x.\n//!\n//! **Runs on: any.**\n")),
        0,
    );
}

#[test]
fn a_stray_limit_is_seen() {
    let code =
        "pub const HEAD_LIMIT: usize = 1;\nconst MAX_FDS: u8 = 2;\nconst NAME: &str = \"\";\n";
    fires(stray_limits(&planted("core/src/x.rs", code), &[]), 2);
    fires(stray_limits(&planted("core/src/limits.rs", code), &[]), 0);
    let excepted = [("core/src/x.rs::HEAD_LIMIT", "reason"), ("core/src/x.rs::GONE_MS", "reason")];
    fires(stray_limits(&planted("core/src/x.rs", code), &excepted), 2);
}

#[test]
fn a_long_function_is_seen() {
    let body = |lines| format!("fn long() {{\n{}}}\nfn short() {{}}\n", "    x();\n".repeat(lines));
    fires(long_functions(&planted("bench/src/x.rs", &body(FUNCTION_LINES_MAX)), &[]), 1);
    fires(long_functions(&planted("bench/src/x.rs", &body(FUNCTION_LINES_MAX - 2)), &[]), 0);
    let braces = format!("fn f() {{ g(\"{{\", '{{'); }} // {{\n{}", "// x\n".repeat(99));
    fires(long_functions(&planted("bench/src/x.rs", &braces), &[]), 0);
    fires(long_files(&planted("bench/src/x.rs", &"\n".repeat(FILE_LINES_MAX + 1))), 1);
}

#[test]
fn a_long_or_missing_readme_is_seen() {
    fires(readmes(&planted("core/README.md", &"x\n".repeat(README_LINES_MAX + 1))), 1);
    fires(readmes(&planted("core/Cargo.toml", "")), 1);
}

#[test]
fn a_foreign_name_is_seen() {
    let text = format!("see /{}/x and https://{}.org/y", "work", "pypi");
    fires(foreign_names(&planted("README.md", &text)), 2);
}

#[test]
fn a_stranger_in_the_root_is_seen() {
    let names = ["Cargo.toml", ".ci", "target", "notes.txt"].map(str::to_owned);
    fires(root_entries(&names), 1);
}

#[test]
fn the_walk_sees_the_repository() {
    let sources = repository();
    for path in ["Cargo.toml", "tests/tidy.rs", "proto/src/lib.rs", "gateway/demo/chat.js"] {
        assert!(sources.iter().any(|source| Path::new(&source.path) == Path::new(path)), "{path}");
    }
    assert!(root().join("Cargo.toml").exists());
}
