//! One partition of the producer: its batches in order, its sequence numbers, what is in flight.
//!
//! **Runs on: shard.** Sans-IO. Invariants:
//!
//! - Batches leave in order, at most [`PRODUCE_IN_FLIGHT`] from the oldest that is not settled, since
//!   a broker recognises a repeated batch only among its last five; after an error nothing is sent
//!   until all of them are answered, and then from the oldest on.
//! - With a fresh epoch, after an error and after a long silence one batch is in flight until it is
//!   acknowledged: a broker that knows no sequence of this producer takes any, so that a second one
//!   could otherwise go in ahead of a first that was refused.
//! - Only the oldest batch is given up or ends an epoch: what an error says of a younger one is
//!   settled when it has become the oldest.
//! - A sequence number is used for another batch only if no attempt with it can still reach a broker.

use super::batch::{Batch, State, advance};
use super::verdict::Verdict;
use super::{Failure, Identity, Outcome, Taken};
use crate::limits::{
    PRODUCE_IN_FLIGHT, PRODUCE_RETRY_MAX_MS, PRODUCE_RETRY_MS, PRODUCE_SILENCE_MS,
};
use std::collections::VecDeque;
use trine_proto::kafka::ErrorCode;
use trine_proto::kafka::record::Compression;

/// What has to happen before the next batch gets a sequence number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Renewal {
    /// Nothing.
    None,
    /// What had this sequence number was refused: number what is left from there.
    Rewind(i32),
    /// The next epoch, from 0.
    Epoch,
    /// Another producer id, from 0.
    Id,
}

/// What a partition needs from the producer as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// An identity with a higher epoch than this one.
    Epoch(Identity),
    /// An identity with another id than this one.
    Id(Identity),
}

#[derive(Debug)]
pub(super) struct Partition {
    pub topic: u32,
    pub index: i32,
    /// The slot of the broker that leads it.
    pub leader: Option<usize>,
    /// Its error says that the leader is elsewhere: wait for newer metadata.
    pub awaits_leader: bool,
    /// Bytes of a record's body, at most.
    pub record_bytes: usize,
    /// Bytes of a batch that is not a single record's.
    pub batch_bytes: usize,
    /// It is in its broker's list of partitions with complete batches.
    pub is_complete_listed: bool,
    /// It is in its broker's list of partitions that gather.
    pub is_gathering_listed: bool,
    /// There is a timer for the age of its oldest batch.
    pub is_timed: bool,
    /// The newest request that it has a batch in.
    pub last_request: u64,
    /// Entries of it in unanswered requests, those of batches that were given up included.
    pub unanswered: usize,
    /// Nothing is sent before.
    pub not_before_ms: u64,
    pub batches: VecDeque<Batch>,
    next_serial: u64,
    in_flight: usize,
    identity: Option<Identity>,
    next_sequence: i32,
    renewal: Renewal,
    draining: bool,
    /// The broker knows our sequence: it acknowledged a batch of this epoch, a moment ago.
    is_proven: bool,
    acknowledged_ms: u64,
    failures: u32,
}

impl Partition {
    pub fn new(topic: u32, index: i32, record_bytes: usize, batch_bytes: usize) -> Self {
        Self {
            topic,
            index,
            leader: None,
            awaits_leader: false,
            record_bytes,
            batch_bytes,
            is_complete_listed: false,
            is_gathering_listed: false,
            is_timed: false,
            last_request: 0,
            unanswered: 0,
            not_before_ms: 0,
            batches: VecDeque::new(),
            next_serial: 1,
            in_flight: 0,
            identity: None,
            next_sequence: 0,
            renewal: Renewal::None,
            draining: false,
            is_proven: false,
            acknowledged_ms: 0,
            failures: 0,
        }
    }

    /// Another batch to gather in.
    pub fn open_batch(&mut self, now_ms: u64, buffer: Vec<u8>) -> &mut Batch {
        let serial = self.serial();
        self.batches.push_back(Batch::new(serial, now_ms, buffer));
        self.batches.back_mut().expect("it was added by the line above")
    }

