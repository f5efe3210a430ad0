//! Which endpoint is next: round robin over those whose last connect did not just fail; and how many
//! connections each has.
//!
//! **Runs on: shard.** Sans-IO: the caller brings `now_ms`.

use std::net::SocketAddr;
use std::rc::Rc;

pub(super) struct Endpoint {
    pub address: SocketAddr,
    /// Not connected to before this time; 0 when its last connect succeeded.
    pub failing_until_ms: u64,
    /// Each of its connections holds one more.
    open: Rc<()>,
}

/// Where a connection goes to; it counts there as long as it is kept.
#[derive(Clone)]
pub(super) struct Counted {
    /// The index of its endpoint.
    pub endpoint: usize,
    _open: Rc<()>,
}

pub(super) struct Endpoints {
    list: Vec<Endpoint>,
    next: usize,
}

impl Endpoints {
    pub fn new(addresses: &[SocketAddr]) -> Self {
        let endpoint =
            |&address: &SocketAddr| Endpoint { address, failing_until_ms: 0, open: Rc::default() };
        Self { list: addresses.iter().map(endpoint).collect(), next: 0 }
    }

    pub fn all(&self) -> &[Endpoint] {
        &self.list
    }

    pub fn address(&self, endpoint: usize) -> SocketAddr {
        self.list[endpoint].address
    }

    /// The next endpoint to use, or when there will be one.
    pub fn pick(&mut self, now_ms: u64) -> Result<usize, u64> {
        let count = self.list.len();
        for step in 0..count {
            let endpoint = (self.next + step) % count;
            if self.list[endpoint].failing_until_ms <= now_ms {
                self.next = (endpoint + 1) % count;
                return Ok(endpoint);
            }
        }
        Err(self.list.iter().map(|endpoint| endpoint.failing_until_ms).min().unwrap_or(u64::MAX))
    }

    pub fn failed(&mut self, endpoint: usize, until_ms: u64) {
        self.list[endpoint].failing_until_ms = until_ms;
    }

    /// A connection is being made, until `until_ms` at most; to one that was failing only this one.
    pub fn connecting(&mut self, endpoint: usize, until_ms: u64) -> Counted {
        let Endpoint { failing_until_ms, open, .. } = &mut self.list[endpoint];
        if *failing_until_ms != 0 {
            *failing_until_ms = until_ms;
        }
        Counted { endpoint, _open: open.clone() }
    }

    pub fn connected(&mut self, endpoint: usize) {
        self.list[endpoint].failing_until_ms = 0;
    }

    /// How many connections it has, those being made included.
    pub fn open(&self, endpoint: usize) -> usize {
        Rc::strong_count(&self.list[endpoint].open) - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_skip_what_failed_until_its_time_has_come() {
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let mut endpoints = Endpoints::new(&[address(1), address(2), address(3)]);
        let picks = |endpoints: &mut Endpoints, now_ms| -> Vec<_> {
            (0..4).map(|_| endpoints.pick(now_ms)).collect()
        };
        assert_eq!(picks(&mut endpoints, 10), [Ok(0), Ok(1), Ok(2), Ok(0)]);
        endpoints.failed(1, 20);
        assert_eq!(picks(&mut endpoints, 19), [Ok(2), Ok(0), Ok(2), Ok(0)]);
        assert_eq!(picks(&mut endpoints, 20), [Ok(1), Ok(2), Ok(0), Ok(1)]);
        (0..3).for_each(|endpoint| endpoints.failed(endpoint, 40 - endpoint as u64));
        assert_eq!(endpoints.pick(30), Err(38));
        endpoints.connected(0);
        assert_eq!(picks(&mut endpoints, 30), [Ok(0); 4]);
        let connection = endpoints.connecting(0, 50);
        assert_eq!(picks(&mut endpoints, 30), [Ok(0); 4], "it is not failing");
        endpoints.failed(0, 31);
        drop(endpoints.connecting(0, 50));
        assert_eq!(endpoints.pick(32), Err(38), "who was failing is tried by one at a time");
        assert_eq!((endpoints.open(0), endpoints.open(1)), (1, 0));
        drop(connection);
        assert_eq!(endpoints.open(0), 0);
    }
}
