//! Reads `trine.toml`: strictly, and with all that is wrong said at once.
//!
//! **Runs on: control.** No I/O: text in, configuration or problems out. No input makes it panic.

use std::fmt;
use std::net::SocketAddr;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::schema::{KEYS, Key, Kind, NAMESPACE_KEYS, ROUTE_KEYS, RPC_KEYS, Value};
use super::{Config, Namespace, Partitioner, RecordKey, Rpc};
use crate::deliver::Template;
use crate::limits::SHARDS_MAX;

/// Everything that is wrong with a file; shown with line, caret and what would be allowed.
#[derive(Debug)]
pub struct Problems {
    origin: String,
    text: String,
    found: Vec<Problem>,
}

#[derive(Debug)]
struct Problem {
    span: Range<usize>,
    title: String,
    /// Beside the caret: what would be right.
    label: String,
}

impl Problems {
    /// How many there are; at least one.
    pub fn count(&self) -> usize {
        self.found.len()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let renderer = Renderer::plain();
        for Problem { span, title, label } in &self.found {
            let snippet = Snippet::source(&self.text)
                .path(&self.origin)
                .annotation(AnnotationKind::Primary.span(span.clone()).label(label));
            let group = Level::ERROR.primary_title(title).element(snippet);
            writeln!(f, "{}\n", renderer.render(&[group]))?;
        }
        let plural = if self.found.len() == 1 { "" } else { "s" };
        write!(f, "{}: {} error{plural}", self.origin, self.found.len())
    }
}

impl std::error::Error for Problems {}

/// Reads the text of a file. `origin` is its name, for the messages.
///
/// # Errors
/// Everything that is wrong, in the order of the file.
pub fn parse(origin: &str, text: &str) -> Result<Config, Problems> {
    let mut reader = Reader { found: Vec::new(), spans: Vec::new() };
    let (root, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let span = error.span().unwrap_or(0..0);
        reader.problem(span, "this is not TOML", error.message());
    }
    let config = reader.config(root.get_ref());
    let Reader { mut found, .. } = reader;
    if found.is_empty() {
        return Ok(config);
    }
    for problem in &mut found {
        problem.span = within(text, &problem.span);
    }
    found.sort_by_key(|problem| problem.span.start);
    Err(Problems { origin: origin.to_owned(), text: text.to_owned(), found })
}

/// A span that lies in the text and on its character boundaries.
fn within(text: &str, span: &Range<usize>) -> Range<usize> {
    let start = text.floor_char_boundary(span.start);
    let end = text.ceil_char_boundary(span.end.max(start));
    start..end
}

pub(super) struct Reader {
    found: Vec<Problem>,
    /// Where the keys that were read stand, for the checks of several together.
    spans: Vec<(String, Range<usize>)>,
}

impl Reader {
    pub(super) fn problem(
        &mut self,
        span: Range<usize>,
        title: impl Into<String>,
        label: impl Into<String>,
    ) {
        self.found.push(Problem { span, title: title.into(), label: label.into() });
    }

    fn config(&mut self, root: &DeTable<'_>) -> Config {
        let mut config = Config::with_file_defaults();
        self.section("", root, KEYS, &mut config, &SECTIONS, |reader, config, name, value| {
            match (name, value.get_ref()) {
                ("namespace", DeValue::Array(entries)) => {
                    for entry in entries {
                        reader.namespace(entry, config);
                    }
                }
                ("rpc", DeValue::Array(entries)) => {
                    for entry in entries {
                        reader.rpc(entry, config);
                    }
                }
                ("consumer" | "upstream", DeValue::Array(entries)) => {
                    for entry in entries {
                        match name {
                            "consumer" => reader.consumer(entry, config),
                            _ => reader.upstream(entry, config),
                        }
                    }
                }
                ("consumer" | "upstream", _) => {
                    let title = format!("`{name}` is a list");
                    reader.problem(value.span(), title, format!("write [[{name}]]"));
                }
                ("rpc", _) => reader.problem(value.span(), "`rpc` is a list", "write [[rpc]]"),
                ("namespace", _) => {
                    reader.problem(value.span(), "`namespace` is a list", "write [[namespace]]");
                }
                ("channel", DeValue::Table(table)) => {
                    let mut namespace = Namespace::closed(String::new());
                    let keys = NAMESPACE_KEYS.get(1..).unwrap_or_default();
                    reader.section(
                        "channel",
                        table,
                        keys,
                        &mut namespace,
                        &route_keys(),
                        |reader, n, key, value| {
                            reader.key("channel", ROUTE_KEYS, &mut n.route, key, value)
                        },
                    );
                    config.namespaces[0] = namespace;
                }
                (section, DeValue::Table(table)) if is_section(section) => {
                    reader.section(section, table, KEYS, config, &[], |_, _, _, _| false);
                }
                (section, _) if is_section(section) || section == "channel" => {
                    let label = format!("write [{section}]");
                    reader.problem(value.span(), format!("`{section}` is a section"), label);
                }
                _ => return false,
            }
            true
        });
        if self.span("listen.client").is_some() && self.span("listen.admin").is_none() {
            config.listen.admin = next_port(config.listen.client);
        }
        if self.span("listen.client").is_some() && self.span("listen.api").is_none() {
            config.listen.api = next_port(config.listen.admin);
        }
        self.check(&config);
        config
    }

