//! What a consumer needs: offsets, Fetch, groups, SASL.
//!
//! **Runs on: any.**

use super::oracle::{request, response, text, topic, versions};
use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::consumer_group_heartbeat_response as heartbeat_848;
use kafka_protocol::messages::consumer_protocol_assignment as their_assignment;
use kafka_protocol::messages::consumer_protocol_subscription as their_subscription;
use kafka_protocol::messages::create_topics_response::{
    CreatableTopicConfigs, CreatableTopicResult,
};
use kafka_protocol::messages::fetch_response::{
    AbortedTransaction, EpochEndOffset, FetchableTopicResponse, LeaderIdAndEpoch, NodeEndpoint,
    PartitionData,
};
use kafka_protocol::messages::find_coordinator_response::Coordinator;
use kafka_protocol::messages::join_group_response::JoinGroupResponseMember;
use kafka_protocol::messages::leave_group_response::MemberResponse;
use kafka_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use kafka_protocol::messages::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use kafka_protocol::messages::offset_fetch_response as their_offsets;
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Decodable, Encodable};
use trine_proto::kafka::consumer_protocol::{Assignment, Subscription};
use trine_proto::kafka::{
    Acknowledged, Broker, ErrorCode, Leader, Membership, Topic, consumer_group_heartbeat,
    create_topics, fetch, find_coordinator, heartbeat, join_group, leave_group, list_offsets,
    offset_commit, offset_fetch, record, sasl_authenticate, sasl_handshake, sync_group,
};
use uuid::Uuid;

const MEMBERSHIP: Membership<'_> =
    Membership { group: "qa", generation: 9, member: "member-1", instance: Some("static-1") };

fn group(name: &'static str) -> GroupId {
    GroupId(text(name))
}

fn uuid(byte: u8) -> Uuid {
    Uuid::from_bytes([byte; 16])
}

#[test]
fn fetch() {
    let (chat, log) = (Topic { name: "chat", id: [1; 16] }, Topic { name: "log", id: [2; 16] });
    let at = |topic, partition, offset| fetch::Partition {
        topic,
        partition,
        leader_epoch: 6,
        offset,
        last_epoch: 4,
        max_bytes: 1 << 20,
    };
    for version in versions(&fetch::API) {
        let ours = fetch::Request {
            max_wait_ms: 500,
            min_bytes: 1,
            max_bytes: 1 << 24,
            read_committed: true,
            session: fetch::Session { id: 44, epoch: 3 },
            partitions: &[at(chat, 0, 10), at(chat, 5, 11), at(log, 1, 12)],
            forgotten: &[(chat, 8), (chat, 9), (log, 3)],
            rack: "west",
        };
        let theirs: FetchRequest = request(&ours, version);
        assert_eq!((theirs.max_wait_ms, theirs.min_bytes, theirs.max_bytes), (500, 1, 1 << 24));
        assert_eq!((theirs.replica_id, theirs.isolation_level), (BrokerId(-1), 1));
        let [first, second] = &theirs.topics[..] else { panic!() };
        let names = [(&first.topic, &first.topic_id), (&second.topic, &second.topic_id)];
        if version >= 13 {
            assert_eq!(names.map(|(_, id)| *id), [uuid(1), uuid(2)]);
        } else {
            assert_eq!(names.map(|(name, _)| name.clone()), [topic("chat"), topic("log")]);
        }
        let [zero, five] = &first.partitions[..] else { panic!() };
        assert_eq!((zero.partition, zero.fetch_offset), (0, 10));
        assert_eq!((five.partition, five.fetch_offset), (5, 11));
        assert_eq!((zero.partition_max_bytes, zero.log_start_offset), (1 << 20, -1));
        assert_eq!(zero.current_leader_epoch, if version >= 9 { 6 } else { -1 });
        assert_eq!(zero.last_fetched_epoch, if version >= 12 { 4 } else { -1 });
        if version >= 7 {
            assert_eq!((theirs.session_id, theirs.session_epoch), (44, 3));
            let forgotten = &theirs.forgotten_topics_data;
            assert_eq!(
                (&forgotten[0].partitions[..], &forgotten[1].partitions[..]),
                (&[8, 9][..], &[3][..])
            );
        }
        assert_eq!(theirs.rack_id.as_str(), if version >= 11 { "west" } else { "" });
    }
}

