//! Scripts in other languages that drive a gateway and say as JSON what they saw.
//!
//! **Runs on: any.** `tests/run install` puts what they need under `tests/.cache`.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;

/// The folder of the tests.
pub fn tests_folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// What `tests/run install` brought.
pub fn cache_folder() -> PathBuf {
    tests_folder().join(".cache")
}

/// A Node.js command for `path` under `tests/`, finding the installed npm packages.
pub fn node(path: &str) -> Command {
    let mut command = Command::new("node");
    command.arg(tests_folder().join(path));
    command.env("NODE_PATH", cache_folder().join("npm/node_modules"));
    command
}

/// A Python command for `path` under `tests/`, in the installed environment.
pub fn python(path: &str) -> Command {
    let mut command = Command::new(cache_folder().join("python/bin/python"));
    command.arg(tests_folder().join(path));
    command
}

/// Runs `command` to its end; its last line is the verdict. Panics unless that says ok.
#[track_caller]
pub fn verdict(mut command: Command) -> Value {
    let shown = format!("{command:?}");
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = output.unwrap_or_else(|error| {
        panic!("{shown}: {error}; `tests/run install` brings what it needs")
    });
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.lines().last().unwrap_or_default();
    let verdict: Value = serde_json::from_str(last)
        .unwrap_or_else(|_| panic!("{shown}: {}, no verdict in: {text}", output.status));
    assert!(verdict["ok"] == true && output.status.success(), "{shown}: {verdict:#}");
    verdict
}

/// Runs `command` to its end: what `parse` makes of each line before the verdict, which must say ok.
#[track_caller]
pub fn lines<T>(mut command: Command, parse: impl Fn(&Value) -> T) -> Vec<T> {
    let shown = format!("{command:?}");
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = output.unwrap_or_else(|error| {
        panic!("{shown}: {error}; `tests/run install` brings what it needs")
    });
    let text = String::from_utf8_lossy(&output.stdout);
    let values = text.lines().map(|line| {
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{shown}: {error}: {line}"))
    });
    let mut values: Vec<Value> = values.collect();
    let verdict = values.pop().unwrap_or_default();
    assert!(verdict["ok"] == true && output.status.success(), "{shown}: {verdict:#}");
    values.iter().map(parse).collect()
}
