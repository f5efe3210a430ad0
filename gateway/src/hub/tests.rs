//! Three hubs with small mailboxes between them, driven in random order: nobody ever gets a
//! publication twice, out of order, or after a missing one without being told.
//!
//! **Runs on: any.**

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;
use uuid::Uuid;

use super::*;
use crate::broker::{Message, Since};

const SHARDS: usize = 3;
const CLIENTS: usize = 2;

/// All queues, with the rules of `trine_core::shard`.
struct Wire {
    capacity: usize,
    lanes: HashMap<(usize, usize), (VecDeque<ToShard>, VecDeque<ToShard>)>,
}

struct Line {
    from: usize,
    wire: Rc<RefCell<Wire>>,
}

impl Post for Line {
    fn try_send(&mut self, to: usize, message: ToShard) -> Result<(), ToShard> {
        let mut wire = self.wire.borrow_mut();
        let capacity = wire.capacity;
        let (ring, backlog) = wire.lanes.entry((self.from, to)).or_default();
        if !backlog.is_empty() || ring.len() >= capacity {
            return Err(message);
        }
        ring.push_back(message);
        Ok(())
    }
    fn send(&mut self, to: usize, message: ToShard) {
        if let Err(message) = self.try_send(to, message) {
            let mut wire = self.wire.borrow_mut();
            wire.lanes.entry((self.from, to)).or_default().1.push_back(message);
        }
    }
    fn has_room(&mut self, to: usize) -> bool {
        let wire = self.wire.borrow();
        let lane = wire.lanes.get(&(self.from, to));
        lane.is_none_or(|(ring, backlog)| backlog.is_empty() && ring.len() < wire.capacity)
    }
}

/// A live subscription: its number at the hub and the offset that must come next.
#[derive(Debug)]
struct Live {
    channel: u32,
    next: u64,
}

#[derive(Default)]
struct TestClient {
    id: Uuid,
    live: HashMap<String, Live>,
    /// Subscribes that the owner has not answered, by place.
    pending: HashMap<u32, (String, Option<u64>)>,
    /// What it had seen when a subscription ended, and of which stream.
    seen: HashMap<String, (u64, String)>,
    answered: usize,
    /// It reads Protobuf, whose pushes are not looked into here.
    reads_protobuf: bool,
}

#[derive(Default)]
struct Table {
    clients: Vec<TestClient>,
    told: usize,
    /// The client that takes nothing more.
    ending: Option<u32>,
}

impl TestClient {
    fn begin(&mut self, name: &str, channel: u32, since: Option<u64>, answer: &Subscribed) {
        let position = answer.position.expect("positions were asked for");
        let mut next = position.offset + 1;
        if let (Some(since), Some(recovered)) = (since, &answer.recovered)
            && recovered.complete
        {
            let offsets: Vec<u64> = recovered.publications.iter().map(|p| p.offset).collect();
            let missed: Vec<u64> = (since + 1..=position.offset).collect();
            assert_eq!(offsets, missed, "a recovery is whole");
            next = position.offset + 1;
        }
        self.seen.insert(name.to_owned(), (next - 1, position.epoch.to_string()));
        let known = self.live.insert(name.to_owned(), Live { channel, next });
        assert!(known.is_none(), "a subscription begins once");
    }
}

impl Clients for Table {
    fn deliver(&mut self, subscriber: Subscriber, frames: &mut Frames<'_>) -> bool {
        if self.ending == Some(subscriber.client()) {
            return false;
        }
        if subscriber.format() == Format::Protobuf {
            let frame = frames.get(Format::Protobuf).expect("every payload fits Protobuf");
            assert_eq!(frame[0], 0x82, "a binary frame");
            return true;
        }
        let frame = frames.get(Format::Json).expect("payloads are JSON").clone();
        let text = &frame[frame.iter().position(|&byte| byte == b'{').unwrap()..];
        let push: serde_json::Value = serde_json::from_slice(text).unwrap();
        let Some(offset) = push["push"]["pub"]["offset"].as_u64() else { return true };
        let name = push["push"]["channel"].as_str().unwrap();
        let client = &mut self.clients[subscriber.client() as usize];
        let live = client.live.get_mut(name).expect("only subscribers are sent to");
        assert_eq!(offset, live.next, "no gap, no repeat, no other order");
        live.next += 1;
        client.seen.get_mut(name).unwrap().0 = offset;
        true
    }