#[test]
fn fetch_response() {
    for version in versions(&fetch::API) {
        let aborted =
            AbortedTransaction::default().with_producer_id(ProducerId(7)).with_first_offset(20);
        let mut data = PartitionData::default()
            .with_partition_index(5)
            .with_error_code(6)
            .with_high_watermark(30)
            .with_last_stable_offset(25)
            .with_aborted_transactions(Some(vec![aborted]))
            .with_records(Some(Bytes::from_static(b"batches")));
        let mut theirs = FetchResponse::default().with_throttle_time_ms(2);
        if version >= 5 {
            data.log_start_offset = 3;
        }
        if version >= 7 {
            (theirs.error_code, theirs.session_id) = (70, 44);
        }
        if version >= 11 {
            data.preferred_read_replica = BrokerId(2);
        }
        if version >= 12 {
            data.current_leader =
                LeaderIdAndEpoch::default().with_leader_id(BrokerId(2)).with_leader_epoch(8);
            data.diverging_epoch = EpochEndOffset::default().with_epoch(3).with_end_offset(9);
        }
        if version >= 16 {
            let node = NodeEndpoint::default().with_node_id(BrokerId(2)).with_port(9093);
            theirs.node_endpoints = vec![node.with_host(text("kafka-2"))];
        }
        let mut chat = FetchableTopicResponse::default();
        if version >= 13 {
            chat.topic_id = uuid(1);
        } else {
            chat.topic = topic("chat");
        }
        let empty = PartitionData::default().with_partition_index(6).with_records(None);
        theirs.responses =
            vec![chat.with_partitions(vec![data, empty.with_aborted_transactions(None)])];
        response::<fetch::Request<'_>, _>(&theirs, version, |ours| {
            let session = if version >= 7 { (ErrorCode(70), 44) } else { (ErrorCode::NONE, 0) };
            assert_eq!((ours.error, ours.session_id), session);
            assert_eq!(ours.throttle_ms, 2);
            let [five, six] = &ours.partitions[..] else { panic!() };
            assert_eq!(
                (five.partition, five.error, five.records),
                (5, ErrorCode(6), &b"batches"[..])
            );
            assert_eq!((five.high_watermark, five.last_stable_offset), (30, 25));
            assert_eq!(five.log_start_offset, if version >= 5 { 3 } else { -1 });
            assert_eq!(
                five.aborted,
                [record::AbortedTransaction { producer_id: 7, first_offset: 20 }]
            );
            assert_eq!(five.preferred_replica, if version >= 11 { 2 } else { -1 });
            assert_eq!(five.diverging, (version >= 12).then_some((3, 9)));
            assert_eq!(six.diverging, None);
            assert_eq!(five.leader, (version >= 12).then_some(Leader { id: 2, epoch: 8 }));
            let known = Topic { id: [1; 16], ..Topic::default() };
            assert_eq!(five.topic, if version >= 13 { known } else { Topic::named("chat") });
            assert_eq!((six.partition, six.records, six.aborted.len()), (6, &b""[..], 0));
            let endpoints: Vec<_> = ours.brokers.iter().map(|broker| broker.host).collect();
            assert_eq!(endpoints, if version >= 16 { vec!["kafka-2"] } else { vec![] });
        });
    }
}

