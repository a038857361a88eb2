//! The session under virtual time, over a network that loses and partitions, against a model relay.

mod random;
mod scenarios;
mod spool;
mod trust;
mod world;
