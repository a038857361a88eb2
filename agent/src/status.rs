//! What `breeze-agent status` shows: a small file that the running agent writes.

use crate::{VERSION, identity::DeviceIdentity, state_dir::StateDir};
use anyhow::Context as _;
use breeze_agent_core::{Phase, Status};
use serde::{Deserialize, Serialize};
use std::{
    fs::File,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

const STATUS_FILE: &str = "status.json";

/// The file, and what `status --json` prints. Times are seconds since the Unix epoch; 0: never.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusFile {
    pub version: String,
    /// Whether an agent runs on this state directory now.
    pub running: bool,
    pub enrolled: bool,
    pub device_id: String,
    pub server: String,
    /// "waiting", "connecting", "connected", "renew_only", "revoked", "stopped"
    pub state: String,
    pub relay: Option<String>,
    pub transport: Option<String>,
    pub observed_address: String,
    pub last_ack_s: u64,
    pub acknowledged: u64,
    pub refused: u64,
    pub spooled: u64,
    pub spooled_bytes: u64,
    pub thinned: u64,
    pub heartbeat_interval_ms: u32,
    pub certificate_expires_s: u64,
    pub renewal_trouble: String,
    pub revoked: Option<String>,
    pub trouble: String,
    pub updated_s: u64,
}

impl StatusFile {
    /// From the session.
    #[must_use]
    pub fn of(identity: &DeviceIdentity, status: &Status) -> Self {
        let state = match status.phase {
            Phase::Waiting => "waiting",
            Phase::Connecting => "connecting",
            Phase::Connected => "connected",
            Phase::RenewOnly => "renew_only",
            Phase::Revoked => "revoked",
            Phase::Stopped => "stopped",
        };
        Self {
            version: VERSION.to_owned(),
            running: status.phase != Phase::Stopped,
            enrolled: true,
            device_id: identity.device.to_string(),
            server: identity.server.clone(),
            state: state.to_owned(),
            relay: status.relay.clone(),
            transport: status.transport.map(|transport| transport.name().to_owned()),
            observed_address: status.observed_address.clone(),
            last_ack_s: status.last_ack_us / 1_000_000,
            acknowledged: status.acknowledged,
            refused: status.refused,
            spooled: status.spooled as u64,
            spooled_bytes: status.spooled_bytes,
            thinned: status.thinned,
            heartbeat_interval_ms: status.heartbeat_interval_ms,
            certificate_expires_s: status.certificate.not_after_s,
            renewal_trouble: status.renewal_trouble.clone(),
            revoked: status.revoked_reason.clone(),
            trouble: status.trouble.clone(),
            updated_s: now_s(),
        }
    }

    fn absent(identity: Option<&DeviceIdentity>) -> anyhow::Result<Self> {
        Ok(Self {
            version: VERSION.to_owned(),
            running: false,
            enrolled: identity.is_some(),
            device_id: identity.map(|identity| identity.device.to_string()).unwrap_or_default(),
            server: identity.map(|identity| identity.server.clone()).unwrap_or_default(),
            state: "stopped".into(),
            relay: None,
            transport: None,
            observed_address: String::new(),
            last_ack_s: 0,
            acknowledged: 0,
            refused: 0,
            spooled: 0,
            spooled_bytes: 0,
            thinned: 0,
            heartbeat_interval_ms: 0,
            certificate_expires_s: identity.map(DeviceIdentity::validity).transpose()?.map_or(0, |v| v.not_after_s),
            renewal_trouble: String::new(),
            revoked: None,
            trouble: String::new(),
            updated_s: 0,
        })
    }

    /// Writes it.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save(&self, dir: &StateDir) -> anyhow::Result<()> {
        dir.write_lightly(STATUS_FILE, &serde_json::to_vec_pretty(self)?)
    }

    /// Reads what is known of the agent on `path`, running or not.
    ///
    /// # Errors
    /// If a file is damaged or not readable.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let dir = StateDir::unlocked(path);
        let identity = DeviceIdentity::load(&dir)?;
        let kept = dir.read(STATUS_FILE)?.and_then(|bytes| serde_json::from_slice::<Self>(&bytes).ok());
        let kept = kept.filter(|kept| identity.as_ref().is_some_and(|own| own.device.to_string() == kept.device_id));
        let mut status = kept.map_or_else(|| Self::absent(identity.as_ref()), Ok)?;
        status.running = is_locked(path)?;
        if !status.running {
            status.state = "stopped".into();
        }
        Ok(status)
    }

    /// For people.
    #[must_use]
    pub fn describe(&self) -> String {
        if !self.enrolled {
            return "not enrolled: run `breeze-agent enroll`\n".to_owned();
        }
        let mut lines = vec![
            ("device", self.device_id.clone()),
            ("server", self.server.clone()),
            ("state", if self.running { self.state.clone() } else { "not running".into() }),
        ];
        if let (Some(relay), Some(transport), true) = (&self.relay, &self.transport, self.running) {
            lines.push(("relay", format!("{relay} over {transport}, as {}", self.observed_address)));
        }
        lines.push(("last acknowledged", ago(self.last_ack_s)));
        lines.push(("heartbeats", format!("{} acknowledged, {} refused", self.acknowledged, self.refused)));
        lines.push(("waiting", format!("{} heartbeats, {} bytes", self.spooled, self.spooled_bytes)));
        if self.thinned > 0 {
            lines.push(("thinned out", self.thinned.to_string()));
        }
        lines.push(("certificate", until(self.certificate_expires_s)));
        if !self.renewal_trouble.is_empty() {
            lines.push(("renewal", self.renewal_trouble.clone()));
        }
        if let Some(reason) = &self.revoked {
            lines.push(("revoked", if reason.is_empty() { "yes".into() } else { reason.clone() }));
        }
        if !self.trouble.is_empty() {
            lines.push(("trouble", self.trouble.clone()));
        }
        lines.into_iter().map(|(name, value)| format!("{name:<18} {value}\n")).collect()
    }
}

fn is_locked(path: &Path) -> anyhow::Result<bool> {
    let lock = path.join("lock");
    match File::open(&lock) {
        Ok(file) => Ok(matches!(file.try_lock_shared(), Err(std::fs::TryLockError::WouldBlock))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| format!("cannot open {}", lock.display())),
    }
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}

fn ago(time_s: u64) -> String {
    if time_s == 0 { "never".into() } else { format!("{} ago", span(now_s().saturating_sub(time_s))) }
}

fn until(time_s: u64) -> String {
    match time_s.checked_sub(now_s()) {
        Some(left) => format!("expires in {}", span(left)),
        None => format!("expired {}", ago(time_s)),
    }
}

fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}
