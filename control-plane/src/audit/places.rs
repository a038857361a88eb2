//! The places where checkpoints go, and the task that brings them there. A place that fails is tried again with
//! the next checkpoint; no request waits for it.

use super::{
    checkpoint::{Checkpoint, Notary},
    store::Store,
};
use crate::api::time::now_ms;
use anyhow::{Context as _, bail};
use async_trait::async_trait;
use breeze_store::model::audit::{AuditLog, Chain};
use std::{
    collections::BTreeMap, fs::OpenOptions, io::Write as _, os::unix::fs::OpenOptionsExt as _, path::PathBuf,
    sync::Arc, time::Duration,
};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpStream, UdpSocket},
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;

/// How long one place may take for what is brought at once.
const PATIENCE: Duration = Duration::from_secs(20);
/// Private enterprise number of the structured data: that of examples (RFC 5612), since Breeze has none.
const ENTERPRISE: &str = "breeze@32473";
/// Facility "log audit" (13), severity "notice" (5).
const PRIORITY: u8 = 13 * 8 + 5;

/// Somewhere else than the store.
#[async_trait]
pub trait Place: Send + Sync {
    /// For logs and metrics.
    fn name(&self) -> &'static str;

    /// Returns when they are there; again is harmless.
    async fn bring(&self, checkpoints: &[Checkpoint]) -> anyhow::Result<()>;
}

/// A file that lines are appended to.
#[derive(Debug)]
pub struct File(pub PathBuf);

#[async_trait]
impl Place for File {
    fn name(&self) -> &'static str {
        "file"
    }

    async fn bring(&self, checkpoints: &[Checkpoint]) -> anyhow::Result<()> {
        let path = self.0.clone();
        // One write, so that lines of two nodes do not mix. A torn line of an earlier crash is ended first.
        let text: String = checkpoints.iter().map(|checkpoint| checkpoint.line() + "\n").collect();
        tokio::task::spawn_blocking(move || {
            let mut file = OpenOptions::new()
                .create(true)
                .append(true)
                .read(true)
                .mode(0o640)
                .open(&path)
                .with_context(|| format!("cannot write {}", path.display()))?;
            trim_torn(&mut file)?;
            file.write_all(text.as_bytes())?;
            anyhow::Ok(file.sync_all()?)
        })
        .await?
    }
}

/// Takes away what follows the last line's end: its writer died half-way.
fn trim_torn(file: &mut std::fs::File) -> anyhow::Result<()> {
    use std::os::unix::fs::FileExt as _;
    let length = file.metadata()?.len();
    let from = length.saturating_sub(4096);
    let mut tail = vec![0; usize::try_from(length - from).unwrap_or(0)];
    file.read_exact_at(&mut tail, from)?;
    if tail.last().is_some_and(|last| *last != b'\n') {
        let kept = tail.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        file.set_len(from + kept as u64)?;
    }
    Ok(())
}

/// A syslog server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Syslog {
    tcp: bool,
    address: String,
}

impl Syslog {
    /// Of `udp://host:port` or `tcp://host:port`.
    ///
    /// # Errors
    /// Says what to write.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let (tcp, address) = match text.split_once("://") {
            Some(("udp", address)) => (false, address),
            Some(("tcp", address)) => (true, address),
            Some(_) | None => bail!("audit.syslog: write udp://host:port or tcp://host:port; found {text:?}"),
        };
        let port = address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
        anyhow::ensure!(port.is_some(), "audit.syslog: write host:port after {text:?}");
        Ok(Self { tcp, address: address.to_owned() })
    }
}

/// A message of RFC 5424.
fn message(checkpoint: &Checkpoint) -> String {
    let Checkpoint { instance_id, chain, sequence, mac, time_ms, signature } = checkpoint;
    let time = jiff::Timestamp::from_millisecond(i64::try_from(*time_ms).unwrap_or_default()).unwrap_or_default();
    format!(
        "<{PRIORITY}>1 {time:.3} - breeze {} audit-checkpoint [{ENTERPRISE} instance=\"{instance_id}\" chain=\"{chain}\" \
         sequence=\"{sequence}\" mac=\"{mac}\" time=\"{time_ms}\" signature=\"{signature}\"] {chain} has {sequence} entries",
        std::process::id()
    )
}

#[async_trait]
impl Place for Syslog {
    fn name(&self) -> &'static str {
        "syslog"
    }

    async fn bring(&self, checkpoints: &[Checkpoint]) -> anyhow::Result<()> {
        if self.tcp {
            let mut stream = TcpStream::connect(&self.address).await?;
            for text in checkpoints.iter().map(message) {
                // Octet counting, RFC 6587.
                stream.write_all(format!("{} {text}", text.len()).as_bytes()).await?;
            }
            return Ok(stream.shutdown().await?);
        }
        let mut addresses = tokio::net::lookup_host(&self.address).await?;
        let to = addresses.next().context("the syslog server's name has no address")?;
        let socket = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).await?;
        for text in checkpoints.iter().map(message) {
            socket.send_to(text.as_bytes(), to).await?;
        }
        Ok(())
    }
}

/// Object storage: an object a checkpoint, never overwritten.
#[derive(Debug)]
pub struct Objects(pub Arc<Store>);

