//! For tests only: a network under virtual time that loses, delays, reorders and partitions by a seed.

pub mod net;
