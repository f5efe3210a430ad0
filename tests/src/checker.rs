//! Compares what was acknowledged with what is in the log: nothing lost, per key in order, duplicates
//! within a bound, nothing dropped in silence, nothing that was never sent.
//!
//! **Runs on: any.** It has no I/O. What it checked is counted, and a check of nothing doesn't pass.
//! Its own tests plant each fault and want it found, exactly as often as it was planted.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::LazyLock;
use std::time::Instant;

use serde_json::{Value, json};

/// How many findings of a kind are described; all are counted.
const EXAMPLES: usize = 5;

/// The smallest `kafka.batch_bytes`: tests with outages take it, so that little is in doubt at once.
pub const BATCH_BYTES: usize = 1_024;

/// Bytes that a record of a test takes in a batch at least: its headers alone are half of them.
const RECORD_BYTES: usize = 128;

/// Batches of a partition that a producer sends before the first is answered.
const BATCHES: usize = 5;

/// The headers that every record of a gateway carries.
const MARKS: [&str; 3] = ["trine-gateway", "trine-epoch", "trine-sequence"];

/// Nanoseconds since this was first asked in the process: one clock for all senders of a run.
pub fn now_ns() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed().as_nanos() as u64
}

/// A message that was sent, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Who sent it.
    pub sender: String,
    /// The sender's connection, counted from 0.
    pub connection: u32,
    /// Its number among the sender's messages.
    pub sequence: u64,
    /// The record key that it gets.
    pub key: String,
    /// When it was sent, by [`now_ns`].
    pub sent_ns: u64,
    /// What came of it.
    pub outcome: Outcome,
}

/// What a sender was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was acknowledged.
    Acknowledged {
        /// Where it is, in the reply's words: `kafka`, `journal`, `spool` or `none`.
        at: String,
        /// Partition and log offset, where the reply tells them.
        place: Option<(i32, i64)>,
        /// When the reply came, by [`now_ns`].
        acknowledged_ns: u64,
    },
    /// It was refused.
    Refused {
        /// The error's code.
        code: u64,
        /// Whether the error says that the message may be in the log all the same.
        possibly_written: bool,
    },
    /// The connection ended before a reply: the message may be in the log or not.
    Cut,
    /// The connection lived and no reply came.
    Silence,
}

/// A record in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its partition.
    pub partition: i32,
    /// Its offset in the partition.
    pub log_offset: i64,
    /// Its timestamp, Unix time.
    pub timestamp_ms: i64,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value; none is a tombstone.
    pub value: Option<Vec<u8>>,
    /// Its headers, in order.
    pub headers: Vec<(String, Vec<u8>)>,
}

/// The payload of message `sequence`, from which the checker knows it again.
pub fn payload(run: &str, sender: &str, sequence: u64, key: &str) -> Value {
    json!({"run": run, "sender": sender, "sequence": sequence, "key": key})
}

/// What a test allows.
#[derive(Clone, Copy, Debug, Default)]
pub struct Allowed {
    /// So many records beyond the first of each message.
    pub duplicates: usize,
    /// A key in more than one partition, as after partitions were added.
    pub moved_keys: bool,
    /// Records without a gateway's headers.
    pub without_marks: bool,
}

impl Allowed {
    /// What so many outages may leave twice, each with all that its producers can have in doubt: one
    /// for every shard, with five batches of [`BATCH_BYTES`] for every partition.
    pub fn outages(outages: usize, shards: usize, partitions: usize) -> Self {
        let records = BATCHES * (BATCH_BYTES / RECORD_BYTES);
        Self { duplicates: outages * shards * partitions * records, ..Self::default() }
    }

    /// What so many kills may leave twice beside that where they meet the forwarding of spools: what
    /// Kafka acknowledged in the 100 ms that a durable cursor may lag behind. Each shard may forward
    /// a second's records at once after an outage, then goes on at its rate, and at the publishers'.
    pub fn and_forwarding(
        mut self,
        kills: usize,
        shards: usize,
        forward_per_s: usize,
        published_per_s: usize,
    ) -> Self {
        let forwarded = shards * (forward_per_s + forward_per_s / 10);
        self.duplicates += kills * (forwarded + published_per_s / 10);
        self
    }
}

