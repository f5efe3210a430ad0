//! Ingest: client → log. Makes records of events, gives them to the log on their key's owner, and
//! says what became of each.
//!
//! **Runs on: shard.** Invariants: every event that was taken is answered exactly once; an answer
//! `Ok` says that the log, or the spool in front of it, has the record; records of one key are
//! appended in the order in which they came to its owner; a sequence is given once.

mod draft;
mod pointer;
mod routes;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use serde::Serialize;
use slab::Slab;
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::rc::Rc;
use trine_proto::client::ErrorCode;

pub use draft::{Draft, Event, Owner, Publication, Wish};
pub use pointer::Pointer;
pub use routes::{Choose, Find, Route, Routes};

use crate::config::{Ack, Config};
use crate::limits::{
    DEDUPE_WAITERS, IDEMPOTENCY_KEYS, IDEMPOTENCY_MS, INGEST_OUTSTANDING, STICKY_RECORDS,
};
use crate::log::{Appended, Log, Unavailable};
use crate::recent::Recent;

/// Headers that every record has: trine-gateway, trine-epoch, trine-sequence.
pub const OWN_HEADERS: usize = 3;

/// What has a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// Kafka.
    Kafka,
    /// The journal, which is the log.
    Journal,
    /// The spool in front of Kafka.
    Spool,
    /// Nobody has said so.
    None,
}

impl At {
    /// The word for it in answers.
    pub fn text(self) -> &'static str {
        match self {
            At::Kafka => "kafka",
            At::Journal => "journal",
            At::Spool => "spool",
            At::None => "none",
        }
    }
}

/// Where a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// What has it.
    pub at: At,
    /// The partition; meaningless at [`At::None`].
    pub partition: u32,
    /// Its offset there; `None` where nobody knows it yet.
    pub log_offset: Option<u64>,
}

impl Place {
    /// Nowhere for certain.
    pub const NONE: Place = Place { at: At::None, partition: 0, log_offset: None };

    /// As the data of an rpc's reply.
    pub fn to_json(self) -> String {
        #[derive(Serialize)]
        struct Data {
            at: &'static str,
            #[serde(skip_serializing_if = "Option::is_none")]
            partition: Option<u32>,
            #[serde(skip_serializing_if = "Option::is_none")]
            log_offset: Option<u64>,
        }
        let partition = (self.at != At::None).then_some(self.partition);
        let data = Data { at: self.at.text(), partition, log_offset: self.log_offset };
        serde_json::to_string(&data).expect("a text and numbers")
    }
}

/// Why an event was not made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The client protocol's code.
    pub code: ErrorCode,
    /// What happened.
    pub message: &'static str,
}

impl Refusal {
    /// The event is not as its route, or a publication, has to be.
    pub fn bad_request(message: &'static str) -> Self {
        Self { code: ErrorCode::BadRequest, message }
    }

    /// Try again.
    pub fn temporary(message: &'static str) -> Self {
        Self { code: ErrorCode::Internal, message }
    }
}

/// Who waits for an answer: a request of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asker {
    /// The shard.
    pub shard: u16,
    /// Its number for the request.
    pub request: u32,
}

/// An answer.
pub type Outcome = Result<Place, Refusal>;

/// What became of the first record with a message id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    /// The log has not answered; the record's number among the accepted ones.
    InFlight(u32),
    /// It is here.
    Stored(Place),
    /// It is here, and was refused before for want of time: nobody has published it.
    Unpublished(Place),
}

/// A record that the log was given.
#[derive(Debug)]
struct Accepted {
    askers: SmallVec<[Asker; 1]>,
    publication: Option<(Publication, Bytes)>,
    partition: u32,
    /// Its message id, and the table that has it.
    dedupe: Option<(usize, Box<[u8]>)>,
    /// It was refused for want of time, and what should have been published with it.
    is_unpublished: bool,
    /// What is counted of it.
    counts: Counts,
    /// Tells this record from a later one with the same number.
    serial: u64,
}

/// What is counted of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Counts {
    /// It is an event, and what becomes of it is counted.
    All,
    /// It is an event that was counted as refused for want of time.
    Stored,
    /// It was whole already, so it is no event.
    Nothing,
}

