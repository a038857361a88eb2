//! Background work: what commits left to be done, answers to relays, and this role's status.

pub mod authority;
pub mod outbox;
pub mod relays;