#[test]
fn list_offsets() {
    for version in versions(&list_offsets::API) {
        let ours = list_offsets::Request {
            read_committed: true,
            partitions: &[
                list_offsets::Partition {
                    topic: "chat",
                    partition: 4,
                    leader_epoch: 6,
                    timestamp_ms: list_offsets::EARLIEST,
                },
                list_offsets::Partition {
                    topic: "log",
                    partition: 0,
                    leader_epoch: -1,
                    timestamp_ms: list_offsets::LATEST,
                },
            ],
            timeout_ms: 700,
        };
        let theirs: ListOffsetsRequest = request(&ours, version);
        assert_eq!((theirs.replica_id, theirs.isolation_level), (BrokerId(-1), 1));
        assert_eq!(theirs.timeout_ms, if version >= 10 { 700 } else { 0 });
        let [chat, log] = &theirs.topics[..] else { panic!() };
        assert_eq!((&chat.name, &log.name), (&topic("chat"), &topic("log")));
        let four = &chat.partitions[0];
        assert_eq!((four.partition_index, four.timestamp), (4, -2));
        assert_eq!(four.current_leader_epoch, if version >= 4 { 6 } else { -1 });
        assert_eq!(log.partitions[0].timestamp, -1);

        let mut found = ListOffsetsPartitionResponse::default()
            .with_partition_index(4)
            .with_error_code(74)
            .with_timestamp(1000)
            .with_offset(99);
        if version >= 4 {
            found.leader_epoch = 5;
        }
        let chat = ListOffsetsTopicResponse::default().with_name(topic("chat"));
        let theirs = ListOffsetsResponse::default()
            .with_throttle_time_ms(1)
            .with_topics(vec![chat.with_partitions(vec![found])]);
        response::<list_offsets::Request<'_>, _>(&theirs, version, |ours| {
            let listed = list_offsets::Listed {
                topic: "chat",
                partition: 4,
                error: ErrorCode::FENCED_LEADER_EPOCH,
                timestamp_ms: 1000,
                offset: 99,
                leader_epoch: if version >= 4 { 5 } else { -1 },
            };
            assert_eq!((ours.throttle_ms, ours.partitions), (1, vec![listed]));
        });
    }
}

#[test]
fn find_coordinator() {
    for version in versions(&find_coordinator::API) {
        let kind = find_coordinator::Kind::Transaction;
        let ours = find_coordinator::Request { kind, keys: &["qa", "log"] };
        let theirs: FindCoordinatorRequest = request(&ours, version);
        assert_eq!(theirs.key_type, 1);
        if version >= 4 {
            assert_eq!(theirs.coordinator_keys, [text("qa"), text("log")]);
        } else {
            assert_eq!(theirs.key, text("qa"));
        }
        let mut theirs = FindCoordinatorResponse::default().with_throttle_time_ms(1);
        if version >= 4 {
            theirs.coordinators = vec![
                Coordinator::default()
                    .with_key(text("qa"))
                    .with_node_id(BrokerId(2))
                    .with_host(text("kafka-2"))
                    .with_port(9093)
                    .with_error_code(15)
                    .with_error_message(Some(text("wait"))),
            ];
        } else {
            (theirs.node_id, theirs.host, theirs.port) = (BrokerId(2), text("kafka-2"), 9093);
            (theirs.error_code, theirs.error_message) = (15, Some(text("wait")));
        }
        response::<find_coordinator::Request<'_>, _>(&theirs, version, |ours| {
            let coordinator = find_coordinator::Coordinator {
                key: if version >= 4 { "qa" } else { "" },
                broker: Broker { id: 2, host: "kafka-2", port: 9093, rack: None },
                error: ErrorCode::COORDINATOR_NOT_AVAILABLE,
                message: Some("wait"),
            };
            assert_eq!((ours.throttle_ms, ours.coordinators), (1, vec![coordinator]));
        });
    }
}

