//! The client protocol on a WebSocket: carries out what the session decides, writes the replies.
//!
//! **Runs on: shard.** Invariants: a command is taken whole or not at all; one that must wait
//! keeps its place, and everything behind it waits with it.

use smallvec::SmallVec;
use trine_core::metrics::{Counter, Histogram};
use trine_core::rt;
use trine_proto::client::{
    ClientInfo, Command, Commands, ConnectResult, Disconnect, ErrorCode, Format, Publication, Push,
    Reply, SubscribeResult, UnsubscribeCode, is_json, strip_newlines, write_error, write_push,
    write_reply,
};
use uuid::Uuid;

use super::connection::Connections;
use super::durable::AskedKind;
use super::shard::{Shard, Undo};
use crate::broker::{Info, Message, Stored, SubscribeWish, Subscribed};
use crate::hub::{Answer, Clients, Frames, Progress, Subscribe, Subscriber, Ticket};
use crate::limits::LARGE_ANSWERS_IN_FLIGHT;
use crate::scratch;
use crate::session::{Action, Context, Session, SubscribeAction, Waiting, WaitingFor};

/// What became of the commands of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// All were taken, or the connection is ending.
    All,
    /// The first command of the rest can't be taken yet. `full`: for want of room in another
    /// shard's mailbox, which is not waited for forever.
    Stalled { full: bool },
}

