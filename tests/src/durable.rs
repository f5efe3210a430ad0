//! A publisher of durable messages: at a rate, over connections that may end, keeping what became of each.
//!
//! **Runs on: any.** A message is sent once; what the [`checker`](crate::checker) needs of it is kept. A
//! message without a reply at the end waits [`Plan::answer_limit`] and then counts as dropped in silence, if
//! its connection lived that long.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::checker::{Outcome, Sent, now_ns, payload};
use crate::client::{Client, Failure};
use crate::gateway::Gateway;
use crate::harm::harm;
use crate::wait;

/// What an error says of a message that may be in the log although it was refused.
pub const POSSIBLY_WRITTEN: &str = "may be in the log";

/// How long a publisher waits before it connects again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(10);

/// How long a gateway may be away before a publisher gives up.
const RECONNECT_LIMIT: Duration = Duration::from_secs(60);

/// How long an effect may take on a busy machine with brokers that start.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Where the fault tests' events go.
pub const TOPIC: &str = "ticket.create";

/// Shards of their gateways.
pub const SHARDS: usize = 2;

/// The route to it, by a key in the payload.
pub const RPC: &str =
    "[[rpc]]\nmethod = \"ticket.create\"\ntopic = \"ticket.create\"\nkey = \"/key\"\n";

/// Publishers that they have.
pub const SENDERS: usize = 4;

/// What each of these sends.
pub const RATE_PER_S: u32 = 500;

/// Records a second that a shard forwards beside live ones, where kills meet the forwarding.
pub const FORWARD_RATE: usize = 500;

/// How messages are sent.
#[derive(Clone, Debug)]
pub enum Route {
    /// By an rpc method; its reply tells the place.
    Rpc(String),
    /// To a channel; the reply is empty and means what the namespace says, which is given here.
    Publish {
        /// The channel.
        channel: String,
        /// Where an acknowledged message is (`kafka`, `journal`, `spool`).
        at: String,
    },
}

/// What a publisher does.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The gateway's client listener.
    pub address: SocketAddr,
    /// The run that messages carry.
    pub run: String,
    /// The sender that they carry, and the user it connects as.
    pub sender: String,
    /// How they are sent.
    pub route: Route,
    /// Messages go to so many keys in turn: `{sender}-0` and so on, in the payload's field `key`.
    pub keys: u64,
    /// Bytes added to each payload.
    pub fill_bytes: usize,
    /// Messages a second, each due at its own time; 0 sends as fast as replies come.
    pub rate_per_s: u32,
    /// The most messages without a reply; the gateway's `client.in_flight` is 64.
    pub in_flight: usize,
    /// How long replies may take after the last message.
    pub answer_limit: Duration,
}

impl Plan {
    /// 100 messages a second by `method`, on 10 keys.
    pub fn rpc(address: SocketAddr, run: &str, sender: &str, method: &str) -> Self {
        Self {
            address,
            run: run.to_owned(),
            sender: sender.to_owned(),
            route: Route::Rpc(method.to_owned()),
            keys: 10,
            fill_bytes: 0,
            rate_per_s: 100,
            in_flight: 32,
            answer_limit: Duration::from_secs(10),
        }
    }
}

/// Tells publishers when to stop, and everyone how far they are.
#[derive(Debug, Default)]
pub struct Progress {
    over: AtomicBool,
    /// Messages sent.
    pub sent: AtomicUsize,
    /// Messages acknowledged.
    pub acknowledged: AtomicUsize,
    /// Messages refused.
    pub refused: AtomicUsize,
}

