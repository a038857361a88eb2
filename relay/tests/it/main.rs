//! The relay as agents and other roles meet it: real QUIC and WebSocket connections on loopback, with
//! an in-memory bus.

mod client;
mod guests;
mod identity;
mod lifecycle;
mod measure;
mod pki;
mod sessions;
mod world;