impl Shard {
    /// Takes the commands of one frame. `rest` is set to what is left when they stall. `give_up`:
    /// a command that finds a mailbox full is refused instead.
    pub fn commands<'a>(
        &mut self,
        id: u32,
        format: Format,
        payload: &'a [u8],
        give_up: bool,
        rest: &mut &'a [u8],
    ) -> Taken {
        let mut commands = Commands::new(format, payload);
        loop {
            if self.clients.is_ending(id) {
                return Taken::All;
            }
            *rest = commands.rest();
            if !rest.is_empty() && self.clients.is_behind(id) {
                return Taken::Stalled { full: false };
            }
            let Some(command) = commands.next() else { return Taken::All };
            let Ok(command) = command else {
                self.close(id, Disconnect::BadRequest);
                return Taken::All;
            };
            match self.command(id, format, &command, give_up) {
                Taken::All => self.clients.totals.commands += 1,
                stalled @ Taken::Stalled { .. } => return stalled,
            }
        }
    }

    fn command(&mut self, id: u32, format: Format, command: &Command<'_>, give_up: bool) -> Taken {
        let random = self.random();
        let Shard { hub, clients, config, .. } = self;
        let session = clients.entry(id).session.as_mut().expect("the face is the client's");
        if session.outstanding() >= config.client.in_flight
            || session.outstanding_large() >= LARGE_ANSWERS_IN_FLIGHT
        {
            return Taken::Stalled { full: false };
        }
        let context = Context { config, find: |name: &str| hub.find(name) };
        let action = session.command(command, &context, rt::now_ms(), random);
        let ticket = Ticket { client: id, place: session.next_place(), id: session.id() };
        let reply = command.id;
        let is_durable = give_up && self.is_durable(&action);
        let waited = match action {
            Action::Nothing => return Taken::All,
            Action::Wait => return Taken::Stalled { full: false },
            Action::Close(disconnect) => {
                self.close(id, disconnect);
                return Taken::All;
            }
            Action::Refuse(code) => {
                self.refuse(id, format, reply, code);
                return Taken::All;
            }
            Action::Connected => {
                self.connected(id, format, reply);
                return Taken::All;
            }
            Action::Rpc { method, data } => self.rpc(id, format, reply, method, data),
            Action::Unsubscribe(channel) => {
                self.unsubscribe(id, channel);
                self.reply(id, format, reply, &Reply::Unsubscribe);
                return Taken::All;
            }
            Action::Subscribe(subscribe) => self.subscribe(id, format, reply, &subscribe, ticket),
            Action::Publish { channel, namespace, data } => {
                self.publish(id, format, reply, (channel, namespace), data, ticket)
            }
            Action::History { channel, namespace, filter } => {
                let channel = (channel, namespace);
                let progress = self.hub.history(channel, filter, ticket, rt::now_ms());
                self.read(id, format, reply, progress, WaitingFor::History)
            }
            Action::Presence { channel, namespace, stats } => {
                let channel = (channel, namespace);
                let progress = self.hub.presence(channel, stats, ticket, rt::now_ms());
                let what = if stats { WaitingFor::PresenceStats } else { WaitingFor::Presence };
                self.read(id, format, reply, progress, what)
            }
        };
        if !waited {
            return Taken::All;
        }
        if give_up {
            if is_durable {
                self.ingest.count_refused();
            }
            self.refuse(id, format, reply, ErrorCode::Internal);
            return Taken::All;
        }
        Taken::Stalled { full: true }
    }

    /// Whether an action makes an event durable.
    fn is_durable(&self, action: &Action<'_>) -> bool {
        let routes = self.ingest.routes();
        match action {
            Action::Rpc { method, .. } => routes.of_rpc(method).is_some(),
            Action::Publish { namespace, .. } => routes.of_namespace(*namespace).is_some(),
            _ => false,
        }
    }

    fn connected(&mut self, id: u32, format: Format, reply: u32) {
        let client = &self.config.client;
        let (interval_ms, pong) = (client.ping_interval_ms, client.pong_timeout_ms > 0);
        let session = self.clients.entry(id).session.as_ref().expect("it has just connected");
        let announced = interval_ms > 0 && !session.has_frame_pings();
        let mut text = Uuid::encode_buffer();
        let result = ConnectResult {
            client: session.id().hyphenated().encode_lower(&mut text),
            version: concat!("trine ", env!("CARGO_PKG_VERSION")),
            data: b"",
            ping: if announced { interval_ms.div_ceil(1000) as u32 } else { 0 },
            pong: pong && announced,
        };
        self.clients.sessions += 1;
        self.reply(id, format, reply, &Reply::Connect(result));
        self.clients.arm(id);
    }

    /// Returns whether the command must be tried again.
    fn rpc(&mut self, id: u32, format: Format, reply: u32, method: &str, data: &[u8]) -> bool {
        if let Some(route) = self.ingest.routes().of_rpc(method) {
            let route = (route, AskedKind::Rpc);
            return self.make_durable(id, format, reply, route, ("", 0), data);
        }
        match crate::proxy::call(method, data, super::shard::wall_ms()) {
            Ok(data) => self.reply(id, format, reply, &Reply::Rpc { data: &data }),
            Err(code) => self.refuse(id, format, reply, code),
        }
        false
    }

    /// Returns whether the command must be tried again.
    fn subscribe(
        &mut self,
        id: u32,
        format: Format,
        reply: u32,
        action: &SubscribeAction<'_>,
        ticket: Ticket,
    ) -> bool {
        let &SubscribeAction { channel, namespace, position, recoverable, recover, .. } = action;
        let config = self.config.clone();
        let settings = &config.namespaces[namespace];
        let session = self.clients.entry(id).session.as_ref().expect("it subscribes");
        let presence = settings.presence.then(|| session.to_info());
        let join = settings.join_leave.then(|| session.to_info());
        let announced = join.clone();
        let subscribe = Subscribe {
            channel,
            namespace,
            subscriber: Subscriber::new(id, format, action.join_leave),
            ticket,
            wish: SubscribeWish { position, recover, presence },
            join,
        };
        let refuse_unrecoverable = action.refuse_unrecoverable;
        match self.hub.subscribe(subscribe, rt::now_ms()) {
            Progress::Full(_) => return true,
            Progress::Done((number, subscribed)) => {
                let recovered = subscribed.recovered.as_ref().map(|recovered| recovered.complete);
                count_recovery(&mut self.clients, recovered);
                if let Some(code) = refusal(&subscribed, refuse_unrecoverable) {
                    self.undo(Undo { client: id, channel: number });
                    self.refuse(id, format, reply, code);
                    return false;
                }
                let session = self.clients.entry(id).session.as_mut().expect("it subscribes");
                session.subscribed(number);
                if !suits(format, missed(&subscribed)) {
                    self.close(id, Disconnect::InappropriateProtocol);
                    return false;
                }
                scratch::with(|message| {
                    write_subscribed(
                        format,
                        reply,
                        &subscribed,
                        (recoverable, recover.is_some()),
                        message,
                    );
                    self.clients.push_message(id, format, message, true);
                });
                if let Some(info) = announced {
                    self.hub.announce(&mut self.clients, channel, &info);
                }
            }
            Progress::Asked => {
                let number = self.hub.find(channel).expect("the hub waits for its owner");
                let what = WaitingFor::Subscribe {
                    channel: number,
                    position,
                    recoverable,
                    recovering: recover.is_some(),
                    refuse_unrecoverable,
                };
                self.wait(id, reply, what);
            }
        }
        false
    }

    fn publish(
        &mut self,
        id: u32,
        format: Format,
        reply: u32,
        channel: (&str, usize),
        data: &[u8],
        ticket: Ticket,
    ) -> bool {
        if let Some(route) = self.ingest.routes().of_namespace(channel.1) {
            let route = (route, AskedKind::Publish);
            return self.make_durable(id, format, reply, route, channel, data);
        }
        let Shard { hub, clients, .. } = self;
        let session = clients.entry(id).session.as_mut().expect("it publishes");
        // Lent for the call: its publisher may be among the subscribers, whose table this is.
        let identity = session.lend_identity();
        let info = identity.info(session.id());
        let progress =
            hub.publish(clients, channel, Message::plain(data, Some(info)), ticket, rt::now_ms());
        if let Some(session) = clients.entry(id).session.as_mut() {
            session.restore_identity(identity);
        }
        match progress {
            Progress::Done(_) => self.reply(id, format, reply, &Reply::Publish),
            Progress::Asked => self.wait(id, reply, WaitingFor::Publish),
            Progress::Full(_) => return true,
        }
        false
    }

    fn read(
        &mut self,
        id: u32,
        format: Format,
        reply: u32,
        progress: Progress<Answer>,
        what: WaitingFor,
    ) -> bool {
        match progress {
            Progress::Done(Answer::History(stored, _)) if !suits(format, &stored) => {
                self.close(id, Disconnect::InappropriateProtocol);
            }
            Progress::Done(answer) => scratch::with(|message| {
                write_answer(format, reply, &answer, message);
                self.clients.push_message(id, format, message, false);
            }),
            Progress::Asked => self.wait(id, reply, what),
            Progress::Full(_) => return true,
        }
        false
    }

    fn wait(&mut self, id: u32, reply: u32, what: WaitingFor) {
        let session = self.clients.entry(id).session.as_mut().expect("it waits");
        session.pending().wait(Waiting { id: reply, what, since_ns: rt::now_ns() });
        self.clients.totals.asked += 1;
    }

    fn reply(&mut self, id: u32, format: Format, number: u32, reply: &Reply<'_>) {
        if number == 0 {
            return;
        }
        scratch::with(|message| {
            write_reply(format, number, reply, message);
            self.clients.push_message(id, format, message, false);
        });
    }

    fn refuse(&mut self, id: u32, format: Format, number: u32, code: ErrorCode) {
        self.clients.totals.command_errors += 1;
        scratch::with(|message| {
            write_error(format, number, code, message);
            self.clients.push_message(id, format, message, false);
        });
    }

    fn unsubscribe(&mut self, id: u32, channel: Option<u32>) {
        let Some(channel) = channel else { return };
        let session = self.clients.entry(id).session.as_mut().expect("it unsubscribes");
        session.unsubscribed(channel);
        let info = session.info();
        let (client, user, conn_info) =
            (info.client, info.user.into(), bytes::Bytes::copy_from_slice(info.conn_info));
        let who = move || Info { client, user, conn_info };
        self.hub.unsubscribe(&mut self.clients, channel, id, who);
    }
}

