//! Who of a group gets which partitions: what its leader computes.
//!
//! **Runs on: shard.** Pure functions, with the rules and the wire names of the Java client's
//! assignors, so that a group may have members of both. Invariants: every partition that somebody
//! subscribes to goes to exactly one subscriber; only the cooperative assignor leaves one out, until
//! its owner has given it up. Source: KIP-54, KIP-341, KIP-429, KIP-792.

use std::collections::BTreeMap;
use trine_proto::kafka::codec::{Reader, Writer};
use trine_proto::kafka::consumer_protocol::Subscription;
use trine_proto::kafka::{self};

/// A rule by which partitions are given out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Assignor {
    /// Each topic is cut into ranges, the first members get the longer ones.
    Range,
    /// All partitions in turn.
    RoundRobin,
    /// Balanced, and as many as can stay where they are; everybody stops while it is computed.
    Sticky,
    /// The same, but only what moves stops.
    #[default]
    CooperativeSticky,
}

impl Assignor {
    /// All of them.
    pub const ALL: [Self; 4] =
        [Self::Range, Self::RoundRobin, Self::Sticky, Self::CooperativeSticky];

    /// The name that members know it by.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Range => "range",
            Self::RoundRobin => "roundrobin",
            Self::Sticky => "sticky",
            Self::CooperativeSticky => "cooperative-sticky",
        }
    }

    /// Whether members keep what they have while a group rebalances.
    pub const fn is_cooperative(self) -> bool {
        matches!(self, Self::CooperativeSticky)
    }

    /// A member's metadata for JoinGroup. `had` is what it has, or had in `generation` where all is
    /// given up before joining; those of a topic side by side.
    pub fn metadata(self, topics: &[&str], had: &[(&str, i32)], generation: i32) -> Vec<u8> {
        let mut user_data = Vec::new();
        let mut to = Writer::new(&mut user_data, 0, false);
        match self {
            Self::Sticky => {
                let same = |a: &(&str, i32), b: &(&str, i32)| a.0 == b.0;
                to.count(had.chunk_by(same).count());
                for partitions in had.chunk_by(same) {
                    to.string(partitions[0].0);
                    to.items(partitions, |to, partition| to.i32(partition.1));
                }
                to.i32(generation);
            }
            Self::CooperativeSticky => to.i32(generation),
            Self::Range | Self::RoundRobin => {}
        }
        let mut metadata = Vec::new();
        let subscription = Subscription {
            topics: topics.to_vec(),
            user_data: (!user_data.is_empty()).then_some(&user_data),
            owned: if self.is_cooperative() { had.to_vec() } else { Vec::new() },
            generation: if self.is_cooperative() { generation } else { -1 },
            rack: None,
        };
        subscription.write(&mut metadata, 3);
        metadata
    }

    /// Gives out the partitions of the topics in `counts`. The answer has the members' order.
    pub fn assign<'a>(
        self,
        members: &[Member<'a>],
        counts: &BTreeMap<&'a str, u32>,
    ) -> Vec<Vec<(&'a str, i32)>> {
        let mut order: Vec<usize> = (0..members.len()).collect();
        order.sort_by_key(|&member| members[member].rank());
        let mut given = match self {
            Self::Range => range(members, &order, counts),
            Self::RoundRobin => round_robin(members, &order, counts),
            Self::Sticky | Self::CooperativeSticky => Sticky::new(members, order, counts).assign(),
        };
        if self.is_cooperative() {
            hold_back(members, &mut given);
        }
        given
    }
}

/// A member as the leader sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member<'a> {
    /// Its id.
    pub id: &'a str,
    /// Its instance id, where it is a static member.
    pub instance: Option<&'a str>,
    /// The topics that it subscribes to.
    pub topics: Vec<&'a str>,
    /// What it has, or had before it gave all up.
    pub owned: Vec<(&'a str, i32)>,
    /// The generation in which it got `owned`, -1 if unknown.
    pub generation: i32,
}

