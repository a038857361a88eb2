//! Background work: what commits left to be done, answers to relays, what waits between regions, and this
//! role's status.

pub mod answering;
pub mod authority;
pub mod foreign;
pub mod outbox;
pub mod relays;
