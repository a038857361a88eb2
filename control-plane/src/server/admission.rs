//! How many connections the API holds, in all and of one network: those beyond are closed before
//! they cost a TLS handshake.

use crate::api::rate::network;
use axum_server::accept::Accept;
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    future::{Ready, ready},
    io,
    net::IpAddr,
    sync::Arc,
    task::{Context, Poll},
};
use tokio::net::TcpStream;
use tower::Service;

/// Connections at a time.
pub(super) const MAX_CONNECTIONS: usize = 4_096;
/// Connections at a time of one network ([`network`]): enough for a site's machines that enrol at
/// once behind one address, and an eighth of all. This machine and trusted proxies, who speak for
/// many, are bounded by [`MAX_CONNECTIONS`] alone.
pub(super) const MAX_CONNECTIONS_PER_NETWORK: usize = 512;

/// Admits a bounded number of connections.
#[derive(Debug, Clone)]
pub(super) struct Admission {
    open: Arc<Mutex<Open>>,
    trusted: Arc<[IpAddr]>,
}

#[derive(Debug, Default)]
struct Open {
    all: usize,
    /// Networks with at least one connection; so never more than [`MAX_CONNECTIONS`].
    of: HashMap<IpAddr, usize>,
}

impl Admission {
    /// `trusted` are proxies: not bounded as one network.
    pub(super) fn new(trusted: &[IpAddr]) -> Self {
        Self { open: Arc::default(), trusted: trusted.iter().map(IpAddr::to_canonical).collect() }
    }

    fn admit(&self, address: IpAddr) -> Result<Place, &'static str> {
        let address = address.to_canonical();
        let network = network(address);
        let exempt = address.is_loopback() || self.trusted.contains(&address);
        let mut open = self.open.lock();
        let of_network = open.of.get(&network).copied().unwrap_or(0);
        let refused = if open.all >= MAX_CONNECTIONS {
            Some("all")
        } else if !exempt && of_network >= MAX_CONNECTIONS_PER_NETWORK {
            Some("network")
        } else {
            None
        };
        if let Some(bound) = refused {
            metrics::counter!("breeze_api_connections_refused_total", "bound" => bound).increment(1);
            return Err(bound);
        }
        open.all += 1;
        open.of.insert(network, of_network + 1);
        drop(open);
        Ok(Place { open: Arc::clone(&self.open), network })
    }
}

/// A connection that counts until this is dropped.
#[derive(Debug)]
struct Place {
    open: Arc<Mutex<Open>>,
    network: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.open.lock();
        open.all = open.all.saturating_sub(1);
        match open.of.get_mut(&self.network) {
            Some(count) if *count > 1 => *count -= 1,
            Some(_) | None => {
                open.of.remove(&self.network);
            }
        }
    }
}

impl<S> Accept<TcpStream, S> for Admission {
    type Stream = TcpStream;
    type Service = Admitted<S>;
    type Future = Ready<io::Result<(TcpStream, Admitted<S>)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        let admitted = stream.peer_addr().and_then(|peer| {
            let refused = |bound| io::Error::other(format!("too many connections ({bound})"));
            let place = self.admit(peer.ip()).map_err(refused)?;
            stream.set_nodelay(true)?;
            Ok(place)
        });
        ready(admitted.map(|place| (stream, Admitted { service, _place: Arc::new(place) })))
    }
}

/// The service of one connection, which counts until it is dropped.
#[derive(Debug, Clone)]
pub(super) struct Admitted<S> {
    service: S,
    _place: Arc<Place>,
}

impl<S: Service<R>, R> Service<R> for Admitted<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: R) -> S::Future {
        self.service.call(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("address")
    }

    #[test]
    fn one_network_does_not_take_every_place() {
        let admission = Admission::new(&[address("192.0.2.9")]);
        let admit = |text: &str| admission.admit(address(text));
        let mut held: Vec<_> =
            (0..MAX_CONNECTIONS_PER_NETWORK).map(|_| admit("203.0.113.1").expect("within the bound")).collect();
        assert_eq!(admit("203.0.113.1").map(drop), Err("network"));
        assert_eq!(admit("::ffff:203.0.113.1").map(drop), Err("network"), "the same address");
        assert!(admit("203.0.113.2").is_ok());
        held.pop();
        assert!(admit("203.0.113.1").is_ok());

        let _sixes: Vec<_> = (0..MAX_CONNECTIONS_PER_NETWORK)
            .map(|n| admit(&format!("2001:db8::{n:x}")).expect("within the bound"))
            .collect();
        assert_eq!(admit("2001:db8::ffff:1").map(drop), Err("network"), "an IPv6 user has a whole /64");
        assert!(admit("2001:db8:0:1::1").is_ok());
    }

    #[test]
    fn proxies_and_this_machine_may_have_all_but_no_more() {
        let admission = Admission::new(&[address("192.0.2.9")]);
        let half = MAX_CONNECTIONS / 2;
        let held: Vec<_> = (0..half)
            .flat_map(|_| ["127.0.0.1", "192.0.2.9"])
            .map(|text| admission.admit(address(text)).expect("within the bound"))
            .collect();
        assert_eq!(admission.admit(address("127.0.0.1")).map(drop), Err("all"));
        drop(held);
        let open = admission.open.lock();
        assert_eq!((open.all, open.of.len()), (0, 0), "nothing is left behind");
    }
}
