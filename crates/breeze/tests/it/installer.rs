//! A server on every address with a certificate of its own authority, and the installer's line as a
//! person would paste it: in a mount namespace in which the folders that it writes are empty and ours,
//! with a `systemctl` that starts what the unit says.

use crate::support::{
    Options, System,
    process::{Process, eventually, is_root, program, said, skip},
};
use anyhow::{Context, ensure};
use reqwest::StatusCode;
use serde_json::{Value, json};
use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

const BINARY: &str = "usr/local/bin/breeze-agent";
const UNIT: &str = "etc/systemd/system/breeze-agent.service";
const UNINSTALL: &str = "/usr/local/sbin/breeze-agent-uninstall";
const STATE: &str = "var/lib/breeze-agent";

/// What the script writes to is empty; the packages of this machine can still be read.
const MOUNTS: &str = r#"set -e
mkdir -p "$MACHINE/dpkg"
if [ -d /var/lib/dpkg ]; then mount --bind /var/lib/dpkg "$MACHINE/dpkg"; fi
for folder in /usr/local /etc/systemd /etc/default /var/lib; do mount -t tmpfs -o mode=0755 tmpfs "$folder"; done
mkdir -p /etc/systemd/system /var/lib/dpkg
mount --bind "$MACHINE/dpkg" /var/lib/dpkg
touch "$MACHINE/mounted"
exec sleep 3600
"#;

/// Knows one service, which it starts as the unit says and finds again by its pid.
const SYSTEMCTL: &str = r#"#!/bin/sh
echo "$*" >>"$MACHINE/systemctl.log"
stop() {
    if [ -s "$MACHINE/agent.pid" ]; then
        kill "$(cat "$MACHINE/agent.pid")" 2>/dev/null
        while kill -0 "$(cat "$MACHINE/agent.pid")" 2>/dev/null; do sleep 0.1; done
        rm "$MACHINE/agent.pid"
    fi
}
case $1 in
    restart)
        stop
        $(sed -n 's/^ExecStart=//p' /etc/systemd/system/breeze-agent.service) >>"$MACHINE/agent.log" 2>&1 </dev/null &
        echo $! >"$MACHINE/agent.pid" ;;
    disable) stop ;;
    daemon-reload | enable) ;;
    *) echo "unexpected: systemctl $*" >&2; exit 1 ;;
esac
"#;

/// A machine's folders, empty, for as long as the test runs.
struct Machine {
    holder: Process,
    work: PathBuf,
}

impl Machine {
    async fn start(work: PathBuf) -> anyhow::Result<Self> {
        let programs = work.join("bin");
        fs::create_dir_all(&programs)?;
        for (name, text) in [("systemctl", SYSTEMCTL), ("sudo", "#!/bin/sh\nexec \"$@\"\n")] {
            fs::write(programs.join(name), text)?;
            fs::set_permissions(programs.join(name), fs::Permissions::from_mode(0o755))?;
        }
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", MOUNTS]).env("MACHINE", &work);
        let machine = Self { holder: Process::start(&mut command, &work.join("mounts.log"))?, work };
        let mounted = async || Ok(machine.work.join("mounted").exists().then_some(()));
        let waited = eventually("the folders are mounted", mounted).await;
        waited.with_context(|| fs::read_to_string(machine.work.join("mounts.log")).unwrap_or_default())?;
        Ok(machine)
    }

    /// Runs a line in a shell on it, as a person who is root does.
    fn shell(&self, line: &str) -> anyhow::Result<Output> {
        let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", self.work.join("bin").display());
        let mut command = Command::new("nsenter");
        command.args(["--mount", "--target", &self.holder.pid().to_string(), "sh", "-c", line]);
        command.env("PATH", path).env("MACHINE", &self.work);
        for proxy in ["HTTPS_PROXY", "https_proxy", "BREEZE_PROXY"] {
            command.env_remove(proxy);
        }
        command.stdin(Stdio::null()).output().context("nsenter")
    }