#[test]
fn join_group() {
    for version in versions(&join_group::API) {
        let ours = join_group::Request {
            group: "qa",
            session_timeout_ms: 45_000,
            rebalance_timeout_ms: 300_000,
            member: "member-1",
            instance: Some("static-1"),
            protocol_type: "consumer",
            protocols: &[("range", b"one"), ("cooperative-sticky", b"two")],
            reason: Some("new"),
        };
        let theirs: JoinGroupRequest = request(&ours, version);
        assert_eq!((&theirs.group_id, theirs.member_id.as_str()), (&group("qa"), "member-1"));
        assert_eq!((theirs.session_timeout_ms, theirs.rebalance_timeout_ms), (45_000, 300_000));
        assert_eq!(theirs.group_instance_id, (version >= 5).then(|| text("static-1")));
        assert_eq!(theirs.protocol_type, text("consumer"));
        assert_eq!(theirs.protocols[1].name, text("cooperative-sticky"));
        assert_eq!(theirs.protocols[0].metadata, &b"one"[..]);
        assert_eq!(theirs.reason, (version >= 8).then(|| text("new")));

        let mut member = JoinGroupResponseMember::default()
            .with_member_id(text("member-2"))
            .with_metadata(Bytes::from_static(b"two"));
        if version >= 5 {
            member.group_instance_id = Some(text("static-2"));
        }
        let mut theirs = JoinGroupResponse::default()
            .with_throttle_time_ms(1)
            .with_error_code(79)
            .with_generation_id(9)
            .with_protocol_name(Some(text("range")))
            .with_leader(text("member-1"))
            .with_member_id(text("member-1"))
            .with_members(vec![member]);
        if version >= 7 {
            theirs.protocol_type = Some(text("consumer"));
        }
        if version >= 9 {
            theirs.skip_assignment = true;
        }
        response::<join_group::Request<'_>, _>(&theirs, version, |ours| {
            assert_eq!((ours.throttle_ms, ours.error), (1, ErrorCode::MEMBER_ID_REQUIRED));
            assert_eq!((ours.generation, ours.protocol), (9, "range"));
            assert_eq!((ours.leader, ours.member), ("member-1", "member-1"));
            assert_eq!(ours.skip_assignment, version >= 9);
            let instance = (version >= 5).then_some("static-2");
            let member = join_group::Member { member: "member-2", instance, metadata: b"two" };
            assert_eq!(ours.members, [member]);
        });
    }
}

#[test]
fn sync_group() {
    for version in versions(&sync_group::API) {
        let ours = sync_group::Request {
            membership: MEMBERSHIP,
            protocol_type: "consumer",
            protocol: "range",
            assignments: &[("member-1", b"one"), ("member-2", b"two")],
        };
        let theirs: SyncGroupRequest = request(&ours, version);
        assert_eq!((&theirs.group_id, theirs.generation_id), (&group("qa"), 9));
        assert_eq!(theirs.member_id, text("member-1"));
        assert_eq!(theirs.group_instance_id, (version >= 3).then(|| text("static-1")));
        assert_eq!(theirs.protocol_name, (version >= 5).then(|| text("range")));
        assert_eq!(theirs.protocol_type, (version >= 5).then(|| text("consumer")));
        assert_eq!(theirs.assignments[1].member_id, text("member-2"));
        assert_eq!(theirs.assignments[1].assignment, &b"two"[..]);
        let theirs = SyncGroupResponse::default()
            .with_throttle_time_ms(1)
            .with_error_code(27)
            .with_assignment(Bytes::from_static(b"mine"));
        response::<sync_group::Request<'_>, _>(&theirs, version, |ours| {
            assert_eq!((ours.throttle_ms, ours.error), (1, ErrorCode::REBALANCE_IN_PROGRESS));
            assert_eq!(ours.assignment, b"mine");
        });
    }
}

