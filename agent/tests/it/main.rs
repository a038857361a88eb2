//! The agent as a process against a small server of the tests' own: enrolment over HTTP, a relay over
//! QUIC and over WebSocket, with real certificates and real documents.

mod agent;
mod authority;
mod cli;
mod enrolment;
mod peer;
mod session;
