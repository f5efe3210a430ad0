//! Logs: records to standard error, one JSON object a line, without ever holding up a shard.
//!
//! **Runs on: any.** Records go through a bounded queue to a thread that writes; a full queue
//! drops them. A call site may write so many a second; the next record after that says how many
//! of its kind were left out.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::{Event, Metadata, Subscriber};
use tracing_appender::non_blocking::ErrorCounter;
use tracing_subscriber::layer::{Context, Filter, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{Layer, fmt as format};

use crate::config::{LogFormat, LogLevel, Logs};
use crate::limits::{LOG_QUEUE_RECORDS, LOG_RECORDS_PER_SECOND};

static SUPPRESSED: AtomicU64 = AtomicU64::new(0);

/// Told by the queue to standard error what it had no room for.
static DROPPED: OnceLock<ErrorCounter> = OnceLock::new();

/// Records of this process that were left out so far, by the rate limit or for want of room.
pub fn suppressed() -> u64 {
    let dropped = DROPPED.get().map_or(0, |counter| counter.dropped_lines() as u64);
    SUPPRESSED.load(Ordering::Relaxed) + dropped
}

/// Starts writing logs for this process; later calls change nothing.
pub fn start(logs: &Logs) {
    let (writer, guard) = tracing_appender::non_blocking::NonBlockingBuilder::default()
        .buffered_lines_limit(LOG_QUEUE_RECORDS)
        .lossy(true)
        .thread_name("log")
        .finish(io::stderr());
    let _ = DROPPED.set(writer.error_counter());
    let level = match logs.level {
        LogLevel::Error => tracing::Level::ERROR,
        LogLevel::Warn => tracing::Level::WARN,
        LogLevel::Info => tracing::Level::INFO,
        LogLevel::Debug => tracing::Level::DEBUG,
    };
    let limit = RateLimit { level, sites: Mutex::default() };
    let output = format::layer().with_writer(writer).with_ansi(false).with_target(true);
    let registry = tracing_subscriber::registry();
    let started = match logs.format {
        LogFormat::Json => {
            let output = output.json().flatten_event(true).with_current_span(false);
            let subscriber = registry.with(output.with_span_list(false).with_filter(limit));
            tracing::subscriber::set_global_default(subscriber)
        }
        LogFormat::Text => {
            tracing::subscriber::set_global_default(registry.with(output.with_filter(limit)))
        }
    };
    if started.is_ok() {
        // It flushes when dropped, and logs are wanted until the very end of the process.
        std::mem::forget(guard);
    }
}

/// Lets each call site write [`LOG_RECORDS_PER_SECOND`].
struct RateLimit {
    level: tracing::Level,
    sites: Mutex<HashMap<Identifier, Site>>,
}

struct Site {
    second: Instant,
    written: u32,
    left_out: u64,
}

impl RateLimit {
    /// Whether a record of this call site may be written, and how many were left out before it.
    fn admit(&self, site: Identifier, now: Instant) -> Option<u64> {
        let mut sites = self.sites.lock().unwrap_or_else(PoisonError::into_inner);
        let site =
            sites.entry(site).or_insert_with(|| Site { second: now, written: 0, left_out: 0 });
        if now.duration_since(site.second) >= Duration::from_secs(1) {
            site.second = now;
            site.written = 0;
        }
        if site.written == LOG_RECORDS_PER_SECOND {
            site.left_out += 1;
            return None;
        }
        site.written += 1;
        Some(std::mem::take(&mut site.left_out))
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Filter<S> for RateLimit {
    fn enabled(&self, metadata: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        *metadata.level() <= self.level
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        let metadata = event.metadata();
        if metadata.name() == "suppressed" {
            return true;
        }
        match self.admit(metadata.callsite(), Instant::now()) {
            None => {
                SUPPRESSED.fetch_add(1, Ordering::Relaxed);
                false
            }
            Some(0) => true,
            Some(suppressed) => {
                let (file, line) = (metadata.file(), metadata.line());
                tracing::event!(name: "suppressed", tracing::Level::WARN, suppressed, file, line,
                    "records of this call site were left out");
                true
            }
        }
    }

    fn max_level_hint(&self) -> Option<tracing::level_filters::LevelFilter> {
        Some(self.level.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_site_is_limited_and_says_what_it_left_out() {
        let limit = RateLimit { level: tracing::Level::INFO, sites: Mutex::default() };
        struct Site;
        impl tracing::Callsite for Site {
            fn set_interest(&self, _: tracing::subscriber::Interest) {}
            fn metadata(&self) -> &Metadata<'_> {
                unreachable!("only its identity is used")
            }
        }
        static SITE: Site = Site;
        let site = || Identifier(&SITE);
        let start = Instant::now();
        for _ in 0..LOG_RECORDS_PER_SECOND {
            assert_eq!(limit.admit(site(), start), Some(0));
        }
        for _ in 0..5 {
            assert_eq!(limit.admit(site(), start), None);
        }
        let later = start + Duration::from_secs(1);
        assert_eq!(limit.admit(site(), later), Some(5));
        assert_eq!(limit.admit(site(), later), Some(0));
    }
}
