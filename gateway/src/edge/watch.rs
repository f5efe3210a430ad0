//! How far groups of other programs are behind in this gateway's topics, for operators.
//!
//! **Runs on: shard**, the first one: a task that nothing waits for, on connections of its own.

use std::rc::{Rc, Weak};

use trine_core::kafka::client::Client;
use trine_core::kafka::lag::{GroupLag, group_lag};
use trine_core::limits::TIMER_SLOT_MS;
use trine_core::rt;

use crate::config::Config;
use crate::data::Standings;
use crate::limits::WATCH_INTERVAL_MS;

/// How far a group is behind in a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watched {
    /// The group, by its index in the configuration.
    pub group: u16,
    /// Where it is.
    pub lag: GroupLag,
}

/// Asks for the lag of `kafka.watch_groups`, as long as the client lives, and leaves it for control.
/// Of a group that can't be asked for nothing is left.
pub(super) async fn watch(
    client: Weak<Client>,
    config: Rc<Config>,
    topics: Vec<Box<str>>,
    standings: Standings,
) {
    let groups = &config.kafka.watch_groups;
    let mut failing = vec![false; groups.len()];
    loop {
        let mut all = Vec::new();
        for (number, group) in groups.iter().enumerate() {
            let Some(client) = client.upgrade() else { return };
            let asked = group_lag(&client, group).await;
            let fails = asked.is_err();
            let failed = std::mem::replace(&mut failing[number], fails);
            match asked {
                Ok(lags) => {
                    let is_ours = |lag: &GroupLag| topics.iter().any(|topic| **topic == *lag.topic);
                    let ours = lags.into_iter().filter(is_ours);
                    all.extend(ours.map(|lag| Watched { group: number as u16, lag }));
                }
                Err(error) if !failed => {
                    tracing::warn!(group, %error, "the lag of a group is not known");
                }
                Err(_) => {}
            }
            if failed && !fails {
                tracing::info!(group, "the lag of a group is known again");
            }
        }
        while !standings.try_replace_watched(&mut all) {
            rt::sleep_until(rt::now_ms() + TIMER_SLOT_MS).await;
        }
        rt::sleep_until(rt::now_ms() + WATCH_INTERVAL_MS).await;
    }
}
