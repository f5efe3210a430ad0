//! Durable events on a shard: from a client's command to ingest, and from the log's answer to the
//! publication and the reply.
//!
//! **Runs on: shard.** Invariants: what the log has is published before it is answered; a reply of
//! a durable command may overtake others, and nothing else waits for it.

use trine_core::metrics::Histogram;
use trine_core::rt;
use trine_proto::client::{Format, Reply, write_error_because, write_reply};
use uuid::Uuid;

use super::deliver::Errand;
use super::shard::Shard;
use crate::broker::{Message, Named, Position, PublishOptions};
use crate::hub::{Acknowledged, ToShard};
use crate::ingest::{Asker, Draft, Event, Outcome, Refusal, Settled};
use crate::limits::INGEST_OUTSTANDING;
use crate::scratch;

/// Who waits on this shard for the log's answer.
pub(super) struct Asked {
    /// The client, by its number, and its id, to tell it from a later one with the same number.
    pub client: u32,
    pub session: Uuid,
    /// The command's id.
    pub reply: u32,
    pub kind: AskedKind,
    /// When the command came, in nanoseconds.
    pub since_ns: u64,
}

/// What the answer is told as.
#[derive(Clone, Copy, Debug)]
pub(super) enum AskedKind {
    Publish,
    Rpc,
    /// A call of the HTTP API; the connection's call number is in `reply`.
    Api,
    /// A dead letter.
    DeadLetter(Errand),
    /// A record that goes on to another topic.
    Produce(Errand),
}

impl Shard {
    /// Gives a client's event to the owner of its key. Returns whether the command must be tried
    /// again.
    pub fn make_durable(
        &mut self,
        id: u32,
        format: Format,
        reply: u32,
        (route, kind): (u16, AskedKind),
        (channel, namespace): (&str, usize),
        data: &[u8],
    ) -> bool {
        let session = self.clients.entry(id).session.as_mut().expect("it has sent a command");
        // Lent for the call, since the shard's other parts are needed meanwhile.
        let identity = session.lend_identity();
        let client = session.id();
        let event = Event {
            channel,
            namespace,
            info: Some(identity.info(client)),
            data,
            headers: identity.headers(),
            json: format == Format::Json,
            options: &PublishOptions::PLAIN,
        };
        let since_ns = rt::now_ns();
        let asked = self.ask_ingest(
            route,
            &event,
            Asked { client: id, session: client, reply, kind, since_ns },
        );
        let session = self.clients.entry(id).session.as_mut().expect("it was there before");
        session.restore_identity(identity);
        match asked {
            Ok(true) => {
                session.durable_begun();
                self.clients.totals.asked += 1;
            }
            Ok(false) => return true,
            Err(refusal) => self.refuse_because(id, format, reply, refusal),
        }
        false
    }

    /// Gives an event to the owner of its key. `Ok(false)`: there is no room for it now.
    ///
    /// # Errors
    /// When it can't be made a record.
    pub fn ask_ingest(
        &mut self,
        route: u16,
        event: &Event<'_>,
        asked: Asked,
    ) -> Result<bool, Refusal> {
        let drafted = Draft::new(route, self.ingest.routes(), event);
        let (draft, owner) = drafted.inspect_err(|_| self.ingest.count_refused())?;
        if self.asked.len() >= INGEST_OUTSTANDING {
            return Ok(false);
        }
        let owner = owner.map_or(self.index, |owner| self.hub.owner_of_key(owner));
        let request = self.asked.vacant_key() as u32;
        if owner == self.index {
            let asker = Asker { shard: self.index as u16, request };
            self.ingest.take(draft, asker, rt::now_ms());
            rt::request_turn();
        } else {
            let message = ToShard::Ingest { request, draft: Box::new(draft) };
            if self.hub.post().try_send(owner, message).is_err() {
                return Ok(false);
            }
        }
        self.asked.insert(asked);
        Ok(true)
    }

    /// Takes what other shards say about durable events.
    pub fn receive_durable(&mut self, from: usize, message: ToShard, now_ms: u64) {
        match message {
            ToShard::Ingest { request, draft } => {
                let asker = Asker { shard: from as u16, request };
                self.ingest.take(*draft, asker, now_ms);
            }
            ToShard::Record { request, topic, wish, body } => {
                let asker = Asker { shard: from as u16, request };
                self.ingest.take_record(topic, wish, body, asker, now_ms);
            }
            ToShard::Ingested { request, outcome, position } => {
                self.durable_answered(request, outcome, position);
            }
            ToShard::Acknowledged(acknowledged) => self.acknowledged(*acknowledged, now_ms),
            _ => unreachable!("the hub takes every other message"),
        }
    }

