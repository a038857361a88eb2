//! State and metrics of Breeze, each behind one small trait, and the embedded engine of both.
//!
//! - [`state`]: configuration, device state and logs. Two kinds of write that the types never let
//!   meet on one row: [`state::State::commit`] and [`state::State::merge`].
//! - [`history`]: what happened to devices, and what their inventories were.
//! - [`metrics`]: time series. Idempotent appends, bounded queries.
//! - [`model`]: the entities, written once above the state trait. Raw handles stay in this crate's
//!   callers' composition root; tenants' data is reached through `model`, with a [`model::Scope`].

pub mod history;
pub mod metrics;
pub mod model;
pub mod state;