/// Findings of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// How many there are.
    pub count: usize,
    /// The first of them in words.
    pub examples: Vec<String>,
}

impl Findings {
    fn add(&mut self, example: impl FnOnce() -> String) {
        self.count += 1;
        if self.examples.len() < EXAMPLES {
            self.examples.push(example());
        }
    }
}

/// What a check found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Messages sent.
    pub sent: usize,
    /// Messages acknowledged, by where the reply said they are.
    pub acknowledged: BTreeMap<String, usize>,
    /// Messages refused.
    pub refused: usize,
    /// Messages whose connection ended before a reply.
    pub cut: usize,
    /// Records looked at.
    pub records: usize,
    /// Keys among them.
    pub keys: usize,
    /// Acknowledged, but not in the log.
    pub lost: Findings,
    /// In the log behind a record of its key that it must precede.
    pub reordered: Findings,
    /// In the log once more.
    pub duplicates: Findings,
    /// Neither acknowledged nor refused on a connection that lived.
    pub silent: Findings,
    /// In the log, but never sent in this run, or with another key.
    pub foreign: Findings,
    /// Refused for sure, but in the log.
    pub refused_but_there: Findings,
    /// Not where the acknowledgement says.
    pub misplaced: Findings,
    /// Keys in more than one partition.
    pub moved_keys: Findings,
    /// Records whose gateway headers are missing, differ between copies, or belong to another message too.
    pub wrong_marks: Findings,
}

impl Report {
    /// Whether nothing is wrong beyond what is allowed, and something was checked. The error tells all.
    pub fn verdict(&self, allowed: Allowed) -> Result<(), String> {
        let mut wrong = Vec::new();
        let promised: usize = self.promised();
        if promised == 0 || self.records == 0 {
            wrong.push("nothing was checked".to_owned());
        }
        let duplicates = allowed.duplicates;
        if duplicates > 0 && duplicates >= self.records {
            let records = self.records;
            wrong.push(format!("{duplicates} duplicates are allowed among {records} records"));
        }
        for (name, findings) in self.findings() {
            let bound = match name {
                "duplicates" => allowed.duplicates,
                "moved keys" if allowed.moved_keys => usize::MAX,
                "wrong marks" if allowed.without_marks => usize::MAX,
                _ => 0,
            };
            if findings.count > bound {
                let examples = findings.examples.join("\n    ");
                wrong.push(format!("{name}: {} (allowed {bound})\n    {examples}", findings.count));
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(format!("{self}\n  {}", wrong.join("\n  "))) }
    }

    /// Prints what was checked, and panics unless the verdict is fine.
    #[track_caller]
    pub fn assert(&self, allowed: Allowed) {
        println!("{self}");
        if let Err(wrong) = self.verdict(allowed) {
            panic!("{wrong}");
        }
    }

    /// How many acknowledgements promise that the message stays.
    fn promised(&self) -> usize {
        self.acknowledged.iter().filter(|(at, _)| *at != "none").map(|(_, count)| count).sum()
    }

    fn findings(&self) -> [(&'static str, &Findings); 9] {
        [
            ("lost", &self.lost),
            ("reordered", &self.reordered),
            ("duplicates", &self.duplicates),
            ("silent drops", &self.silent),
            ("foreign", &self.foreign),
            ("refused but there", &self.refused_but_there),
            ("misplaced", &self.misplaced),
            ("moved keys", &self.moved_keys),
            ("wrong marks", &self.wrong_marks),
        ]
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sent, refused, cut, records, keys, .. } = self;
        let places: Vec<_> =
            self.acknowledged.iter().map(|(at, count)| format!("{count} at {at}")).collect();
        write!(f, "checked {sent} sent, acknowledged {}", places.join(" + "))?;
        write!(f, ", {refused} refused, {cut} cut; {records} records of {keys} keys")?;
        for (name, findings) in self.findings().iter().filter(|(_, findings)| findings.count > 0) {
            write!(f, "; {name} {}", findings.count)?;
        }
        Ok(())
    }
}

/// Compares the messages of `run` with the records of a log, those of each partition in order of offset.
pub fn check(run: &str, sent: &[Sent], records: &[Record]) -> Report {
    let mut report = Report { sent: sent.len(), records: records.len(), ..Report::default() };
    let by_origin: HashMap<_, _> =
        sent.iter().map(|message| ((message.sender.as_str(), message.sequence), message)).collect();
    assert_eq!(by_origin.len(), sent.len(), "a sender used a sequence twice");

    let mut found: HashMap<Origin<'_>, Vec<&Record>> = HashMap::new();
    let mut first = Vec::new();
    for record in records {
        let Some(message) = origin_of(record, run, &by_origin) else {
            report.foreign.add(|| format!("{} holds {}", place(record), shown(record)));
            continue;
        };
        let copies = found.entry((&message.sender, message.sequence)).or_default();
        if copies.is_empty() {
            first.push((message, record));
        } else {
            let of = place(copies[0]);
            report.duplicates.add(|| format!("{} is in {of} and {}", name(message), place(record)));
        }
        copies.push(record);
    }
    sent.iter().for_each(|message| outcome(&mut report, message, &found));
    order(&mut report, &first, &acknowledged_ranks(sent));
    marks(&mut report, &first, &found);
    report
}

/// Sender and sequence.
type Origin<'a> = (&'a str, u64);