#[test]
fn heartbeat_and_leave() {
    for version in versions(&heartbeat::API) {
        let theirs: HeartbeatRequest =
            request(&heartbeat::Request { membership: MEMBERSHIP }, version);
        assert_eq!((&theirs.group_id, theirs.generation_id), (&group("qa"), 9));
        assert_eq!(theirs.member_id, text("member-1"));
        assert_eq!(theirs.group_instance_id, (version >= 3).then(|| text("static-1")));
        let theirs = HeartbeatResponse::default().with_throttle_time_ms(1).with_error_code(27);
        response::<heartbeat::Request<'_>, _>(&theirs, version, |ours| {
            let error = ErrorCode::REBALANCE_IN_PROGRESS;
            assert_eq!(ours, Acknowledged { throttle_ms: 1, error });
        });
    }
    for version in versions(&leave_group::API) {
        let ours = leave_group::Request { membership: MEMBERSHIP, reason: Some("done") };
        let theirs: LeaveGroupRequest = request(&ours, version);
        assert_eq!(theirs.group_id, group("qa"));
        if version >= 3 {
            assert_eq!(theirs.members[0].member_id, text("member-1"));
            assert_eq!(theirs.members[0].group_instance_id, Some(text("static-1")));
            assert_eq!(theirs.members[0].reason, (version >= 5).then(|| text("done")));
        } else {
            assert_eq!(theirs.member_id, text("member-1"));
        }
        let mut theirs = LeaveGroupResponse::default().with_throttle_time_ms(1);
        if version >= 3 {
            theirs.members = vec![MemberResponse::default().with_error_code(25)];
        } else {
            theirs.error_code = 25;
        }
        response::<leave_group::Request<'_>, _>(&theirs, version, |ours| {
            assert_eq!(ours, Acknowledged { throttle_ms: 1, error: ErrorCode::UNKNOWN_MEMBER_ID });
        });
    }
}

#[test]
fn offset_commit() {
    for version in versions(&offset_commit::API) {
        let at = |topic, partition, metadata| offset_commit::Partition {
            topic,
            partition,
            offset: 1 << 33,
            leader_epoch: 6,
            metadata,
        };
        let ours = offset_commit::Request {
            membership: MEMBERSHIP,
            partitions: &[at("chat", 4, None), at("log", 1, Some("words"))],
        };
        let theirs: OffsetCommitRequest = request(&ours, version);
        assert_eq!((&theirs.group_id, theirs.generation_id_or_member_epoch), (&group("qa"), 9));
        assert_eq!(theirs.member_id, text("member-1"));
        assert_eq!(theirs.group_instance_id, (version >= 7).then(|| text("static-1")));
        let [chat, log] = &theirs.topics[..] else { panic!() };
        assert_eq!((&chat.name, &log.name), (&topic("chat"), &topic("log")));
        let four = &chat.partitions[0];
        assert_eq!((four.partition_index, four.committed_offset), (4, 1 << 33));
        assert_eq!(four.committed_leader_epoch, if version >= 6 { 6 } else { -1 });
        assert_eq!(log.partitions[0].committed_metadata, Some(text("words")));

        let four = OffsetCommitResponsePartition::default().with_partition_index(4);
        let chat = OffsetCommitResponseTopic::default().with_name(topic("chat"));
        let chat = chat.with_partitions(vec![four.with_error_code(22)]);
        let theirs = OffsetCommitResponse::default().with_topics(vec![chat]);
        response::<offset_commit::Request<'_>, _>(&theirs, version, |ours| {
            assert_eq!(ours.partitions, [("chat", 4, ErrorCode::ILLEGAL_GENERATION)]);
        });
    }
}

#[test]
fn offset_fetch() {
    for version in versions(&offset_fetch::API) {
        let ours = offset_fetch::Request {
            membership: MEMBERSHIP,
            partitions: Some(&[("chat", 4), ("chat", 5), ("log", 1)]),
            require_stable: version >= 7,
        };
        let theirs: OffsetFetchRequest = request(&ours, version);
        assert_eq!(theirs.require_stable, version >= 7);
        if version >= 8 {
            let [qa] = &theirs.groups[..] else { panic!() };
            assert_eq!(qa.group_id, group("qa"));
            if version >= 9 {
                assert_eq!((&qa.member_id, qa.member_epoch), (&Some(text("member-1")), 9));
            }
            let topics = qa.topics.as_ref().unwrap();
            assert_eq!(
                (&topics[0].name, &topics[0].partition_indexes[..]),
                (&topic("chat"), &[4, 5][..])
            );
        } else {
            assert_eq!(theirs.group_id, group("qa"));
            let topics = theirs.topics.as_ref().unwrap();
            assert_eq!(
                (&topics[1].name, &topics[1].partition_indexes[..]),
                (&topic("log"), &[1][..])
            );
        }
        let membership = Membership::of_group("other");
        let all = offset_fetch::Request { membership, partitions: None, require_stable: false };
        let theirs: OffsetFetchRequest = request(&all, version);
        if version >= 8 {
            assert_eq!((&theirs.groups[0].topics, &theirs.groups[0].member_id), (&None, &None));
        } else {
            assert_eq!(theirs.topics, None);
        }
        response::<offset_fetch::Request<'_>, _>(&offsets(version), version, |ours| {
            let committed = offset_fetch::Committed {
                topic: "chat",
                partition: 4,
                offset: 1 << 33,
                leader_epoch: if version >= 5 { 6 } else { -1 },
                metadata: Some("words"),
                error: ErrorCode::UNSTABLE_OFFSET_COMMIT,
            };
            assert_eq!(
                (ours.error, ours.partitions),
                (ErrorCode::NOT_COORDINATOR, vec![committed])
            );
        });
    }
}

