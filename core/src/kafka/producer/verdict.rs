//! What a produce error means for the batch that met it and for its partition.
//!
//! **Runs on: any.** Sans-IO. Source: Kafka protocol guide, "Error Codes", and where the broker can
//! answer with each: an error that may come after the append leaves the batch *in doubt*, since it
//! may be in the log although it was not acknowledged.

use trine_proto::kafka::ErrorCode;

/// What to do with a batch that is the oldest of its partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is in the log.
    Written,
    /// Send the same bytes again.
    Retry {
        /// It may be in the log already.
        doubt: bool,
        /// Its leader may be elsewhere.
        refresh: bool,
    },
    /// The log ends before its sequence number: start again at 0 with the next epoch.
    OutOfOrder,
    /// A newer epoch of this producer id has written: a new id is needed.
    Fenced,
    /// One of its records, or their sum, is not acceptable.
    Unacceptable,
    /// It would fail again.
    Fatal {
        /// It may be in the log.
        doubt: bool,
    },
}

/// The meaning of an error code in a produce response.
pub(super) fn verdict(code: ErrorCode) -> Verdict {
    let retry = |doubt, refresh| Verdict::Retry { doubt, refresh };
    match code {
        ErrorCode::NONE | ErrorCode::DUPLICATE_SEQUENCE_NUMBER => Verdict::Written,
        ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER | ErrorCode::UNKNOWN_PRODUCER_ID => {
            Verdict::OutOfOrder
        }
        ErrorCode::INVALID_PRODUCER_EPOCH
        | ErrorCode::PRODUCER_FENCED
        | ErrorCode::INVALID_PRODUCER_ID_MAPPING => Verdict::Fenced,
        ErrorCode::MESSAGE_TOO_LARGE
        | ErrorCode::RECORD_LIST_TOO_LARGE
        | ErrorCode::INVALID_RECORD
        | ErrorCode::INVALID_TIMESTAMP => Verdict::Unacceptable,
        // A leader that is deposed while it waits for its replicas answers with the first two also
        // for what it has appended.
        ErrorCode::NOT_LEADER_OR_FOLLOWER
        | ErrorCode::UNKNOWN_TOPIC_OR_PARTITION
        | ErrorCode::KAFKA_STORAGE_ERROR
        | ErrorCode::NETWORK_EXCEPTION => retry(true, true),
        ErrorCode::REQUEST_TIMED_OUT | ErrorCode::NOT_ENOUGH_REPLICAS_AFTER_APPEND => {
            retry(true, false)
        }
        ErrorCode::LEADER_NOT_AVAILABLE
        | ErrorCode::FENCED_LEADER_EPOCH
        | ErrorCode::UNKNOWN_LEADER_EPOCH
        | ErrorCode::UNKNOWN_TOPIC_ID
        | ErrorCode::INCONSISTENT_TOPIC_ID
        | ErrorCode::BROKER_NOT_AVAILABLE
        | ErrorCode::REPLICA_NOT_AVAILABLE => retry(false, true),
        code if code.is_retriable() => retry(false, false),
        ErrorCode::UNKNOWN_SERVER_ERROR => Verdict::Fatal { doubt: true },
        _ => Verdict::Fatal { doubt: false },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_that_may_follow_the_append_leaves_a_doubt() {
        for code in [
            ErrorCode::REQUEST_TIMED_OUT,
            ErrorCode::NOT_ENOUGH_REPLICAS_AFTER_APPEND,
            ErrorCode::NOT_LEADER_OR_FOLLOWER,
        ] {
            assert!(matches!(verdict(code), Verdict::Retry { doubt: true, .. }), "{code}");
        }
        let code = ErrorCode::NOT_ENOUGH_REPLICAS;
        assert_eq!(verdict(code), Verdict::Retry { doubt: false, refresh: false });
    }

    #[test]
    fn what_nobody_knows_is_not_tried_again() {
        assert_eq!(verdict(ErrorCode(9999)), Verdict::Fatal { doubt: false });
        let code = ErrorCode::TOPIC_AUTHORIZATION_FAILED;
        assert_eq!(verdict(code), Verdict::Fatal { doubt: false });
    }
}