    fn serial(&mut self) -> u64 {
        self.next_serial += 1;
        self.next_serial - 1
    }

    /// The oldest batch that is not in flight, if its turn could come; whether it is complete.
    pub fn waiting(&self, limit_bytes: usize) -> Option<bool> {
        let index = self.batches.iter().position(|batch| batch.state == State::Unsent)?;
        let followed = index + 1 < self.batches.len();
        Some(followed || self.batches[index].is_complete(limit_bytes))
    }

    /// Whether something has to come in, or time to pass, before anything is sent.
    pub fn is_blocked(&self, now_ms: u64) -> bool {
        let is_held = self.awaits_leader || self.draining || now_ms < self.not_before_ms;
        is_held || self.in_flight >= self.window()
    }

    /// Whether a broker has a batch of it and has not answered.
    pub fn has_in_flight(&self) -> bool {
        self.in_flight > 0
    }

    fn window(&self) -> usize {
        if self.is_proven { PRODUCE_IN_FLIGHT } else { 1 }
    }

    /// The batch to send now, if there is one. Before it gets a sequence number this moves to
    /// `newest` or says what is missing.
    pub fn next(&mut self, newest: Option<Identity>, now_ms: u64) -> Result<Option<usize>, Need> {
        if self.is_blocked(now_ms) {
            return Ok(None);
        }
        let Some(index) = self.batches.iter().position(|batch| batch.state == State::Unsent) else {
            return Ok(None);
        };
        if self.in_flight == 0 {
            self.renew(newest)?;
            if now_ms.saturating_sub(self.acknowledged_ms) > PRODUCE_SILENCE_MS {
                self.is_proven = false;
            }
        }
        // A broker remembers so many batches: those that are done but follow one that is not count.
        if index >= self.window() {
            return Ok(None);
        }
        let is_numbered = self.batches[index].stamp().is_some();
        let may_number = newest.is_some() && self.identity == newest;
        let may_send = self.renewal == Renewal::None && (is_numbered || may_number);
        Ok(may_send.then_some(index))
    }

    /// With nothing in flight: moves to another identity or back to a sequence number.
    fn renew(&mut self, newest: Option<Identity>) -> Result<(), Need> {
        let mut stamped = self.batches.iter().filter(|batch| batch.is_stamped_unsent()).peekable();
        if let Renewal::Rewind(sequence) = self.renewal {
            if stamped.all(|batch| !batch.in_doubt) {
                self.restart(sequence);
                return Ok(());
            }
            self.renewal = Renewal::Epoch;
        } else if self.renewal == Renewal::None
            && (newest == self.identity || stamped.peek().is_some())
        {
            // Either there is nothing newer, or what is left keeps its old stamp for now.
            return Ok(());
        }
        let Some(newest) = newest else { return Ok(()) };
        if let Some(own) = self.identity {
            // A new id fences nothing, so no attempt with the old one may be left.
            let is_other_id = newest.id != own.id;
            match self.renewal {
                Renewal::Epoch if newest == own => return Err(Need::Epoch(own)),
                Renewal::Id if !is_other_id => return Err(Need::Id(own)),
                _ if is_other_id && self.unanswered > 0 => return Ok(()),
                _ => {}
            }
        }
        self.identity = Some(newest);
        self.restart(0);
        Ok(())
    }

    fn restart(&mut self, sequence: i32) {
        self.next_sequence = sequence;
        self.renewal = Renewal::None;
        self.is_proven = false;
        for batch in self.batches.iter_mut().filter(|batch| batch.state == State::Unsent) {
            batch.unseal();
        }
    }

