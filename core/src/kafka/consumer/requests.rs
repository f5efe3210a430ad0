//! A consumer's requests on the wire, and the way of each answer to the machine that asked.
//!
//! **Runs on: shard.** Invariant: every request is answered to its machine exactly once, also when its
//! connection ends or the response can't be read.

use super::TopicPartition;
use super::broker_led::Beat;
use super::driver::{Action, Consumer};
use super::fetcher::{self, Fetched, NO_ID};
use super::group::Group;
use super::membership;
use super::offsets::{Commit, Committed};
use super::records;
use crate::kafka::client::open;
use crate::kafka::collect::Body;
use crate::kafka::connection::{Connection, Error, What};
use crate::limits::{KAFKA_FETCH_BYTES, KAFKA_FETCH_INFLATED_BYTES, KAFKA_FETCH_WAIT_MS};
use crate::rt;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use trine_proto::kafka::frame::{self, Api};
use trine_proto::kafka::{
    ErrorCode, Membership, Topic, Uuid, consumer_group_heartbeat, fetch, find_coordinator,
    heartbeat, join_group, leave_group, list_offsets, offset_commit, offset_fetch, sync_group,
};

/// The protocol type of consumers.
const CONSUMER: &str = "consumer";

/// What consumers are told that the connection did not bring.
const NO_ANSWER: ErrorCode = ErrorCode::NETWORK_EXCEPTION;

/// The versions of Fetch from this on name topics by id.
const FETCH_BY_NAME: i16 = 12;

/// Appends a request in a version, given its correlation id and the client id.
type Write<'w> = &'w dyn Fn(&mut Vec<u8>, i16, i32, &str);

impl Consumer {
    /// Sends what the state wants to send.
    pub(super) fn act(&self, action: Action) {
        match action {
            Action::Find => {
                if let Some(consumer) = self.own.upgrade() {
                    rt::spawn(find(consumer));
                }
            }
            Action::Group(connection, request) => self.ask_group(&connection, request),
            Action::Commit(connection, commits) => self.ask_commit(&connection, &commits),
            Action::Committed(connection, partitions) => {
                self.ask_committed(&connection, &partitions);
            }
            Action::List(connection, lists) => self.ask_lists(&connection, lists),
            Action::Ends(connection, partitions) => self.ask_ends(&connection, &partitions),
            Action::Fetch(broker, connection, request) => {
                self.ask_fetch(broker, &connection, &request);
            }
        }
    }