impl<'a> Member<'a> {
    /// Reads what [`Assignor::metadata`], or another client, has written.
    ///
    /// # Errors
    /// The metadata can't be read.
    pub fn parse(
        assignor: Assignor,
        id: &'a str,
        instance: Option<&'a str>,
        metadata: &'a [u8],
    ) -> Result<Self, kafka::Error> {
        let subscription = Subscription::parse(metadata)?;
        let Subscription { topics, mut owned, mut generation, user_data, .. } = subscription;
        // User data is for the assignor alone: what can't be read says nothing.
        let user_data = user_data.unwrap_or_default();
        let mut from = Reader::new(user_data, 0, false);
        match assignor {
            Assignor::Sticky => {
                (owned, generation) = previous(&mut from).unwrap_or((Vec::new(), -1));
            }
            Assignor::CooperativeSticky if generation < 0 => {
                generation = from.i32().unwrap_or(-1);
            }
            _ => {}
        }
        Ok(Self { id, instance, topics, owned, generation })
    }

    /// Static members come first, by their instance ids.
    fn rank(&self) -> (bool, &'a str) {
        (self.instance.is_none(), self.instance.unwrap_or(self.id))
    }

    fn wants(&self, topic: &str) -> bool {
        self.topics.contains(&topic)
    }
}

type Previous<'a> = (Vec<(&'a str, i32)>, i32);

/// The user data of the sticky assignor: what the member had, and since its second version when.
fn previous<'a>(from: &mut Reader<'a>) -> Result<Previous<'a>, kafka::Error> {
    let mut had = Vec::new();
    for _ in 0..from.count()? {
        let topic = from.string()?;
        had.extend(from.items(|from| Ok((topic, from.i32()?)))?);
    }
    Ok((had, from.i32().unwrap_or(-1)))
}

fn range<'a>(
    members: &[Member<'a>],
    order: &[usize],
    counts: &BTreeMap<&'a str, u32>,
) -> Vec<Vec<(&'a str, i32)>> {
    let mut given = vec![Vec::new(); members.len()];
    for (&topic, &count) in counts {
        let subscribers = order.iter().filter(|&&member| members[member].wants(topic));
        let subscribers: Vec<usize> = subscribers.copied().collect();
        let (each, more) = match subscribers.len() {
            0 => continue,
            number => (count as usize / number, count as usize % number),
        };
        let mut next = 0;
        for (at, &member) in subscribers.iter().enumerate() {
            let end = next + each + usize::from(at < more);
            given[member].extend((next..end).map(|partition| (topic, partition as i32)));
            next = end;
        }
    }
    given
}

fn round_robin<'a>(
    members: &[Member<'a>],
    order: &[usize],
    counts: &BTreeMap<&'a str, u32>,
) -> Vec<Vec<(&'a str, i32)>> {
    let mut given = vec![Vec::new(); members.len()];
    let mut next = 0;
    for (&topic, &count) in counts {
        if !order.iter().any(|&member| members[member].wants(topic)) {
            continue;
        }
        for partition in 0..count as i32 {
            while !members[order[next % order.len()]].wants(topic) {
                next += 1;
            }
            given[order[next % order.len()]].push((topic, partition));
            next += 1;
        }
    }
    given
}