    fn namespace(&mut self, entry: &Spanned<DeValue<'_>>, config: &mut Config) {
        let DeValue::Table(table) = entry.get_ref() else {
            return self.problem(entry.span(), "a namespace is a table", "write [[namespace]]");
        };
        let mut namespace = Namespace::closed(String::new());
        let place = format!("namespace[{}]", config.namespaces.len() - 1);
        let others = route_keys();
        self.section(
            &place,
            table,
            NAMESPACE_KEYS,
            &mut namespace,
            &others,
            |reader, n, key, value| reader.key(&place, ROUTE_KEYS, &mut n.route, key, value),
        );
        match self.span(&format!("{place}.name")) {
            None => self.problem(entry.span(), "this namespace has no name", "add name = \"…\""),
            // One that can't be has been told, and the one without a name is [channel].
            Some(_) if namespace.name.is_empty() => {}
            Some(span) if config.namespaces.iter().any(|known| known.name == namespace.name) => {
                let title = format!("namespace `{}` is there already", namespace.name);
                self.problem(span, title, "names are used once");
            }
            Some(_) => {}
        }
        config.namespaces.push(namespace);
    }

    fn rpc(&mut self, entry: &Spanned<DeValue<'_>>, config: &mut Config) {
        let DeValue::Table(table) = entry.get_ref() else {
            return self.problem(entry.span(), "an rpc is a table", "write [[rpc]]");
        };
        let mut rpc = Rpc::default();
        let place = format!("rpc[{}]", config.rpcs.len());
        self.section(
            &place,
            table,
            RPC_KEYS,
            &mut rpc,
            &route_keys(),
            |reader, rpc, key, value| reader.key(&place, ROUTE_KEYS, &mut rpc.route, key, value),
        );
        for name in ["method", "topic"] {
            if self.span(&format!("{place}.{name}")).is_none() {
                let title = format!("this rpc has no {name}");
                self.problem(entry.span(), title, format!("add {name} = \"…\""));
            }
        }
        if let Some(span) = self.span(&format!("{place}.method"))
            && config.rpcs.iter().any(|known| known.method == rpc.method)
        {
            let title = format!("rpc `{}` is there already", rpc.method);
            self.problem(span, title, "methods are named once");
        }
        config.rpcs.push(rpc);
    }