impl Progress {
    /// Lets publishers send nothing more; they come back with all they know.
    pub fn stop(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// Whether they were stopped.
    pub fn is_stopped(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// How many messages have been acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// How many have been refused so far.
    pub fn refused(&self) -> usize {
        self.refused.load(Ordering::Relaxed)
    }

    /// Waits until so many more messages are acknowledged.
    ///
    /// # Panics
    /// When that takes a minute.
    #[track_caller]
    pub fn acknowledge(&self, more: usize) {
        let before = self.acknowledged();
        let there = || (self.acknowledged() >= before + more).then_some(());
        assert!(wait::within(PATIENCE, there).is_some(), "messages are acknowledged");
    }

    /// The outage lasts, and messages are acknowledged all the while.
    #[track_caller]
    pub fn last(&self) {
        let end = Instant::now() + harm().outage;
        while Instant::now() < end {
            self.acknowledge(100);
        }
    }
}

/// Runs publishers by a plan, each under a name of its own, while `meanwhile` does harm: what they
/// know in the end. Messages are acknowledged before it and after it.
pub fn publish_while(
    gateway: &mut Gateway,
    plan: &Plan,
    publishers: usize,
    meanwhile: impl FnOnce(&mut Gateway, &Progress),
) -> Vec<Sent> {
    let progress = Progress::default();
    thread::scope(|scope| {
        let publishers: Vec<_> = (0..publishers)
            .map(|number| {
                let plan = Plan { sender: format!("{}{number}", plan.sender), ..plan.clone() };
                let progress = &progress;
                scope.spawn(move || publish(&plan, u64::MAX, progress))
            })
            .collect();
        // The publishers end with this scope, also when `meanwhile` panics.
        let stop = StopOnDrop(&progress);
        progress.acknowledge(500);
        meanwhile(gateway, &progress);
        progress.acknowledge(500);
        drop(stop);
        publishers.into_iter().flat_map(|each| each.join().expect("a publisher")).collect()
    })
}

/// Stops publishers when it goes out of scope, also by a panic.
pub struct StopOnDrop<'a>(pub &'a Progress);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// How many messages were acknowledged where.
pub fn places(sent: &[Sent]) -> BTreeMap<String, usize> {
    let mut places = BTreeMap::new();
    for message in sent {
        if let Outcome::Acknowledged { at, .. } = &message.outcome {
            *places.entry(at.clone()).or_insert(0) += 1;
        }
    }
    places
}

/// Publishes until `progress` is stopped or `count` messages were sent; what became of each, by sequence.
/// Panics when no connection can be made for a minute.
pub fn publish(plan: &Plan, count: u64, progress: &Progress) -> Vec<Sent> {
    let start = Instant::now();
    let mut publisher = Publisher { plan, progress, start, connection: 0, sent: Vec::new() };
    let goes_on = |of: &Publisher<'_>| of.sent.len() < count as usize && !progress.is_stopped();
    let mut connected = Instant::now();
    while goes_on(&publisher) {
        match Client::connect(plan.address, &plan.sender) {
            Ok(client) => {
                publisher.publish_over(client, goes_on);
                publisher.connection += 1;
                connected = Instant::now();
            }
            Err(error) => {
                assert!(connected.elapsed() < RECONNECT_LIMIT, "no connection: {error}");
                thread::sleep(RECONNECT_PAUSE);
            }
        }
    }
    publisher.sent
}

struct Publisher<'a> {
    plan: &'a Plan,
    progress: &'a Progress,
    start: Instant,
    connection: u32,
    /// Messages by sequence, [`Outcome::Cut`] until they are answered.
    sent: Vec<Sent>,
}