    fn answered(&mut self, ticket: Ticket, channel: Option<(u32, Subscriber)>, answer: Answer) {
        let client = &mut self.clients[ticket.client as usize];
        if client.id != ticket.id {
            // Whoever published is gone; a subscribe would have been undone instead.
            return assert!(channel.is_none(), "a forgotten subscribe is not answered");
        }
        client.answered += 1;
        if let Answer::Subscribed(answer) = answer {
            let (name, since) = client.pending.remove(&ticket.place).expect("asked once");
            client.begin(&name, channel.unwrap().0, since, &answer);
        }
    }

    fn unsubscribed(&mut self, client: u32, _: u32, name: &str, code: UnsubscribeCode) {
        assert_eq!(code, UnsubscribeCode::InsufficientState);
        let ended = self.clients[client as usize].live.remove(name);
        assert!(ended.is_some(), "only what lives can end");
        self.told += 1;
    }

    fn info(&self, client: u32) -> Info {
        let id = self.clients[client as usize].id;
        Info { client: id, user: "".into(), conn_info: Bytes::new() }
    }
}

struct World {
    wire: Rc<RefCell<Wire>>,
    hubs: Vec<Hub<Line>>,
    tables: Vec<Table>,
    /// One channel for each owner.
    names: Vec<String>,
    places: u32,
    ids: u128,
}

impl World {
    fn new(capacity: usize, history: bool) -> World {
        let ownership = Ownership::new(SHARDS);
        let mut config = Config::embedded();
        config.namespaces[0].history_size = if history { 1000 } else { 0 };
        let config = Rc::new(config);
        let wire = Rc::new(RefCell::new(Wire { capacity, lanes: HashMap::new() }));
        let hub = |index| {
            let broker = Broker::new(64 << 20, StdRng::seed_from_u64(index as u64));
            let line = Line { from: index, wire: wire.clone() };
            Hub::new(index, ownership.clone(), config.clone(), broker, line)
        };
        let owned = |shard: usize| {
            let mut names = (0..).map(|number| format!("room-{number}"));
            names.find(|name| ownership.owner(name) == shard).unwrap()
        };
        let mut world = World {
            hubs: (0..SHARDS).map(hub).collect(),
            tables: (0..SHARDS).map(|_| Table::default()).collect(),
            names: (0..SHARDS).map(owned).collect(),
            wire,
            places: 0,
            ids: 0,
        };
        for shard in 0..SHARDS {
            for _ in 0..CLIENTS {
                let id = world.new_id();
                world.tables[shard].clients.push(TestClient { id, ..Default::default() });
            }
        }
        world
    }

    fn new_id(&mut self) -> Uuid {
        self.ids += 1;
        Uuid::from_u128(self.ids)
    }

    fn ticket(&mut self, shard: usize, client: usize) -> Ticket {
        self.places += 1;
        let id = self.tables[shard].clients[client].id;
        Ticket { client: client as u32, place: self.places, id }
    }

    fn subscribe(&mut self, shard: usize, client: usize, name: &str, recover: bool) {
        let test = &self.tables[shard].clients[client];
        if test.live.contains_key(name) || test.pending.values().any(|(known, _)| known == name) {
            return;
        }
        let since = test.seen.get(name).filter(|_| recover).cloned();
        let ticket = self.ticket(shard, client);
        let info = self.tables[shard].info(client as u32);
        let reads_protobuf = self.tables[shard].clients[client].reads_protobuf;
        let format = if reads_protobuf { Format::Protobuf } else { Format::Json };
        let subscribe = Subscribe {
            channel: name,
            namespace: 0,
            subscriber: Subscriber::new(client as u32, format, true),
            ticket,
            wish: SubscribeWish {
                position: true,
                recover: since.as_ref().map(|(offset, epoch)| Since::new(epoch, *offset)),
                presence: Some(info.clone()),
            },
            join: Some(info.clone()),
        };
        let offset = since.map(|(offset, _)| offset);
        let before = self.hubs[shard].sizes();
        match self.hubs[shard].subscribe(subscribe, 0) {
            Progress::Done((channel, answer)) => {
                self.tables[shard].clients[client].begin(name, channel, offset, &answer);
                self.hubs[shard].announce(&mut self.tables[shard], name, &info);
            }
            Progress::Asked => {
                let pending = &mut self.tables[shard].clients[client].pending;
                pending.insert(ticket.place, (name.to_owned(), offset));
            }
            Progress::Full(_) => assert_eq!(self.hubs[shard].sizes(), before, "nothing is left"),
        }
    }