    /// Reads one table. `other` takes what is no key of it, which `others` names, or says no.
    pub(super) fn section<T>(
        &mut self,
        section: &str,
        table: &DeTable<'_>,
        keys: &[Key<T>],
        target: &mut T,
        others: &[&str],
        mut other: impl FnMut(&mut Self, &mut T, &str, &Spanned<DeValue<'_>>) -> bool,
    ) {
        let plain = if keys.iter().any(|key| key.section == section) { section } else { "" };
        for (name, value) in table {
            let of_section = |key: &&Key<T>| key.section == plain;
            let found = keys.iter().filter(of_section).find(|key| key.name == *name.get_ref());
            if let Some(key) = found {
                self.value(section, key, target, value);
            } else if !other(self, target, name.get_ref(), value) {
                let own = keys.iter().filter(of_section).map(|key| key.name);
                let known: Vec<&str> = own.chain(others.iter().copied()).collect();
                let place = if section.is_empty() { "file" } else { "section" };
                let title = format!("this {place} has no key `{}`", name.get_ref());
                self.problem(name.span(), title, suggestion(name.get_ref(), &known));
            }
        }
    }

    /// Reads a value if its key is one of `keys`, and says whether it is.
    fn key<T>(
        &mut self,
        section: &str,
        keys: &[Key<T>],
        target: &mut T,
        name: &str,
        value: &Spanned<DeValue<'_>>,
    ) -> bool {
        let found = keys.iter().find(|key| key.name == name);
        if let Some(key) = found {
            self.value(section, key, target, value);
        }
        found.is_some()
    }

    fn value<T>(
        &mut self,
        section: &str,
        key: &Key<T>,
        target: &mut T,
        value: &Spanned<DeValue<'_>>,
    ) {
        let full = match section {
            "" => key.name.to_owned(),
            _ => format!("{section}.{}", key.name),
        };
        self.spans.push((full.clone(), value.span()));
        match read(key.kind, value.get_ref()) {
            Ok(read) => (key.set)(target, &read),
            Err(label) => {
                self.problem(fault(key.kind, value), format!("`{full}` can't be this"), label);
            }
        }
    }

    pub(super) fn span(&self, key: &str) -> Option<Range<usize>> {
        self.spans.iter().find(|(name, _)| name == key).map(|(_, span)| span.clone())
    }

    /// Says what is wrong at the first of `keys` that the file has, unless the rule holds.
    pub(super) fn rule(&mut self, holds: bool, keys: &[&str], title: &str, label: &str) {
        if !holds {
            let span = keys.iter().find_map(|key| self.span(key)).unwrap_or(0..0);
            self.problem(span, title, label);
        }
    }
}

const SECTIONS: [&str; 15] = [
    "listen",
    "shards",
    "client",
    "broker",
    "logs",
    "log",
    "kafka",
    "spool",
    "queue",
    "api",
    "rpc",
    "consumer",
    "upstream",
    "channel",
    "namespace",
];

/// What a table may have beside its own keys if its events may go to the log.
fn route_keys() -> Vec<&'static str> {
    ROUTE_KEYS.iter().map(|key| key.name).collect()
}

fn is_section(name: &str) -> bool {
    !name.is_empty() && KEYS.iter().any(|key| key.section == name)
}

/// The address with the next port; port 0, which means any, stays, and so does the last one.
pub fn next_port(address: SocketAddr) -> SocketAddr {
    let port = if address.port() == 0 { 0 } else { address.port().saturating_add(1) };
    SocketAddr::new(address.ip(), port)
}

/// Reads a value of a kind. The error says what would be right.
fn read(kind: Kind, value: &DeValue<'_>) -> Result<Value, String> {
    let is = value.type_str();
    match (kind, value) {
        (Kind::Bool, DeValue::Boolean(flag)) => Ok(Value::Bool(*flag)),
        (Kind::Bool, _) => Err(format!("true or false, not {is}")),
        (Kind::Integer(min, max), value) => match integer(value) {
            Some(integer) if (min..=max).contains(&integer) => Ok(Value::Integer(integer)),
            _ => Err(format!("a whole number from {min} to {max}")),
        },
        (Kind::Text, DeValue::String(text)) if !text.is_empty() => {
            Ok(Value::Text(text.to_string()))
        }
        (Kind::Text, _) => Err("a text that is not empty".to_owned()),
        (Kind::AddressOrNone, DeValue::String(text)) if text.is_empty() => {
            Ok(Value::Text(String::new()))
        }
        (Kind::Address | Kind::AddressOrNone, value) => match value.as_str() {
            Some(text) if text.parse::<SocketAddr>().is_ok() => Ok(Value::Text(text.to_owned())),
            _ => Err("an IP address with its port, such as \"127.0.0.1:8000\"".to_owned()),
        },
        (Kind::Choice(words), value) => match value.as_str() {
            Some(text) if words.contains(&text) => Ok(Value::Text(text.to_owned())),
            Some(text) => {
                let all = words.join(", ");
                Err(match nearest(text, words) {
                    Some(word) => format!("did you mean `{word}`? known are {all}"),
                    None => format!("known are {all}"),
                })
            }
            None => Err(format!("one of: {}", words.join(", "))),
        },
        (Kind::Origins, value) => origins(value)
            .ok_or_else(|| "a list of origins, such as [\"https://example.org\"]".to_owned()),
        (Kind::Cpus, value) => {
            cpus(value).ok_or_else(|| "a list of CPU numbers, each once, such as [0, 2]".to_owned())
        }
        (kind, value) => read_written(kind, value),
    }
}