    /// Puts a batch that [`Partition::next`] named in flight. `None`: it cannot be encoded.
    pub fn send(
        &mut self,
        index: usize,
        compression: Compression,
        now_ms: u64,
    ) -> Option<bytes::Bytes> {
        let identity = self.identity?;
        let batch = &mut self.batches[index];
        let is_new = batch.stamp().is_none();
        let bytes = batch.seal(identity, self.next_sequence, compression)?;
        batch.state = State::InFlight;
        batch.sent_ms.get_or_insert(now_ms);
        if is_new {
            self.next_sequence = advance(self.next_sequence, batch.tokens.len());
        }
        self.in_flight += 1;
        self.unanswered += 1;
        assert!(self.in_flight <= PRODUCE_IN_FLIGHT, "the broker remembers no more batches");
        Some(bytes)
    }

    /// Takes in the answer to a batch: an error code, what it means, and an offset. Returns whether
    /// the leader has to be looked for.
    pub fn answered(
        &mut self,
        serial: u64,
        (code, verdict): (ErrorCode, Verdict),
        offset: Option<i64>,
        now_ms: u64,
        ended: &mut Ended<'_>,
    ) -> bool {
        self.unanswered -= 1;
        let is_flying = |batch: &Batch| batch.serial == serial && batch.state == State::InFlight;
        // What was given up or taken over meanwhile is no longer here.
        let Some(index) = self.batches.iter().position(is_flying) else { return false };
        self.in_flight -= 1;
        let is_oldest = self.batches.iter().take(index).all(|b| matches!(b.state, State::Done(_)));
        let batch = &mut self.batches[index];
        batch.state = State::Unsent;
        let mut refresh = false;
        match verdict {
            Verdict::Written => {
                batch.state = State::Done(offset);
                self.is_proven |= is_oldest;
                self.failures = 0;
                self.acknowledged_ms = now_ms;
            }
            Verdict::Retry { doubt, refresh: elsewhere } => {
                batch.in_doubt |= doubt;
                refresh = elsewhere;
                self.awaits_leader |= elsewhere;
                self.hold(now_ms, true);
            }
            other if !is_oldest => {
                batch.in_doubt |= other == Verdict::Fatal { doubt: true };
                self.hold(now_ms, false);
            }
            // It follows what was refused.
            Verdict::OutOfOrder if matches!(self.renewal, Renewal::Rewind(_)) => {
                self.hold(now_ms, false);
            }
            Verdict::OutOfOrder => {
                self.hold(now_ms, false);
                self.require(Renewal::Epoch);
            }
            Verdict::Fenced => {
                self.hold(now_ms, false);
                self.require(Renewal::Id);
            }
            Verdict::Unacceptable if batch.tokens.len() > 1 && !batch.in_doubt => {
                self.hold(now_ms, false);
                self.split(index, ended.compression);
            }
            Verdict::Unacceptable => self.give_up(index, Failure::Refused(code), ended),
            Verdict::Fatal { doubt } => {
                batch.in_doubt |= doubt;
                self.give_up(index, Failure::Refused(code), ended);
            }
        }
        self.settle(ended);
        refresh
    }

    /// The connection that a batch was sent over is gone.
    pub fn lost(&mut self, serial: u64, now_ms: u64) {
        self.unanswered -= 1;
        let is_flying =
            |batch: &&mut Batch| batch.serial == serial && batch.state == State::InFlight;
        let Some(batch) = self.batches.iter_mut().find(is_flying) else { return };
        batch.state = State::Unsent;
        batch.in_doubt = true;
        self.in_flight -= 1;
        self.hold(now_ms, false);
    }

    /// The leader is another one: what is in flight to the old one has to be answered first.
    pub fn moved(&mut self) {
        self.draining = self.in_flight > 0;
    }

    /// Nothing is sent until all that is in flight is answered, or for a while if `pause`.
    fn hold(&mut self, now_ms: u64, pause: bool) {
        self.is_proven = false;
        self.draining = self.in_flight > 0;
        if pause {
            let wait_ms = PRODUCE_RETRY_MS << self.failures.min(10);
            self.failures += 1;
            self.not_before_ms = now_ms + wait_ms.min(PRODUCE_RETRY_MAX_MS);
        }
    }

    fn require(&mut self, renewal: Renewal) {
        if self.renewal != Renewal::Id {
            self.renewal = renewal;
        }
    }

