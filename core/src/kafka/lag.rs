//! How far other groups are behind, for monitoring.
//!
//! **Runs on: shard.** A task of its own with connections of its own, so that nothing of the data path
//! waits for it; every answer has the connection's deadline. What a broker does not say is left out.

use super::client::{Client, open};
use super::cluster::Cluster;
use super::connection::{Connection, Error, What};
use std::collections::BTreeMap;
use std::rc::Rc;
use trine_proto::kafka::{
    ErrorCode, Membership, find_coordinator, list_offsets, metadata, offset_fetch,
};

/// How far a group is behind in a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupLag {
    /// The topic's name.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The offset that the group goes on at.
    pub committed: i64,
    /// Where the partition ends: its high watermark.
    pub end_offset: i64,
}

/// Asks for what a group has committed and where its partitions end, by topic and partition.
///
/// # Errors
/// A broker could not be asked, or it refuses.
pub async fn group_lag(client: &Client, group: &str) -> Result<Vec<GroupLag>, Rc<Error>> {
    let place = client.cluster().borrow_mut().any();
    let Some(place) = place else { return Ok(Vec::new()) };
    let any = open(client, place).await?;
    let result = ask(client, &any, group).await;
    any.close();
    result
}

async fn ask(client: &Client, any: &Connection, group: &str) -> Result<Vec<GroupLag>, Rc<Error>> {
    let keys = [group];
    let request = find_coordinator::Request { kind: find_coordinator::Kind::Group, keys: &keys };
    let (body, version) = any.request(&request).await?;
    let found = any.read(&request, &body, version)?;
    let refused = |error| any.error(What::Refused(find_coordinator::API.name, error));
    let found = found.coordinators.first().copied();
    let found = found.ok_or_else(|| refused(ErrorCode::COORDINATOR_NOT_AVAILABLE))?;
    if !found.error.is_none() {
        return Err(refused(found.error));
    }
    // Places of this question's own: the client's table is for what it reads and writes itself.
    let mut cluster = client.cluster().borrow().of_same_place();
    cluster.add_brokers(&[found.broker]);
    let committed = match cluster.place(found.broker.id) {
        Some(place) => {
            let coordinator = open(client, place).await?;
            let committed = committed(&coordinator, group).await;
            coordinator.close();
            committed?
        }
        None => return Ok(Vec::new()),
    };
    ends(client, any, cluster, committed).await
}

type Committed = BTreeMap<(String, i32), i64>;

async fn committed(coordinator: &Connection, group: &str) -> Result<Committed, Rc<Error>> {
    let request = offset_fetch::Request {
        membership: Membership::of_group(group),
        partitions: None,
        require_stable: false,
    };
    let (body, version) = coordinator.request(&request).await?;
    let response = coordinator.read(&request, &body, version)?;
    if !response.error.is_none() {
        return Err(coordinator.error(What::Refused(offset_fetch::API.name, response.error)));
    }
    let known = response.partitions.iter().filter(|found| found.offset >= 0);
    Ok(known.map(|at| ((at.topic.to_owned(), at.partition), at.offset)).collect())
}

/// Asks each leader where its partitions end.
async fn ends(
    client: &Client,
    any: &Connection,
    mut cluster: Cluster,
    committed: Committed,
) -> Result<Vec<GroupLag>, Rc<Error>> {
    let mut topics: Vec<&str> = committed.keys().map(|(topic, _)| &**topic).collect();
    topics.dedup();
    let request = metadata::Request { topics: Some(&topics), create_topics: false };
    let (body, version) = any.request(&request).await?;
    for topic in &topics {
        cluster.topic(topic);
    }
    cluster.update(&any.read(&request, &body, version)?);
    let mut by_leader: BTreeMap<i32, Vec<list_offsets::Partition<'_>>> = BTreeMap::new();
    for (topic, partition) in committed.keys() {
        let number = cluster.find(&trine_proto::kafka::Topic::named(topic));
        let leaders = number.map(|number| &cluster.get(number).leaders);
        let leader = usize::try_from(*partition).ok().zip(leaders);
        let Some(leader) = leader.and_then(|(at, leaders)| leaders.get(at)) else { continue };
        by_leader.entry(leader.id).or_default().push(list_offsets::Partition {
            topic,
            partition: *partition,
            leader_epoch: leader.epoch,
            timestamp_ms: list_offsets::LATEST,
        });
    }
    let mut lags = Lags::new();
    for (leader, partitions) in &by_leader {
        let Some(place) = cluster.place(*leader) else { continue };
        let connection = open(client, place).await?;
        let timeout_ms = i32::try_from(client.settings().request_timeout_ms).unwrap_or(i32::MAX);
        let request = list_offsets::Request { read_committed: false, partitions, timeout_ms };
        let answer = connection.request(&request).await;
        connection.close();
        let (body, version) = answer?;
        let response = connection.read(&request, &body, version)?;
        add(&mut lags, &committed, &response);
    }
    Ok(lags.into_values().collect())
}

type Lags = BTreeMap<(String, i32), GroupLag>;

/// Adds what a leader says of where partitions end, those that nothing was committed of left out.
fn add(lags: &mut Lags, committed: &Committed, response: &list_offsets::Response<'_>) {
    for found in response.partitions.iter().filter(|found| found.error.is_none()) {
        let (topic, partition) = (found.topic.to_owned(), found.partition);
        let place = (topic.clone(), partition);
        let Some(&committed) = committed.get(&place) else { continue };
        lags.insert(place, GroupLag { topic, partition, committed, end_offset: found.offset });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_has_one_lag_however_often_it_is_named() {
        let committed = Committed::from([(("a".to_owned(), 0), 3), (("a".to_owned(), 1), 4)]);
        let listed = |partition, offset, error| list_offsets::Listed {
            topic: "a",
            partition,
            error,
            timestamp_ms: -1,
            offset,
            leader_epoch: -1,
        };
        let refused = ErrorCode::NOT_LEADER_OR_FOLLOWER;
        let none = ErrorCode::NONE;
        let partitions = vec![
            listed(1, 9, none),
            listed(0, -1, refused),
            listed(2, 9, none),
            listed(1, 8, none),
        ];
        let mut lags = Lags::new();
        add(&mut lags, &committed, &list_offsets::Response { throttle_ms: 0, partitions });
        let lag = GroupLag { topic: "a".into(), partition: 1, committed: 4, end_offset: 8 };
        assert_eq!(lags.into_values().collect::<Vec<_>>(), [lag]);
    }
}
