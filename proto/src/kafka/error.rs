//! Kafka's error codes and what a client does about each.
//!
//! **Runs on: any.** Source: Kafka protocol guide, "Error Codes". Whether a code is retriable is the
//! protocol's word; [`Action`] is ours, from what the Java client does with it.

use std::fmt;

/// An error code of a response; 0 is none. Codes that are not known here keep their number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ErrorCode(pub i16);

/// What a client does after an error code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing: there was no error.
    None,
    /// Try the same again after a back-off.
    Retry,
    /// Ask for metadata, since the partition's leader or the topic is not where it was thought to
    /// be, then try again.
    RefreshMetadata,
    /// Find the coordinator again, then try again.
    RefreshCoordinator,
    /// Join the group again: the generation or the member is no longer valid.
    Rejoin,
    /// The producer's id, epoch or sequence is no longer valid: it needs a new id or epoch before
    /// anything else is sent.
    ResetProducer,
    /// Someone newer has taken this identity: stop using it.
    Fenced,
    /// The fetch session is lost: open a new one.
    ResetSession,
    /// The consumer's position is out of range: choose a new one, with an alarm.
    ResetOffset,
    /// Give up the request: it would fail again.
    Abort,
}

macro_rules! codes {
    ($($code:literal $name:ident $retriable:literal $action:ident,)*) => {
        impl ErrorCode {
            $(
                #[doc = concat!("`", stringify!($name), "`.")]
                pub const $name: ErrorCode = ErrorCode($code);
            )*

            /// Every code that is known here.
            pub const ALL: &[ErrorCode] = &[$(ErrorCode($code),)*];

            /// The name in the protocol guide, or `None` for a code that is not known here.
            pub const fn known_name(self) -> Option<&'static str> {
                match self.0 {
                    $($code => Some(stringify!($name)),)*
                    _ => None,
                }
            }

            /// Whether the protocol calls it retriable.
            pub const fn is_retriable(self) -> bool {
                match self.0 {
                    $($code => $retriable == 1,)*
                    _ => false,
                }
            }

            /// What a client does about it. A code that is not known here is not tried again.
            pub const fn action(self) -> Action {
                match self.0 {
                    $($code => Action::$action,)*
                    _ => Action::Abort,
                }
            }
        }
    };
}