/// Reads a value of a kind that has a form of its own: names, keys, templates, lists of such.
fn read_written(kind: Kind, value: &DeValue<'_>) -> Result<Value, String> {
    let is = value.type_str();
    match (kind, value) {
        (Kind::RecordKey, value) => text_that(value, |text| RecordKey::parse(text).is_some())
            .ok_or_else(|| {
                "\"none\", \"channel\", \"user\", \"header:NAME\", or a JSON pointer such as \
                 \"/ticket/id\""
                    .to_owned()
            }),
        (Kind::Partitioner, value) => text_that(value, |text| Partitioner::parse(text).is_some())
            .ok_or_else(|| {
                "\"hash\", \"round_robin\", \"sticky\", \"header:NAME\", or a JSON pointer"
                    .to_owned()
            }),
        (Kind::AnyText, value) => {
            text_that(value, |_| true).ok_or_else(|| format!("a text, not {is}"))
        }
        (Kind::Pointer, value) => text_that(value, |text| text.is_empty() || text.starts_with('/'))
            .ok_or_else(|| "a JSON pointer such as \"/message/id\"".to_owned()),
        (Kind::Brokers, value) => some(distinct(value, is_broker))
            .ok_or_else(|| "a list of brokers, such as [\"kafka.example:9092\"]".to_owned()),
        (Kind::Choices(words), value) => distinct(value, |text| words.contains(&text))
            .ok_or_else(|| format!("a list of some of these, each once: {}", words.join(", "))),
        (Kind::Numbers, value) => numbers(value)
            .ok_or_else(|| "a table of partitions, such as { gold = 0, silver = 1 }".to_owned()),
        (Kind::TimesOfDay, value) => times_of_day(value)
            .ok_or_else(|| "a list of times of day, such as [\"02:00\"]".to_owned()),
        (Kind::Names, value) => some(distinct(value, is_name))
            .ok_or_else(|| "a list of names, each once, such as [\"tickets\"]".to_owned()),
        (Kind::NamesOrNone, value) => distinct(value, is_name)
            .ok_or_else(|| "a list of names, each once, such as [\"tickets\"]".to_owned()),
        (Kind::Addresses, value) => some(distinct(value, is_endpoint)).ok_or_else(|| {
            "a list of IP addresses with ports, such as [\"127.0.0.1:8080\"]".to_owned()
        }),
        (Kind::Template, value) => match value.as_str().map(Template::parse) {
            Some(Ok(template)) => Ok(Value::Text(template.into())),
            Some(Err(error)) => Err(error.to_string()),
            None => Err(format!("a channel such as \"user:{{key}}\", not {is}")),
        },
        (Kind::Path, value) => match value.as_str() {
            Some(text) if is_path(text) => Ok(Value::Text(text.to_owned())),
            _ => Err("a path such as \"/tickets\", in printable ASCII".to_owned()),
        },
        (Kind::Host, value) => match value.as_str() {
            Some(text) if is_host(text) => Ok(Value::Text(text.to_owned())),
            _ => Err("a name or an IP address, such as \"desk.example:8080\"".to_owned()),
        },
        (Kind::Url, value) => match value.as_str() {
            Some(text) if is_url(text) => Ok(Value::Text(text.to_owned())),
            _ => Err("http:// with an IP address, port and path".to_owned()),
        },
        (Kind::Name, value) => match value.as_str() {
            Some(text) if is_name(text) => Ok(Value::Text(text.to_owned())),
            _ => Err("1 to 64 of a-z, A-Z, 0-9, `_`, `-` and `.`".to_owned()),
        },
        _ => unreachable!("the other kinds are read before"),
    }
}

fn text_that(value: &DeValue<'_>, holds: impl Fn(&str) -> bool) -> Option<Value> {
    value.as_str().filter(|text| holds(text)).map(|text| Value::Text(text.to_owned()))
}

fn texts_that(value: &DeValue<'_>, holds: impl Fn(&str) -> bool) -> Option<Value> {
    let texts = value.as_array()?.iter().map(|entry| entry.get_ref().as_str());
    let texts = texts.map(|text| text.filter(|text| holds(text)).map(str::to_owned));
    texts.collect::<Option<Vec<_>>>().map(Value::Texts)
}

fn is_broker(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let is_address = text.parse::<SocketAddr>().is_ok();
    (is_address || is_host_name(host)) && port.parse::<u16>().is_ok_and(|port| port > 0)
}

fn is_endpoint(text: &str) -> bool {
    text.parse::<SocketAddr>().is_ok_and(|address| address.port() > 0)
}

fn numbers(value: &DeValue<'_>) -> Option<Value> {
    let entries = value.as_table()?.iter().map(|(name, value)| {
        let number = integer(value.get_ref()).filter(|&number| number < 100_000)?;
        Some((name.get_ref().to_string(), number as u32))
    });
    entries.collect::<Option<Vec<_>>>().map(Value::Numbers)
}

