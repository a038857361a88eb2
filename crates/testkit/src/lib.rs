//! For tests only: a network under virtual time that loses, delays, reorders and partitions by a seed;
//! with the feature `servers`, the real servers that a distributed Breeze stands on, whole systems made of
//! them, and faults for these.

#[cfg(feature = "servers")]
pub mod deployment;
pub mod net;
#[cfg(feature = "servers")]
pub mod servers;