    fn unsubscribe(&mut self, shard: usize, client: usize, name: &str) {
        let table = &mut self.tables[shard];
        let who = table.info(client as u32);
        if let Some(live) = table.clients[client].live.remove(name) {
            self.hubs[shard].unsubscribe(table, live.channel, client as u32, || who);
        }
    }

    fn disconnect(&mut self, shard: usize, client: usize) {
        for name in self.names.clone() {
            self.unsubscribe(shard, client, &name);
        }
        let id = self.tables[shard].clients[client].id;
        for place in self.tables[shard].clients[client].pending.keys() {
            self.hubs[shard].forget(Ticket { client: client as u32, place: *place, id });
        }
        let id = self.new_id();
        self.tables[shard].clients[client] = TestClient { id, ..Default::default() };
    }

    fn publish(&mut self, shard: usize, client: usize, name: &str) {
        let ticket = self.ticket(shard, client);
        let info = self.tables[shard].info(client as u32);
        let channel = (name, 0);
        let _ = self.hubs[shard].publish(
            &mut self.tables[shard],
            channel,
            Message::plain(b"{\"n\":1}", Some(info.as_ref())),
            ticket,
            0,
        );
    }

    /// Takes one message from a queue; says whether there was one.
    fn step(&mut self, from: usize, to: usize) -> bool {
        let message = {
            let mut wire = self.wire.borrow_mut();
            let capacity = wire.capacity;
            let (ring, backlog) = wire.lanes.entry((from, to)).or_default();
            while ring.len() < capacity
                && let Some(message) = backlog.pop_front()
            {
                ring.push_back(message);
            }
            ring.pop_front()
        };
        let Some(message) = message else { return false };
        self.hubs[to].receive(&mut self.tables[to], from, message, 0);
        true
    }

    fn settle(&mut self) {
        while (0..SHARDS * SHARDS).fold(false, |moved, pair| {
            let (from, to) = (pair / SHARDS, pair % SHARDS);
            (from != to && self.step(from, to)) || moved
        }) {}
    }