    /// Sends a request in the best version up to `most`. `then` gets the response and its bytes, or
    /// nothing.
    fn ask<R: frame::Request + 'static>(
        &self,
        connection: &Rc<Connection>,
        most: i16,
        timeout_ms: u64,
        write: Write<'_>,
        then: impl for<'r> FnOnce(&Self, Option<(R::Response<'r>, &'r Bytes)>) + 'static,
    ) {
        let Some(version) = connection.version(&R::API).map(|version| version.min(most)) else {
            then(self, None);
            return connection.fail(What::NoVersion(R::API.name));
        };
        let own = self.own.clone();
        let back = Rc::downgrade(connection);
        let reply = Box::new(move |result: Result<Body<'_>, &Rc<Error>>| {
            let Some(consumer) = own.upgrade() else { return };
            let body = result.ok().map(Body::into_bytes);
            match body.as_ref().map(|body| (frame::read::<R>(body, version), body)) {
                Some((Ok(response), body)) => then(&consumer, Some((response, body))),
                Some((Err(error), _)) => {
                    then(&consumer, None);
                    if let Some(connection) = back.upgrade() {
                        connection.fail(What::Malformed(error));
                    }
                }
                None => then(&consumer, None),
            }
            consumer.wake();
        });
        connection.submit(R::API.name, timeout_ms, reply, |outbox, id, client_id| {
            let mut bytes = Vec::new();
            write(&mut bytes, version, id, client_id);
            outbox.push_shared(&bytes.into());
        });
    }

    fn request_timeout_ms(&self) -> u64 {
        self.client.settings().request_timeout_ms
    }

    /// With the member's identity for requests to the coordinator.
    fn as_member<T>(&self, with: impl FnOnce(Membership<'_>, &Group) -> T) -> T {
        let state = self.state.borrow();
        let of = &state.membership;
        let options = of.options();
        let membership = Membership {
            group: &options.group,
            generation: of.generation(),
            member: of.member(),
            instance: options.instance.as_deref(),
        };
        with(membership, of)
    }

    fn ask_group(&self, connection: &Rc<Connection>, request: membership::Request) {
        match request {
            // To any broker: see `find`.
            membership::Request::FindCoordinator => {}
            membership::Request::Join(metadata) => self.ask_join(connection, &metadata),
            membership::Request::Sync(assignments) => self.ask_sync(connection, &assignments),
            membership::Request::Heartbeat => self.ask_heartbeat(connection),
            membership::Request::Leave => self.ask_leave(connection),
            membership::Request::Beat(beat) => self.ask_beat(connection, &beat),
        }
    }

    fn ask_heartbeat(&self, connection: &Rc<Connection>) {
        let write: Write<'_> = &|out, version, id, client_id| {
            self.as_member(|membership, _| {
                let request = heartbeat::Request { membership };
                frame::write(out, &request, version, id, client_id);
            });
        };
        let timeout_ms = self.request_timeout_ms();
        let most = heartbeat::API.max;
        self.ask::<heartbeat::Request<'static>>(
            connection,
            most,
            timeout_ms,
            write,
            |consumer, answer| {
                let state = &mut *consumer.state.borrow_mut();
                let Some(membership) = state.membership.classic() else { return };
                match answer {
                    Some((answer, _)) => membership.beaten(answer.error, rt::now_ms()),
                    None => membership.disconnected(rt::now_ms()),
                }
            },
        );
    }

    fn ask_leave(&self, connection: &Rc<Connection>) {
        let write: Write<'_> = &|out, version, id, client_id| {
            self.as_member(|membership, _| {
                let request = leave_group::Request { membership, reason: None };
                frame::write(out, &request, version, id, client_id);
            });
        };
        let timeout_ms = self.request_timeout_ms();
        let most = leave_group::API.max;
        self.ask::<leave_group::Request<'static>>(
            connection,
            most,
            timeout_ms,
            write,
            |consumer, _| {
                if let Some(member) = consumer.state.borrow_mut().membership.classic() {
                    member.left();
                }
            },
        );
    }

    fn ask_beat(&self, connection: &Rc<Connection>, beat: &Beat) {
        let write: Write<'_> = &|out, version, id, client_id| {
            self.as_member(|membership, of| {
                let options = of.options();
                let topics: Vec<_> = options.topics.iter().map(|topic| &**topic).collect();
                let timeout_ms = i32::try_from(options.rebalance_timeout_ms).unwrap_or(i32::MAX);
                let cluster = self.client.cluster().borrow();
                let place = |(name, partition): &membership::Partition| {
                    let topic = cluster.find(&Topic::named(name))?;
                    Some((cluster.get(topic).id, *partition))
                };
                let owned: Option<Vec<_>> =
                    beat.owned.as_ref().map(|owned| owned.iter().filter_map(place).collect());
                let request = consumer_group_heartbeat::Request {
                    membership: Membership { generation: beat.epoch, ..membership },
                    rack: None,
                    rebalance_timeout_ms: if beat.is_full { timeout_ms } else { -1 },
                    topics: beat.is_full.then_some(&topics),
                    topics_regex: None,
                    assignor: None,
                    owned: owned.as_deref(),
                };
                frame::write(out, &request, version, id, client_id);
            });
        };
        let timeout_ms = self.request_timeout_ms();
        let most = consumer_group_heartbeat::API.max;
        self.ask::<consumer_group_heartbeat::Request<'static>>(
            connection,
            most,
            timeout_ms,
            write,
            |consumer, answer| {
                let state = &mut *consumer.state.borrow_mut();
                let Some(member) = state.membership.broker_led() else { return };
                match answer {
                    Some((answer, _)) => member.beaten(&answer, rt::now_ms()),
                    None => member.disconnected(rt::now_ms()),
                }
            },
        );
    }

    /// A broker answers when all members have joined, so that it may take the rebalance timeout.
    fn rebalance_timeout_ms(&self) -> u64 {
        let rebalance_ms = self.as_member(|_, of| of.options().rebalance_timeout_ms);
        u64::from(rebalance_ms) + self.request_timeout_ms()
    }

    fn ask_join(&self, connection: &Rc<Connection>, metadata: &[u8]) {
        let write: Write<'_> = &|out, version, id, client_id| {
            self.as_member(|membership, of| {
                let options = of.options();
                let timeout = |ms: u32| i32::try_from(ms).unwrap_or(i32::MAX);
                let request = join_group::Request {
                    group: membership.group,
                    session_timeout_ms: timeout(options.session_timeout_ms),
                    rebalance_timeout_ms: timeout(options.rebalance_timeout_ms),
                    member: membership.member,
                    instance: membership.instance,
                    protocol_type: CONSUMER,
                    protocols: &[(options.assignor.name(), metadata)],
                    reason: None,
                };
                frame::write(out, &request, version, id, client_id);
            });
        };
        let timeout_ms = self.rebalance_timeout_ms();
        let most = join_group::API.max;
        self.ask::<join_group::Request<'static>>(
            connection,
            most,
            timeout_ms,
            write,
            |consumer, answer| {
                let state = &mut *consumer.state.borrow_mut();
                let Some(membership) = state.membership.classic() else { return };
                match answer {
                    Some((answer, _)) => membership.joined(&answer, rt::now_ms()),
                    None => membership.disconnected(rt::now_ms()),
                }
            },
        );
    }

    fn ask_sync(&self, connection: &Rc<Connection>, assignments: &[(String, Vec<u8>)]) {
        let assignments: Vec<(&str, &[u8])> =
            assignments.iter().map(|(member, bytes)| (&**member, &**bytes)).collect();
        let protocol = match &self.state.borrow().membership {
            Group::Classic(member) => member.protocol().to_owned(),
            Group::BrokerLed(_) => String::new(),
        };
        let write: Write<'_> = &|out, version, id, client_id| {
            self.as_member(|membership, _| {
                let request = sync_group::Request {
                    membership,
                    protocol_type: CONSUMER,
                    protocol: &protocol,
                    assignments: &assignments,
                };
                frame::write(out, &request, version, id, client_id);
            });
        };
        let timeout_ms = self.rebalance_timeout_ms();
        let most = sync_group::API.max;
        self.ask::<sync_group::Request<'static>>(
            connection,
            most,
            timeout_ms,
            write,
            |consumer, answer| {
                let state = &mut *consumer.state.borrow_mut();
                let Some(membership) = state.membership.classic() else { return };
                match answer {
                    Some((answer, _)) => membership.synced(&answer, rt::now_ms()),
                    None => membership.disconnected(rt::now_ms()),
                }
            },
        );
    }

    fn ask_commit(&self, connection: &Rc<Connection>, commits: &[Commit]) {
        let write: Write<'_> = &|out, version, id, client_id| {
            let cluster = self.client.cluster().borrow();
            let partition = |commit: &'_ Commit| commit.partition;
            let partitions: Vec<_> = commits
                .iter()
                .map(|commit| offset_commit::Partition {
                    topic: &cluster.get(partition(commit).topic).name,
                    partition: partition(commit).partition as i32,
                    offset: commit.next_offset,
                    leader_epoch: commit.last_epoch,
                    metadata: commit.metadata.as_deref(),
                })
                .collect();
            self.as_member(|membership, _| {
                let request = offset_commit::Request { membership, partitions: &partitions };
                frame::write(out, &request, version, id, client_id);
            });
        };
        let timeout_ms = self.request_timeout_ms();
        let most = offset_commit::API.max;
        self.ask::<offset_commit::Request<'static>>(
            connection,
            most,
            timeout_ms,
            write,
            |consumer, answer| {
                let now_ms = rt::now_ms();
                let state = &mut *consumer.state.borrow_mut();
                let Some((answer, _)) = answer else { return state.offsets.commit_failed(now_ms) };
                let cluster = consumer.client.cluster().borrow();
                let mut answers = Vec::with_capacity(answer.partitions.len());
                for (name, partition, error) in answer.partitions {
                    state.membership.told(error, now_ms);
                    let topic = cluster.find(&Topic::named(name));
                    let (Some(topic), Ok(partition)) = (topic, u32::try_from(partition)) else {
                        continue;
                    };
                    answers.push((TopicPartition { topic, partition }, error));
                }
                state.offsets.answered(&answers, now_ms);
            },
        );
    }

    fn ask_committed(&self, connection: &Rc<Connection>, partitions: &[TopicPartition]) {
        let write: Write<'_> = &|out, version, id, client_id| {
            let cluster = self.client.cluster().borrow();
            let named = |at: &TopicPartition| (&*cluster.get(at.topic).name, at.partition as i32);
            let named: Vec<_> = partitions.iter().map(named).collect();
            self.as_member(|membership, _| {
                let request = offset_fetch::Request {
                    membership: Membership::of_group(membership.group),
                    partitions: Some(&named),
                    require_stable: true,
                };
                frame::write(out, &request, version, id, client_id);
            });
        };
        let timeout_ms = self.request_timeout_ms();
        let most = offset_fetch::API.max;
        self.ask::<offset_fetch::Request<'static>>(
            connection,
            most,
            timeout_ms,
            write,
            |consumer, answer| {
                let now_ms = rt::now_ms();
                let state = &mut *consumer.state.borrow_mut();
                let answer = match answer {
                    Some((answer, _)) if answer.error.is_none() => answer,
                    answer => {
                        let error = answer.map_or(NO_ANSWER, |(answer, _)| answer.error);
                        state.membership.told(error, now_ms);
                        return state.offsets.fetch_failed(now_ms);
                    }
                };
                let cluster = consumer.client.cluster().borrow();
                let committed = |found: &offset_fetch::Committed<'_>| {
                    let topic = cluster.find(&Topic::named(found.topic))?;
                    let partition = u32::try_from(found.partition).ok()?;
                    Some(TopicPartition { topic, partition })
                };
                let mut all = Vec::with_capacity(answer.partitions.len());
                for found in &answer.partitions {
                    let Some(partition) = committed(found) else { continue };
                    let (offset, metadata) = (found.offset, found.metadata);
                    let (last_epoch, error) = (found.leader_epoch, found.error);
                    all.push(Committed { partition, offset, last_epoch, metadata, error });
                }
                let count = |topic| consumer.client.partition_count(topic);
                state.offsets.fetched(&all, count, now_ms);
            },
        );
    }

    fn ask_lists(&self, connection: &Rc<Connection>, lists: Vec<(TopicPartition, i64)>) {
        let asked = lists.clone();
        self.ask_offsets(connection, &lists, move |consumer, answer| {
            let now_ms = rt::now_ms();
            let offsets = &mut consumer.state.borrow_mut().offsets;
            for (partition, _) in asked {
                let found = answer.get(&partition);
                let offset = found.copied().unwrap_or(Err(NO_ANSWER));
                if offset.is_err() {
                    consumer.client.refresh_metadata();
                }
                offsets.listed(partition, offset, now_ms);
            }
        });
    }

    fn ask_ends(&self, connection: &Rc<Connection>, partitions: &[TopicPartition]) {
        let lists: Vec<_> =
            partitions.iter().map(|&partition| (partition, list_offsets::LATEST)).collect();
        self.ask_offsets(connection, &lists, |consumer, answer| {
            let fetcher = &mut consumer.state.borrow_mut().fetcher;
            for (partition, offset) in answer {
                fetcher.ends(partition, offset.unwrap_or(-1));
            }
        });
    }

    fn ask_offsets(
        &self,
        connection: &Rc<Connection>,
        lists: &[(TopicPartition, i64)],
        then: impl FnOnce(&Self, BTreeMap<TopicPartition, Result<i64, ErrorCode>>) + 'static,
    ) {
        let timeout_ms = self.request_timeout_ms();
        let write: Write<'_> = &|out, version, id, client_id| {
            let cluster = self.client.cluster().borrow();
            let partition = |&(at, timestamp_ms): &(TopicPartition, i64)| {
                let topic = cluster.get(at.topic);
                let leader = topic.leaders.get(at.partition as usize);
                list_offsets::Partition {
                    topic: &topic.name,
                    partition: at.partition as i32,
                    leader_epoch: leader.map_or(-1, |leader| leader.epoch),
                    timestamp_ms,
                }
            };
            let partitions: Vec<_> = lists.iter().map(partition).collect();
            let request = list_offsets::Request {
                read_committed: self.read_committed,
                partitions: &partitions,
                timeout_ms: i32::try_from(timeout_ms).unwrap_or(i32::MAX),
            };
            frame::write(out, &request, version, id, client_id);
        };
        let most = list_offsets::API.max;
        self.ask::<list_offsets::Request<'static>>(
            connection,
            most,
            timeout_ms,
            write,
            |consumer, answer| {
                let mut offsets = BTreeMap::new();
                let answer = answer.map(|(answer, _)| answer.partitions).unwrap_or_default();
                for found in answer {
                    let topic = consumer.client.cluster().borrow().find(&Topic::named(found.topic));
                    let (Some(topic), Ok(partition)) = (topic, u32::try_from(found.partition))
                    else {
                        continue;
                    };
                    let offset = match found.error.is_none() {
                        true => Ok(found.offset),
                        false => Err(found.error),
                    };
                    offsets.insert(TopicPartition { topic, partition }, offset);
                }
                then(consumer, offsets);
            },
        );
    }

    fn ask_fetch(&self, broker: i32, connection: &Rc<Connection>, request: &fetcher::Request) {
        let by_name = {
            let cluster = self.client.cluster().borrow();
            let mut places = request.partitions.iter().map(|(at, _)| at).chain(&request.forgotten);
            places.any(|at| cluster.get(at.topic).id == NO_ID)
        };
        let most = if by_name { FETCH_BY_NAME } else { fetch::API.max };
        let write: Write<'_> = &|out, version, id, client_id| {
            let cluster = self.client.cluster().borrow();
            let topic = |at: &TopicPartition| {
                let topic = cluster.get(at.topic);
                Topic { name: &topic.name, id: topic.id }
            };
            let partition = |(at, place): &(TopicPartition, fetcher::Place)| fetch::Partition {
                topic: topic(at),
                partition: at.partition as i32,
                leader_epoch: place.leader_epoch,
                offset: place.offset,
                last_epoch: place.last_epoch,
                max_bytes: place.limit_bytes,
            };
            let partitions: Vec<_> = request.partitions.iter().map(partition).collect();
            let forgotten = request.forgotten.iter().map(|at| (topic(at), at.partition as i32));
            let forgotten: Vec<_> = forgotten.collect();
            let request = fetch::Request {
                max_wait_ms: request.wait_ms as i32,
                min_bytes: 1,
                max_bytes: KAFKA_FETCH_BYTES as i32,
                read_committed: self.read_committed,
                session: request.session,
                partitions: &partitions,
                forgotten: &forgotten,
                rack: "",
            };
            frame::write(out, &request, version, id, client_id);
        };
        let timeout_ms = KAFKA_FETCH_WAIT_MS + self.request_timeout_ms();
        self.ask::<fetch::Request<'static>>(
            connection,
            most,
            timeout_ms,
            write,
            move |consumer, answer| match answer {
                Some((answer, body)) => consumer.fetched(broker, answer, body),
                None => consumer.state.borrow_mut().fetcher.disconnected(broker),
            },
        );
    }

    fn fetched(&self, broker: i32, answer: fetch::Response<'_>, body: &Bytes) {
        let state = &mut *self.state.borrow_mut();
        let mut cluster = self.client.cluster().borrow_mut();
        cluster.add_brokers(&answer.brokers);
        let wanted = |found: &fetch::Fetched<'_>| {
            let topic = cluster.find(&found.topic)?;
            let partition = u32::try_from(found.partition).ok()?;
            if let Some(leader) = found.leader {
                cluster.hint(topic, found.partition, leader);
            }
            let place = TopicPartition { topic, partition };
            // Who answers by name may know ids all the same.
            let of = match found.topic.id {
                NO_ID => cluster.get(topic).id,
                id => id,
            };
            Some(Wanted { place, of, offset: state.fetcher.offset(place)? })
        };
        // From anywhere on, so that no partition is left out for ever.
        let start = self.client.random() as usize % answer.partitions.len().max(1);
        let (last, first) = answer.partitions.split_at(start);
        let all = read(body, first.iter().chain(last), self.read_committed, wanted);
        drop(cluster);
        state.fetcher.fetched(broker, answer.session_id, answer.error, all, rt::now_ms());
    }
}