    /// Takes in what the log says and answers whom it concerns.
    pub fn ingest_turn(&mut self, now_ms: u64) {
        self.ingest.log.receive(now_ms);
        self.ingest.poll(now_ms);
        while let Some(settled) = self.ingest.next_settled() {
            self.settled(settled, now_ms);
        }
    }

    fn settled(&mut self, settled: Settled, now_ms: u64) {
        let Settled { askers, publication, outcome } = settled;
        if let (Some((publication, data)), Ok(place)) = (publication, outcome) {
            let owner = self.hub.owner(&publication.channel);
            let mut acknowledged = Acknowledged { publication, data, askers, place };
            if owner == self.index {
                return self.acknowledged(acknowledged, now_ms);
            }
            // What crosses shards is memory of its own.
            acknowledged.data = bytes::Bytes::copy_from_slice(&acknowledged.data);
            let message = ToShard::Acknowledged(Box::new(acknowledged));
            return self.hub.post().send(owner, message);
        }
        for asker in askers {
            self.answer_asker(asker, outcome, None);
        }
    }

    /// As the channel's owner: publishes what the log has, then answers.
    fn acknowledged(&mut self, acknowledged: Acknowledged, now_ms: u64) {
        let Acknowledged { publication, data, askers, place } = acknowledged;
        let info = publication.info.as_deref().map(|info| info.as_ref());
        let channel = (&*publication.channel, publication.namespace as usize);
        let name = publication.name.as_deref().map(|name| (channel.0, name));
        // The log may have forgotten a name that was published, and never the other way round.
        let known = name.and_then(|name| {
            let broker = self.hub.broker();
            broker.published(Named::Durable, name, now_ms)
        });
        let position = match known {
            Some(position) => position,
            None if publication.is_repeat => None,
            None => {
                let message = Message { data: &data, info, options: &publication.options };
                let position = self.hub.publish_owned(&mut self.clients, channel, message, now_ms);
                if let Some(name) = name {
                    self.hub.broker().name(Named::Durable, name, position, now_ms);
                }
                position
            }
        };
        for asker in askers {
            self.answer_asker(asker, Ok(place), position);
        }
    }

    fn answer_asker(&mut self, asker: Asker, outcome: Outcome, position: Option<Position>) {
        let Asker { shard, request } = asker;
        if shard as usize == self.index {
            return self.durable_answered(request, outcome, position);
        }
        self.hub.post().send(shard.into(), ToShard::Ingested { request, outcome, position });
    }

    /// The answer to an event of a client of this shard.
    fn durable_answered(&mut self, request: u32, outcome: Outcome, position: Option<Position>) {
        let asked = self.asked.remove(request as usize);
        let Asked { client, session: id, reply, kind, since_ns } = asked;
        self.take_up_stalled();
        match kind {
            AskedKind::Api => return self.clients.api_stored(client, reply, outcome, position),
            AskedKind::DeadLetter(errand) => {
                return self.dead_letter_stored(errand, outcome, rt::now_ms());
            }
            AskedKind::Produce(errand) => {
                return self.produce_stored(errand, outcome, rt::now_ms());
            }
            AskedKind::Publish | AskedKind::Rpc => {}
        }
        let Some(connection) = self.clients.get(client) else { return };
        let Some(session) = connection.session.as_ref().filter(|session| session.id() == id) else {
            return;
        };
        let format = session.format();
        let session = self.clients.entry(client).session.as_mut().expect("found above");
        session.durable_ended();
        let took_ns = rt::now_ns().saturating_sub(since_ns);
        self.clients.metrics.record(Histogram::CommandDuration, took_ns);
        let place = match outcome {
            Ok(place) => place,
            Err(refusal) => return self.refuse_because(client, format, reply, refusal),
        };
        scratch::with(|message| {
            match kind {
                AskedKind::Publish => write_reply(format, reply, &Reply::Publish, message),
                AskedKind::Rpc => {
                    let data = place.to_json();
                    write_reply(format, reply, &Reply::Rpc { data: data.as_bytes() }, message);
                }
                AskedKind::Api | AskedKind::DeadLetter(_) | AskedKind::Produce(_) => {
                    unreachable!("they go another way")
                }
            }
            self.clients.push_frame(client, crate::hub::frame_kind(format), message);
        });
    }

    fn refuse_because(&mut self, id: u32, format: Format, reply: u32, refusal: Refusal) {
        let Refusal { code, message: because } = refusal;
        self.clients.totals.command_errors += 1;
        scratch::with(|message| {
            write_error_because(format, reply, code, because, message);
            self.clients.push_frame(id, crate::hub::frame_kind(format), message);
        });
    }
}