fn offsets(version: i16) -> OffsetFetchResponse {
    use their_offsets::*;
    let theirs = OffsetFetchResponse::default();
    if version >= 8 {
        let four = OffsetFetchResponsePartitions::default()
            .with_partition_index(4)
            .with_committed_offset(1 << 33)
            .with_committed_leader_epoch(6)
            .with_metadata(Some(text("words")))
            .with_error_code(88);
        let chat = OffsetFetchResponseTopics::default().with_name(topic("chat"));
        let qa = OffsetFetchResponseGroup::default().with_group_id(group("qa")).with_error_code(16);
        return theirs.with_groups(vec![qa.with_topics(vec![chat.with_partitions(vec![four])])]);
    }
    let mut four = OffsetFetchResponsePartition::default()
        .with_partition_index(4)
        .with_committed_offset(1 << 33)
        .with_metadata(Some(text("words")))
        .with_error_code(88);
    if version >= 5 {
        four.committed_leader_epoch = 6;
    }
    let chat = OffsetFetchResponseTopic::default().with_name(topic("chat"));
    theirs.with_error_code(16).with_topics(vec![chat.with_partitions(vec![four])])
}

#[test]
fn consumer_group_heartbeat() {
    for version in versions(&consumer_group_heartbeat::API) {
        let ours = consumer_group_heartbeat::Request {
            membership: MEMBERSHIP,
            rack: Some("west"),
            rebalance_timeout_ms: 300_000,
            topics: Some(&["chat", "log"]),
            topics_regex: Some("chat.*"),
            assignor: Some("uniform"),
            owned: Some(&[([1; 16], 4), ([1; 16], 5), ([2; 16], 0)]),
        };
        let theirs: ConsumerGroupHeartbeatRequest = request(&ours, version);
        assert_eq!((&theirs.group_id, theirs.member_epoch), (&group("qa"), 9));
        assert_eq!(
            (theirs.member_id, theirs.instance_id),
            (text("member-1"), Some(text("static-1")))
        );
        assert_eq!((theirs.rack_id, theirs.rebalance_timeout_ms), (Some(text("west")), 300_000));
        assert_eq!(theirs.subscribed_topic_names.unwrap(), [topic("chat"), topic("log")]);
        assert_eq!(theirs.subscribed_topic_regex, (version >= 1).then(|| text("chat.*")));
        assert_eq!(theirs.server_assignor, Some(text("uniform")));
        let owned = theirs.topic_partitions.unwrap();
        assert_eq!((owned[0].topic_id, &owned[0].partitions[..]), (uuid(1), &[4, 5][..]));
        assert_eq!((owned[1].topic_id, &owned[1].partitions[..]), (uuid(2), &[0][..]));
        let unchanged = consumer_group_heartbeat::Request {
            topics: None,
            owned: None,
            rack: None,
            assignor: None,
            topics_regex: None,
            rebalance_timeout_ms: -1,
            ..ours
        };
        let theirs: ConsumerGroupHeartbeatRequest = request(&unchanged, version);
        assert!(theirs.subscribed_topic_names.is_none() && theirs.topic_partitions.is_none());

        let partitions = |id, partitions| {
            heartbeat_848::TopicPartitions::default()
                .with_topic_id(uuid(id))
                .with_partitions(partitions)
        };
        let theirs = ConsumerGroupHeartbeatResponse::default()
            .with_error_code(110)
            .with_error_message(Some(text("fenced")))
            .with_member_id(Some(text("member-1")))
            .with_member_epoch(10)
            .with_heartbeat_interval_ms(3000);
        let assigned = heartbeat_848::Assignment::default()
            .with_topic_partitions(vec![partitions(1, vec![4, 5]), partitions(2, vec![0])]);
        for assignment in [None, Some(assigned)] {
            let expected =
                assignment.is_some().then(|| vec![([1; 16], 4), ([1; 16], 5), ([2; 16], 0)]);
            let theirs = theirs.clone().with_assignment(assignment);
            response::<consumer_group_heartbeat::Request<'_>, _>(&theirs, version, |ours| {
                assert_eq!(
                    (ours.error, ours.message),
                    (ErrorCode::FENCED_MEMBER_EPOCH, Some("fenced"))
                );
                assert_eq!((ours.member, ours.member_epoch), (Some("member-1"), 10));
                assert_eq!((ours.heartbeat_interval_ms, ours.assignment), (3000, expected));
            });
        }
    }
}

