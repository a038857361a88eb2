//! The spool by itself, through a session that never connects.

use crate::world::{MINUTE, World};
use breeze_agent_core::{Entry, Limits, MemoryStorage, Spool, Storage as _};
use breeze_proto::v1::{Heartbeat, Scalars};
use prost::Message as _;

fn entry(n: u64) -> Entry {
    let scalars = Scalars { net_in_bytes: 1, net_out_bytes: n, ..Scalars::default() };
    Entry { heartbeat: Some(Heartbeat { wall_us: n, scalars: Some(scalars), ..Heartbeat::default() }), server_us: 0 }
}

#[test]
fn a_full_spool_thins_out_its_oldest_and_keeps_the_sums() {
    let mut spool = Spool::open(MemoryStorage::default(), Limits { entries: 100, bytes: 1 << 20 }).expect("opens");
    for n in 1..=1_000 {
        spool.append(&entry(n), true);
        assert!(spool.len() <= 100);
    }
    let mut kept = Vec::new();
    spool
        .storage()
        .load(&mut |key, value| {
            if key > 0 {
                kept.push(Entry::decode(value).expect("decodes").heartbeat.expect("a heartbeat"));
            }
        })
        .expect("loads");
    let sum = |field: fn(&Scalars) -> u64| kept.iter().map(|beat| field(&beat.scalars.expect("scalars"))).sum::<u64>();
    assert_eq!(sum(|scalars| scalars.net_in_bytes), 1_000, "every byte of traffic is still there");
    assert_eq!(sum(|scalars| scalars.net_out_bytes), 500_500);
    assert_eq!(spool.counters().thinned as usize, 1_000 - kept.len(), "drops are counted");
    assert!(kept.iter().any(|beat| beat.wall_us < 300), "something is left of the old");
    let newest: Vec<u64> = kept.iter().rev().take(24).map(|beat| beat.wall_us).collect();
    assert!(newest.iter().copied().eq((977..=1_000).rev()), "the new is untouched: {newest:?}");
}

#[test]
fn a_full_disk_is_survived_in_memory_and_mended_later() {
    let mut spool = Spool::open(MemoryStorage::default(), Limits::default()).expect("opens");
    spool.storage().set_full(true);
    for n in 1..=300 {
        spool.append(&entry(n), true);
    }
    assert!(spool.trouble().is_some());
    assert_eq!(spool.len(), 256, "the newest are held in memory, and no more");
    assert_eq!(spool.counters().thinned, 44);
    spool.storage().set_full(false);
    spool.append(&entry(301), true);
    spool.flush();
    assert!(spool.trouble().is_none());
    let copy = spool.storage().clone();
    assert_eq!(Spool::open(copy, Limits::default()).expect("opens").len(), 257, "all are on the disk now");
}

#[test]
fn a_day_offline_arrives_complete_with_the_live_ones_in_front() {
    let mut world = World::new(11);
    world.troubles.down = [true, true];
    world.run(24 * 60 * MINUTE);
    assert!(world.region.stored.is_empty());
    let waiting = world.taken.len();
    assert!((1_300..1_600).contains(&waiting), "{waiting} heartbeats in a day");
    world.heal();
    world.run(20 * MINUTE);
    world.check();
    assert_eq!(world.region.net_in_bytes, 10 * world.region.stored.len() as u64);
}