/// What is wanted of an entry of an answer.
struct Wanted {
    place: TopicPartition,
    /// The id of the topic that the entry is of.
    of: Uuid,
    offset: i64,
}

/// Reads of each partition what an answer holds from where it is `wanted`. What comes of one again,
/// and what comes after much was inflated, is left out as if the broker had: it sends it again, since
/// nothing in the session says that it was read.
fn read<'a, 'r: 'a>(
    body: &Bytes,
    answer: impl Iterator<Item = &'a fetch::Fetched<'r>>,
    read_committed: bool,
    mut wanted: impl FnMut(&fetch::Fetched<'r>) -> Option<Wanted>,
) -> Vec<Fetched> {
    let mut all = Vec::new();
    let mut seen = BTreeSet::new();
    let mut inflated_bytes = 0;
    for found in answer {
        let Some(Wanted { place, of, offset }) = wanted(found) else { continue };
        if inflated_bytes >= KAFKA_FETCH_INFLATED_BYTES || !seen.insert(place) {
            continue;
        }
        let end_offset = match read_committed {
            true => found.last_stable_offset,
            false => found.high_watermark,
        };
        let read = records::read(body, found.records, &found.aborted, offset);
        inflated_bytes += read.inflated_bytes;
        let fetch::Fetched { error, diverging, .. } = *found;
        all.push(Fetched { partition: place, of, error, end_offset, diverging, read });
    }
    all
}