impl Clients for Connections {
    #[inline]
    fn deliver(&mut self, subscriber: Subscriber, frames: &mut Frames<'_>) -> bool {
        let id = subscriber.client();
        let Some(frame) = frames.get(subscriber.format()) else {
            // Client protocol §1: a JSON client can't be told what is not JSON.
            self.doom(id, Disconnect::InappropriateProtocol);
            return false;
        };
        if self.entry(id).session.as_ref().is_some_and(Session::is_holding) {
            return self.hold(id, frame);
        }
        self.push_shared(id, frame)
    }

    fn answered(&mut self, ticket: Ticket, channel: Option<(u32, Subscriber)>, answer: Answer) {
        if ticket.client == Ticket::DELIVER {
            return self.delivered.push((ticket.place, answer));
        }
        let Some(connection) = self.get(ticket.client) else { return };
        let Some(session) = connection.session.as_ref() else {
            return self.api_answered(ticket, answer);
        };
        if session.id() != ticket.id {
            return;
        }
        let id = ticket.client;
        let (format, is_ending) = (session.format(), self.is_ending(id));
        let session = self.entry(id).session.as_mut().expect("found above");
        let Some(waiting) = session.pending().waiting(ticket.place) else { return };
        let (number, since_ns) = (waiting.id, waiting.since_ns);
        let WaitingFor::Subscribe { recoverable, recovering, refuse_unrecoverable, .. } =
            waiting.what
        else {
            if matches!(&answer, Answer::History(stored, _) if !suits(format, stored)) {
                return self.doom(id, Disconnect::InappropriateProtocol);
            }
            scratch::with(|message| {
                if !is_ending {
                    write_answer(format, number, &answer, message);
                }
                self.settle(ticket, format, message, since_ns);
            });
            return;
        };
        let Answer::Subscribed(subscribed) = answer else {
            unreachable!("a subscribe is answered as one")
        };
        let (channel, _) = channel.expect("a subscribe is about a channel");
        let recovered = subscribed.recovered.as_ref().map(|recovered| recovered.complete);
        count_recovery(self, recovered);
        let refused = refusal(&subscribed, refuse_unrecoverable);
        if refused.is_some() {
            self.undo.push(Undo { client: id, channel });
            self.totals.command_errors += 1;
        } else {
            self.entry(id).session.as_mut().expect("found above").subscribed(channel);
            if !suits(format, missed(&subscribed)) {
                return self.doom(id, Disconnect::InappropriateProtocol);
            }
        }
        scratch::with(|message| {
            if let Some(code) = refused {
                write_error(format, number, code, message);
            } else if !is_ending {
                write_subscribed(format, number, &subscribed, (recoverable, recovering), message);
            }
            self.settle(ticket, format, message, since_ns);
        });
    }