/// The message that a record holds, if it is one of this run and has that message's key.
fn origin_of<'a>(
    record: &Record,
    run: &str,
    by_origin: &HashMap<Origin<'a>, &'a Sent>,
) -> Option<&'a Sent> {
    let value: Value = serde_json::from_slice(record.value.as_deref()?).ok()?;
    let origin = (value["sender"].as_str()?, value["sequence"].as_u64()?);
    let message = by_origin.get(&origin)?;
    let same_key = record.key.as_deref() == Some(message.key.as_bytes());
    (value["run"] == run && same_key).then_some(message)
}

/// Counts what a message was told, and holds it against the log.
fn outcome(report: &mut Report, message: &Sent, found: &HashMap<Origin<'_>, Vec<&Record>>) {
    let copies = found.get(&(message.sender.as_str(), message.sequence));
    match &message.outcome {
        Outcome::Acknowledged { at, place, .. } => {
            *report.acknowledged.entry(at.clone()).or_default() += 1;
            let Some(copies) = copies else {
                if at != "none" {
                    report.lost.add(|| format!("{} acknowledged at {at}", name(message)));
                }
                return;
            };
            let Some(place) = place else { return };
            if !copies.iter().any(|copy| (copy.partition, copy.log_offset) == *place) {
                report.misplaced.add(|| format!("{} is not at {place:?}", name(message)));
            }
        }
        Outcome::Refused { code, possibly_written } => {
            report.refused += 1;
            if copies.is_some() && !possibly_written {
                report.refused_but_there.add(|| format!("{} refused with {code}", name(message)));
            }
        }
        Outcome::Cut => report.cut += 1,
        Outcome::Silence => report.silent.add(|| name(message)),
    }
}

/// The place of each acknowledged message in its sender's order of acknowledgements.
fn acknowledged_ranks(sent: &[Sent]) -> HashMap<Origin<'_>, u64> {
    let ranks = sent.iter().filter_map(|message| match &message.outcome {
        Outcome::Acknowledged { at, acknowledged_ns, .. } if at != "none" => {
            Some(((message.sender.as_str(), message.sequence), *acknowledged_ns))
        }
        _ => None,
    });
    ranks.collect()
}