#[test]
fn create_topics() {
    for version in versions(&create_topics::API) {
        let ours = create_topics::Request {
            topics: &[create_topics::NewTopic {
                name: "chat",
                partitions: 16,
                replicas: 3,
                configs: &[("retention.ms", "1000")],
            }],
            timeout_ms: 900,
            validate_only: true,
        };
        let theirs: CreateTopicsRequest = request(&ours, version);
        assert_eq!((theirs.timeout_ms, theirs.validate_only), (900, true));
        let chat = &theirs.topics[0];
        assert_eq!(
            (&chat.name, chat.num_partitions, chat.replication_factor),
            (&topic("chat"), 16, 3)
        );
        let config = &chat.configs[0];
        assert_eq!((&config.name, &config.value), (&text("retention.ms"), &Some(text("1000"))));
        let mut created = CreatableTopicResult::default()
            .with_name(topic("chat"))
            .with_error_code(36)
            .with_error_message(Some(text("exists")));
        if version >= 5 {
            let config = CreatableTopicConfigs::default().with_name(text("retention.ms"));
            created.configs = Some(vec![config.with_value(Some(text("1000")))]);
            (created.num_partitions, created.replication_factor) = (16, 3);
        }
        if version >= 7 {
            created.topic_id = uuid(1);
        }
        let theirs = CreateTopicsResponse::default().with_topics(vec![created]);
        response::<create_topics::Request<'_>, _>(&theirs, version, |ours| {
            let id = if version >= 7 { [1; 16] } else { [0; 16] };
            let created = create_topics::Created {
                topic: Topic { name: "chat", id },
                error: ErrorCode::TOPIC_ALREADY_EXISTS,
                message: Some("exists"),
            };
            assert_eq!(ours.topics, [created]);
        });
    }
}