/// What the caller has to do about a record: publish, then answer.
#[derive(Debug)]
pub struct Settled {
    /// Who waits; nobody twice.
    pub askers: SmallVec<[Asker; 1]>,
    /// What to publish first; only when the outcome is `Ok`.
    pub publication: Option<(Publication, Bytes)>,
    /// The answer.
    pub outcome: Outcome,
}

/// Ingest of one shard.
pub struct Ingest {
    routes: Rc<Routes>,
    /// The log.
    pub log: Log,
    gateway: Box<str>,
    epoch: Box<str>,
    sequence: u64,
    /// Counts the records that the log was given.
    serial: u64,
    accepted: Slab<Accepted>,
    /// When accepted records are refused for want of time, the earliest first.
    deadlines: VecDeque<(u64, u32, u64)>,
    timeout_ms: u64,
    /// By route, and that of idempotency keys.
    dedupe: Vec<Recent<Seen>>,
    /// For each topic: the partition in turn, and the records it got.
    turns: Vec<(u32, u32)>,
    ready: VecDeque<Settled>,
    totals: Totals,
}

/// What happened since the counters were last taken.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    /// Records that the log, or the spool, has.
    pub stored: u64,
    /// Events refused at once, or by the log.
    pub refused: u64,
    /// Events refused for want of time; they may be in the log.
    pub timed_out: u64,
    /// Second tries that got the first one's answer.
    pub duplicates: u64,
}

impl Ingest {
    /// Ingest with the log of its shard. `epoch` is random and never repeats.
    pub fn new(config: &Config, routes: Rc<Routes>, log: Log, epoch: u64) -> Self {
        let dedupe = routes.iter().map(|route| Recent::new(route.window.0, route.window.1));
        let named = Recent::new(IDEMPOTENCY_MS, IDEMPOTENCY_KEYS);
        Self {
            dedupe: dedupe.chain([named]).collect(),
            turns: vec![(epoch as u32, 0); routes.topics().len()],
            routes,
            log,
            gateway: config.gateway.as_str().into(),
            epoch: format!("{epoch:016x}").into(),
            sequence: 0,
            serial: 0,
            accepted: Slab::new(),
            deadlines: VecDeque::new(),
            timeout_ms: config.log.timeout_ms,
            ready: VecDeque::new(),
            totals: Totals::default(),
        }
    }

    /// The routes.
    pub fn routes(&self) -> &Rc<Routes> {
        &self.routes
    }

    /// Takes the counters.
    pub fn take_totals(&mut self) -> Totals {
        std::mem::take(&mut self.totals)
    }

    /// Counts an event that was refused on its way here.
    pub fn count_refused(&mut self) {
        self.totals.refused += 1;
    }

    /// Records that the log has not answered.
    pub fn outstanding(&self) -> usize {
        self.accepted.len()
    }

    /// Takes a draft as its key's owner. [`Ingest::next_settled`] will answer the asker.
    pub fn take(&mut self, draft: Draft, asker: Asker, now_ms: u64) {
        if let Err(outcome) = self.try_take(draft, asker, now_ms) {
            self.totals.refused += u64::from(outcome.is_err());
            let askers = SmallVec::from_elem(asker, 1);
            self.ready.push_back(Settled { askers, publication: None, outcome });
        }
    }

