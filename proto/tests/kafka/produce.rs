//! What a producer needs: Metadata, InitProducerId, Produce.
//!
//! **Runs on: any.**

use super::oracle::{decode_request, request, respond, response, text, topic, versions};
use bytes::Bytes;
use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::produce_response::{
    BatchIndexAndErrorMessage, LeaderIdAndEpoch, NodeEndpoint, PartitionProduceResponse,
    TopicProduceResponse,
};
use kafka_protocol::messages::{
    BrokerId, DescribeConfigsRequest, DescribeConfigsResponse, InitProducerIdRequest,
    InitProducerIdResponse, MetadataRequest, MetadataResponse, ProduceRequest, ProduceResponse,
    ProducerId,
};
use trine_proto::kafka::{
    Broker, Error, ErrorCode, Leader, Topic, describe_configs, frame, init_producer_id, metadata,
    produce,
};
use trine_proto::limits::KAFKA_TOPIC_PARTITIONS;
use uuid::Uuid;

#[test]
fn metadata() {
    for version in versions(&metadata::API) {
        let ours = metadata::Request { topics: Some(&["chat", "log"]), create_topics: true };
        let theirs: MetadataRequest = request(&ours, version);
        let names: Vec<_> =
            theirs.topics.unwrap().into_iter().map(|topic| topic.name.unwrap()).collect();
        assert_eq!(names, [topic("chat"), topic("log")]);
        assert!(theirs.allow_auto_topic_creation);
        let all = metadata::Request { topics: None, create_topics: false };
        let theirs: MetadataRequest = request(&all, version);
        assert!(theirs.topics.is_none() && !theirs.allow_auto_topic_creation);

        response::<metadata::Request<'_>, _>(&metadata_response(version), version, |ours| {
            let rack = Some("west");
            assert_eq!(ours.brokers, [Broker { id: 3, host: "kafka-3", port: 9092, rack }]);
            assert_eq!((ours.cluster_id, ours.controller_id), (Some("cluster"), 3));
            let [chat] = &ours.topics[..] else { panic!() };
            assert_eq!(chat.topic.name, "chat");
            assert_eq!(chat.topic.id, if version >= 10 { [9; 16] } else { [0; 16] });
            assert_eq!(chat.error, ErrorCode::LEADER_NOT_AVAILABLE);
            let [partition] = &chat.partitions[..] else { panic!() };
            let epoch = if version >= 7 { 12 } else { -1 };
            assert_eq!(partition.leader, Leader { id: 3, epoch });
            assert_eq!((partition.index, &partition.replicas[..]), (5, &[3, 4][..]));
            assert_eq!(partition.in_sync, [3]);
        });
    }
}

#[test]
fn a_topic_has_no_end_of_partitions() {
    for (count, is_read) in [(KAFKA_TOPIC_PARTITIONS, true), (KAFKA_TOPIC_PARTITIONS + 1, false)] {
        let mut theirs = metadata_response(12);
        let partition = theirs.topics[0].partitions[0].clone();
        theirs.topics[0].partitions = vec![partition; count];
        let bytes = respond(&theirs, 12);
        let read = frame::read::<metadata::Request<'_>>(&bytes[frame::BODY_START..], 12);
        match read {
            Ok(read) => assert!(is_read && read.topics[0].partitions.len() == count),
            Err(error) => {
                let what = "topic of more than 32,768 partitions";
                assert_eq!((is_read, error), (false, Error::TooLarge(what)));
            }
        }
    }
}

fn metadata_response(version: i16) -> MetadataResponse {
    let mut partition = MetadataResponsePartition::default()
        .with_partition_index(5)
        .with_leader_id(BrokerId(3))
        .with_replica_nodes(vec![BrokerId(3), BrokerId(4)])
        .with_isr_nodes(vec![BrokerId(3)]);
    if version >= 7 {
        partition.leader_epoch = 12;
    }
    if version >= 5 {
        partition.offline_replicas = vec![BrokerId(4)];
    }
    let mut chat = MetadataResponseTopic::default()
        .with_error_code(5)
        .with_name(Some(topic("chat")))
        .with_partitions(vec![partition]);
    if version >= 10 {
        chat.topic_id = Uuid::from_bytes([9; 16]);
    }
    MetadataResponse::default()
        .with_brokers(vec![
            MetadataResponseBroker::default()
                .with_node_id(BrokerId(3))
                .with_host(text("kafka-3"))
                .with_port(9092)
                .with_rack(Some(text("west"))),
        ])
        .with_cluster_id(Some(text("cluster")))
        .with_controller_id(BrokerId(3))
        .with_topics(vec![chat])
}

