//! Where hosts are: a table that shards read and the main thread fills.
//!
//! **Runs on: shard** (asks, never waits), **the data process's main thread** (looks names up).
//! Brokers name each other by host, and a shard must not ask the network for a name.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::Semaphore;
use trine_core::kafka::cluster::{Resolve, literal};

use crate::limits::{NAMES_MAX, NAMES_REFRESH, NAMES_TIMEOUT};

/// A handle to the table; all handles share it.
#[derive(Clone, Debug)]
pub struct Names(Arc<Mutex<Table>>, Arc<Semaphore>);

impl Default for Names {
    fn default() -> Self {
        Self(Arc::default(), Arc::new(Semaphore::new(1)))
    }
}

/// Where each host and port is.
type Table = HashMap<(String, u16), Known>;

/// What is known of a host: nothing, while it was only asked for.
#[derive(Debug, Default)]
struct Known {
    addresses: Vec<SocketAddr>,
    /// Which of them is tried next, so that one that does not answer is not tried for ever.
    next: usize,
    looked: Option<Instant>,
}

impl Names {
    /// Looks up what was asked for and is not known, on a task of its own: a name's server may take
    /// its time. One such task runs at a time.
    pub fn look_up_meanwhile(&self) {
        let names = self.clone();
        if let Ok(one) = self.1.clone().try_acquire_owned() {
            tokio::spawn(async move {
                names.look_up().await;
                drop(one);
            });
        }
    }

    async fn look_up(&self) {
        let wanted = |(name, known): (&(String, u16), &Known)| {
            let is_fresh = known.looked.is_some_and(|at| at.elapsed() < NAMES_REFRESH);
            (!is_fresh).then(|| name.clone())
        };
        let wanted: Vec<(String, u16)> = {
            let table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            table.iter().filter_map(wanted).collect()
        };
        for (host, port) in wanted {
            let look_up = tokio::net::lookup_host((host.as_str(), port));
            let found = match tokio::time::timeout(NAMES_TIMEOUT, look_up).await {
                Ok(found) => found.map(|found| found.collect::<Vec<_>>()),
                Err(_) => Err(std::io::ErrorKind::TimedOut.into()),
            };
            let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let known = table.entry((host.clone(), port)).or_default();
            match found {
                Ok(addresses) => {
                    (known.addresses, known.looked) = (addresses, Some(Instant::now()));
                }
                Err(error) => tracing::warn!(host, port, %error, "a broker's name is not known"),
            }
        }
    }
}

impl Resolve for Names {
    fn resolve(&self, host: &str, port: u16) -> Option<SocketAddr> {
        if let Some(address) = literal(host, port) {
            return Some(address);
        }
        // The main thread holds it for a moment; the client asks again.
        let mut table = self.0.try_lock().ok()?;
        let name = (host.to_owned(), port);
        if let Some(known) = table.get_mut(&name) {
            known.next = known.next.wrapping_add(1);
            let count = known.addresses.len().max(1);
            return known.addresses.get(known.next % count).copied();
        }
        if table.len() < NAMES_MAX {
            table.insert(name, Known::default());
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_asked_for_once_and_known_after_it_was_looked_up() {
        let names = Names::default();
        assert_eq!(names.resolve("127.0.0.1", 9), Some(([127, 0, 0, 1], 9).into()));
        assert_eq!(names.resolve("localhost", 9), None);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(names.look_up());
        let found = names.clone().resolve("localhost", 9).unwrap();
        assert!(found.ip().is_loopback() && found.port() == 9);
    }
}