    /// `Err`: here is the answer already.
    fn try_take(&mut self, mut draft: Draft, asker: Asker, now_ms: u64) -> Result<(), Outcome> {
        let number = draft.route;
        let (dedupe, publication) = (draft.dedupe.take(), draft.publication.take());
        let table = if draft.is_named { self.dedupe.len() - 1 } else { number as usize };
        if let Some(id) = &dedupe
            && let Some(seen) = self.dedupe[table].find(id, now_ms)
        {
            self.totals.duplicates += 1;
            draft.publication = publication;
            if let Seen::Unpublished(place) = seen {
                self.dedupe[table].settle(id, Some(Seen::Stored(place)));
            }
            return self.take_again(seen, draft, asker, now_ms);
        }
        if self.accepted.len() >= INGEST_OUTSTANDING {
            return Err(Err(Refusal::temporary("too many records wait for the log")));
        }
        let Route { topic, ack, .. } = *self.routes.get(number);
        let partition = self.partition(topic, draft.wish()).map_err(Err)?;
        let sequence = self.sequence + 1;
        let text = sequence.to_string();
        let headers = [
            ("trine-gateway", &*self.gateway),
            ("trine-epoch", &*self.epoch),
            ("trine-sequence", &*text),
        ];
        let (body, value) = draft.finish(headers);
        // Only a publication shares the body's memory: else the log may use it again.
        let publication = publication.map(|publication| (publication, body.slice(value)));
        let record = self.accepted.vacant_key() as u32;
        let appended = self.log.append(record, topic, partition, body, ack == Ack::Log, now_ms);
        appended.map_err(|why| Err(why.refusal()))?;
        self.sequence = sequence;
        if let Some(id) = &dedupe {
            self.dedupe[table].insert(id.clone(), Seen::InFlight(record), now_ms);
        }
        let mut accepted = Accepted {
            askers: SmallVec::from_elem(asker, 1),
            publication,
            partition,
            dedupe: dedupe.map(|id| (table, id)),
            is_unpublished: false,
            counts: Counts::All,
            serial: self.next_serial(),
        };
        if ack == Ack::None {
            let settled = accepted.settle(Ok(Place::NONE));
            self.ready.push_back(settled);
        } else {
            self.deadlines.push_back((now_ms + self.timeout_ms, record, accepted.serial));
        }
        self.accepted.insert(accepted);
        Ok(())
    }

    /// Takes a record that is whole already, such as a dead letter; it is no event, so the counters
    /// leave it out. [`Ingest::next_settled`] will answer the asker.
    pub fn take_record(&mut self, topic: u16, wish: Wish, body: Bytes, asker: Asker, now_ms: u64) {
        let record = self.accepted.vacant_key() as u32;
        let appended = self.partition(topic, wish).and_then(|partition| {
            let appended = self.log.append(record, topic, partition, body, false, now_ms);
            appended.map(|()| partition).map_err(Unavailable::refusal)
        });
        let askers = SmallVec::from_elem(asker, 1);
        let partition = match appended {
            Ok(partition) => partition,
            Err(why) => {
                let settled = Settled { askers, publication: None, outcome: Err(why) };
                return self.ready.push_back(settled);
            }
        };
        let serial = self.next_serial();
        self.deadlines.push_back((now_ms + self.timeout_ms, record, serial));
        self.accepted.insert(Accepted {
            askers,
            publication: None,
            partition,
            dedupe: None,
            is_unpublished: false,
            counts: Counts::Nothing,
            serial,
        });
    }

    fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    /// A second record with an id that was seen: it gets the first one's answer.
    fn take_again(
        &mut self,
        seen: Seen,
        mut draft: Draft,
        asker: Asker,
        now_ms: u64,
    ) -> Result<(), Outcome> {
        let is_waited_for = self.routes.get(draft.route).ack != Ack::None;
        let record = match seen {
            Seen::Stored(place) => return self.repeat(place, draft, asker),
            // Nobody waits for the log's answer to such an event.
            Seen::InFlight(_) if !is_waited_for => return self.repeat(Place::NONE, draft, asker),
            Seen::Unpublished(place) => {
                let publication = draft.publication.take();
                let publication = publication.map(|publication| (publication, draft.value()));
                let askers = SmallVec::from_elem(asker, 1);
                self.ready.push_back(Settled { askers, publication, outcome: Ok(place) });
                return Ok(());
            }
            Seen::InFlight(record) => record,
        };
        let accepted = &mut self.accepted[record as usize];
        if accepted.askers.len() >= DEDUPE_WAITERS {
            return Err(Err(Refusal::temporary("too many wait for the same message")));
        }
        if accepted.askers.is_empty() {
            // The first was refused for want of time, so its publication is this one's now.
            let publication = draft.publication.take();
            accepted.publication = publication.map(|publication| (publication, draft.value()));
            accepted.is_unpublished = false;
            accepted.counts = Counts::All;
            self.deadlines.push_back((now_ms + self.timeout_ms, record, accepted.serial));
        }
        accepted.askers.push(asker);
        Ok(())
    }