#[test]
fn init_producer_id() {
    for version in versions(&init_producer_id::API) {
        let producer = if version >= 3 { (8, 2) } else { (-1, -1) };
        let ours = init_producer_id::Request {
            transactional_id: None,
            transaction_timeout_ms: 1000,
            producer,
        };
        let theirs: InitProducerIdRequest = request(&ours, version);
        assert_eq!((theirs.transactional_id, theirs.transaction_timeout_ms), (None, 1000));
        assert_eq!(
            (theirs.producer_id, theirs.producer_epoch),
            (ProducerId(producer.0), producer.1)
        );
        let theirs = InitProducerIdResponse::default()
            .with_throttle_time_ms(4)
            .with_error_code(51)
            .with_producer_id(ProducerId(4000))
            .with_producer_epoch(7);
        response::<init_producer_id::Request<'_>, _>(&theirs, version, |ours| {
            assert_eq!((ours.producer_id, ours.producer_epoch, ours.throttle_ms), (4000, 7, 4));
            assert_eq!(ours.error, ErrorCode::CONCURRENT_TRANSACTIONS);
        });
    }
}

#[test]
fn describe_configs() {
    for version in versions(&describe_configs::API) {
        let names = [describe_configs::LARGEST_BATCH];
        let ours = describe_configs::Request { topics: &["chat", "log"], names: &names };
        let theirs: DescribeConfigsRequest = request(&ours, version);
        let resources = theirs.resources.iter();
        let asked: Vec<_> = resources
            .map(|of| (of.resource_type, of.resource_name.as_str(), of.configuration_keys.clone()))
            .collect();
        let keys = Some(vec![text("max.message.bytes")]);
        assert_eq!(asked, [(2, "chat", keys.clone()), (2, "log", keys)]);
        assert!(!theirs.include_synonyms && !theirs.include_documentation);
        let synonym = DescribeConfigsSynonym::default().with_name(text("message.max.bytes"));
        let mut config = DescribeConfigsResourceResult::default()
            .with_name(text("max.message.bytes"))
            .with_value(Some(text("20000")))
            .with_config_source(1)
            .with_synonyms(vec![synonym.with_value(Some(text("1048588"))).with_source(4)]);
        if version >= 3 {
            (config.config_type, config.documentation) = (3, Some(text("The largest batch.")));
        }
        let secret = DescribeConfigsResourceResult::default().with_name(text("secret"));
        let chat = DescribeConfigsResult::default()
            .with_resource_type(2)
            .with_resource_name(text("chat"))
            .with_configs(vec![config, secret.with_value(None).with_is_sensitive(true)]);
        let log = DescribeConfigsResult::default()
            .with_error_code(29)
            .with_error_message(Some(text("no")))
            .with_resource_type(2)
            .with_resource_name(text("log"));
        let theirs = DescribeConfigsResponse::default()
            .with_throttle_time_ms(4)
            .with_results(vec![chat, log]);
        response::<describe_configs::Request<'_>, _>(&theirs, version, |ours| {
            let [chat, log] = &ours.topics[..] else { panic!() };
            assert_eq!((chat.error, chat.name), (ErrorCode::NONE, "chat"));
            assert_eq!(chat.configs, [("max.message.bytes", Some("20000")), ("secret", None)]);
            assert_eq!((log.error, log.name), (ErrorCode::TOPIC_AUTHORIZATION_FAILED, "log"));
            assert_eq!((ours.throttle_ms, log.configs.len()), (4, 0));
        });
    }
}

