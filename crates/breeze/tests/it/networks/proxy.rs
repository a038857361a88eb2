//! An HTTP proxy that knows CONNECT and Basic authentication, and nothing else.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

#[derive(Debug, Default)]
struct Counts {
    tunnels: AtomicU32,
    refusals: AtomicU32,
}

/// Its threads live as long as the test's process.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) port: u16,
    counts: Arc<Counts>,
}

impl Proxy {
    pub(crate) fn start(host: &str, user: &str, password: &str) -> io::Result<Self> {
        let listener = TcpListener::bind((host, 0))?;
        let port = listener.local_addr()?.port();
        let counts = Arc::new(Counts::default());
        let wanted = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
        let shared = Arc::clone(&counts);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (wanted, counts) = (wanted.clone(), Arc::clone(&shared));
                thread::spawn(move || serve(client, &wanted, &counts));
            }
        });
        Ok(Self { port, counts })
    }

    /// Opened so far.
    pub(crate) fn tunnels(&self) -> u32 {
        self.counts.tunnels.load(Ordering::Relaxed)
    }

    /// For a wrong password.
    pub(crate) fn refusals(&self) -> u32 {
        self.counts.refusals.load(Ordering::Relaxed)
    }
}

fn serve(mut client: TcpStream, wanted: &str, counts: &Counts) -> io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let mut request = String::new();
    reader.read_line(&mut request)?;
    let mut allowed = false;
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? == 0 || header.trim().is_empty() {
            break;
        }
        let credentials = header.split_once(": ").filter(|(name, _)| name.eq_ignore_ascii_case("proxy-authorization"));
        allowed |= credentials.is_some_and(|(_, value)| value.trim() == wanted);
    }
    if !allowed {
        counts.refusals.fetch_add(1, Ordering::Relaxed);
        return client.write_all(
            b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"test\"\r\nContent-Length: 0\r\n\r\n",
        );
    }
    let target = request.split(' ').nth(1).unwrap_or_default();
    let mut server = TcpStream::connect(target)?;
    counts.tunnels.fetch_add(1, Ordering::Relaxed);
    client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
    let (mut down, mut back) = (server.try_clone()?, client.try_clone()?);
    thread::spawn(move || {
        let _ended = io::copy(&mut down, &mut back);
        let _closed = back.shutdown(Shutdown::Write);
    });
    io::copy(&mut reader, &mut server)?;
    server.shutdown(Shutdown::Write)
}