    /// Once nothing moves: everybody is at the top, and presence is who is subscribed.
    fn check(&mut self, history: bool) {
        for owner in 0..SHARDS {
            let name = self.names[owner].clone();
            let namespace = Config::embedded().namespaces.remove(0);
            let filter = HistoryFilter::default();
            let broker = self.hubs[owner].broker();
            let (_, top) = broker.history(&name, (&namespace, 0), &filter, 0).unwrap();
            let mut present: Vec<Uuid> = match self.hubs[owner].broker().presence(&name) {
                Some(presence) => presence.clients().map(|info| info.client).collect(),
                None => Vec::new(),
            };
            let mut subscribed = Vec::new();
            for client in self.tables.iter().flat_map(|table| &table.clients) {
                assert!(client.pending.is_empty(), "every subscribe is answered");
                if let Some(live) = client.live.get(&name) {
                    subscribed.push(client.id);
                    assert!(!history || live.next == top.offset + 1, "{live:?} is behind {top:?}");
                }
            }
            present.sort();
            subscribed.sort();
            assert_eq!(present, subscribed);
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Subscribe(usize, usize, usize, bool),
    Unsubscribe(usize, usize, usize),
    Publish(usize, usize, usize),
    Move(usize, usize),
    Disconnect(usize, usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (shard, client) = (0..SHARDS, 0..CLIENTS);
    let place = (shard.clone(), client.clone(), 0..SHARDS);
    let step = prop_oneof![
        3 => (place.clone(), any::<bool>()).prop_map(|((s, c, n), r)| Step::Subscribe(s, c, n, r)),
        1 => place.clone().prop_map(|(s, c, n)| Step::Unsubscribe(s, c, n)),
        6 => place.prop_map(|(s, c, n)| Step::Publish(s, c, n)),
        8 => (shard.clone(), shard.clone()).prop_map(|(f, t)| Step::Move(f, t)),
        1 => (shard, client).prop_map(|(s, c)| Step::Disconnect(s, c)),
    ];
    prop::collection::vec(step, 1..250)
}

proptest! {
    #[test]
    fn subscribers_miss_nothing_unless_told(
        steps in steps(),
        capacity in 1usize..5,
        history in any::<bool>(),
    ) {
        let mut world = World::new(capacity, history);
        for step in steps {
            match step {
                Step::Subscribe(shard, client, name, recover) => {
                    let name = world.names[name].clone();
                    // Without history there is no offset to check deliveries by.
                    world.subscribe(shard, client, &name, recover && history);
                }
                Step::Unsubscribe(shard, client, name) => {
                    let name = world.names[name].clone();
                    world.unsubscribe(shard, client, &name);
                }
                Step::Publish(shard, client, name) => {
                    let name = world.names[name].clone();
                    world.publish(shard, client, &name);
                }
                Step::Move(from, to) if from != to => {
                    world.step(from, to);
                }
                Step::Move(..) => {}
                Step::Disconnect(shard, client) => world.disconnect(shard, client),
            }
        }
        world.settle();
        world.check(history);
        for shard in 0..SHARDS {
            (0..CLIENTS).for_each(|client| world.disconnect(shard, client));
        }
        world.settle();
        for hub in &mut world.hubs {
            prop_assert_eq!(hub.sizes(), (0, 0, 0), "channels, subscriptions, requests");
            prop_assert_eq!(hub.broker().sizes().2, 0, "presence entries");
        }
    }
}

#[test]
fn a_full_mailbox_holes_the_channel_and_says_so_before_anything_more() {
    let mut world = World::new(2, true);
    let name = world.names[0].clone();
    world.subscribe(1, 0, &name, false);
    world.settle();
    // Two copies fill the mailbox to shard 1, the third finds it full.
    (0..4).for_each(|_| world.publish(0, 0, &name));
    assert_eq!(world.hubs[0].take_totals().holed, 1, "later copies are not tried");
    world.settle();
    assert_eq!(world.tables[1].told, 1);
    assert!(world.tables[1].clients[0].live.is_empty());
    world.subscribe(1, 0, &name, true);
    world.settle();
    assert_eq!(world.tables[1].clients[0].live[&name].next, 5, "recovered what was missed");
    world.check(true);
}

#[test]
fn each_form_is_encoded_once() {
    let mut world = World::new(64, true);
    let name = world.names[0].clone();
    // The owner's own subscribers, and those of another shard: two of each format on both.
    for shard in [0, 1] {
        for _ in 0..2 {
            let id = world.new_id();
            let client = TestClient { id, reads_protobuf: true, ..Default::default() };
            world.tables[shard].clients.push(client);
        }
        (0..CLIENTS + 2).for_each(|client| world.subscribe(shard, client, &name, false));
    }
    world.settle();
    for hub in &mut world.hubs {
        hub.take_totals();
    }
    world.publish(0, 0, &name);
    world.settle();
    let mut totals = |shard: usize| {
        let totals = world.hubs[shard].take_totals();
        (totals.publications, totals.deliveries, totals.encodes)
    };
    assert_eq!(totals(0), (1, 4, [1, 1]));
    assert_eq!(totals(1), (0, 4, [1, 1]));
}

#[test]
fn a_delivery_is_a_publication_in_an_outbox() {
    let mut world = World::new(64, true);
    let name = world.names[0].clone();
    (0..CLIENTS).for_each(|client| world.subscribe(0, client, &name, false));
    assert_eq!(world.hubs[0].take_totals().deliveries, 0, "a join is none");
    world.tables[0].ending = Some(1);
    world.publish(0, 0, &name);
    assert_eq!(world.hubs[0].take_totals().deliveries, 1);
}