#[test]
fn sasl() {
    for version in versions(&sasl_handshake::API) {
        let ours = sasl_handshake::Request { mechanism: "SCRAM-SHA-512" };
        let theirs: SaslHandshakeRequest = request(&ours, version);
        assert_eq!(theirs.mechanism, text("SCRAM-SHA-512"));
        let theirs = SaslHandshakeResponse::default()
            .with_error_code(33)
            .with_mechanisms(vec![text("PLAIN"), text("SCRAM-SHA-256")]);
        response::<sasl_handshake::Request<'_>, _>(&theirs, version, |ours| {
            assert_eq!(ours.error, ErrorCode::UNSUPPORTED_SASL_MECHANISM);
            assert_eq!(ours.mechanisms, ["PLAIN", "SCRAM-SHA-256"]);
        });
    }
    for version in versions(&sasl_authenticate::API) {
        let ours = sasl_authenticate::Request { message: b"\0user\0pencil" };
        let theirs: SaslAuthenticateRequest = request(&ours, version);
        assert_eq!(theirs.auth_bytes, &b"\0user\0pencil"[..]);
        let mut theirs = SaslAuthenticateResponse::default()
            .with_error_code(58)
            .with_error_message(Some(text("no")))
            .with_auth_bytes(Bytes::from_static(b"v=x"));
        if version >= 1 {
            theirs.session_lifetime_ms = 60_000;
        }
        response::<sasl_authenticate::Request<'_>, _>(&theirs, version, |ours| {
            assert_eq!(ours.error, ErrorCode::SASL_AUTHENTICATION_FAILED);
            assert_eq!((ours.error_message, ours.message), (Some("no"), &b"v=x"[..]));
            assert_eq!(ours.session_lifetime_ms, if version >= 1 { 60_000 } else { 0 });
        });
    }
}

#[test]
fn subscriptions() {
    let ours = Subscription {
        topics: vec!["chat", "log"],
        user_data: Some(b"sticky"),
        owned: vec![("chat", 1), ("chat", 2), ("log", 0)],
        generation: 8,
        rack: Some("west"),
    };
    for version in 0..=3 {
        let mut out = Vec::new();
        ours.write(&mut out, version);
        let mut bytes = Bytes::from(out.clone());
        assert_eq!(bytes.split_to(2), &version.to_be_bytes()[..]);
        let theirs = ConsumerProtocolSubscription::decode(&mut bytes, version).unwrap();
        assert!(bytes.is_empty());
        assert_eq!(theirs.topics, [text("chat"), text("log")]);
        assert_eq!(theirs.user_data.as_deref(), Some(&b"sticky"[..]));
        if version >= 1 {
            let chat = their_subscription::TopicPartition::default().with_topic(topic("chat"));
            assert_eq!(theirs.owned_partitions[0], chat.with_partitions(vec![1, 2]));
        }
        assert_eq!(theirs.generation_id, if version >= 2 { 8 } else { -1 });
        assert_eq!(theirs.rack_id, (version >= 3).then(|| text("west")));

        let mut again = BytesMut::from(&version.to_be_bytes()[..]);
        theirs.encode(&mut again, version).unwrap();
        assert_eq!(again, out);
        let read = Subscription::parse(&out).unwrap();
        assert_eq!(read.topics, ours.topics);
        assert_eq!(read.owned, if version >= 1 { ours.owned.clone() } else { vec![] });
        assert_eq!(read.generation, if version >= 2 { 8 } else { -1 });
        assert_eq!(read.rack, if version >= 3 { ours.rack } else { None });
        for at in 0..out.len() {
            assert!(Subscription::parse(&out[..at]).is_err(), "{version} {at}");
        }
    }
    // A version to come has more at its end.
    let mut out = Vec::new();
    ours.write(&mut out, 3);
    out[1] = 9;
    out.extend_from_slice(b"more");
    assert_eq!(Subscription::parse(&out), Ok(ours));
    out[0] = 0xff;
    assert!(Subscription::parse(&out).is_err());
}

#[test]
fn assignments() {
    let ours =
        Assignment { partitions: vec![("chat", 1), ("chat", 2), ("log", 0)], user_data: None };
    let mut out = Vec::new();
    ours.write(&mut out, 0);
    let mut bytes = Bytes::from(out.clone()).split_off(2);
    let theirs = ConsumerProtocolAssignment::decode(&mut bytes, 0).unwrap();
    let log = their_assignment::TopicPartition::default().with_topic(topic("log"));
    assert_eq!(theirs.assigned_partitions[1], log.with_partitions(vec![0]));
    assert_eq!(Assignment::parse(&out), Ok(ours));
    for at in 1..out.len() {
        assert!(Assignment::parse(&out[..at]).is_err(), "{at}");
    }
    assert_eq!(Assignment::parse(b""), Ok(Assignment::default()));
}
