//! The control plane over real HTTP on loopback, above the in-memory store and bus.

mod audit;
mod audit_archive;
mod auth;
mod authorization;
mod conventions;
mod devices;
mod directory;
mod enrollment;
mod faults;
mod filter;
mod limits;
mod live;
mod setup;
mod support;
mod trust;
mod two_nodes;
mod web;
