//! Where a device's data lives: 1,024 virtual shards, fixed for ever, and the lanes they ride on.
//!
//! A shard is the top ten bits of XXH3-64 (seed 0) over the device id's 16 bytes in network order.
//! A device's state is keyed by shard. What was received is kept by lane: a region's number of lanes is
//! recorded when it begins, and only a migration may re-cut it.

use crate::id::DeviceId;
use std::fmt;

/// Number of virtual shards. Changing it would be a rewrite.
pub const SHARDS: u16 = 1024;
/// Most lanes that a region may have.
pub const MAX_LANES: u16 = 16;

/// A virtual shard, below [`SHARDS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shard(u16);

impl Shard {
    /// The shard of a device.
    #[must_use]
    pub fn of(device: DeviceId) -> Self {
        let hash = xxhash_rust::xxh3::xxh3_64(&device.to_bytes());
        Self((hash >> 54) as u16)
    }

    /// `None` at or above [`SHARDS`].
    #[must_use]
    pub const fn new(number: u16) -> Option<Self> {
        if number < SHARDS { Some(Self(number)) } else { None }
    }

    #[must_use]
    pub const fn number(self) -> u16 {
        self.0
    }

    /// The lane that this shard rides on in a region with `lanes` lanes.
    #[must_use]
    pub const fn lane(self, lanes: LaneCount) -> LaneId {
        LaneId(self.0 % lanes.0)
    }
}

/// How many lanes a region has: 1 to [`MAX_LANES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneCount(u16);

impl LaneCount {
    #[must_use]
    pub const fn new(count: u16) -> Option<Self> {
        if count >= 1 && count <= MAX_LANES { Some(Self(count)) } else { None }
    }

    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }

    /// Every lane.
    pub fn lanes(self) -> impl Iterator<Item = LaneId> {
        (0..self.0).map(LaneId)
    }
}

/// A lane of a region's bus, below its [`LaneCount`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneId(u16);

impl LaneId {
    #[must_use]
    pub const fn number(self) -> u16 {
        self.0
    }
}

/// Where an entry of a foreign stream belongs at home: two bytes before its batch. The second is the lane
/// by the number of lanes that the region which stored it has. The first is 0, or says that the home has
/// another number, and which: then each device's lane is to be found anew. Whoever knows of no first byte
/// sees a lane that there is not, and keeps the entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ForeignLane {
    pub lane: u8,
    /// What the home has, where it is not what the storing region has.
    pub home_lanes: Option<LaneCount>,
}

impl ForeignLane {
    #[must_use]
    pub fn to_bytes(self) -> [u8; 2] {
        [self.home_lanes.map_or(0, |lanes| lanes.0 as u8), self.lane]
    }

    /// `None` for a number of lanes that no region has.
    #[must_use]
    pub const fn from_bytes([home_lanes, lane]: [u8; 2]) -> Option<Self> {
        if home_lanes == 0 {
            return Some(Self { lane, home_lanes: None });
        }
        match LaneCount::new(home_lanes as u16) {
            Some(lanes) => Some(Self { lane, home_lanes: Some(lanes) }),
            None => None,
        }
    }
}

impl fmt::Display for LaneId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Test vectors: another implementation must give the same shards.
    #[test]
    fn shards_are_fixed_for_ever() {
        for (id, shard) in [
            ("00000000-0000-0000-0000-000000000000", VECTOR_0),
            ("018f3f3e-7a1c-7000-8000-000000000001", VECTOR_1),
            ("ffffffff-ffff-ffff-ffff-ffffffffffff", VECTOR_2),
        ] {
            let device: DeviceId = id.parse().expect("a valid id");
            assert_eq!(Shard::of(device).number(), shard, "{id}");
        }
    }

    const VECTOR_0: u16 = 834;
    const VECTOR_1: u16 = 797;
    const VECTOR_2: u16 = 456;

    #[test]
    fn the_lane_of_a_foreign_entry_is_two_bytes() {
        let four = LaneCount::new(4);
        for (lane, home_lanes, bytes) in [(3, None, [0, 3]), (15, None, [0, 15]), (7, four, [4, 7])] {
            let foreign = ForeignLane { lane, home_lanes };
            assert_eq!((foreign.to_bytes(), ForeignLane::from_bytes(bytes)), (bytes, Some(foreign)));
        }
        assert_eq!(ForeignLane::from_bytes([17, 0]), None);
    }

    #[test]
    fn lanes_cover_all_shards_evenly() {
        let lanes = LaneCount::new(16).expect("16 is allowed");
        let mut count = [0; 16];
        for number in 0..SHARDS {
            let shard = Shard::new(number).expect("below SHARDS");
            count[usize::from(shard.lane(lanes).number())] += 1;
        }
        assert!(count.iter().all(|c| *c == 64));
        assert!(LaneCount::new(0).is_none() && LaneCount::new(17).is_none());
    }
}
