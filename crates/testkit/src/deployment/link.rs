//! A wire that can be cut: a forwarder between a region's NATS and the hub's. Cut, it ends what is open and
//! takes nothing new, as when a network is gone and both ends have noticed.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const CHUNK_BYTES: usize = 64 * 1024;

/// Forwards connections to one address; its threads end with the process.
#[derive(Debug, Clone)]
pub struct Link {
    address: SocketAddr,
    is_cut: Arc<AtomicBool>,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Link {
    /// Listens on a free port of this machine.
    ///
    /// # Errors
    /// If there is none.
    pub fn to(target: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind((super::LOCALHOST, 0))?;
        let link = Self { address: listener.local_addr()?, is_cut: Arc::default(), open: Arc::default() };
        let accepting = link.clone();
        thread::Builder::new().name("link".into()).spawn(move || {
            for from in listener.incoming().flatten() {
                // Dropped at once while cut: the other end sees its connection closed.
                if !accepting.is_cut.load(Ordering::SeqCst) {
                    accepting.join(from, target);
                }
            }
        })?;
        Ok(link)
    }

    /// Where to connect instead.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends all connections, and lets no new one through.
    pub fn cut(&self) {
        self.is_cut.store(true, Ordering::SeqCst);
        for stream in self.lock().drain(..) {
            let _already_closed = stream.shutdown(Shutdown::Both);
        }
    }

    /// Lets new connections through again.
    pub fn heal(&self) {
        self.is_cut.store(false, Ordering::SeqCst);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<TcpStream>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn join(&self, from: TcpStream, target: SocketAddr) {
        let Ok(to) = TcpStream::connect_timeout(&target, CONNECT_TIMEOUT) else { return };
        let clones = (from.try_clone(), to.try_clone(), from.try_clone(), to.try_clone());
        let (Ok(from_2), Ok(to_2), Ok(kept_from), Ok(kept_to)) = clones else { return };
        self.lock().extend([kept_from, kept_to]);
        thread::spawn(move || forward(from, to));
        thread::spawn(move || forward(to_2, from_2));
    }
}

fn forward(mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = vec![0; CHUNK_BYTES];
    while let Ok(read) = from.read(&mut buffer) {
        if read == 0 || to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _already_closed = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