    fn unsubscribed(&mut self, client: u32, channel: u32, name: &str, code: UnsubscribeCode) {
        let Some(session) = self.entry(client).session.as_mut() else { return };
        session.unsubscribed(channel);
        let format = session.format();
        scratch::with(|message| {
            write_push(format, &Push::Unsubscribe { channel: name, code }, message);
            self.push_message(client, format, message, false);
        });
    }

    fn info(&self, client: u32) -> Info {
        let session = self.get(client).and_then(|connection| connection.session.as_ref());
        session.expect("subscribers have sessions").to_info()
    }
}

impl Connections {
    /// Puts an owner's answer into its place and lets go what waited for it.
    fn settle(&mut self, ticket: Ticket, format: Format, message: &[u8], since_ns: u64) {
        let header = trine_proto::ws::header(crate::hub::frame_kind(format), message.len());
        let frame = [header.as_slice(), message].concat().into();
        let session = self.entry(ticket.client).session.as_mut().expect("it waits");
        session.pending().settle(ticket.place, frame);
        self.metrics.record(Histogram::CommandDuration, rt::now_ns().saturating_sub(since_ns));
        self.release(ticket.client);
    }
}

/// Why a subscription that its owner knows of is taken back.
fn refusal(subscribed: &Subscribed, refuse_unrecoverable: bool) -> Option<ErrorCode> {
    if subscribed.no_room {
        return Some(ErrorCode::Internal);
    }
    let is_complete = subscribed.recovered.as_ref().is_none_or(|recovered| recovered.complete);
    (refuse_unrecoverable && !is_complete).then_some(ErrorCode::UnrecoverablePosition)
}

