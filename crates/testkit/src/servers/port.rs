//! Ports for servers that are started again on the same one.

use rand::RngExt as _;
use std::{
    collections::BTreeSet,
    net::{IpAddr, TcpListener},
    sync::Mutex,
};

/// Below what the kernel gives to outgoing connections, so that none of those takes the port of a server
/// that is down for a while.
const RANGE: std::ops::Range<u16> = 12_000..32_000;
/// Tries until something must be wrong with the machine.
const TRIES: u32 = 1_000;

/// A TCP port that nobody listens on at `address`, and that this process was not given before.
///
/// # Errors
/// If none is found.
pub fn free_port(address: IpAddr) -> anyhow::Result<u16> {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut given = GIVEN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    for _ in 0..TRIES {
        let port = rand::rng().random_range(RANGE);
        if !given.contains(&port) && TcpListener::bind((address, port)).is_ok() {
            given.insert(port);
            return Ok(port);
        }
    }
    anyhow::bail!("no free port at {address}")
}