/// Asks any broker who coordinates the group, over a connection of its own: others may be waiting.
async fn find(consumer: Rc<Consumer>) {
    let place = consumer.client.cluster().borrow_mut().any();
    let answer = match place {
        Some(place) => match open(&consumer.client, place).await {
            Ok(connection) => {
                let answer = ask_coordinator(&consumer, &connection).await;
                connection.close();
                answer
            }
            Err(error) => Err(error),
        },
        None => Ok(Err(NO_ANSWER)),
    };
    let answer = answer.unwrap_or_else(|error| {
        consumer.failed(error);
        Err(NO_ANSWER)
    });
    consumer.state.borrow_mut().membership.found(answer, rt::now_ms());
    consumer.wake();
}

async fn ask_coordinator(
    consumer: &Consumer,
    connection: &Connection,
) -> Result<Result<i32, ErrorCode>, Rc<Error>> {
    const API: Api = find_coordinator::API;
    let group = consumer.as_member(|membership, _| Rc::<str>::from(membership.group));
    let keys = [&*group];
    let request = find_coordinator::Request { kind: find_coordinator::Kind::Group, keys: &keys };
    let (body, version) = connection.request(&request).await?;
    let response = connection.read(&request, &body, version)?;
    let Some(found) = response.coordinators.first() else {
        return Err(connection.error(What::Refused(API.name, ErrorCode::COORDINATOR_NOT_AVAILABLE)));
    };
    if !found.error.is_none() {
        return Ok(Err(found.error));
    }
    consumer.client.cluster().borrow_mut().add_brokers(&[found.broker]);
    Ok(Ok(found.broker.id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::KAFKA_INFLATED_BYTES;
    use trine_proto::kafka::record::{BatchWriter, Compression, Stamp, write_body};

    #[test]
    fn an_answer_is_read_once_of_each_partition_and_as_long_as_little_was_inflated() {
        let mut body = Vec::new();
        let value = vec![0; KAFKA_INFLATED_BYTES];
        write_body(&mut body, None, Some(&value), std::iter::empty());
        let mut batch = BatchWriter::default();
        batch.push(0, &body);
        let body = Bytes::from(batch.finish(Stamp::NONE, Compression::Zstd, false).unwrap());
        let found = |partition| fetch::Fetched {
            topic: Topic::default(),
            partition,
            error: ErrorCode::NONE,
            high_watermark: 9,
            last_stable_offset: 3,
            log_start_offset: 0,
            aborted: Vec::new(),
            preferred_replica: -1,
            records: &body,
            diverging: None,
            leader: None,
        };
        let wanted = |found: &fetch::Fetched<'_>| {
            let partition = u32::try_from(found.partition).ok()?;
            let place = TopicPartition { topic: 0, partition };
            Some(Wanted { place, of: NO_ID, offset: 0 })
        };
        let answer: Vec<_> = [0, 0, 1, 0].into_iter().chain(2..20).map(found).collect();
        let all = read(&body, answer.iter(), true, wanted);
        let partitions: Vec<_> = all.iter().map(|fetched| fetched.partition.partition).collect();
        assert_eq!(partitions, [0, 1, 2, 3, 4, 5, 6, 7], "eight times what one may inflate to");
        assert!(all.iter().all(|fetched| fetched.read.records.len() == 1));
        assert!(all.iter().all(|fetched| fetched.end_offset == 3));
    }
}
