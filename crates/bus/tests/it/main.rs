//! The bus's backends against the conformance suite, and the embedded one against crashes and full disks.

#![expect(clippy::print_stderr, reason = "a test that cannot run here says why")]

mod conformance;
mod crash;
mod embedded;
mod image;
mod nats;
mod nats_server;
mod nats_system;
