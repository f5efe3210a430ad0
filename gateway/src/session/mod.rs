//! One client: what it may do, what it is subscribed to, what it waits for. The same machine
//! behind every face.
//!
//! **Runs on: shard.** Sans-IO: a command comes in, one [`Action`] goes out, which the caller
//! carries out and answers through [`Session::reply`] or [`Session::settle`]. Invariants: every
//! command with an id is answered exactly once or the session ends; replies leave in the order of
//! the commands (rpcs aside); a subscription's pushes never overtake its reply.

mod pending;
mod rights;

pub use pending::{Pending, Slot, Waiting, WaitingFor};
pub use rights::{check_publish, namespace_of, permits};

use crate::broker::{HistoryFilter, Info, InfoRef, Since};
use crate::config::{Access, Config, Namespace};
use crate::limits::CHANNEL_NAME_BYTES;
use bytes::Bytes;
use trine_proto::client::{Command, Connect, Disconnect, ErrorCode, Format, Request, Subscribe};
use uuid::Uuid;

/// What a session needs to know about the world when a command comes.
pub struct Context<'a, D> {
    /// The configuration.
    pub config: &'a Config,
    /// Finds the number of a channel that has subscribers on this shard.
    pub find: D,
}

/// What the caller has to do about a command.
#[derive(Debug)]
pub enum Action<'a> {
    /// Nothing.
    Nothing,
    /// End the connection.
    Close(Disconnect),
    /// Answer with an error.
    Refuse(ErrorCode),
    /// The client is connected: answer with its id.
    Connected,
    /// Subscribe at the hub.
    Subscribe(SubscribeAction<'a>),
    /// Unsubscribe at the hub (`None`: it isn't subscribed, which is a success), then answer.
    Unsubscribe(Option<u32>),
    /// Publish at the hub.
    Publish {
        /// The channel.
        channel: &'a str,
        /// Its namespace, by index.
        namespace: usize,
        /// The payload, already checked.
        data: &'a [u8],
    },
    /// Read the history.
    History {
        /// The channel.
        channel: &'a str,
        /// Its namespace, by index.
        namespace: usize,
        /// Which part.
        filter: HistoryFilter,
    },
    /// Read the presence, or its numbers only.
    Presence {
        /// The channel.
        channel: &'a str,
        /// Its namespace, by index.
        namespace: usize,
        /// The numbers only.
        stats: bool,
    },
    /// Call a backend.
    Rpc {
        /// The method.
        method: &'a str,
        /// Its payload.
        data: &'a [u8],
    },
    /// Try the same command again when something of this client has been answered.
    Wait,
}

/// A subscribe that may go to the hub.
#[derive(Debug)]
pub struct SubscribeAction<'a> {
    /// The channel.
    pub channel: &'a str,
    /// Its namespace, by index.
    pub namespace: usize,
    /// The reply carries epoch and offset.
    pub position: bool,
    /// The reply says that recovery is possible.
    pub recoverable: bool,
    /// Join and leave are pushed to this client.
    pub join_leave: bool,
    /// Return what was missed since then.
    pub recover: Option<Since>,
    /// Refuse with 112 if that is not possible.
    pub refuse_unrecoverable: bool,
}

/// What a timer's firing asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tick {
    /// Nothing is due.
    Nothing,
    /// Send a ping of the client protocol.
    Ping,
    /// Send a WebSocket ping.
    FramePing,
    /// End the connection.
    Close(Disconnect),
}

/// One client.
pub struct Session {
    id: Uuid,
    identity: Option<Box<Identity>>,
    subscriptions: Vec<Subscription>,
    pending: Option<Box<Pending>>,
    deadline_ms: u64,
    /// Durable commands that the log has not answered; their replies may overtake others.
    durable: u32,
    phase: Phase,
    format: Format,
    frame_pings: bool,
}

/// The session's identity, lent out while the table of the sessions is needed for something else.
pub struct Lent(Option<Box<Identity>>);

impl Lent {
    /// Who the client with this id is.
    pub fn info(&self, client: Uuid) -> InfoRef<'_> {
        match self.0.as_deref() {
            Some(Identity { user, conn_info, .. }) => InfoRef { client, user, conn_info },
            None => InfoRef { client, user: "", conn_info: b"" },
        }
    }

    /// Headers of the request that opened the connection, those that records need.
    pub fn headers(&self) -> &[(Box<str>, Box<str>)] {
        self.0.as_deref().map_or(&[], |identity| &identity.headers)
    }
}

/// Who the client is, where it is anybody.
#[derive(Debug, Default)]
struct Identity {
    user: Box<str>,
    conn_info: Bytes,
    /// Headers of the request that opened the connection, those that records need.
    headers: RequestHeaders,
}