impl Publisher<'_> {
    /// Publishes until it is over or the connection ends; in the first case it waits for replies.
    fn publish_over(&mut self, mut client: Client, goes_on: impl Fn(&Self) -> bool) {
        let mut open = HashMap::new();
        while goes_on(self) {
            let wait = self.until_due();
            let full = open.len() >= self.plan.in_flight;
            let outcome = if wait.is_zero() && !full {
                self.send(&mut client, &mut open)
            } else {
                let unhurried = Duration::from_millis(50);
                let limit = if full { unhurried } else { wait.min(unhurried) };
                self.take_reply(&mut client, &mut open, limit)
            };
            if outcome.is_err() {
                return;
            }
        }
        let deadline = Instant::now() + self.plan.answer_limit;
        while !open.is_empty() {
            let (left, before) = (deadline.saturating_duration_since(Instant::now()), open.len());
            if self.take_reply(&mut client, &mut open, left).is_err() {
                return;
            }
            // What has come counts, however late it is read.
            if left.is_zero() && open.len() == before {
                for at in open.into_values() {
                    self.sent[at].outcome = Outcome::Silence;
                }
                return;
            }
        }
    }

    /// How long until the next message is due.
    fn until_due(&self) -> Duration {
        if self.plan.rate_per_s == 0 {
            return Duration::ZERO;
        }
        let due = self.sent.len() as f64 / f64::from(self.plan.rate_per_s);
        Duration::from_secs_f64(due).saturating_sub(self.start.elapsed())
    }

    fn send(&mut self, client: &mut Client, open: &mut HashMap<u32, usize>) -> Result<(), Failure> {
        let Plan { run, sender, route, keys, fill_bytes, .. } = self.plan;
        let sequence = self.sent.len() as u64;
        let key = format!("{sender}-{}", sequence % keys);
        let mut data = payload(run, sender, sequence, &key);
        if *fill_bytes > 0 {
            data["fill"] = "x".repeat(*fill_bytes).into();
        }
        // Kept before it is sent: a failed send may have left all the same.
        self.sent.push(Sent {
            sender: sender.clone(),
            connection: self.connection,
            sequence,
            key,
            sent_ns: now_ns(),
            outcome: Outcome::Cut,
        });
        self.progress.sent.fetch_add(1, Ordering::Relaxed);
        let id = match route {
            Route::Rpc(method) => client.send("rpc", json!({"method": method, "data": data}))?,
            Route::Publish { channel, .. } => {
                client.send("publish", json!({"channel": channel, "data": data}))?
            }
        };
        open.insert(id, sequence as usize);
        Ok(())
    }

    /// Takes one reply if there is one within `limit`. An error is the connection's end.
    fn take_reply(
        &mut self,
        client: &mut Client,
        open: &mut HashMap<u32, usize>,
        limit: Duration,
    ) -> Result<(), Failure> {
        let method = match self.plan.route {
            Route::Rpc(_) => "rpc",
            Route::Publish { .. } => "publish",
        };
        match client.next_reply(method, limit) {
            Ok((id, result)) => {
                let at = open.remove(&id).expect("a reply is to a command without one");
                self.sent[at].outcome = self.outcome(result);
                Ok(())
            }
            Err(Failure::TimedOut) => Ok(()),
            Err(end) => Err(end),
        }
    }

    fn outcome(&self, result: Result<Value, Failure>) -> Outcome {
        match result {
            Ok(reply) => {
                self.progress.acknowledged.fetch_add(1, Ordering::Relaxed);
                let (at, place) = match &self.plan.route {
                    Route::Rpc(_) => place(&reply["data"]),
                    Route::Publish { at, .. } => (at.clone(), None),
                };
                Outcome::Acknowledged { at, place, acknowledged_ns: now_ns() }
            }
            Err(refusal) => {
                self.progress.refused.fetch_add(1, Ordering::Relaxed);
                let Failure::Refused { code, message } = refusal else {
                    unreachable!("a reply is a result or a refusal");
                };
                let possibly_written = message.contains(POSSIBLY_WRITTEN);
                Outcome::Refused { code, possibly_written }
            }
        }
    }
}