    fn split(&mut self, index: usize, compression: Compression) {
        let serial = self.serial();
        if let Some(batch) = self.batches.remove(index) {
            let [first, second] = batch.split(serial, compression);
            self.batches.insert(index, second);
            self.batches.insert(index, first);
        }
    }

    /// Gives up batches whose first record came at or before `latest_ms`.
    pub fn expire(&mut self, latest_ms: u64, ended: &mut Ended<'_>) {
        self.settle(ended);
        while self.batches.front().is_some_and(|batch| batch.appended_ms <= latest_ms) {
            self.give_up(0, Failure::TimedOut, ended);
            self.settle(ended);
        }
    }

    pub fn give_up(&mut self, index: usize, why: Failure, ended: &mut Ended<'_>) {
        let Some(batch) = self.batches.remove(index) else { return };
        let is_flying = batch.state == State::InFlight;
        let possibly_written = is_flying || batch.in_doubt;
        if is_flying {
            self.in_flight -= 1;
        }
        match (batch.stamp(), self.renewal) {
            (None, _) => {}
            // What may be in the log needs no gap: if it is not there, the next one will tell.
            (Some(_), Renewal::None) if possibly_written => {}
            (Some(_), Renewal::Rewind(_)) if possibly_written => self.renewal = Renewal::Epoch,
            (Some(stamp), Renewal::None) => self.renewal = Renewal::Rewind(stamp.base_sequence),
            _ => {}
        }
        self.draining = self.in_flight > 0 && (self.draining || self.renewal != Renewal::None);
        for &token in &batch.tokens {
            ended.outcomes.push(Outcome::Failed { token, why, possibly_written });
        }
        ended.retire(batch);
    }

    /// Reports the oldest batches that are done, in order.
    fn settle(&mut self, ended: &mut Ended<'_>) {
        if self.in_flight == 0 {
            self.draining = false;
        }
        while let Some(&Batch { state: State::Done(offset), .. }) = self.batches.front() {
            let Some(batch) = self.batches.pop_front() else { return };
            ended.report(&batch, offset);
            ended.retire(batch);
        }
    }

    /// Forgets all batches that are not acknowledged and hands their records out, in order.
    pub fn take_over(&mut self, records: &mut Vec<Taken>, ended: &mut Ended<'_>) {
        for batch in std::mem::take(&mut self.batches) {
            ended.released(&batch);
            match batch.state {
                State::Done(offset) => ended.report(&batch, offset),
                State::Unsent | State::InFlight => {
                    if batch.stamp().is_some() {
                        self.require(Renewal::Epoch);
                    }
                    batch.take(records);
                }
            }
        }
        self.in_flight = 0;
        self.draining = false;
        self.not_before_ms = 0;
    }
}

impl Batch {
    fn is_stamped_unsent(&self) -> bool {
        self.state == State::Unsent && self.stamp().is_some()
    }
}

/// Where batches go that are over: the outcomes, and the producer's books.
pub(super) struct Ended<'p> {
    pub outcomes: &'p mut Vec<Outcome>,
    pub buffered_bytes: &'p mut usize,
    pub buffered_records: &'p mut usize,
    pub buffers: &'p mut Vec<Vec<u8>>,
    pub compression: Compression,
}

impl Ended<'_> {
    fn report(&mut self, batch: &Batch, offset: Option<i64>) {
        let tokens = batch.tokens.iter().enumerate();
        self.outcomes.extend(tokens.map(|(place, &token)| {
            let offset = offset.map(|first| first + place as i64);
            Outcome::Acknowledged { token, offset }
        }));
    }

    fn released(&mut self, batch: &Batch) {
        *self.buffered_bytes -= batch.body_bytes;
        *self.buffered_records -= batch.tokens.len();
    }

    fn retire(&mut self, batch: Batch) {
        self.released(&batch);
        if self.buffers.len() < crate::limits::PRODUCE_SPARE_BUFFERS
            && let Some(buffer) = batch.into_buffer()
        {
            self.buffers.push(buffer);
        }
    }
}