/// Leaves out of a new assignment what another member than its new owner still has, or may have.
fn hold_back(members: &[Member<'_>], given: &mut [Vec<(&str, i32)>]) {
    let mut owners: BTreeMap<(&str, i32), Owner> = BTreeMap::new();
    for (number, member) in members.iter().enumerate() {
        for &partition in &member.owned {
            let owner = owners.entry(partition).or_default();
            *owner = claimed(*owner, number, member.generation);
        }
    }
    for (number, given) in given.iter_mut().enumerate() {
        let is_own = |owner: &Owner| matches!(owner, Some((owner, _, true)) if *owner == number);
        given.retain(|partition| owners.get(partition).is_none_or(is_own));
    }
}

/// A member, the generation of its claim, and whether nobody else claims the same.
type Owner = Option<(usize, i32, bool)>;

/// Who has a partition that a member claims, too: of two claims the one of the later generation
/// counts, of two of the same none.
fn claimed(before: Owner, member: usize, generation: i32) -> Owner {
    match before {
        Some((owner, ..)) if owner == member => before,
        Some((_, since, _)) if since > generation => before,
        Some((owner, since, _)) if since == generation => Some((owner, since, false)),
        _ => Some((member, generation, true)),
    }
}

/// Who gives one of which topic to whom.
type Handover = (usize, usize, usize);

/// The sticky assignment under way: everything by number.
struct Sticky<'m, 'a> {
    members: &'m [Member<'a>],
    order: Vec<usize>,
    /// Topics with the number of partitions and the members that subscribe to each.
    topics: Vec<(&'a str, u32, Vec<usize>)>,
    /// What each member has of each topic.
    held: Vec<Vec<Vec<i32>>>,
    load: Vec<usize>,
}

impl<'m, 'a> Sticky<'m, 'a> {
    fn new(members: &'m [Member<'a>], order: Vec<usize>, counts: &BTreeMap<&'a str, u32>) -> Self {
        let subscribers = |topic: &str| {
            order.iter().copied().filter(|&member| members[member].wants(topic)).collect()
        };
        let topics: Vec<_> =
            counts.iter().map(|(&topic, &count)| (topic, count, subscribers(topic))).collect();
        let held = vec![vec![Vec::new(); topics.len()]; members.len()];
        Self { members, order, topics, held, load: vec![0; members.len()] }
    }

    fn assign(mut self) -> Vec<Vec<(&'a str, i32)>> {
        let owners = self.owners();
        for (topic, owners) in owners.iter().enumerate() {
            for (partition, owner) in owners.iter().enumerate() {
                if let &Some((owner, _, true)) = owner {
                    self.give(owner, topic, partition as i32);
                }
            }
        }
        for (topic, owners) in owners.iter().enumerate() {
            for (partition, owner) in owners.iter().enumerate() {
                if matches!(owner, Some((_, _, true))) {
                    continue;
                }
                let subscribers = self.topics[topic].2.iter().copied();
                if let Some(least) = subscribers.min_by_key(|&member| self.load[member]) {
                    self.give(least, topic, partition as i32);
                }
            }
        }
        while self.improve() {}
        let topics = &self.topics;
        let named = |held: Vec<Vec<i32>>| {
            let all = held.into_iter().zip(topics).flat_map(|(mut partitions, (topic, ..))| {
                partitions.sort_unstable();
                partitions.into_iter().map(|partition| (*topic, partition))
            });
            all.collect()
        };
        self.held.into_iter().map(named).collect()
    }

    /// Who has each partition, since which generation, and whether that is beyond doubt.
    fn owners(&self) -> Vec<Vec<Owner>> {
        let none = |topic: &(&str, u32, Vec<usize>)| vec![None; topic.1 as usize];
        let mut owners: Vec<Vec<Owner>> = self.topics.iter().map(none).collect();
        for &member in &self.order {
            let generation = self.members[member].generation;
            for &(topic, partition) in &self.members[member].owned {
                let Ok(at) = self.topics.binary_search_by_key(&topic, |topic| topic.0) else {
                    continue;
                };
                let place = usize::try_from(partition).ok();
                let place = place.and_then(|place| owners[at].get_mut(place));
                let Some(place) = place.filter(|_| self.members[member].wants(topic)) else {
                    continue;
                };
                *place = claimed(*place, member, generation);
            }
        }
        owners
    }

    fn give(&mut self, member: usize, topic: usize, partition: i32) {
        self.held[member][topic].push(partition);
        self.load[member] += 1;
    }

    /// Moves partitions, one from each member to the next of a path, so that a member with many has
    /// one fewer and a member with at least two fewer has one more. Whether there was such a path:
    /// where there is none the balance is the best that the subscriptions allow.
    fn improve(&mut self) -> bool {
        let mut by_load = self.order.clone();
        by_load.sort_by_key(|&member| std::cmp::Reverse(self.load[member]));
        for source in by_load {
            let Some((path, target)) = self.path(source) else { continue };
            for (from, topic, to) in path {
                // A path only leads over what its members hold.
                if let Some(partition) = self.held[from][topic].pop() {
                    self.held[to][topic].push(partition);
                }
            }
            self.load[source] -= 1;
            self.load[target] += 1;
            return true;
        }
        false
    }

    /// The shortest path from a member to one that has at least two fewer: who gives one of which
    /// topic to whom.
    fn path(&self, source: usize) -> Option<(Vec<Handover>, usize)> {
        let mut came_from: Vec<Option<(usize, usize)>> = vec![None; self.load.len()];
        let mut is_seen = vec![false; self.topics.len()];
        let mut level = vec![source];
        while !level.is_empty() {
            let mut next = Vec::new();
            for &from in &level {
                for (topic, is_seen) in is_seen.iter_mut().enumerate() {
                    if self.held[from][topic].is_empty() || std::mem::replace(is_seen, true) {
                        continue;
                    }
                    for &to in &self.topics[topic].2 {
                        if to != source && came_from[to].is_none() {
                            came_from[to] = Some((from, topic));
                            next.push(to);
                        }
                    }
                }
            }
            let least = next.iter().copied().min_by_key(|&member| self.load[member]);
            let found = least.filter(|&member| self.load[member] + 2 <= self.load[source]);
            if let Some(target) = found {
                let mut path = Vec::new();
                let mut at = target;
                while let Some((from, topic)) = came_from[at] {
                    path.push((from, topic, at));
                    at = from;
                }
                return Some((path, target));
            }
            level = next;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const TOPICS: [&str; 3] = ["a", "b", "c"];
    const IDS: [&str; 6] = ["m0", "m1", "m2", "m3", "m4", "m5"];

    fn member<'a>(id: &'a str, topics: &[&'a str]) -> Member<'a> {
        Member { id, topics: topics.to_vec(), generation: -1, ..Member::default() }
    }

    /// The vectors are examples of the Java assignors' documentation.
    #[test]
    fn ranges_are_cut_for_each_topic_and_static_members_come_first() {
        let counts = BTreeMap::from([("a", 3), ("b", 3)]);
        let mut members = [member("m1", &["a", "b"]), member("m0", &["a", "b"])];
        let given = Assignor::Range.assign(&members, &counts);
        assert_eq!(given[1], [("a", 0), ("a", 1), ("b", 0), ("b", 1)]);
        assert_eq!(given[0], [("a", 2), ("b", 2)]);
        members[0].instance = Some("z");
        let given = Assignor::Range.assign(&members, &counts);
        assert_eq!(given[1], [("a", 2), ("b", 2)]);
    }

    #[test]
    fn round_robin_skips_who_does_not_subscribe() {
        let counts = BTreeMap::from([("a", 1), ("b", 2), ("c", 3)]);
        let members =
            [member("m0", &["a"]), member("m1", &["a", "b"]), member("m2", &["a", "b", "c"])];
        let given = Assignor::RoundRobin.assign(&members, &counts);
        assert_eq!(given[0], [("a", 0)]);
        assert_eq!(given[1], [("b", 0)]);
        assert_eq!(given[2], [("b", 1), ("c", 0), ("c", 1), ("c", 2)]);
    }

    #[test]
    fn of_two_claims_the_later_generation_counts_and_of_two_equal_ones_none() {
        let counts = BTreeMap::from([("a", 2)]);
        let claim = |id, partition, generation| Member {
            owned: vec![("a", partition)],
            generation,
            ..member(id, &["a"])
        };
        let members = [claim("m0", 0, 3), claim("m1", 0, 5)];
        let given = Assignor::CooperativeSticky.assign(&members, &counts);
        assert_eq!(given, [vec![("a", 1)], vec![("a", 0)]]);
        let members = [claim("m0", 0, 5), claim("m1", 0, 5), member("m2", &["a"])];
        let given = Assignor::Sticky.assign(&members, &counts);
        assert_eq!(given.concat().len(), 2);
    }

    /// Whom the balance gives a partition may claim it, too, and yet not have it.
    #[test]
    fn a_claim_that_does_not_count_is_not_kept_before_the_owner_has_given_up() {
        let counts = BTreeMap::from([("a", 3)]);
        let claim = |id, partitions: &[i32], generation| Member {
            owned: partitions.iter().map(|&partition| ("a", partition)).collect(),
            generation,
            ..member(id, &["a"])
        };
        let assignor = Assignor::CooperativeSticky;
        let members = [claim("m0", &[0, 1, 2], 5), claim("m1", &[2], 3)];
        let given = assignor.assign(&members, &counts);
        assert_eq!(given, [vec![("a", 0), ("a", 1)], vec![]]);
        // Each may have what both claim: it is free once both have heard that they have not.
        let members = [claim("m0", &[0, 1, 2], 5), claim("m1", &[1, 2], 5)];
        let given = assignor.assign(&members, &counts);
        assert_eq!(given, [vec![("a", 0)], vec![]]);
        let members = [claim("m0", &[0], 6), claim("m1", &[], 6)];
        assert_eq!(assignor.assign(&members, &counts).concat().len(), 3);
    }

    #[test]
    fn metadata_come_back_as_they_were_written() {
        let had = [("a", 1), ("a", 2), ("b", 0)];
        for assignor in Assignor::ALL {
            let metadata = assignor.metadata(&["a", "b"], &had, 7);
            let read = Member::parse(assignor, "m0", None, &metadata).unwrap();
            assert_eq!(read.topics, ["a", "b"]);
            match assignor {
                Assignor::Range | Assignor::RoundRobin => assert!(read.owned.is_empty()),
                _ => assert_eq!((read.owned, read.generation), (had.to_vec(), 7)),
            }
        }
        // What franz-go 1.22 writes of the same: as the sticky assignor, and with the same user data
        // as the cooperative one.
        let start = b"\0\x03\0\0\0\x02\0\x01a\0\x01b\0\0\0\x22";
        let said = b"\0\0\0\x02\0\x01a\0\0\0\x02\0\0\0\x01\0\0\0\x02\0\x01b\0\0\0\x01\0\0\0\0";
        let generation = b"\0\0\0\x07";
        let sticky = [start, &said[..], generation, b"\0\0\0\0", generation, b"\xff\xff"].concat();
        let cooperative = [start, &said[..], generation, said, generation, b"\xff\xff"].concat();
        for (assignor, metadata) in
            [(Assignor::Sticky, sticky), (Assignor::CooperativeSticky, cooperative)]
        {
            let read = Member::parse(assignor, "m0", None, &metadata).unwrap();
            assert_eq!((read.owned, read.generation), (had.to_vec(), 7), "{assignor:?}");
        }
        // A cooperative member before version 2 says its generation in the user data.
        let mut metadata = Vec::new();
        let data = 9i32.to_be_bytes();
        let old = Subscription {
            topics: vec!["a"],
            user_data: Some(&data),
            owned: vec![("a", 1)],
            ..Subscription::default()
        };
        old.write(&mut metadata, 1);
        let read = Member::parse(Assignor::CooperativeSticky, "m0", None, &metadata).unwrap();
        assert_eq!((read.owned, read.generation), (vec![("a", 1)], 9));
    }

    type Given = Vec<Vec<(&'static str, i32)>>;

    /// Each partition with a subscriber is given out once (or at most once), to a subscriber.
    fn check(members: &[Member<'static>], counts: &BTreeMap<&str, u32>, given: &Given, all: bool) {
        let mut seen = BTreeSet::new();
        for (member, given) in members.iter().zip(given) {
            for &partition in given {
                assert!(member.wants(partition.0));
                assert!(seen.insert(partition), "{partition:?} twice");
            }
        }
        let wanted = counts.iter().filter(|(topic, _)| members.iter().any(|m| m.wants(topic)));
        let wanted: usize = wanted.map(|(_, count)| *count as usize).sum();
        assert!(seen.len() <= wanted && (!all || seen.len() == wanted));
    }

    fn group() -> impl Strategy<Value = (Vec<Member<'static>>, BTreeMap<&'static str, u32>)> {
        let topics = prop::sample::subsequence(TOPICS.to_vec(), 0..=3);
        let members = prop::collection::vec(topics, 1..=6);
        (members, prop::collection::vec(0u32..12, 3)).prop_map(|(members, counts)| {
            let members = members.iter().zip(IDS).map(|(topics, id)| member(id, topics)).collect();
            (members, TOPICS.into_iter().zip(counts).collect())
        })
    }

    proptest! {
        #[test]
        fn every_partition_goes_to_one_subscriber((members, counts) in group()) {
            for assignor in Assignor::ALL {
                let given = assignor.assign(&members, &counts);
                check(&members, &counts, &given, true);
            }
        }

        #[test]
        fn equal_subscriptions_are_balanced_within_one_and_only_the_surplus_moves(
            sizes in (1usize..=6, 1usize..=6),
            counts in prop::collection::vec(0u32..12, 3),
        ) {
            let counts: BTreeMap<_, _> = TOPICS.into_iter().zip(counts).collect();
            let total: u32 = counts.values().sum();
            let make = |count: usize| IDS[..count].iter().map(|id| member(id, &TOPICS)).collect();
            let mut members: Vec<Member<'static>> = make(sizes.0);
            let before = Assignor::Sticky.assign(&members, &counts);
            for (member, given) in members.iter_mut().zip(&before) {
                (member.owned, member.generation) = (given.clone(), 1);
            }
            members.truncate(sizes.1);
            members.extend(make(sizes.1).drain(members.len()..));
            let after = Assignor::Sticky.assign(&members, &counts);
            let loads: Vec<_> = after.iter().map(Vec::len).collect();
            prop_assert!(loads.iter().max().unwrap() - loads.iter().min().unwrap() <= 1);
            // Whoever is there before and after loses only what the balance takes.
            let floor = total as usize / sizes.1;
            for (before, after) in before.iter().zip(&after) {
                let kept = before.iter().filter(|partition| after.contains(partition)).count();
                prop_assert!(kept >= before.len().min(floor), "{before:?} {after:?}");
            }
        }

        #[test]
        fn cooperative_groups_settle_and_nothing_has_two_owners_meanwhile(
            (mut members, counts) in group(),
            first in prop::collection::vec((0usize..6, 0usize..3, 0i32..12), 0..20),
        ) {
            // Any beginning in which no partition has two owners.
            let mut taken = BTreeSet::new();
            for (number, topic, partition) in first {
                let count = members.len();
                let member = &mut members[number % count];
                if member.wants(TOPICS[topic]) && taken.insert((topic, partition)) {
                    member.owned.push((TOPICS[topic], partition));
                    member.generation = 1;
                }
            }
            for round in 2..6 {
                let given = Assignor::CooperativeSticky.assign(&members, &counts);
                let held: Vec<_> = members.iter().map(|member| member.owned.clone()).collect();
                for (number, given) in given.iter().enumerate() {
                    for partition in given {
                        let other = held.iter().enumerate().find(|(other, held)| {
                            *other != number && held.contains(partition)
                        });
                        prop_assert!(other.is_none(), "{partition:?} has not been given up");
                    }
                }
                let settled = given.iter().zip(&held).all(|(given, held)| {
                    held.iter().all(|partition| given.contains(partition))
                });
                for (member, given) in members.iter_mut().zip(&given) {
                    (member.owned, member.generation) = (given.clone(), round);
                }
                if settled {
                    check(&members, &counts, &given, true);
                    return Ok(());
                }
            }
            prop_assert!(false, "it does not settle");
        }
    }
}