    /// A path of it as this test reaches it.
    fn path(&self, path: &str) -> PathBuf {
        Path::new("/proc").join(self.holder.pid().to_string()).join("root").join(path)
    }

    fn mode(&self, path: &str) -> anyhow::Result<u32> {
        Ok(fs::metadata(self.path(path)).with_context(|| path.to_owned())?.permissions().mode() & 0o7777)
    }

    /// The running agent, if there is one.
    fn agent(&self) -> Option<String> {
        let pid = fs::read_to_string(self.work.join("agent.pid")).ok()?;
        let pid = pid.trim().to_owned();
        Path::new("/proc").join(&pid).exists().then_some(pid)
    }

    fn identity(&self) -> anyhow::Result<Value> {
        Ok(serde_json::from_slice(&fs::read(self.path(STATE).join("identity.json"))?)?)
    }

    fn asked_of_systemd(&self) -> Vec<String> {
        let log = fs::read_to_string(self.work.join("systemctl.log")).unwrap_or_default();
        log.lines().map(str::to_owned).collect()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(pid) = self.agent() {
            let _already_gone = Command::new("kill").args(["-9", &pid]).status();
        }
    }
}

async fn line(system: &System, name: &str) -> anyhow::Result<(String, String)> {
    let key = system.make_key(json!({ "name": name })).await?;
    let text = |value: &Value| value.as_str().map(str::to_owned).context("text");
    Ok((text(&key["install"]["linux"])?, text(&key["key"])?))
}

async fn everywhere(folder: &Path) -> anyhow::Result<System> {
    let binaries = folder.join("binaries");
    fs::create_dir(&binaries)?;
    for architecture in ["amd64", "arm64"] {
        symlink(program("breeze-agent"), binaries.join(format!("breeze-agent-linux-{architecture}")))?;
    }
    let binaries: &'static str = binaries.display().to_string().leak();
    let more = vec!["--public-host", "localhost", "--agent-binaries", binaries, "--heartbeat-interval", "1"];
    System::start_with(Options { listen: "0.0.0.0:0", more, ..Options::default() }).await
}

#[tokio::test]
async fn links_relays_and_certificates_carry_the_public_host_and_the_bound_ports() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let mut system = everywhere(folder.path()).await?;
    let port = |address: &str| address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    let relay = ["quic", "wss"].map(|way| system.ready["relay"][way].as_str().unwrap_or_default());
    for address in [system.dashboard(), relay[0], relay[1]] {
        let (host, _) = address.rsplit_once(':').context("a port")?;
        assert!(matches!(host, "https://localhost" | "localhost"), "{address}");
        assert!(port(address).is_some_and(|port| port != 0), "{address}");
    }
    // The set-up was done by a client that trusts this authority only; so does curl.
    let ca = folder.path().join("ca.pem");
    let (status, pem) = system.probe("/install/ca.pem").await?;
    assert_eq!(status, StatusCode::OK);
    fs::write(&ca, pem)?;
    let url = system.ready["setup_url"].as_str().context("a link")?;
    assert!(url.starts_with(&format!("{}/setup#token=", system.dashboard())), "{url}");
    for address in [url.to_owned(), url.replace("localhost", "127.0.0.1")] {
        let wanted = ["-sS", "-o", "/dev/null", "-w", "%{http_code}", "--noproxy", "*", "--cacert"];
        let output = Command::new("curl").args(wanted).arg(&ca).arg(&address).output();
        let Ok(output) = output else { return skip("there is no curl on this machine") };
        ensure!(output.status.success() && output.stdout == b"200", "{address}: {}", said(&output));
    }
    let mut agent = system.agent("agent")?;
    agent.run()?;
    agent.acknowledges(1).await?;
    let wss = system.ready["relay"]["wss"].as_str().context("an address")?.to_owned();
    let before = (system.dashboard().to_owned(), wss);
    system.server.stop()?;
    system.restart()?;
    assert_eq!(system.dashboard(), before.0, "the ports are kept");
    assert_eq!(system.ready["relay"]["wss"].as_str(), Some(before.1.as_str()));
    agent.acknowledges(1).await?;
    Ok(())
}