/// Headers of a request: names in lower case, values.
pub type RequestHeaders = Box<[(Box<str>, Box<str>)]>;

#[derive(Clone, Copy, Debug)]
struct Subscription {
    channel: u32,
}

/// What the deadline means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Then `connect` must have come.
    New,
    /// Then a ping is due.
    Live,
    /// Then the pong must have come.
    Pinged,
}

impl Session {
    /// A session that has not connected; `id` is random and never repeats.
    pub fn new(id: Uuid, format: Format, config: &Config, now_ms: u64) -> Self {
        Self {
            id,
            identity: None,
            subscriptions: Vec::new(),
            pending: None,
            deadline_ms: now_ms + config.client.stale_close_delay_ms,
            durable: 0,
            phase: Phase::New,
            format,
            frame_pings: false,
        }
    }

    /// With pings that are WebSocket frames, of which `connect`'s reply says nothing.
    pub fn with_frame_pings(self, frame_pings: bool) -> Self {
        Self { frame_pings, ..self }
    }

    /// Whether pings are WebSocket frames.
    pub fn has_frame_pings(&self) -> bool {
        self.frame_pings
    }

    /// The client's id.
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// The format it speaks.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Whether `connect` has succeeded.
    pub fn is_connected(&self) -> bool {
        self.phase != Phase::New
    }

