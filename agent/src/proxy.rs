//! Making TCP connections, through an HTTP proxy where one is configured (CONNECT, RFC 9110 §9.3.6).

use anyhow::{Context as _, bail, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use std::{fmt, time::Duration};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use url::Url;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A proxy's answer to CONNECT, headers included.
const MAX_ANSWER_BYTES: usize = 8 * 1024;

/// Which proxy is used for which hosts.
#[derive(Clone, Default)]
pub struct ProxySettings {
    /// `http://[user:password@]host:port`
    proxy: Option<Url>,
    /// Hosts that are reached directly: names, and suffixes with a leading dot.
    direct: Vec<String>,
}

impl fmt::Debug for ProxySettings {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = self.proxy.as_ref().and_then(Url::host_str);
        f.debug_struct("ProxySettings").field("host", &host).field("direct", &self.direct).finish()
    }
}

impl ProxySettings {
    /// From a URL and a list as in `NO_PROXY`.
    ///
    /// # Errors
    /// If the URL is not one of an HTTP proxy.
    pub fn new(proxy: Option<&str>, no_proxy: &str) -> anyhow::Result<Self> {
        let proxy = proxy.filter(|text| !text.is_empty()).map(parse).transpose()?;
        let direct = no_proxy.split(',').map(|host| host.trim().to_ascii_lowercase());
        Ok(Self { proxy, direct: direct.filter(|host| !host.is_empty()).collect() })
    }

    fn for_host(&self, host: &str) -> Option<&Url> {
        let host = host.trim_matches(['[', ']']).to_ascii_lowercase();
        let direct = self.direct.iter().any(|entry| {
            entry == "*" || *entry == host || host.ends_with(&format!(".{}", entry.trim_start_matches('.')))
        });
        self.proxy.as_ref().filter(|_| !direct)
    }
}

fn parse(text: &str) -> anyhow::Result<Url> {
    let url = Url::parse(text).ok().filter(|url| url.has_host());
    // Not the text itself: it may have a password in it.
    let url = url.context("the proxy is not a URL such as http://proxy.example.com:3128")?;
    ensure!(url.scheme() == "http", "only proxies with http:// URLs are supported, not {}://", url.scheme());
    Ok(url)
}

/// Whether a host name can only mean this machine.
#[must_use]
pub fn is_loopback(host: &str) -> bool {
    host == "localhost"
        || host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Connects to `host:port`, through the proxy if it is meant for that host.
///
/// # Errors
/// In words, naming the proxy if it was the proxy's.
pub async fn dial(host: &str, port: u16, settings: &ProxySettings) -> anyhow::Result<TcpStream> {
    let Some(proxy) = settings.for_host(host) else {
        return connect(host, port).await.with_context(|| format!("cannot connect to {host}:{port}"));
    };
    let proxy_host = proxy.host_str().unwrap_or_default();
    let proxy_port = proxy.port_or_known_default().unwrap_or(3128);
    let named = || format!("through the proxy {proxy_host}:{proxy_port}");
    let mut stream = connect(proxy_host, proxy_port).await.with_context(named)?;
    timeout(CONNECT_TIMEOUT, open_tunnel(&mut stream, proxy, host, port))
        .await
        .context("the proxy does not answer")
        .flatten()
        .with_context(named)?;
    Ok(stream)
}

async fn connect(host: &str, port: u16) -> anyhow::Result<TcpStream> {
    let host = host.trim_matches(['[', ']']);
    let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect((host, port))).await.context("no answer in time")??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn open_tunnel(stream: &mut TcpStream, proxy: &Url, host: &str, port: u16) -> anyhow::Result<()> {
    let mut request = format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n");
    if !proxy.username().is_empty() {
        let decode = |text: &str| percent_decode(text);
        let credentials = format!("{}:{}", decode(proxy.username()), decode(proxy.password().unwrap_or_default()));
        request.push_str(&format!("Proxy-Authorization: Basic {}\r\n", STANDARD.encode(credentials)));
    }
    request.push_str("\r\n");
    stream.write_all(request.as_bytes()).await?;

    // Byte by byte: what follows the answer belongs to the tunnel.
    let mut answer = Vec::with_capacity(256);
    while !answer.ends_with(b"\r\n\r\n") {
        ensure!(answer.len() < MAX_ANSWER_BYTES, "its answer is too long");
        answer.push(stream.read_u8().await.context("it closed the connection")?);
    }
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.lines().next().unwrap_or_default();
    match status.split(' ').nth(1) {
        Some(code) if code.starts_with('2') => Ok(()),
        Some("407") => bail!("it asks for a user name and password: give them in the proxy's URL"),
        Some(_) | None => bail!("it refused: {}", status.chars().take(80).collect::<String>()),
    }
}

fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = (bytes[at] == b'%').then(|| text.get(at + 1..at + 3)).flatten();
        match hex.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listed_hosts_are_reached_directly() {
        let settings = ProxySettings::new(Some("http://u:p@proxy:3128"), "::1,example.com, .corp.test").expect("valid");
        for direct in ["[::1]", "example.com", "a.example.com", "x.corp.test"] {
            assert!(settings.for_host(direct).is_none(), "{direct}");
        }
        assert!(settings.for_host("notexample.com").is_some());
        assert!(!format!("{settings:?}").contains(":p"), "the password is not printed");
    }

    #[test]
    fn only_http_proxies_and_the_text_is_not_repeated() {
        let error = ProxySettings::new(Some("secret@@nonsense"), "").expect_err("no URL");
        assert!(!error.to_string().contains("secret"));
        assert!(ProxySettings::new(Some("socks5://proxy:1080"), "").is_err());
        assert_eq!(percent_decode("a%40b%zz%"), "a@b%zz%");
    }
}
