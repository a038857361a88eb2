//! The collector at its boundaries: what goes into the lanes' streams and what comes out of the
//! stores and the bus, with stores that stop at any step.

mod crash;
mod embedded;
mod features;
mod forward;
mod handover;
mod kill;
mod nats;
mod pause;
mod pressure;
mod world;