    /// Who it is, by reference.
    pub fn info(&self) -> InfoRef<'_> {
        match self.identity.as_deref() {
            Some(Identity { user, conn_info, .. }) => InfoRef { client: self.id, user, conn_info },
            None => InfoRef { client: self.id, user: "", conn_info: b"" },
        }
    }

    /// With the headers that records need; most clients have none.
    pub fn with_headers(mut self, headers: RequestHeaders) -> Self {
        if !headers.is_empty() {
            self.identity.get_or_insert_default().headers = headers;
        }
        self
    }

    /// Who it is.
    pub fn to_info(&self) -> Info {
        self.info().to_owned()
    }

    /// Lends the identity; until it is back the client is nobody.
    pub fn lend_identity(&mut self) -> Lent {
        Lent(self.identity.take())
    }

    /// Takes back what [`Session::lend_identity`] gave.
    pub fn restore_identity(&mut self, lent: Lent) {
        self.identity = lent.0;
    }

    /// The place of the next command that waits.
    pub fn next_place(&self) -> u32 {
        self.pending.as_ref().map_or(0, |pending| pending.next_place())
    }

    /// Takes a command. `random` is any random number (it spreads the first pings).
    pub fn command<'a, D: Fn(&str) -> Option<u32>>(
        &mut self,
        command: &'a Command<'a>,
        context: &Context<'_, D>,
        now_ms: u64,
        random: u64,
    ) -> Action<'a> {
        let connecting = matches!(command.request, Request::Connect(_));
        if connecting == self.is_connected() {
            return Action::Close(Disconnect::BadRequest);
        }
        match &command.request {
            Request::Connect(connect) => self.connect(connect, context.config, now_ms, random),
            Request::Pong if self.frame_pings => Action::Close(Disconnect::BadRequest),
            Request::Pong => self.pong(context.config),
            Request::Unknown => Action::Close(Disconnect::BadRequest),
            Request::Send { .. } => Action::Close(Disconnect::NotAvailable),
            Request::Rpc { method, data } => Action::Rpc { method, data },
            Request::Refresh { .. } => Action::Refuse(ErrorCode::NotAvailable),
            Request::Subscribe(subscribe) => match self.channel(&subscribe.channel, context) {
                Ok(known) => self.subscribe(subscribe, known, context.config),
                Err(action) => action,
            },
            Request::Unsubscribe { channel } => match self.channel(channel, context) {
                Ok(known) => Action::Unsubscribe(known.filter(|&known| self.has(known))),
                Err(action) => action,
            },
            Request::SubRefresh { channel, .. } => match self.channel(channel, context) {
                Ok(_) => Action::Refuse(ErrorCode::NotAvailable),
                Err(action) => action,
            },
            request => self.channel_command(request, context),
        }
    }

    /// Commands that read or write a channel: publish, history, presence, presence_stats.
    fn channel_command<'a, D: Fn(&str) -> Option<u32>>(
        &self,
        request: &'a Request<'a>,
        context: &Context<'_, D>,
    ) -> Action<'a> {
        let (Request::Publish { channel, .. }
        | Request::Presence { channel }
        | Request::PresenceStats { channel }
        | Request::History(trine_proto::client::History { channel, .. })) = request
        else {
            unreachable!("every other request was taken before");
        };
        let known = match self.channel(channel, context) {
            Ok(known) => known,
            Err(action) => return action,
        };
        let namespace = match namespace_of(context.config, channel) {
            Ok(index) => index,
            Err(error) => return Action::Refuse(error),
        };
        let settings = &context.config.namespaces[namespace];
        let subscribed = known.is_some_and(|known| self.has(known));
        let allowed = |access| self.permits(access, subscribed);
        match request {
            Request::Publish { data, .. } => {
                match check_publish(settings, data, self.format, allowed) {
                    Ok(()) => Action::Publish { channel, namespace, data },
                    Err(error) => Action::Refuse(error),
                }
            }
            Request::History(history) => match rights::check_history(settings, history, allowed) {
                Ok(filter) => Action::History { channel, namespace, filter },
                Err(error) => Action::Refuse(error),
            },
            request => {
                let stats = matches!(request, Request::PresenceStats { .. });
                match rights::check_presence(settings, allowed) {
                    Ok(()) => Action::Presence { channel, namespace, stats },
                    Err(error) => Action::Refuse(error),
                }
            }
        }
    }

    fn connect(
        &mut self,
        connect: &Connect<'_>,
        config: &Config,
        now_ms: u64,
        random: u64,
    ) -> Action<'static> {
        if !connect.token.is_empty() {
            // No key is configured that could have signed it.
            return Action::Close(Disconnect::InvalidToken);
        }
        if !config.client.anonymous {
            return Action::Close(Disconnect::BadRequest);
        }
        if config.embedded_default
            && let Some(name) = rights::name_in(connect.data)
        {
            let conn_info = rights::conn_info(&name);
            let identity = self.identity.get_or_insert_default();
            (identity.user, identity.conn_info) = (name.into(), conn_info);
        }
        let half = config.client.ping_interval_ms / 2;
        self.phase = Phase::Live;
        self.deadline_ms = match config.client.ping_interval_ms {
            0 => u64::MAX,
            _ => now_ms + half + random % (half + 1),
        };
        Action::Connected
    }

    fn pong(&mut self, config: &Config) -> Action<'static> {
        if self.phase != Phase::Pinged {
            return Action::Close(Disconnect::BadRequest);
        }
        let sent_ms = self.deadline_ms - config.client.pong_timeout_ms;
        self.deadline_ms = sent_ms + config.client.ping_interval_ms;
        self.phase = Phase::Live;
        Action::Nothing
    }

    /// Takes a WebSocket pong. One that was not asked for means nothing (RFC 6455 §5.5.3).
    pub fn frame_pong(&mut self, config: &Config) {
        if self.frame_pings && self.phase == Phase::Pinged {
            self.pong(config);
        }
    }

    fn subscribe<'a>(
        &self,
        subscribe: &'a Subscribe<'a>,
        known: Option<u32>,
        config: &Config,
    ) -> Action<'a> {
        if !matches!(&*subscribe.delta, "" | "fossil") {
            return Action::Close(Disconnect::BadRequest);
        }
        if subscribe.channel.len() > CHANNEL_NAME_BYTES {
            return Action::Refuse(ErrorCode::BadRequest);
        }
        if known.is_some_and(|known| self.has(known)) {
            return Action::Refuse(ErrorCode::AlreadySubscribed);
        }
        let asked = self.pending.as_ref().map_or(0, |pending| pending.subscribing());
        if self.subscriptions.len() + asked >= config.client.channels_limit {
            return Action::Refuse(ErrorCode::LimitExceeded);
        }
        let namespace = match namespace_of(config, &subscribe.channel) {
            Ok(index) => index,
            Err(error) => return Action::Refuse(error),
        };
        // No namespace allows filters, and no key is there that a token could be checked with.
        if subscribe.filtered {
            return Action::Refuse(ErrorCode::BadRequest);
        }
        let settings = &config.namespaces[namespace];
        if !subscribe.token.is_empty() || !self.permits(settings.subscribe, false) {
            return Action::Refuse(ErrorCode::PermissionDenied);
        }
        let may_read = self.permits(settings.history_access, true);
        let allowed = rights::subscription(settings, subscribe, may_read);
        let recover = (subscribe.recover && allowed.recoverable)
            .then(|| Since::new(&subscribe.epoch, subscribe.offset));
        Action::Subscribe(SubscribeAction {
            channel: &subscribe.channel,
            namespace,
            position: allowed.position,
            recoverable: allowed.recoverable,
            join_leave: allowed.join_leave && self.join_leave_right(settings, subscribe),
            recover,
            refuse_unrecoverable: subscribe.flag & 2 != 0,
        })
    }

    fn join_leave_right(&self, settings: &Namespace, _subscribe: &Subscribe<'_>) -> bool {
        settings.force_push_join_leave || self.permits(settings.presence_access, true)
    }

    /// The channel's number, if this shard knows it; an action if the command can't go on.
    fn channel<D: Fn(&str) -> Option<u32>>(
        &self,
        name: &str,
        context: &Context<'_, D>,
    ) -> Result<Option<u32>, Action<'static>> {
        if name.is_empty() {
            return Err(Action::Close(Disconnect::BadRequest));
        }
        let known = (context.find)(name);
        match (&self.pending, known) {
            (Some(pending), Some(known)) if pending.is_subscribing(known) => Err(Action::Wait),
            _ => Ok(known),
        }
    }

    fn permits(&self, access: Access, subscribed: bool) -> bool {
        permits(access, subscribed, !self.info().user.is_empty())
    }

    fn has(&self, channel: u32) -> bool {
        self.subscriptions.iter().any(|known| known.channel == channel)
    }

    /// The hub has made the subscription live.
    pub fn subscribed(&mut self, channel: u32) {
        assert!(!self.has(channel), "a client subscribes to a channel once");
        self.subscriptions.reserve_exact(1);
        self.subscriptions.push(Subscription { channel });
    }

    /// The subscription has ended.
    pub fn unsubscribed(&mut self, channel: u32) {
        self.subscriptions.retain(|known| known.channel != channel);
    }

    /// Takes all subscriptions: the client is gone.
    pub fn take_subscriptions(&mut self) -> impl Iterator<Item = u32> + use<> {
        std::mem::take(&mut self.subscriptions).into_iter().map(|known| known.channel)
    }

    /// Commands whose answers are outstanding.
    pub fn outstanding(&self) -> usize {
        self.durable as usize + self.pending.as_ref().map_or(0, |pending| pending.outstanding())
    }

    /// Commands whose answers are outstanding and may be large.
    pub fn outstanding_large(&self) -> usize {
        self.pending.as_ref().map_or(0, |pending| pending.large())
    }

    /// Bytes of frames that wait for an earlier answer, or for room.
    pub fn held_bytes(&self) -> usize {
        self.pending.as_ref().map_or(0, |pending| pending.bytes())
    }

    /// A durable command waits for the log.
    pub fn durable_begun(&mut self) {
        self.durable += 1;
    }

    /// The log has answered a durable command.
    pub fn durable_ended(&mut self) {
        assert!(self.durable > 0, "each durable command ends once");
        self.durable -= 1;
    }

    /// Whether pushes must go through [`Session::hold`] now.
    #[inline]
    pub fn is_holding(&self) -> bool {
        self.pending.as_ref().is_some_and(|pending| pending.holds_pushes())
    }

    /// Whether a command waits for an earlier one, so that its reply must go through
    /// [`Session::reply`].
    pub fn has_pending(&self) -> bool {
        self.pending.is_some()
    }

    /// The replies that wait, made if there are none.
    pub fn pending(&mut self) -> &mut Pending {
        self.pending.get_or_insert_default()
    }

    /// Drops the memory for waiting replies once nothing waits.
    pub fn drop_pending_if_empty(&mut self) {
        if self.pending.as_ref().is_some_and(|pending| pending.is_empty()) {
            self.pending = None;
        }
    }

    /// When [`Session::tick`] is due.
    pub fn deadline_ms(&self) -> u64 {
        self.deadline_ms
    }

    /// The time has come, perhaps.
    pub fn tick(&mut self, config: &Config, now_ms: u64) -> Tick {
        if now_ms < self.deadline_ms {
            return Tick::Nothing;
        }
        match self.phase {
            Phase::New => Tick::Close(Disconnect::Stale),
            Phase::Pinged => Tick::Close(Disconnect::NoPong),
            Phase::Live => {
                if config.client.pong_timeout_ms == 0 {
                    self.deadline_ms = now_ms + config.client.ping_interval_ms;
                } else {
                    self.phase = Phase::Pinged;
                    self.deadline_ms = now_ms + config.client.pong_timeout_ms;
                }
                if self.frame_pings { Tick::FramePing } else { Tick::Ping }
            }
        }
    }

    /// The last ping has left now, behind what was sent before.
    pub fn ping_left(&mut self, config: &Config, now_ms: u64) {
        if self.phase == Phase::Pinged {
            self.deadline_ms = now_ms + config.client.pong_timeout_ms;
        }
    }

    /// The last ping has not left: its pong is not due. Whether it would have been.
    pub fn hold_pong(&mut self, config: &Config, now_ms: u64) -> bool {
        let is_due = self.phase == Phase::Pinged && now_ms >= self.deadline_ms;
        if is_due {
            self.deadline_ms = now_ms + config.client.pong_timeout_ms;
        }
        is_due
    }

    /// The connection was not read for `pause_ms`: the deadline stood still meanwhile.
    pub fn resume(&mut self, pause_ms: u64) {
        self.deadline_ms = self.deadline_ms.saturating_add(pause_ms);
    }
}

#[cfg(test)]
mod tests;