    /// What was published already is not published again; its channel's owner knows its place there.
    fn repeat(&mut self, place: Place, mut draft: Draft, asker: Asker) -> Result<(), Outcome> {
        let named = draft.publication.take().filter(|publication| publication.name.is_some());
        let publication = named.ok_or(Ok(place))?;
        let publication = Some((Publication { is_repeat: true, ..publication }, Bytes::new()));
        let askers = SmallVec::from_elem(asker, 1);
        self.ready.push_back(Settled { askers, publication, outcome: Ok(place) });
        Ok(())
    }

    fn partition(&mut self, topic: u16, wish: Wish) -> Result<u32, Refusal> {
        let count = self.log.partitions(topic);
        if count == 0 {
            return Err(Refusal::temporary("no broker has told the topic's partitions yet"));
        }
        let (turn, filled) = &mut self.turns[topic as usize];
        Ok(match wish {
            Wish::Hash(hash) => hash % count,
            Wish::Partition(partition) => partition % count,
            Wish::Next => {
                *turn = turn.wrapping_add(1);
                *turn % count
            }
            Wish::Current => {
                *filled += 1;
                if *filled > STICKY_RECORDS {
                    (*turn, *filled) = (turn.wrapping_add(1), 1);
                }
                *turn % count
            }
        })
    }

    /// Takes in what the log says, and refuses what took too long.
    pub fn poll(&mut self, now_ms: u64) {
        while let Some((record, answer)) = self.log.next_outcome() {
            self.answered(record, answer);
        }
        self.forget_answered();
        while let Some(&(deadline_ms, record, serial)) = self.deadlines.front()
            && deadline_ms <= now_ms
        {
            self.deadlines.pop_front();
            if let Some(accepted) = self.accepted.get_mut(record as usize)
                && accepted.serial == serial
                && !accepted.askers.is_empty()
            {
                let late = Refusal::temporary(
                    "the log did not answer in time; the record may be in the log",
                );
                if accepted.counts == Counts::All {
                    self.totals.timed_out += 1;
                    accepted.counts = Counts::Stored;
                }
                accepted.is_unpublished = accepted.publication.is_some();
                let settled = accepted.settle(Err(late));
                self.ready.push_back(settled);
            }
        }
    }

    /// Drops the deadlines of records that have their answer, as far as they come first.
    fn forget_answered(&mut self) {
        while let Some(&(_, record, serial)) = self.deadlines.front()
            && self.accepted.get(record as usize).is_none_or(|known| known.serial != serial)
        {
            self.deadlines.pop_front();
        }
    }

    fn answered(&mut self, record: u32, answer: Appended) {
        let mut accepted = self.accepted.remove(record as usize);
        let partition = accepted.partition;
        let outcome = match answer {
            Ok((at, log_offset)) => Ok(Place { at, partition, log_offset }),
            Err(why) => Err(why.refusal()),
        };
        if let Some((table, id)) = &accepted.dedupe {
            let seen = if accepted.is_unpublished { Seen::Unpublished } else { Seen::Stored };
            let names = &mut self.dedupe[*table];
            let is_of_another =
                matches!(names.known(id), Some(Seen::InFlight(first)) if first != record);
            // A later record may have the name by now, since this one took longer than the window.
            if outcome.is_ok() || !is_of_another {
                names.settle(id, outcome.ok().map(seen));
            }
        }
        // Also where nobody waits for it any more: what is lost leaves a trace.
        match (accepted.counts, outcome) {
            (Counts::All | Counts::Stored, Ok(_)) => self.totals.stored += 1,
            (Counts::All, Err(_)) => self.totals.refused += 1,
            (Counts::Stored, Err(_)) | (Counts::Nothing, _) => {}
        }
        if !accepted.askers.is_empty() {
            let settled = accepted.settle(outcome);
            self.ready.push_back(settled);
        }
    }

    /// The next event that has its answer.
    pub fn next_settled(&mut self) -> Option<Settled> {
        self.ready.pop_front()
    }
}

impl Accepted {
    /// Takes out everybody who waits, with the answer.
    fn settle(&mut self, outcome: Outcome) -> Settled {
        let publication = self.publication.take().filter(|_| outcome.is_ok());
        Settled { askers: std::mem::take(&mut self.askers), publication, outcome }
    }
}