/// How far a key has come in one partition, by the first record of each message.
#[derive(Default)]
struct Progress<'a> {
    /// The latest acknowledgement among each sender's records.
    acknowledged_ns: HashMap<&'a str, u64>,
    /// The last sequence among the acknowledged records of each connection.
    sequence: HashMap<(&'a str, u32), u64>,
    /// When the last sent of all was sent.
    sent_ns: u64,
}

/// Holds the first record of each message against what a key's order promises: a sender's records are in
/// the order of their acknowledgements, a connection's in the order of sending, and what was acknowledged
/// before another was even sent is before it.
fn order<'a>(
    report: &mut Report,
    first: &[(&'a Sent, &Record)],
    acknowledged: &HashMap<Origin<'_>, u64>,
) {
    let mut progress: HashMap<(&str, i32), Progress<'a>> = HashMap::new();
    let mut partitions: HashMap<&str, HashSet<i32>> = HashMap::new();
    for (message, record) in first {
        let Sent { sender, connection, sequence, key, sent_ns, .. } = message;
        let so_far = progress.entry((key, record.partition)).or_default();
        if let Some(acknowledged_ns) = acknowledged.get(&(sender.as_str(), *sequence)) {
            let latest = so_far.acknowledged_ns.entry(sender).or_default();
            let last = so_far.sequence.entry((sender, *connection)).or_default();
            let early =
                acknowledged_ns < latest || sequence < last || *acknowledged_ns < so_far.sent_ns;
            *latest = (*latest).max(*acknowledged_ns);
            *last = (*last).max(*sequence);
            if early {
                report.reordered.add(|| format!("{} is late in {}", name(message), place(record)));
            }
        }
        so_far.sent_ns = so_far.sent_ns.max(*sent_ns);
        partitions.entry(key).or_default().insert(record.partition);
    }
    report.keys = partitions.len();
    for (key, of) in partitions.iter().filter(|(_, of)| of.len() > 1) {
        report.moved_keys.add(|| format!("{key} in {of:?}"));
    }
}

/// Holds the gateway's headers against their promise: there, the same on every copy, of one message only.
fn marks(
    report: &mut Report,
    first: &[(&Sent, &Record)],
    found: &HashMap<Origin<'_>, Vec<&Record>>,
) {
    let mut owners = HashMap::new();
    for (message, record) in first {
        let Some(marks) = marks_of(record) else {
            report.wrong_marks.add(|| format!("{} has no marks", place(record)));
            continue;
        };
        let copies = &found[&(message.sender.as_str(), message.sequence)];
        if let Some(other) = copies.iter().find(|copy| marks_of(copy).as_ref() != Some(&marks)) {
            report
                .wrong_marks
                .add(|| format!("{} has others than {}", place(other), place(record)));
        }
        if let Some(owner) = owners.insert(marks, name(message)) {
            report.wrong_marks.add(|| format!("{} has the marks of {owner}", name(message)));
        }
    }
}

fn marks_of(record: &Record) -> Option<[&[u8]; 3]> {
    let header = |name: &str| {
        record.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_slice())
    };
    let [gateway, epoch, sequence] = MARKS;
    Some([header(gateway)?, header(epoch)?, header(sequence)?])
}

fn name(message: &Sent) -> String {
    format!("{} {} of {}", message.sender, message.sequence, message.key)
}

fn place(record: &Record) -> String {
    format!("partition {} offset {}", record.partition, record.log_offset)
}

