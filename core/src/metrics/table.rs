//! The one list of a shard's series: name, labels, help text, and their place in the page.
//!
//! **Runs on: any.**
//!
//! Names follow the Prometheus rules (base units as suffix, `_total` for counters) with the words
//! of the OpenTelemetry conventions. Series of one family (same name, other labels) stand next to
//! each other, because the text format wants them in one group.

/// How one series is named outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Series {
    /// Prometheus metric name.
    pub name: &'static str,
    /// Fixed labels besides `shard`, as text: `key="value"`, or empty.
    pub labels: &'static str,
    /// Help text of the family.
    pub help: &'static str,
    /// What the stored integer is divided by to give the named unit.
    pub scale: u64,
}

macro_rules! series {
    ($(#[$doc:meta])* $kind:ident { $($variant:ident $name:literal $labels:literal $scale:literal
        $help:literal;)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(usize)]
        pub enum $kind { $(#[doc = $help] $variant),+ }

        impl $kind {
            /// Every one, in the page's order.
            pub const ALL: &'static [$kind] = &[$($kind::$variant),+];

            /// Its name, labels and help.
            pub const fn series(self) -> Series {
                match self {
                    $($kind::$variant => Series {
                        name: $name, labels: $labels, help: $help, scale: $scale,
                    }),+
                }
            }
        }
    };
}

series! {
    /// A total since the first start of the gateway; it survives the data process.
    Counter {
        Accepted "trine_connections_accepted_total" "" 1
            "Connections taken from the listener.";
        HandedOver "trine_connections_handed_over_total" "" 1
            "Connections given to a less loaded shard right after accept.";
        AcceptErrors "trine_accept_errors_total" "" 1
            "Failed accepts, such as too many open files.";
        HttpRequests "trine_http_requests_total" "" 1
            "HTTP requests with a complete head, upgrades included.";
        HttpErrors "trine_http_errors_total" "" 1
            "HTTP requests refused as malformed, too large or too slow.";
        Upgrades "trine_websocket_upgrades_total" "" 1
            "Completed WebSocket handshakes.";
        MessagesIn "trine_messages_total" r#"direction="in""# 1
            "WebSocket data messages.";
        MessagesOut "trine_messages_total" r#"direction="out""# 1
            "WebSocket data messages.";
        BytesIn "trine_io_bytes_total" r#"direction="in""# 1
            "Bytes received from and sent to clients.";
        BytesOut "trine_io_bytes_total" r#"direction="out""# 1
            "Bytes received from and sent to clients.";
        Receives "trine_receives_total" "" 1
            "Completed socket receives.";
        Sends "trine_sends_total" "" 1
            "Completed socket sends.";
        Turns "trine_turns_total" "" 1
            "Turns of the shard's loop.";
        Stalls "trine_stalls_total" "" 1
            "Turns longer than 100 ms.";
        Commands "trine_commands_total" "" 1
            "Client protocol commands.";
        CommandErrors "trine_command_errors_total" "" 1
            "Commands answered with an error.";
        Publications "trine_publications_total" "" 1
            "Publications accepted by their channel's owner.";
        Deliveries "trine_deliveries_total" "" 1
            "Publications put in a subscriber's outbox.";
        EncodesJson "trine_encodes_total" r#"format="json""# 1
            "Pushes encoded, once a shard, format and publication.";
        EncodesProtobuf "trine_encodes_total" r#"format="protobuf""# 1
            "Pushes encoded, once a shard, format and publication.";
        SlowCloses "trine_slow_closes_total" "" 1
            "Connections closed because their outbox passed its limit.";
        RecoveriesRecovered "trine_recoveries_total" r#"outcome="recovered""# 1
            "Subscribes that asked for recovery.";
        RecoveriesFailed "trine_recoveries_total" r#"outcome="failed""# 1
            "Subscribes that asked for recovery.";
        HistoryTrimmed "trine_history_trimmed_total" "" 1
            "Publications dropped from history for the global memory budget.";
        PresenceRefused "trine_presence_refused_total" "" 1
            "Subscribes refused because presence filled a shard's share of the memory budget.";
        MailboxSent "trine_mailbox_messages_total" r#"direction="out""# 1
            "Messages between shards.";
        MailboxReceived "trine_mailbox_messages_total" r#"direction="in""# 1
            "Messages between shards.";
        MailboxFull "trine_mailbox_full_total" "" 1
            "Messages that met a full mailbox.";
        HoledChannels "trine_holed_channels_total" "" 1
            "Channels that lost a publication's copy to a full mailbox.";
        EventsStored "trine_events_total" r#"outcome="stored""# 1
            "Durable events by outcome: in the log or the spool, refused, refused for want of time, second tries.";
        EventsRefused "trine_events_total" r#"outcome="refused""# 1
            "Durable events by outcome: in the log or the spool, refused, refused for want of time, second tries.";
        EventsLate "trine_events_total" r#"outcome="late""# 1
            "Durable events by outcome: in the log or the spool, refused, refused for want of time, second tries.";
        EventsDuplicate "trine_events_total" r#"outcome="duplicate""# 1
            "Durable events by outcome: in the log or the spool, refused, refused for want of time, second tries.";
        SpoolTaken "trine_spool_records_total" r#"direction="in""# 1
            "Records that went to the spool, and from there to Kafka.";
        SpoolForwarded "trine_spool_records_total" r#"direction="out""# 1
            "Records that went to the spool, and from there to Kafka.";
        SpoolTakeOvers "trine_spool_take_overs_total" "" 1
            "Times that the spool took over the records of a partition.";
        KafkaErrors "trine_kafka_errors_total" "" 1
            "Times that something was wrong with a broker; the log says what, not every time.";
        SpoolDeadLetters "trine_spool_dead_letters_total" "" 1
            "Spooled records that Kafka refused for good.";
        RecordsDelivered "trine_consumer_records_total" r#"outcome="delivered""# 1
            "Records of the log by what became of them.";
        RecordsDeadLettered "trine_consumer_records_total" r#"outcome="dead_letter""# 1
            "Records of the log by what became of them.";
        RecordsGivenUp "trine_consumer_records_total" r#"outcome="given_up""# 1
            "Records of the log by what became of them.";
        RecordsExpired "trine_consumer_records_total" r#"outcome="expired""# 1
            "Records of the log by what became of them.";
        RecordsNull "trine_consumer_records_total" r#"outcome="null""# 1
            "Records of the log by what became of them.";
        RecordsRetried "trine_consumer_retries_total" "" 1
            "Deliveries that failed and were tried again.";
        OffsetsOutOfRange "trine_consumer_out_of_range_total" "" 1
            "Times that a consumer's offset was not in the log any more, or that of other records.";
        LogSuppressed "trine_log_suppressed_total" "" 1
            "Log records of the data process that were left out.";
    }
}

series! {
    /// A value of now; zero again when the data process restarts.
    Gauge {
        Connections "trine_connections" "" 1
            "Open client connections.";
        Sessions "trine_sessions" "" 1
            "Connected client protocol sessions.";
        Subscriptions "trine_subscriptions" "" 1
            "Subscriptions of this shard's sessions.";
        Channels "trine_channels" "" 1
            "Channels with a subscriber or history on this shard.";
        PresenceEntries "trine_presence_entries" "" 1
            "Presence entries held by this shard.";
        OutboxBytes "trine_outbox_bytes" "" 1
            "Bytes waiting in outboxes.";
        MailboxDepth "trine_mailbox_depth" "" 1
            "Messages waiting in this shard's mailboxes.";
        HistoryItems "trine_history_items" "" 1
            "Publications kept in history.";
        HistoryBytes "trine_history_bytes" "" 1
            "Memory held by history.";
        EventsOutstanding "trine_events_outstanding" "" 1
            "Durable events that the log has not answered.";
        ConsumerPartitions "trine_consumer_partitions" "" 1
            "Partitions that consumers of this shard read.";
        ConsumerLag "trine_consumer_lag_records" "" 1
            "Records that consumers of this shard have not delivered.";
        SpoolRecords "trine_spool_records" "" 1
            "Spooled records that Kafka has not acknowledged.";
        SpoolAge "trine_spool_age_seconds" "" 1000
            "Age of the oldest of them.";
        SpoolOpen "trine_spool_open" "" 1
            "1 once this shard has read what was spooled before it began; records count from then.";
        UtilisationPpm "trine_shard_utilisation_ratio" "" 1_000_000
            "Share of wall time in which the shard did not wait, over about a second.";
        Driver "trine_shard_driver" "" 1
            "I/O driver of the shard: 1 io_uring, 2 epoll, 0 not started.";
    }
}

series! {
    /// A distribution of durations, stored in nanoseconds.
    Histogram {
        CommandDuration "trine_command_duration_seconds" "" 1_000_000_000
            "Time from a command's receipt to its reply in the outbox.";
        TurnTime "trine_turn_duration_seconds" "" 1_000_000_000
            "Time a turn of the shard's loop took.";
    }
}

/// Value of [`Gauge::Driver`] for io_uring.
pub const DRIVER_IO_URING: u64 = 1;
/// Value of [`Gauge::Driver`] for epoll.
pub const DRIVER_EPOLL: u64 = 2;

/// Close codes counted one by one; any other is counted as `other`. RFC 6455 section 7.4.1 and the
/// client protocol's disconnect codes; 0 is a connection that ended without a close frame, and
/// plain HTTP connections.
pub const CLOSE_CODES: [u16; 39] = [
    0, 1000, 1001, 1002, 1003, 1005, 1006, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 3000, 3001,
    3002, 3003, 3004, 3005, 3006, 3007, 3008, 3009, 3010, 3011, 3012, 3013, 3014, 3500, 3501, 3502,
    3503, 3504, 3505, 3506, 3507, 3508, 3509,
];

/// Buckets of a histogram: one up to 1,024 ns, then two an octave up to 2^34 ns (17 s), and one
/// for everything above.
pub const BUCKETS: usize = 1 + 2 * OCTAVES + 1;

/// The inclusive upper bound of a bucket in nanoseconds; `None` for the last, which has none.
pub const fn bucket_bound_nanos(bucket: usize) -> Option<u64> {
    if bucket >= BUCKETS - 1 {
        return None;
    }
    let octave = bucket / 2;
    let base = 1u64 << (FIRST_OCTAVE + octave);
    Some(if bucket.is_multiple_of(2) { base } else { base + base / 2 })
}

/// The bucket whose bound is the first one not below `nanos`.
#[inline]
pub(super) const fn bucket_of(nanos: u64) -> usize {
    let below = nanos.saturating_sub(1);
    if below < 1 << FIRST_OCTAVE {
        return 0;
    }
    let octave = 63 - below.leading_zeros() as usize;
    let half = (below >> (octave - 1)) as usize & 1;
    let bucket = 1 + 2 * (octave - FIRST_OCTAVE) + half;
    if bucket < BUCKETS { bucket } else { BUCKETS - 1 }
}

const FIRST_OCTAVE: usize = 10;
const OCTAVES: usize = 24;

/// Words of a page before the first counter: magic, layout, size in bytes, shard.
pub(super) const HEADER: usize = 8;
/// First word of each group; a group's first cache line is its own.
pub(super) const COUNTERS: usize = HEADER;
pub(super) const CLOSES: usize = COUNTERS + Counter::ALL.len();
pub(super) const HISTOGRAMS: usize = CLOSES + CLOSE_CODES.len() + 1;
pub(super) const HISTOGRAM_WORDS: usize = 1 + BUCKETS;
pub(super) const GAUGES: usize = HISTOGRAMS + Histogram::ALL.len() * HISTOGRAM_WORDS;
pub(super) const WORDS: usize = GAUGES + Gauge::ALL.len();

/// What two processes must agree on to share a page: a hash of every name, close code and bucket
/// bound in their order.
pub const LAYOUT: u64 = layout();

const fn layout() -> u64 {
    let mut hash = mix(0xcbf2_9ce4_8422_2325, WORDS as u64);
    let mut i = 0;
    while i < Counter::ALL.len() {
        hash = mix_series(hash, Counter::ALL[i].series());
        i += 1;
    }
    i = 0;
    while i < Gauge::ALL.len() {
        hash = mix_series(hash, Gauge::ALL[i].series());
        i += 1;
    }
    i = 0;
    while i < Histogram::ALL.len() {
        hash = mix_series(hash, Histogram::ALL[i].series());
        i += 1;
    }
    i = 0;
    while i < CLOSE_CODES.len() {
        hash = mix(hash, CLOSE_CODES[i] as u64);
        i += 1;
    }
    i = 0;
    while i < BUCKETS - 1 {
        if let Some(bound) = bucket_bound_nanos(i) {
            hash = mix(hash, bound);
        }
        i += 1;
    }
    hash
}

const fn mix_series(mut hash: u64, series: Series) -> u64 {
    hash = mix_str(hash, series.name);
    hash = mix_str(hash, series.labels);
    mix(hash, series.scale)
}

const fn mix_str(mut hash: u64, text: &str) -> u64 {
    let bytes = text.as_bytes();
    let mut i = 0;
    while i < bytes.len() {
        hash = mix(hash, bytes[i] as u64);
        i += 1;
    }
    mix(hash, 0xff)
}

/// One step of FNV-1a, a word at a time.
const fn mix(hash: u64, word: u64) -> u64 {
    (hash ^ word).wrapping_mul(0x100_0000_01b3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_exactly_what_their_bound_says() {
        for bucket in 0..BUCKETS - 1 {
            let bound = bucket_bound_nanos(bucket).unwrap();
            assert_eq!(bucket_of(bound), bucket, "bound {bound}");
            assert_eq!(bucket_of(bound + 1), bucket + 1, "above {bound}");
        }
        assert_eq!(bucket_of(0), 0);
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
        assert_eq!(bucket_bound_nanos(BUCKETS - 1), None);
        assert_eq!(bucket_bound_nanos(BUCKETS - 2), Some(1 << 34));
    }

    #[test]
    fn names_follow_the_rules_and_families_stand_together() {
        let mut all: Vec<(Series, &str)> = Vec::new();
        all.extend(Counter::ALL.iter().map(|c| (c.series(), "counter")));
        all.extend(Gauge::ALL.iter().map(|g| (g.series(), "gauge")));
        all.extend(Histogram::ALL.iter().map(|h| (h.series(), "histogram")));
        let mut seen: Vec<&str> = Vec::new();
        for (series, kind) in &all {
            assert!(series.name.starts_with("trine_"), "{}", series.name);
            assert_eq!(series.name.ends_with("_total"), *kind == "counter", "{}", series.name);
            assert!(series.help.ends_with('.') && !series.help.contains(['\n', '\\']));
            if seen.last() != Some(&series.name) {
                assert!(!seen.contains(&series.name), "{} is split", series.name);
                seen.push(series.name);
            }
        }
        for pair in all.windows(2) {
            if pair[0].0.name == pair[1].0.name {
                assert_eq!(pair[0].0.help, pair[1].0.help);
                assert_ne!(pair[0].0.labels, pair[1].0.labels);
            }
        }
        assert!(CLOSE_CODES.is_sorted());
    }
}
