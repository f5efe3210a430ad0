//! The gateway's metrics, parsed from the Prometheus text format.
//!
//! **Runs on: any.**

use std::collections::BTreeMap;

/// Labels of a series.
pub type Labels = BTreeMap<String, String>;

/// One scrape.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    series: BTreeMap<(String, Labels), f64>,
}

impl Metrics {
    /// Parses a scrape. Panics on a line that the format doesn't allow.
    pub fn parse(text: &str) -> Self {
        let lines = text.lines().map(str::trim);
        let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
        Self { series: lines.map(series).collect() }
    }

    /// The sum of all series of `name` that carry all of `labels`; 0 when there are none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        // A sum of nothing is -0 in Rust.
        self.carrying(name, labels).sum::<f64>() + 0.0
    }

    fn carrying(&self, name: &str, labels: &[(&str, &str)]) -> impl Iterator<Item = f64> {
        let carries = move |of: &Labels| {
            labels.iter().all(|(key, value)| of.get(*key).is_some_and(|found| found == value))
        };
        let named = self.series.iter().filter(move |((found, of), _)| found == name && carries(of));
        named.map(|(_, value)| *value)
    }

    /// How many series of `name` carry all of `labels`.
    pub fn count(&self, name: &str, labels: &[(&str, &str)]) -> usize {
        self.carrying(name, labels).count()
    }

    /// `name` summed for each value of `label`.
    pub fn by(&self, name: &str, label: &str) -> BTreeMap<String, f64> {
        let mut sums = BTreeMap::new();
        for ((found, labels), value) in &self.series {
            if let (true, Some(key)) = (found == name, labels.get(label)) {
                *sums.entry(key.clone()).or_default() += value;
            }
        }
        sums
    }

    /// Counters and histogram buckets of `before` that are smaller here or gone, summed over
    /// shards; none, unless a total was lost.
    pub fn fallen_since(&self, before: &Self) -> Vec<String> {
        let (old, new) = (before.totals(), self.totals());
        let fallen =
            old.iter().filter(|(key, value)| new.get(*key).copied().unwrap_or(0.0) < **value);
        fallen.map(|(key, value)| format!("{key:?} was {value}, is {:?}", new.get(key))).collect()
    }

    fn totals(&self) -> BTreeMap<(String, Labels), f64> {
        let mut totals = BTreeMap::new();
        for ((name, labels), value) in &self.series {
            if ["_total", "_count", "_sum", "_bucket"].iter().any(|end| name.ends_with(end)) {
                let mut labels = labels.clone();
                labels.remove("shard");
                *totals.entry((name.clone(), labels)).or_default() += value;
            }
        }
        totals
    }
}

/// Splits `name{key="value",…} number`.
fn series(line: &str) -> ((String, Labels), f64) {
    let (head, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no value: {line}"));
    let value = value.parse().unwrap_or_else(|_| panic!("not a number: {line}"));
    let Some((name, labels)) = head.split_once('{') else {
        return ((head.trim().to_owned(), Labels::new()), value);
    };
    let mut rest = labels.strip_suffix('}').unwrap_or_else(|| panic!("no closing brace: {line}"));
    let mut pairs = Labels::new();
    while !rest.is_empty() {
        let (key, quoted) =
            rest.split_once("=\"").unwrap_or_else(|| panic!("no label value: {line}"));
        let (value, after) = unquote(quoted).unwrap_or_else(|| panic!("no end: {line}"));
        pairs.insert(key.to_owned(), value);
        rest = after.strip_prefix(',').unwrap_or(after);
    }
    ((name.to_owned(), pairs), value)
}

/// A label's value up to its closing quote, and what follows that.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    loop {
        match chars.next()? {
            (at, '"') => return Some((value, &text[at + 1..])),
            (_, '\\') => match chars.next()?.1 {
                'n' => value.push('\n'),
                c => value.push(c),
            },
            (_, c) => value.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# TYPE trine_io_bytes_total counter\n\
        trine_io_bytes_total{direction=\"in\",shard=\"0\"} 10\n\
        trine_io_bytes_total{direction=\"in\",shard=\"1\"} 5\n\
        trine_connections{shard=\"0\"} 2\n\
        trine_up 1\n";

    #[test]
    fn sums_and_groups() {
        let metrics = Metrics::parse(TEXT);
        assert_eq!(metrics.sum("trine_io_bytes_total", &[("direction", "in")]), 15.0);
        assert_eq!(metrics.sum("trine_io_bytes_total", &[("shard", "1")]), 5.0);
        assert_eq!(metrics.sum("trine_up", &[]), 1.0);
        assert_eq!(metrics.count("trine_io_bytes_total", &[("direction", "in")]), 2);
        assert_eq!(metrics.count("trine_up", &[("shard", "0")]), 0);
        assert_eq!(metrics.by("trine_io_bytes_total", "shard").len(), 2);
    }

    #[test]
    fn a_labels_value_may_hold_anything() {
        let metrics = Metrics::parse("x{a=\"1,b=\\\"2\\\"}\\\\\\n\",c=\"3\"} 4\n");
        assert_eq!(metrics.sum("x", &[("a", "1,b=\"2\"}\\\n"), ("c", "3")]), 4.0);
    }

    #[test]
    fn a_fallen_counter_is_named_and_a_moved_one_is_not() {
        let before = Metrics::parse(TEXT);
        let moved = Metrics::parse("trine_io_bytes_total{direction=\"in\",shard=\"0\"} 15\n");
        assert!(moved.fallen_since(&before).is_empty());
        let fallen = Metrics::parse("trine_io_bytes_total{direction=\"in\",shard=\"0\"} 14\n");
        assert_eq!(fallen.fallen_since(&before).len(), 1);
    }
}