fn shown(record: &Record) -> String {
    let text = |bytes: &Option<Vec<u8>>| match bytes {
        Some(bytes) => String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned(),
        None => "null".to_owned(),
    };
    format!("{}: {}", text(&record.key), text(&record.value))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: &str = "run";
    const MESSAGES: u64 = 1000;
    const KEYS: u64 = 20;
    const PARTITIONS: u64 = 4;

    /// Two senders in turn, all acknowledged at once, every record where its acknowledgement says.
    fn clean() -> (Vec<Sent>, Vec<Record>) {
        let mut ends = [0; PARTITIONS as usize];
        let mut sent = Vec::new();
        let mut records = Vec::new();
        for number in 0..MESSAGES {
            let (sender, sequence) = (format!("sender-{}", number % 2), number / 2);
            let key = format!("key-{}", number % KEYS);
            let partition = (number % KEYS % PARTITIONS) as i32;
            let log_offset = ends[partition as usize];
            ends[partition as usize] += 1;
            let value = payload(RUN, &sender, sequence, &key).to_string();
            let marks = ["gateway".to_owned(), "epoch".to_owned(), number.to_string()];
            records.push(Record {
                partition,
                log_offset,
                timestamp_ms: 0,
                key: Some(key.clone().into_bytes()),
                value: Some(value.into_bytes()),
                headers: MARKS
                    .iter()
                    .zip(marks)
                    .map(|(n, v)| ((*n).to_owned(), v.into()))
                    .collect(),
            });
            let outcome = Outcome::Acknowledged {
                at: "kafka".to_owned(),
                place: Some((partition, log_offset)),
                acknowledged_ns: 100 * number + 50,
            };
            sent.push(Sent {
                sender,
                connection: 0,
                sequence,
                key,
                sent_ns: 100 * number,
                outcome,
            });
        }
        (sent, records)
    }

    /// The same with acknowledgements that tell no place, as a spool's.
    fn spooled() -> (Vec<Sent>, Vec<Record>) {
        let (mut sent, records) = clean();
        for message in &mut sent {
            if let Outcome::Acknowledged { at, place, .. } = &mut message.outcome {
                (*at, *place) = ("spool".to_owned(), None);
            }
        }
        (sent, records)
    }

    /// Only `kind` was found, so many times.
    #[track_caller]
    fn found(report: &Report, kind: &str, count: usize) {
        let counts: Vec<_> = report.findings().iter().map(|(n, f)| (*n, f.count)).collect();
        let wanted: Vec<_> =
            counts.iter().map(|(n, _)| (*n, if *n == kind { count } else { 0 })).collect();
        assert_eq!(counts, wanted, "{report}");
        assert_eq!(report.verdict(Allowed::default()).is_err(), count > 0);
    }

    #[test]
    fn a_clean_log_passes_and_is_counted() {
        for (at, (sent, records)) in [("kafka", clean()), ("spool", spooled())] {
            let report = check(RUN, &sent, &records);
            found(&report, "", 0);
            assert_eq!((report.sent, report.records), (MESSAGES as usize, MESSAGES as usize));
            assert_eq!(report.acknowledged, [(at.to_owned(), MESSAGES as usize)].into());
            assert_eq!(report.keys, KEYS as usize);
        }
    }

    #[test]
    fn a_planted_loss_is_found() {
        let (sent, mut records) = clean();
        for at in [900, 500, 3] {
            records.remove(at);
        }
        found(&check(RUN, &sent, &records), "lost", 3);
    }

    #[test]
    fn a_planted_reorder_is_found() {
        // Message n and n + 20 have one key, n is even and so of one sender.
        let (sent, mut records) = spooled();
        records.swap(100, 120);
        records.swap(600, 620);
        found(&check(RUN, &sent, &records), "reordered", 2);
    }

    #[test]
    fn a_reorder_between_senders_is_found() {
        let (mut sent, mut records) = spooled();
        // The later one of the key comes from the other sender; only the clock tells their order.
        let (late, number) = (320, sent[320].sequence);
        sent[late].sender = "sender-3".to_owned();
        let value = payload(RUN, "sender-3", number, &sent[late].key).to_string();
        records[late].value = Some(value.into_bytes());
        found(&check(RUN, &sent, &records), "", 0);
        records.swap(300, late);
        found(&check(RUN, &sent, &records), "reordered", 1);
    }

    #[test]
    fn planted_duplicates_are_counted_against_a_bound() {
        let (sent, mut records) = clean();
        for (copied, to) in [(10, 400), (11, 401), (990, 1002)] {
            let mut copy: Record = records[copied].clone();
            copy.log_offset += 1_000_000;
            records.insert(to, copy);
        }
        let report = check(RUN, &sent, &records);
        found(&report, "duplicates", 3);
        assert!(report.verdict(Allowed { duplicates: 3, ..Allowed::default() }).is_ok());
        assert!(report.verdict(Allowed { duplicates: 2, ..Allowed::default() }).is_err());
    }

    #[test]
    fn a_bound_that_cannot_fail_does_not_pass() {
        let (sent, records) = clean();
        let report = check(RUN, &sent, &records);
        let allowing = |duplicates| report.verdict(Allowed { duplicates, ..Allowed::default() });
        assert!(allowing(records.len() - 1).is_ok());
        assert!(allowing(records.len()).is_err_and(|said| said.contains("are allowed among 1000")));
        assert!(check(RUN, &sent[..1], &records[..1]).verdict(Allowed::default()).is_ok());
    }

    #[test]
    fn an_outage_may_leave_five_batches_of_a_partition_twice() {
        assert_eq!(Allowed::outages(1, 1, 1).duplicates, 5 * 8);
        assert_eq!(Allowed::outages(3, 2, 8).duplicates, 3 * 2 * 8 * 5 * 8);
    }

    #[test]
    fn a_planted_silent_drop_is_found() {
        let (mut sent, mut records) = clean();
        for at in [800, 200] {
            sent[at].outcome = Outcome::Silence;
            records.remove(at);
        }
        // One that is in the log but was never answered is no better.
        sent[5].outcome = Outcome::Silence;
        found(&check(RUN, &sent, &records), "silent drops", 3);
    }

    #[test]
    fn a_cut_or_refused_message_may_be_lost() {
        let (mut sent, mut records) = clean();
        sent[8].outcome = Outcome::Cut;
        sent[9].outcome = Outcome::Refused { code: 100, possibly_written: true };
        sent[700].outcome = Outcome::Cut;
        sent[701].outcome = Outcome::Refused { code: 100, possibly_written: false };
        records.drain(700..702);
        let report = check(RUN, &sent, &records);
        found(&report, "", 0);
        assert_eq!((report.cut, report.refused), (2, 2));
        sent[30].outcome = Outcome::Refused { code: 100, possibly_written: false };
        found(&check(RUN, &sent, &records), "refused but there", 1);
    }

    #[test]
    fn a_record_nobody_sent_and_one_elsewhere_are_found() {
        let (sent, records) = clean();
        let mut foreign = records.clone();
        let value = payload("another run", "sender-0", 1, "key-2").to_string();
        foreign.push(Record { value: Some(value.into()), log_offset: 5000, ..records[2].clone() });
        foreign.push(Record { value: None, log_offset: 5001, ..records[2].clone() });
        found(&check(RUN, &sent, &foreign), "foreign", 2);
        let mut moved = records.clone();
        moved[77].log_offset += 1_000_000;
        found(&check(RUN, &sent, &moved), "misplaced", 1);
    }

    #[test]
    fn a_key_in_two_partitions_and_wrong_marks_are_found() {
        let (sent, records) = spooled();
        let mut moved = records.clone();
        moved[999].partition = 0;
        let report = check(RUN, &sent, &moved);
        found(&report, "moved keys", 1);
        assert!(report.verdict(Allowed { moved_keys: true, ..Allowed::default() }).is_ok());
        let mut marked = records.clone();
        marked[1].headers.clear();
        marked[2].headers = records[3].headers.clone();
        found(&check(RUN, &sent, &marked), "wrong marks", 2);
    }

    #[test]
    fn a_check_of_nothing_does_not_pass() {
        let (mut sent, records) = clean();
        assert!(check(RUN, &[], &[]).verdict(Allowed::default()).is_err());
        assert!(check(RUN, &sent, &[]).verdict(Allowed::default()).is_err());
        for message in &mut sent {
            message.outcome = Outcome::Cut;
        }
        let report = check(RUN, &sent, &records);
        assert!(report.verdict(Allowed::default()).is_err_and(|said| said.contains("nothing was")));
    }
}
