//! For tests only: a network under virtual time that loses, delays, reorders and partitions by a seed;
//! and, with the feature `servers`, the real servers that a distributed Breeze stands on.

pub mod net;
#[cfg(feature = "servers")]
pub mod servers;
