//! Whose lines a shard forwards, and under which producer's identity.
//!
//! **Runs on: shard.** A shard forwards its own lines, and those of shards that are no more, one shard
//! after the other: each under the producer id that it gave Kafka records with, at the next epoch, so
//! that a late batch of it is fenced. Such an id stays that shard's until its last record is
//! forwarded, should it come back with another start; then it is this one's, and nobody else's.
//! Invariant: no epoch is used beyond the one that is durable. That one is some epochs ahead, so that
//! a disk that fails while Kafka hangs does not keep what is taken over from being forwarded.

use trine_core::journal::StreamId;
use trine_core::journal::storage::Request;

use super::{About, Spool, SpoolEvent};
use crate::limits::SPOOL_EPOCHS_AHEAD;

/// A shard whose lines these are: the cursors that hold its producer's id and epoch, plus one each,
/// and their values at the start.
#[derive(Debug, Default)]
pub(super) struct Giver {
    shard: usize,
    cursors: [Option<(StreamId, u64)>; 2],
}

impl Giver {
    /// What opens the cursors of a shard's giver.
    pub fn requests(shard: usize, giver: usize) -> impl Iterator<Item = Request> {
        ["id", "epoch"].into_iter().enumerate().map(move |(part, what)| {
            let name = format!("producer/{shard}/{what}").into();
            let token = About::Producer.token(giver * 2 + part);
            Request::Open { token, name, cursor: true }
        })
    }

    /// Producer id and epoch at the start.
    pub fn last(&self) -> Option<(i64, i16)> {
        let [id, epoch] = self.cursors.map(|cursor| cursor?.1.checked_sub(1));
        Some((id? as i64, epoch? as i16))
    }
}

/// The producer's identity as it was kept last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kept {
    giver: usize,
    id: i64,
    /// The last epoch that may be used once the newest flush is answered.
    asked: i16,
    /// … and now.
    durable: Option<i16>,
    /// The epoch that is waited for.
    awaited: Option<i16>,
}

impl Spool {
    /// The giver of a shard that is no more, made known if it is new.
    pub(super) fn giver_of(&mut self, shard: usize) -> usize {
        let later = self.givers.iter().skip(1).position(|giver| giver.shard == shard);
        later.map_or_else(
            || {
                let giver = self.givers.len();
                self.givers.push(Giver { shard, ..Giver::default() });
                Giver::requests(shard, giver).for_each(|request| self.send(request));
                self.opening += 2;
                giver
            },
            |later| later + 1,
        )
    }

    pub(super) fn giver_opened(&mut self, number: usize, cursor: StreamId, value: u64) {
        let (giver, part) = (number / 2, number % 2);
        self.givers[giver].cursors[part] = Some((cursor, value));
        if giver > 0 {
            self.opening -= 1;
            self.open_if_all();
        }
    }

    /// Whether a giver's lines have records.
    pub(super) fn gives(&self, giver: usize) -> bool {
        self.all.iter().any(|line| line.giver == giver && line.spooled > 0)
    }

    /// Goes on with the next giver once the present one has no record left.
    pub(super) fn pass_on(&mut self) {
        while self.is_open && self.giver < self.givers.len() && !self.gives(self.giver) {
            if self.giver > 0 {
                self.move_identity(self.giver, 0, 0);
                if let Some(kept) = self.kept {
                    self.move_identity(0, kept.id as u64 + 1, kept.asked as u64 + 1);
                }
            }
            self.giver += 1;
            let next = self.givers.get(self.giver).and_then(Giver::last);
            if let Some(last) = next.filter(|_| self.gives(self.giver)) {
                self.must_resume = true;
                self.events.push_back(SpoolEvent::Resume { last });
            }
        }
    }

    /// The producer has an identity: the giver's, unless that of the one before has come late.
    pub fn resumed(&mut self) {
        self.must_resume &= self.kept.is_none_or(|kept| kept.giver != self.giver);
    }

    /// Keeps the producer's identity; [`SpoolEvent::Identity`] says that it is durable.
    pub fn keep_identity(&mut self, id: i64, epoch: i16) {
        let giver = if self.giver < self.givers.len() { self.giver } else { 0 };
        let new = Kept { giver, id, asked: -1, durable: None, awaited: None };
        let known = self.kept.filter(|kept| (kept.giver, kept.id) == (giver, id));
        let mut kept = known.unwrap_or(new);
        let ahead = epoch.saturating_add(SPOOL_EPOCHS_AHEAD);
        if kept.asked < ahead && kept.asked.saturating_sub(epoch) < SPOOL_EPOCHS_AHEAD / 2 {
            kept.asked = ahead;
            self.identity_flushes += 1;
            self.move_identity(giver, id as u64 + 1, ahead as u64 + 1);
            self.send(Request::Flush { token: About::Identity.token(self.identity_flushes) });
        }
        kept.awaited = Some(epoch);
        self.kept = Some(kept);
        self.tell_identity();
    }

    /// A flush is answered that [`Spool::keep_identity`] asked for.
    pub(super) fn identity_flushed(&mut self, flush: usize) {
        if let Some(kept) = self.kept.as_mut().filter(|_| flush == self.identity_flushes) {
            kept.durable = Some(kept.asked);
            self.tell_identity();
        }
    }

    fn tell_identity(&mut self) {
        if let Some(kept) = &mut self.kept
            && kept.awaited.is_some_and(|epoch| kept.durable.is_some_and(|last| epoch <= last))
        {
            kept.awaited = None;
            self.events.push_back(SpoolEvent::Identity);
        }
    }

    fn move_identity(&mut self, giver: usize, id: u64, epoch: u64) {
        for (known, value) in self.givers[giver].cursors.into_iter().zip([id, epoch]) {
            if let Some((cursor, _)) = known {
                self.send(Request::MoveCursor { cursor, value });
            }
        }
    }
}