/// Where a reply's data says that the message is.
fn place(data: &Value) -> (String, Option<(i32, i64)>) {
    let at = data["at"].as_str().unwrap_or("nowhere").to_owned();
    let place = data["partition"].as_i64().zip(data["log_offset"].as_i64());
    (at, place.map(|(partition, log_offset)| (partition as i32, log_offset)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tungstenite::{Message, WebSocket};

    use super::*;
    use crate::checker::{Allowed, Record, check};
    use crate::door::Door;

    const CONNECTIONS: usize = 3;

    /// A gateway that acknowledges, but for: every 10th message is refused, every 20th perhaps written, the
    /// 7th of the last connection is never answered. It ends the others after 30. All that it logged.
    fn gateway(door: &Door) -> Vec<Record> {
        let mut records = Vec::new();
        for connection in 0..CONNECTIONS {
            let stream = door.accept().expect("a publisher comes");
            let mut socket = tungstenite::accept(stream).expect("an upgrade");
            let connect = next(&mut socket).expect("a connect");
            answer(&mut socket, json!({"id": connect["id"], "connect": {"client": "c"}}));
            let mut count = 0;
            while let Some(command) = next(&mut socket) {
                let data = &command["rpc"]["data"];
                let sequence = data["sequence"].as_u64().expect("a sequence");
                count += 1;
                if connection == CONNECTIONS - 1 && count == 7 {
                    continue;
                }
                let mut error = json!({"code": 100, "message": "temporary"});
                if sequence % 20 == 0 {
                    error["message"] = format!("it {POSSIBLY_WRITTEN}").into();
                }
                let mut reply = json!({"id": command["id"]});
                if sequence % 10 == 0 {
                    reply["error"] = error;
                } else {
                    let place = json!({"at": "kafka", "partition": 0, "log_offset": records.len()});
                    reply["rpc"] = json!({"data": place});
                    records.push(record(data, records.len() as i64));
                }
                if connection < CONNECTIONS - 1 && count == 30 {
                    break;
                }
                answer(&mut socket, reply);
            }
        }
        records
    }

    fn next(socket: &mut WebSocket<std::net::TcpStream>) -> Option<Value> {
        match socket.read().ok()? {
            Message::Text(text) => serde_json::from_str(&text).ok(),
            _ => None,
        }
    }

    fn answer(socket: &mut WebSocket<std::net::TcpStream>, reply: Value) {
        // Who has gone away doesn't read it.
        let _ = socket.send(Message::text(reply.to_string()));
    }

    fn record(data: &Value, log_offset: i64) -> Record {
        let key = data["key"].as_str().map(|key| key.as_bytes().to_vec());
        let value = Some(data.to_string().into_bytes());
        Record { partition: 0, log_offset, timestamp_ms: 0, key, value, headers: Vec::new() }
    }

    #[test]
    fn every_reply_is_kept_over_connections_that_end() {
        const COUNT: u64 = 200;
        let door = Arc::new(Door::open());
        let of_thread = door.clone();
        let served = thread::spawn(move || gateway(&of_thread));
        let mut plan = Plan::rpc(door.address(), "run", "one", "ticket.create");
        (plan.rate_per_s, plan.answer_limit) = (2000, Duration::from_secs(5));
        let progress = Progress::default();
        let sent = publish(&plan, COUNT, &progress);
        let records = served.join().expect("the gateway is content");

        let count = |wanted: fn(&Outcome) -> bool| {
            sent.iter().filter(|message| wanted(&message.outcome)).count()
        };
        assert_eq!(sent.len(), COUNT as usize);
        assert_eq!(count(|outcome| matches!(outcome, Outcome::Silence)), 1);
        assert!(count(|outcome| matches!(outcome, Outcome::Cut)) >= CONNECTIONS - 1);
        let acknowledged = count(|outcome| matches!(outcome, Outcome::Acknowledged { .. }));
        assert!(acknowledged > 100 && acknowledged == progress.acknowledged());
        for message in &sent {
            if let Outcome::Refused { possibly_written, .. } = message.outcome {
                assert_eq!(possibly_written, message.sequence % 20 == 0);
            }
        }
        assert!(progress.refused() > 10);

        let report = check("run", &sent, &records);
        let allowed = Allowed { without_marks: true, ..Allowed::default() };
        let wrong = report.verdict(allowed).expect_err("one was dropped in silence");
        assert!(wrong.contains("silent drops: 1 "), "{wrong}");
        assert_eq!((report.lost.count, report.reordered.count, report.foreign.count), (0, 0, 0));
    }
}