#[tokio::test]
async fn the_installers_line_makes_a_device_renews_its_program_and_is_undone() -> anyhow::Result<()> {
    if !is_root() {
        return skip("mounting needs root");
    }
    let ready = |words: &[&str]| Command::new(words[0]).args(&words[1..]).output().is_ok_and(|o| o.status.success());
    if !ready(&["unshare", "--mount", "true"]) || !ready(&["curl", "--version"]) || !Path::new("/etc/systemd").exists()
    {
        return skip("this machine has no mount namespaces, no curl or no /etc/systemd");
    }
    let folder = tempfile::tempdir()?;
    let system = everywhere(folder.path()).await?;
    let machine = Machine::start(folder.path().join("machine")).await?;
    let (line, key) = line(&system, "Installer").await?;

    // With a key that is none: nothing runs, and nothing stands in the way of the next try.
    let refused = machine.shell(&line.replace(&key, "not-a-key"))?;
    ensure!(!refused.status.success(), "{}", said(&refused));
    ensure!(machine.asked_of_systemd().is_empty() && !machine.path(UNIT).exists(), "{}", said(&refused));

    let installed = machine.shell(&line)?;
    ensure!(installed.status.success(), "{}", said(&installed));
    let device = system.device_that("it is online", |device| device["status"] == "online").await?;
    assert_eq!(machine.identity()?["device_id"], device["id"]);
    let modes =
        [BINARY, &UNINSTALL[1..], UNIT, STATE, &format!("{STATE}/identity.json")].map(|path| machine.mode(path));
    let modes = modes.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    assert_eq!(modes, [0o755, 0o755, 0o644, 0o700, 0o600]);
    assert_eq!(machine.asked_of_systemd(), ["daemon-reload", "enable breeze-agent", "restart breeze-agent"]);

    // Again: the program is new, the device the same, and no key is used up.
    let before = (machine.agent().context("it runs")?, machine.identity()?, fs::metadata(machine.path(BINARY))?);
    let again = machine.shell(&line)?;
    ensure!(again.status.success() && said(&again).contains("stays the same device"), "{}", said(&again));
    assert_eq!(machine.identity()?["device_id"], before.1["device_id"]);
    assert_ne!(fs::metadata(machine.path(BINARY))?.ino(), before.2.ino(), "the program was replaced");
    assert_ne!(machine.agent().context("it runs")?, before.0, "and started");
    let page = system.get("/devices").await?;
    assert_eq!(page["data"].as_array().map(Vec::len), Some(1));
    let sessions = async || {
        let device = system.get(&format!("/devices/{}", device["id"].as_str().unwrap_or_default())).await?;
        Ok((device["status"] == "online").then_some(()))
    };
    eventually("the renewed agent is online", sessions).await?;

    // A device of another server is not taken from it.
    let identity = machine.path(STATE).join("identity.json");
    let own = fs::read_to_string(&identity)?;
    fs::write(&identity, own.replace(system.dashboard(), "https://elsewhere.example"))?;
    let other = machine.shell(&line)?;
    ensure!(!other.status.success() && said(&other).contains("https://elsewhere.example"), "{}", said(&other));
    fs::write(&identity, own)?;

    let removed = machine.shell(UNINSTALL)?;
    ensure!(removed.status.success(), "{}", said(&removed));
    assert!(machine.agent().is_none(), "it was stopped");
    for path in [BINARY, &UNINSTALL[1..], UNIT, STATE] {
        assert!(!machine.path(path).exists(), "{path}");
    }
    Ok(())
}