#[test]
fn produce() {
    let (chat, log) = (Topic { name: "chat", id: [1; 16] }, Topic { name: "log", id: [2; 16] });
    let batches = [
        produce::Batch { topic: chat, partition: 0, bytes: b"first" },
        produce::Batch { topic: chat, partition: 4, bytes: &[7; 300] },
        produce::Batch { topic: log, partition: 1, bytes: b"third" },
    ];
    let ours =
        produce::Request { transactional_id: None, acks: -1, timeout_ms: 1500, batches: &batches };
    for version in versions(&produce::API) {
        let theirs: ProduceRequest = request(&ours, version);
        assert_eq!((theirs.acks, theirs.timeout_ms), (-1, 1500));
        let [first, second] = &theirs.topic_data[..] else { panic!() };
        if version >= 13 {
            assert_eq!((first.topic_id, second.topic_id), (uuid(1), uuid(2)));
        } else {
            assert_eq!((&first.name, &second.name), (&topic("chat"), &topic("log")));
        }
        let [zero, four] = &first.partition_data[..] else { panic!() };
        assert_eq!((zero.index, zero.records.as_deref()), (0, Some(&b"first"[..])));
        assert_eq!((four.index, four.records.as_deref()), (4, Some(&[7; 300][..])));
        assert_eq!(second.partition_data[0].records, Some(Bytes::from_static(b"third")));

        // The gathered form is the same bytes.
        let (mut out, mut places) = (b"sent".to_vec(), Vec::new());
        produce::write(&mut out, &mut places, &ours, version, 77, "trine");
        let (mut gathered, mut from) = (Vec::new(), 4);
        for (&place, batch) in places.iter().zip(&batches) {
            gathered.extend_from_slice(&out[from..place]);
            gathered.extend_from_slice(batch.bytes);
            from = place;
        }
        gathered.extend_from_slice(&out[from..]);
        let again: ProduceRequest = decode_request(&produce::API, gathered, version);
        assert_eq!(again, theirs);
    }
}

fn uuid(byte: u8) -> Uuid {
    Uuid::from_bytes([byte; 16])
}

#[test]
fn produce_response() {
    for version in versions(&produce::API) {
        let mut partition = PartitionProduceResponse::default()
            .with_index(4)
            .with_error_code(6)
            .with_base_offset(1 << 40)
            .with_log_append_time_ms(99);
        if version >= 5 {
            partition.log_start_offset = 12;
        }
        if version >= 8 {
            let refused = BatchIndexAndErrorMessage::default().with_batch_index(2);
            partition.record_errors =
                vec![refused.with_batch_index_error_message(Some(text("too old")))];
            partition.error_message = Some(text("moved"));
        }
        let mut theirs = ProduceResponse::default().with_throttle_time_ms(31);
        if version >= 10 {
            partition.current_leader =
                LeaderIdAndEpoch::default().with_leader_id(BrokerId(2)).with_leader_epoch(8);
            theirs.node_endpoints = vec![
                NodeEndpoint::default()
                    .with_node_id(BrokerId(2))
                    .with_host(text("kafka-2"))
                    .with_port(9093),
            ];
        }
        let mut chat = TopicProduceResponse::default();
        if version >= 13 {
            chat.topic_id = uuid(1);
        } else {
            chat.name = topic("chat");
        }
        let other = partition.clone().with_index(5).with_error_code(0);
        theirs.responses = vec![chat.with_partition_responses(vec![partition, other])];
        response::<produce::Request<'_>, _>(&theirs, version, |ours| {
            assert_eq!(ours.throttle_ms, 31);
            let [four, five] = &ours.partitions[..] else { panic!() };
            assert_eq!((four.partition, five.partition), (4, 5));
            assert_eq!((four.error, five.error), (ErrorCode(6), ErrorCode(0)));
            assert_eq!((four.base_offset, four.append_time_ms), (1 << 40, 99));
            assert_eq!(four.log_start_offset, if version >= 5 { 12 } else { -1 });
            assert_eq!(four.topic, five.topic);
            let named = Topic { name: "chat", ..Topic::default() };
            let known = Topic { id: [1; 16], ..Topic::default() };
            assert_eq!(four.topic, if version >= 13 { known } else { named });
            if version >= 8 {
                assert_eq!(four.refused, [(2, Some("too old"))]);
                assert_eq!(four.message, Some("moved"));
            }
            if version >= 10 {
                assert_eq!(four.leader, Some(Leader { id: 2, epoch: 8 }));
                assert_eq!((ours.brokers[0].host, ours.brokers[0].port), ("kafka-2", 9093));
            } else {
                assert_eq!(four.leader, None);
            }
        });
    }
}
