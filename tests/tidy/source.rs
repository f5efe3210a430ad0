//! The repository's text files, and how checks look into them.
//!
//! **Runs on: any.**

use std::fs;
use std::path::{Path, PathBuf};

use crate::rust::code;

/// Folders that hold what tools made or brought.
const SKIPPED: &[&str] = &["target", ".git", ".cache", "node_modules", "__pycache__"];

/// One file.
pub struct Source {
    /// Its path from the root.
    pub path: String,
    /// Its text.
    pub text: String,
}

/// The root of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ has a parent").to_owned()
}

/// Every text file of the repository but lock files.
pub fn repository() -> Vec<Source> {
    let mut sources = Vec::new();
    walk(&root(), &mut sources);
    sources.sort_by(|one, other| one.path.cmp(&other.path));
    sources
}

fn walk(folder: &Path, sources: &mut Vec<Source>) {
    for entry in fs::read_dir(folder).expect("a folder is readable").flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        if SKIPPED.iter().any(|skipped| name == *skipped) || path.is_symlink() {
            continue;
        }
        if path.is_dir() {
            walk(&path, sources);
        } else if let Ok(text) = fs::read_to_string(&path)
            && path.extension().is_none_or(|end| end != "lock")
        {
            let path = path.strip_prefix(root()).expect("it lies below the root");
            sources.push(Source { path: path.display().to_string(), text });
        }
    }
}

impl Source {
    /// Whether it is Rust.
    pub fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Whether all of it is test code.
    pub fn is_test(&self) -> bool {
        self.path.ends_with("/tests.rs")
            || self.path.ends_with("_tests.rs")
            || self.path.contains("/tests/")
    }

    /// Its code: comments and literals blanked, line by line as in the text.
    pub fn code(&self) -> String {
        code(&self.text)
    }

    /// Where its code, up to its test module, has one of `words`.
    pub fn find_code(&self, words: &[&str]) -> impl Iterator<Item = String> {
        let code = self.code();
        let tests = code.find("#[cfg(test)]\nmod ").unwrap_or(code.len());
        self.find(&code[..tests], words).into_iter()
    }

    /// Where its text has one of `words`.
    pub fn find_text(&self, words: &[&str]) -> impl Iterator<Item = String> {
        self.find(&self.text, words).into_iter()
    }

    fn find(&self, text: &str, words: &[&str]) -> Vec<String> {
        let mut found = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let here = words.iter().filter(|word| line.contains(*word));
            found.extend(here.map(|word| format!("{}:{} {word}", self.path, number + 1)));
        }
        found
    }
}
