//! Logs: records to standard error, one JSON object a line, without ever holding up a shard.
//!
//! **Runs on: any.** Records go through a bounded queue to a thread that writes; a full queue
//! drops them. A call site may write so many a second; the next record after that says how many
//! of its kind were left out. Lines for people go past that queue, and are given up where nobody
//! reads: the end after a panic waits for no reader, and any other for about a second.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use tracing::callsite::Identifier;
use tracing::{Event, Metadata, Subscriber};
use tracing_appender::non_blocking::{ErrorCounter, WorkerGuard};
use tracing_subscriber::layer::{Context, Filter, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{Layer, fmt as format};

use crate::config::{LogFormat, LogLevel, Logs};
use crate::limits::{
    LOG_END_TIMEOUT, LOG_QUEUE_RECORDS, LOG_RECORDS_PER_SECOND, OUTPUT_PIECE_BYTES, OUTPUT_TIMEOUT,
};

static SUPPRESSED: AtomicU64 = AtomicU64::new(0);

/// Told by the queue to standard error what it had no room for.
static DROPPED: OnceLock<ErrorCounter> = OnceLock::new();

/// Writes what is queued when it is dropped.
static WRITER: Mutex<Option<WorkerGuard>> = Mutex::new(None);

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
        *WRITER.lock().unwrap_or_else(PoisonError::into_inner) = Some(guard);
    }
}

/// Writes what is queued, if somebody reads; the process's last act.
pub fn end() {
    let guard = WRITER.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some(guard) = guard else { return };
    let (done, written) = mpsc::channel();
    // On a thread of its own, since it writes to an output itself where the queue stays full.
    thread::spawn(move || {
        drop(guard);
        let _ = done.send(());
    });
    let _ = written.recv_timeout(LOG_END_TIMEOUT);
}

/// Writes a line for people to standard output or standard error. The rest is given up where there
/// is no room for [`OUTPUT_TIMEOUT`], and all of it where the output is closed.
pub fn tell(output: impl AsFd, line: &str) {
    // Past the standard library: the log's writer may hold its lock for as long as nobody reads.
    let line = format!("{line}\n");
    let mut rest = line.as_bytes();
    let deadline = Instant::now() + OUTPUT_TIMEOUT;
    while !rest.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).expect("OUTPUT_TIMEOUT is short");
        match poll(&mut [PollFd::new(&output, PollFlags::OUT)], Some(&left)) {
            Ok(1..) => {}
            Err(Errno::INTR) => continue,
            Ok(0) | Err(_) => return,
        }
        match rustix::io::write(&output, &rest[..rest.len().min(OUTPUT_PIECE_BYTES)]) {
            Ok(written @ 1..) => rest = &rest[written..],
            Err(Errno::INTR) => {}
            Ok(0) | Err(_) => return,
        }
    }
}

/// Makes a panic end the process, whichever thread it is on, after it was printed.
pub fn abort_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = thread::current();
        let name = thread.name().unwrap_or("unnamed");
        let trace = std::backtrace::Backtrace::capture();
        tell(io::stderr(), &format!("trine: bug on thread {name}: {panic}\n{trace}"));
        std::process::abort();
    }));
}