codes! {
    -1 UNKNOWN_SERVER_ERROR 0 Abort,
    0 NONE 0 None,
    1 OFFSET_OUT_OF_RANGE 0 ResetOffset,
    2 CORRUPT_MESSAGE 1 Retry,
    3 UNKNOWN_TOPIC_OR_PARTITION 1 RefreshMetadata,
    4 INVALID_FETCH_SIZE 0 Abort,
    5 LEADER_NOT_AVAILABLE 1 RefreshMetadata,
    6 NOT_LEADER_OR_FOLLOWER 1 RefreshMetadata,
    7 REQUEST_TIMED_OUT 1 Retry,
    8 BROKER_NOT_AVAILABLE 0 RefreshMetadata,
    9 REPLICA_NOT_AVAILABLE 1 RefreshMetadata,
    10 MESSAGE_TOO_LARGE 0 Abort,
    11 STALE_CONTROLLER_EPOCH 0 Abort,
    12 OFFSET_METADATA_TOO_LARGE 0 Abort,
    13 NETWORK_EXCEPTION 1 RefreshMetadata,
    14 COORDINATOR_LOAD_IN_PROGRESS 1 Retry,
    15 COORDINATOR_NOT_AVAILABLE 1 RefreshCoordinator,
    16 NOT_COORDINATOR 1 RefreshCoordinator,
    17 INVALID_TOPIC_EXCEPTION 0 Abort,
    18 RECORD_LIST_TOO_LARGE 0 Abort,
    19 NOT_ENOUGH_REPLICAS 1 Retry,
    20 NOT_ENOUGH_REPLICAS_AFTER_APPEND 1 Retry,
    21 INVALID_REQUIRED_ACKS 0 Abort,
    22 ILLEGAL_GENERATION 0 Rejoin,
    23 INCONSISTENT_GROUP_PROTOCOL 0 Abort,
    24 INVALID_GROUP_ID 0 Abort,
    25 UNKNOWN_MEMBER_ID 0 Rejoin,
    26 INVALID_SESSION_TIMEOUT 0 Abort,
    27 REBALANCE_IN_PROGRESS 0 Rejoin,
    28 INVALID_COMMIT_OFFSET_SIZE 0 Abort,
    29 TOPIC_AUTHORIZATION_FAILED 0 Abort,
    30 GROUP_AUTHORIZATION_FAILED 0 Abort,
    31 CLUSTER_AUTHORIZATION_FAILED 0 Abort,
    32 INVALID_TIMESTAMP 0 Abort,
    33 UNSUPPORTED_SASL_MECHANISM 0 Abort,
    34 ILLEGAL_SASL_STATE 0 Abort,
    35 UNSUPPORTED_VERSION 0 Abort,
    36 TOPIC_ALREADY_EXISTS 0 Abort,
    37 INVALID_PARTITIONS 0 Abort,
    38 INVALID_REPLICATION_FACTOR 0 Abort,
    39 INVALID_REPLICA_ASSIGNMENT 0 Abort,
    40 INVALID_CONFIG 0 Abort,
    41 NOT_CONTROLLER 1 RefreshMetadata,
    42 INVALID_REQUEST 0 Abort,
    43 UNSUPPORTED_FOR_MESSAGE_FORMAT 0 Abort,
    44 POLICY_VIOLATION 0 Abort,
    45 OUT_OF_ORDER_SEQUENCE_NUMBER 0 ResetProducer,
    46 DUPLICATE_SEQUENCE_NUMBER 0 None,
    47 INVALID_PRODUCER_EPOCH 0 ResetProducer,
    48 INVALID_TXN_STATE 0 Abort,
    49 INVALID_PRODUCER_ID_MAPPING 0 ResetProducer,
    50 INVALID_TRANSACTION_TIMEOUT 0 Abort,
    51 CONCURRENT_TRANSACTIONS 0 Retry,
    52 TRANSACTION_COORDINATOR_FENCED 0 Fenced,
    53 TRANSACTIONAL_ID_AUTHORIZATION_FAILED 0 Abort,
    54 SECURITY_DISABLED 0 Abort,
    55 OPERATION_NOT_ATTEMPTED 0 Abort,
    56 KAFKA_STORAGE_ERROR 1 RefreshMetadata,
    57 LOG_DIR_NOT_FOUND 0 Abort,
    58 SASL_AUTHENTICATION_FAILED 0 Abort,
    59 UNKNOWN_PRODUCER_ID 0 ResetProducer,
    60 REASSIGNMENT_IN_PROGRESS 0 Abort,
    61 DELEGATION_TOKEN_AUTH_DISABLED 0 Abort,
    62 DELEGATION_TOKEN_NOT_FOUND 0 Abort,
    63 DELEGATION_TOKEN_OWNER_MISMATCH 0 Abort,
    64 DELEGATION_TOKEN_REQUEST_NOT_ALLOWED 0 Abort,
    65 DELEGATION_TOKEN_AUTHORIZATION_FAILED 0 Abort,
    66 DELEGATION_TOKEN_EXPIRED 0 Abort,
    67 INVALID_PRINCIPAL_TYPE 0 Abort,
    68 NON_EMPTY_GROUP 0 Abort,
    69 GROUP_ID_NOT_FOUND 0 Abort,
    70 FETCH_SESSION_ID_NOT_FOUND 1 ResetSession,
    71 INVALID_FETCH_SESSION_EPOCH 1 ResetSession,
    72 LISTENER_NOT_FOUND 1 RefreshMetadata,
    73 TOPIC_DELETION_DISABLED 0 Abort,
    74 FENCED_LEADER_EPOCH 1 RefreshMetadata,
    75 UNKNOWN_LEADER_EPOCH 1 RefreshMetadata,
    76 UNSUPPORTED_COMPRESSION_TYPE 0 Abort,
    77 STALE_BROKER_EPOCH 0 Abort,
    78 OFFSET_NOT_AVAILABLE 1 Retry,
    79 MEMBER_ID_REQUIRED 0 Rejoin,
    80 PREFERRED_LEADER_NOT_AVAILABLE 1 RefreshMetadata,
    81 GROUP_MAX_SIZE_REACHED 0 Abort,
    82 FENCED_INSTANCE_ID 0 Fenced,
    83 ELIGIBLE_LEADERS_NOT_AVAILABLE 1 RefreshMetadata,
    84 ELECTION_NOT_NEEDED 1 RefreshMetadata,
    85 NO_REASSIGNMENT_IN_PROGRESS 0 Abort,
    86 GROUP_SUBSCRIBED_TO_TOPIC 0 Abort,
    87 INVALID_RECORD 0 Abort,
    88 UNSTABLE_OFFSET_COMMIT 1 Retry,
    89 THROTTLING_QUOTA_EXCEEDED 1 Retry,
    90 PRODUCER_FENCED 0 Fenced,
    91 RESOURCE_NOT_FOUND 0 Abort,
    92 DUPLICATE_RESOURCE 0 Abort,
    93 UNACCEPTABLE_CREDENTIAL 0 Abort,
    94 INCONSISTENT_VOTER_SET 0 Abort,
    95 INVALID_UPDATE_VERSION 0 Abort,
    96 FEATURE_UPDATE_FAILED 0 Abort,
    97 PRINCIPAL_DESERIALIZATION_FAILURE 0 Abort,
    98 SNAPSHOT_NOT_FOUND 0 Abort,
    99 POSITION_OUT_OF_RANGE 0 Abort,
    100 UNKNOWN_TOPIC_ID 1 RefreshMetadata,
    101 DUPLICATE_BROKER_REGISTRATION 0 Abort,
    102 BROKER_ID_NOT_REGISTERED 0 Abort,
    103 INCONSISTENT_TOPIC_ID 1 RefreshMetadata,
    104 INCONSISTENT_CLUSTER_ID 0 Abort,
    105 TRANSACTIONAL_ID_NOT_FOUND 0 Abort,
    106 FETCH_SESSION_TOPIC_ID_ERROR 1 ResetSession,
    107 INELIGIBLE_REPLICA 0 Abort,
    108 NEW_LEADER_ELECTED 0 RefreshMetadata,
    109 OFFSET_MOVED_TO_TIERED_STORAGE 0 ResetOffset,
    110 FENCED_MEMBER_EPOCH 0 Rejoin,
    111 UNRELEASED_INSTANCE_ID 0 Retry,
    112 UNSUPPORTED_ASSIGNOR 0 Abort,
    113 STALE_MEMBER_EPOCH 0 Rejoin,
    114 MISMATCHED_ENDPOINT_TYPE 0 Abort,
    115 UNSUPPORTED_ENDPOINT_TYPE 0 Abort,
    116 UNKNOWN_CONTROLLER_ID 0 Abort,
    117 UNKNOWN_SUBSCRIPTION_ID 0 Abort,
    118 TELEMETRY_TOO_LARGE 0 Abort,
    119 INVALID_REGISTRATION 0 Abort,
    120 TRANSACTION_ABORTABLE 0 Abort,
    121 INVALID_RECORD_STATE 0 Abort,
    122 SHARE_SESSION_NOT_FOUND 1 ResetSession,
    123 INVALID_SHARE_SESSION_EPOCH 1 ResetSession,
    124 FENCED_STATE_EPOCH 0 Abort,
    125 INVALID_VOTER_KEY 0 Abort,
    126 DUPLICATE_VOTER 0 Abort,
    127 VOTER_NOT_FOUND 0 Abort,
    128 INVALID_REGULAR_EXPRESSION 0 Abort,
    129 REBOOTSTRAP_REQUIRED 0 RefreshMetadata,
    130 STREAMS_INVALID_TOPOLOGY 0 Abort,
    131 STREAMS_INVALID_TOPOLOGY_EPOCH 0 Abort,
    132 STREAMS_TOPOLOGY_FENCED 0 Abort,
    133 SHARE_SESSION_LIMIT_REACHED 1 Retry,
}

impl ErrorCode {
    /// Whether there was no error.
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.known_name() {
            Some(name) => f.write_str(name),
            None => write!(f, "error code {}", self.0),
        }
    }
}