#[async_trait]
impl Place for Objects {
    fn name(&self) -> &'static str {
        "store"
    }

    async fn bring(&self, checkpoints: &[Checkpoint]) -> anyhow::Result<()> {
        for checkpoint in checkpoints {
            // Numbers in the order of names.
            let name = format!("checkpoints/{}/{:020}.json", checkpoint.chain, checkpoint.sequence);
            self.0.create(&name, checkpoint.line().into()).await?;
        }
        Ok(())
    }
}

/// Publishes how far chains have come, every `period` until `stop`, and once more then.
pub async fn publish(
    log: Arc<AuditLog>,
    notary: Notary,
    places: Vec<Box<dyn Place>>,
    period: Duration,
    stop: CancellationToken,
) {
    if stop.run_until_cancelled(all_heads(&log)).await.is_none() {
        return;
    }
    // What each place has not taken yet, the newest of a chain.
    let mut waiting: Vec<BTreeMap<Chain, Checkpoint>> = places.iter().map(|_| BTreeMap::new()).collect();
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let is_last = tokio::select! {
            biased;
            () = stop.cancelled() => true,
            _ = ticks.tick() => false,
        };
        for (chain, head) in log.take_grown() {
            let checkpoint = notary.sign(chain, &head, now_ms());
            for waiting in &mut waiting {
                waiting.insert(chain, checkpoint.clone());
            }
        }
        for (place, waiting) in places.iter().zip(&mut waiting) {
            if waiting.is_empty() {
                continue;
            }
            let checkpoints: Vec<Checkpoint> = waiting.values().cloned().collect();
            let patience = if is_last { PATIENCE / 10 } else { PATIENCE };
            let brought = timeout(patience, place.bring(&checkpoints)).await;
            match brought.map_err(anyhow::Error::from).and_then(|brought| brought) {
                Ok(()) => {
                    waiting.clear();
                    metrics::counter!("breeze_audit_checkpoints_total", "place" => place.name())
                        .increment(checkpoints.len() as u64);
                }
                Err(error) => {
                    metrics::counter!("breeze_audit_checkpoint_failures_total", "place" => place.name()).increment(1);
                    let error = format!("{error:#}");
                    tracing::warn!(place = place.name(), error, "checkpoints of the audit log wait");
                }
            }
        }
        if is_last {
            return;
        }
    }
}

/// Every chain's head, once: what a killed process appended and did not publish is covered by this.
async fn all_heads(log: &AuditLog) {
    let chains = match log.chains().await {
        Ok(chains) => chains,
        Err(error) => {
            tracing::warn!(%error, "cannot see the chains of the audit log");
            return;
        }
    };
    for chain in chains {
        match log.mend(chain).await {
            Ok(Some(head)) => log.put_grown(chain, head),
            Ok(None) => {}
            Err(error) => tracing::warn!(%chain, %error, "cannot read the head of an audit chain"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt as _;

    fn checkpoint(sequence: u64) -> Checkpoint {
        Checkpoint {
            instance_id: "i".into(),
            chain: "instance".into(),
            sequence,
            mac: "ab".into(),
            time_ms: 1_764_000_000_123,
            signature: "cd".into(),
        }
    }

    #[test]
    fn addresses() {
        assert!(Syslog::parse("udp://logs:514").is_ok() && Syslog::parse("tcp://[::1]:601").is_ok());
        for wrong in ["logs:514", "http://logs:514", "udp://logs"] {
            assert!(Syslog::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[tokio::test]
    async fn syslog_gets_messages_of_rfc_5424_over_both_transports() {
        let expected = "<109>1 2025-11-24T16:00:00.123Z - breeze ";
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("binds");
        let url = format!("udp://{}", socket.local_addr().expect("bound"));
        Syslog::parse(&url).expect("valid").bring(&[checkpoint(3)]).await.expect("sent");
        let mut buffer = [0; 2048];
        let length = socket.recv(&mut buffer).await.expect("received");
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        assert!(text.starts_with(expected), "{text}");
        assert!(
            text.contains("audit-checkpoint [breeze@32473 instance=\"i\" chain=\"instance\" sequence=\"3\""),
            "{text}"
        );

        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let url = format!("tcp://{}", listener.local_addr().expect("bound"));
        let reading = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("accepts");
            let mut text = String::new();
            stream.read_to_string(&mut text).await.expect("reads");
            text
        });
        Syslog::parse(&url).expect("valid").bring(&[checkpoint(1), checkpoint(2)]).await.expect("sent");
        let text = reading.await.expect("ends");
        let (length, rest) = text.split_once(' ').expect("counted");
        let (first, second) = rest.split_at(length.parse().expect("a number"));
        assert!(first.starts_with(expected) && second.contains("sequence=\"2\""), "{text}");
    }

    #[tokio::test]
    async fn a_torn_line_is_taken_away_before_the_next() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("checkpoints");
        let file = File(path.clone());
        file.bring(&[checkpoint(1)]).await.expect("written");
        let whole = std::fs::read_to_string(&path).expect("there");
        std::fs::write(&path, format!("{whole}{{\"torn")).expect("written");
        file.bring(&[checkpoint(2)]).await.expect("written");
        let text = std::fs::read_to_string(&path).expect("there");
        assert_eq!(text, format!("{}\n{}\n", checkpoint(1).line(), checkpoint(2).line()));
    }
}
