//! Just enough of Rust's lexical rules to tell code from comments and literals, and to find where
//! functions end.
//!
//! **Runs on: any.**

/// A function with a body.
#[derive(Debug, PartialEq, Eq)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// Lines from its signature to its closing brace.
    pub lines: usize,
}

/// `text` with comments and the inside of literals replaced by blanks; lines stay where they are.
pub fn code(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => block_comment(rest),
            '"' => string(rest),
            'r' | 'b' if !code.ends_with(is_word) => literal(rest),
            '\'' => character(rest),
            _ => 0,
        };
        if length == 0 {
            code.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        }
        let (blanked, after) = rest.split_at(length);
        code.extend(blanked.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        rest = after;
    }
    code
}

/// The functions in `code` that have bodies, inner ones too.
pub fn functions(code: &str) -> Vec<Function> {
    let mut functions = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        let before = code[..at].chars().next_back();
        let after = &code[at + 3..];
        let name: String = after.chars().take_while(|c| is_word(*c)).collect();
        if before.is_some_and(is_word) || name.is_empty() {
            continue;
        }
        if let Some(end) = body_end(after) {
            let lines = after[..end].matches('\n').count() + 1;
            functions.push(Function { name, lines });
        }
    }
    functions
}

/// Where the body ends that starts with the first brace outside brackets; none before a `;`.
fn body_end(after: &str) -> Option<usize> {
    let (mut braces, mut brackets) = (0, 0);
    for (at, letter) in after.char_indices() {
        match letter {
            '(' | '[' => brackets += 1,
            ')' | ']' => brackets -= 1,
            ';' if braces == 0 && brackets == 0 => return None,
            '{' => braces += 1,
            '}' => {
                braces -= 1;
                if braces == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
    }
    None
}

fn is_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

fn block_comment(text: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        if rest.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

fn string(text: &str) -> usize {
    let mut escaped = false;
    for (at, letter) in text.char_indices().skip(1) {
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// A literal with a prefix: `b"…"`, `r#"…"#`, `br"…"`, `b'…'`; 0 when it is a word.
fn literal(text: &str) -> usize {
    let prefix = text.len() - text.trim_start_matches(['b', 'r']).len();
    let after = &text[prefix..];
    let hashes = after.len() - after.trim_start_matches('#').len();
    let raw = text[..prefix].contains('r');
    if raw && after[hashes..].starts_with('"') {
        let end = format!("\"{}", "#".repeat(hashes));
        let body = prefix + hashes + 1;
        return text[body..].find(&end).map_or(text.len(), |at| body + at + end.len());
    }
    match after.chars().next() {
        Some('"') if prefix == 1 => prefix + string(after),
        Some('\'') if prefix == 1 => prefix + character(after),
        _ => 0,
    }
}

/// A character literal; 0 when the quote opens a lifetime.
fn character(text: &str) -> usize {
    let mut letters = text.char_indices().skip(1);
    match letters.next() {
        Some((_, '\\')) => {
            letters.next();
            letters.find(|(_, letter)| *letter == '\'').map_or(0, |(at, _)| at + 1)
        }
        Some(_) => match letters.next() {
            Some((at, '\'')) => at + 1,
            _ => 0,
        },
        None => 0,
    }
}

#[test]
fn comments_and_literals_are_blanked() {
    let text = "a /* b /* c */ d */ \"e{\\\"\" 'f' '\\'' &'g str r#\"h\"#; // i\nb'{' br\"{\" bar";
    let left: Vec<_> = code(text).split_whitespace().map(str::to_owned).collect();
    assert_eq!(left, ["a", "&'g", "str", ";", "bar"]);
    assert_eq!(code(text).lines().count(), 2);
}

#[test]
fn functions_are_measured() {
    let text =
        "fn a() {\n    if x {\n    }\n}\ntrait T { fn b(x: [u8; 2]); }\nfn c(_: [u8; 3]) {}\n";
    let measured = functions(text);
    let [a, c] = &measured[..] else { panic!("{measured:?}") };
    assert_eq!((a.name.as_str(), a.lines, c.name.as_str(), c.lines), ("a", 4, "c", 1));
}