/// What `work` logs on this thread.
#[cfg(test)]
pub fn logged(work: impl FnOnce()) -> String {
    #[derive(Clone, Default)]
    struct Lines(std::sync::Arc<Mutex<Vec<u8>>>);
    impl io::Write for Lines {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(text)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let lines = Lines::default();
    let writer = lines.clone();
    let output = format::Subscriber::builder().with_ansi(false);
    let output = output.with_writer(move || writer.clone()).finish();
    tracing::subscriber::with_default(output, work);
    let text = lines.0.lock().unwrap().clone();
    String::from_utf8(text).unwrap()
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
        // What a library says of each of its tries, its caller says of all.
        let is_foreign = metadata.target().starts_with("rskafka");
        let level = match self.level {
            tracing::Level::INFO if is_foreign => tracing::Level::WARN,
            level => level,
        };
        *metadata.level() <= level
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
    use std::io::{PipeReader, Read, Write};
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, Stdio};
    use std::sync::mpsc;
    use std::thread;

    /// Not a test of its own: a process that panics while another thread has the lock of standard
    /// error.
    #[test]
    fn child_that_panics() {
        if std::env::var("TRINE_TEST_PANIC").is_err() {
            return;
        }
        abort_on_panic();
        let (locked, is_locked) = mpsc::channel();
        thread::spawn(move || {
            let lock = io::stderr().lock();
            locked.send(()).unwrap();
            thread::park();
            drop(lock);
        });
        is_locked.recv().unwrap();
        panic!("as a bug does");
    }

    /// How a process ends that panics, with such a standard error.
    fn panic_with(stderr: impl Into<Stdio>) -> Option<i32> {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["logs::tests::child_that_panics", "--exact", "--nocapture"])
            .env("TRINE_TEST_PANIC", "1")
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status.signal();
            }
            if Instant::now() > deadline {
                child.kill().unwrap();
                child.wait().unwrap();
                panic!("a process that panicked lives on");
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_panic_ends_the_process_though_nobody_reads() {
        let abort = Some(rustix::process::Signal::ABORT.as_raw());
        let (mut reader, writer) = io::pipe().unwrap();
        assert_eq!(panic_with(writer), abort);
        let mut said = String::new();
        reader.read_to_string(&mut said).unwrap();
        assert!(said.contains("as a bug does"), "{said}");

        let (reader, writer) = full_pipe();
        assert_eq!(panic_with(writer), abort);
        drop(reader);
    }

    #[test]
    fn a_long_text_is_told_whole_and_none_to_nobody() {
        let (reader, writer) = io::pipe().unwrap();
        let text = "x".repeat(3 * OUTPUT_PIECE_BYTES);
        tell(&writer, &text);
        let mut told = vec![0; text.len() + 1];
        (&reader).read_exact(&mut told).unwrap();
        assert!(told.ends_with(b"x\n"));
        // With nobody to read it ever, there is an error, and no signal that ends the process.
        drop(reader);
        tell(&writer, "to nobody");
    }

    /// Not a test of its own: a process that logs from one call site, more than is written, until
    /// records are written again. Each has its number.
    #[test]
    fn child_that_logs_too_much() {
        if std::env::var("TRINE_TEST_LOGS").is_err() {
            return;
        }
        start(&Logs { level: LogLevel::Info, format: LogFormat::Json });
        let mut number = 0;
        let mut is_written = || {
            let before = suppressed();
            number += 1;
            tracing::info!(number, "again");
            suppressed() == before
        };
        while suppressed() < 5 {
            is_written();
        }
        let deadline = Instant::now() + Duration::from_secs(20);
        while !is_written() {
            assert!(Instant::now() < deadline, "nothing is written any more");
            thread::sleep(Duration::from_millis(5));
        }
        // What was told once is not told again.
        is_written();
        tracing::info!(total = suppressed(), "the end");
        end();
    }

    #[test]
    fn a_log_is_json_and_says_how_many_records_of_a_call_site_it_lacks() {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["logs::tests::child_that_logs_too_much", "--exact", "--nocapture"])
            .env("TRINE_TEST_LOGS", "1")
            .output()
            .unwrap();
        assert!(output.status.success());
        let text = String::from_utf8(output.stderr).unwrap();
        let (mut last, mut told, mut total) = (0, 0, 0);
        let mut lacking: Option<u64> = None;
        for line in text.lines() {
            let record: serde_json::Value = serde_json::from_str(line).expect(line);
            assert!(record["timestamp"].is_string() && record["target"].is_string(), "{line}");
            match record["message"].as_str().expect(line) {
                "again" => {
                    let number = record["number"].as_u64().expect(line);
                    let missing = number - last - 1;
                    // Once for each gap, right before the record that ends it.
                    assert_eq!(lacking.take().unwrap_or(0), missing, "before {number}:\n{text}");
                    (last, told) = (number, told + missing);
                }
                "the end" => total = record["total"].as_u64().expect(line),
                _ => {
                    assert_eq!((&record["level"], lacking), (&"WARN".into(), None), "{text}");
                    assert_eq!(record["file"], file!(), "{line}");
                    assert!(record["line"].is_u64(), "{line}");
                    lacking = Some(record["suppressed"].as_u64().expect(line));
                }
            }
        }
        assert!(total >= 5, "{text}");
        assert_eq!((told, lacking), (total, None), "what metrics count was told:\n{text}");
    }

    /// A pipe without room; its reader keeps it open.
    fn full_pipe() -> (PipeReader, io::PipeWriter) {
        use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
        let (reader, mut writer) = io::pipe().unwrap();
        let flags = fcntl_getfl(&writer).unwrap();
        fcntl_setfl(&writer, flags | OFlags::NONBLOCK).unwrap();
        while writer.write(&[0; 4096]).is_ok() {}
        fcntl_setfl(&writer, flags).unwrap();
        (reader, writer)
    }

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