/// Where a value is wrong: in a template, at the part that is, if the file spells it out.
fn fault(kind: Kind, value: &Spanned<DeValue<'_>>) -> Range<usize> {
    let span = value.span();
    let template = value.get_ref().as_str().filter(|_| matches!(kind, Kind::Template));
    match template.map(|text| (text.len() + 2 == span.len(), Template::parse(text))) {
        Some((true, Err(error))) => {
            let start = span.start + 1 + error.at;
            start..start + error.length
        }
        _ => span,
    }
}

fn integer(value: &DeValue<'_>) -> Option<u64> {
    let integer = value.as_integer()?;
    u64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

fn origins(value: &DeValue<'_>) -> Option<Value> {
    texts_that(value, |text| {
        let authority = text.split_once("://").map(|(_, authority)| authority);
        text.is_ascii()
            && authority.is_some_and(|host| !host.is_empty() && !host.contains(['/', ' ', '*']))
    })
}

fn distinct(value: &DeValue<'_>, fits: impl Fn(&str) -> bool) -> Option<Value> {
    let texts = texts_that(value, fits)?;
    let entries = texts.texts();
    let mut once = entries.iter().enumerate().map(|(index, text)| !entries[..index].contains(text));
    once.all(|is_first| is_first).then_some(texts)
}

/// Those of which there is one at least.
fn some(texts: Option<Value>) -> Option<Value> {
    texts.filter(|texts| !texts.texts().is_empty())
}

/// Minutes after midnight.
fn times_of_day(value: &DeValue<'_>) -> Option<Value> {
    let minutes = value.as_array()?.iter().map(|entry| {
        let (hour, minute) = entry.get_ref().as_str()?.split_once(':')?;
        let number = |text: &str, limit: usize| {
            let is_plain = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse().ok().filter(|&number: &usize| is_plain && number < limit)
        };
        Some(number(hour, 24)? * 60 + number(minute, 60)?)
    });
    minutes.collect::<Option<_>>().map(Value::Integers)
}

fn is_path(text: &str) -> bool {
    text.starts_with('/') && text.bytes().all(|byte| matches!(byte, b'!'..=b'~') && byte != b'#')
}

fn is_host(text: &str) -> bool {
    let (name, port) = text.split_once(':').unwrap_or((text, "0"));
    text.parse::<SocketAddr>().is_ok() || (is_host_name(name) && port.parse::<u16>().is_ok())
}

/// As names are in DNS (RFC 1035 §2.3.4), and with underscores as in containers' networks.
fn is_host_name(text: &str) -> bool {
    (1..=253).contains(&text.len()) && text.split('.').all(is_name)
}

/// Plain HTTP to an address, so that no shard ever asks for a name.
fn is_url(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("http://") else { return false };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    authority.parse::<SocketAddr>().is_ok() && (path.is_empty() || is_path(path))
}

fn cpus(value: &DeValue<'_>) -> Option<Value> {
    let cpus: Option<Vec<usize>> = value
        .as_array()?
        .iter()
        .map(|entry| usize::try_from(integer(entry.get_ref())?).ok())
        .collect();
    let mut sorted = cpus.clone()?;
    sorted.sort_unstable();
    let once = sorted.windows(2).all(|pair| pair[0] != pair[1]);
    let fits = (1..=SHARDS_MAX).contains(&sorted.len());
    cpus.filter(|_| once && fits).map(Value::Integers)
}

fn is_name(text: &str) -> bool {
    let character = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    // Some name folders.
    (1..=64).contains(&text.len()) && text.bytes().all(character) && !matches!(text, "." | "..")
}

/// What was probably meant, or all that could have been.
fn suggestion(text: &str, known: &[&str]) -> String {
    match nearest(text, known) {
        Some(word) => format!("did you mean `{word}`?"),
        None => format!("known are {}", known.join(", ")),
    }
}

/// The known word that a text may be a slip of.
fn nearest<'a>(text: &str, known: &[&'a str]) -> Option<&'a str> {
    let (steps, word) = known.iter().map(|word| (distance(text, word), *word)).min()?;
    (steps <= 1 + text.len() / 4).then_some(word)
}

/// How many letters must be added, removed or changed (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    // A long key is nobody's slip of the keyboard.
    if one.len() > 64 {
        return usize::MAX;
    }
    let other = other.as_bytes();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in other.iter().enumerate() {
            let change = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}
