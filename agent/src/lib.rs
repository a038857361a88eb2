//! The Breeze agent: what surrounds `breeze-agent-core` on a real machine.

pub mod os;