fn count_recovery(clients: &mut Connections, recovered: Option<bool>) {
    match recovered {
        Some(true) => clients.metrics.add(Counter::RecoveriesRecovered, 1),
        Some(false) => clients.metrics.add(Counter::RecoveriesFailed, 1),
        None => {}
    }
}

/// Client protocol §4: what the reply to a subscribe carries.
fn write_subscribed(
    format: Format,
    number: u32,
    subscribed: &Subscribed,
    (recoverable, was_recovering): (bool, bool),
    out: &mut Vec<u8>,
) {
    let epoch = subscribed.position.map(|position| position.epoch.to_string());
    let recovered = subscribed.recovered.as_ref();
    let offset = match (recovered, subscribed.position) {
        (Some(recovered), _) => recovered.offset,
        (None, Some(position)) => position.offset,
        (None, None) => 0,
    };
    with_publications(format, missed(subscribed), |publications| {
        let result = SubscribeResult {
            recoverable,
            epoch: epoch.as_deref().unwrap_or_default(),
            publications,
            recovered: recovered.is_some_and(|recovered| recovered.complete),
            offset,
            positioned: subscribed.position.is_some(),
            data: b"",
            was_recovering,
        };
        write_reply(format, number, &Reply::Subscribe(result), out);
    });
}

fn write_answer(format: Format, number: u32, answer: &Answer, out: &mut Vec<u8>) {
    match answer {
        Answer::Published(_) => write_reply(format, number, &Reply::Publish, out),
        Answer::Refused(code) => write_error(format, number, *code, out),
        Answer::History(stored, position) => with_publications(format, stored, |publications| {
            let epoch = position.epoch.to_string();
            let offset = position.offset;
            let reply = Reply::History { publications, epoch: &epoch, offset };
            write_reply(format, number, &reply, out);
        }),
        Answer::Presence(clients) => {
            let ids: Vec<String> = clients.iter().map(|info| info.client.to_string()).collect();
            let present: Vec<ClientInfo<'_>> = clients
                .iter()
                .zip(&ids)
                .map(|(info, id)| ClientInfo {
                    user: &info.user,
                    client: id,
                    conn_info: &info.conn_info,
                    chan_info: b"",
                })
                .collect();
            write_reply(format, number, &Reply::Presence(&present), out);
        }
        Answer::PresenceStats(stats) => {
            let reply =
                Reply::PresenceStats { num_clients: stats.num_clients, num_users: stats.num_users };
            write_reply(format, number, &reply, out);
        }
        Answer::Subscribed(_) => unreachable!("subscribes have a writer of their own"),
    }
}

/// What a recovery brings back.
fn missed(subscribed: &Subscribed) -> &[Stored] {
    subscribed.recovered.as_ref().map_or(&[], |recovered| &recovered.publications)
}

/// Whether a client of this format can be told all of them (client protocol §1).
fn suits(format: Format, stored: &[Stored]) -> bool {
    format == Format::Protobuf
        || stored.iter().all(|stored| !stored.is_binary() || is_json(stored.data()))
}

fn with_publications(format: Format, stored: &[Stored], with: impl FnOnce(&[Publication<'_>])) {
    let must_strip = |stored: &Stored| format == Format::Json && stored.is_binary();
    let strip = |stored: &Stored| must_strip(stored).then(|| strip_newlines(stored.data()))?;
    let stripped: Vec<Option<Vec<u8>>> = stored.iter().map(strip).collect();
    let id = |stored: &Stored| stored.info().map(|info| info.client.to_string());
    let ids: Vec<Option<String>> = stored.iter().map(id).collect();
    let publications: SmallVec<[Publication<'_>; 4]> = stored
        .iter()
        .zip(&ids)
        .zip(&stripped)
        .map(|((stored, id), stripped)| Publication {
            data: stripped.as_deref().unwrap_or(stored.data()),
            info: stored.info().zip(id.as_deref()).map(|(info, id)| ClientInfo {
                user: info.user,
                client: id,
                conn_info: info.conn_info,
                chan_info: b"",
            }),
            offset: stored.offset,
            tags: stored.tags(),
        })
        .collect();
    with(&publications);
}
