//! Roles as processes on bad days: what they say when files, engines or credentials are not as they
//! should be. (Whole systems on real servers: `distributed`.)

use anyhow::{Context, ensure};
use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(30);
const PIN: &str = "aa00aa00aa00aa00aa00aa00aa00aa00aa00aa00aa00aa00aa00aa00aa00aa00";

fn breeze() -> Command {
    Command::new(env!("CARGO_BIN_EXE_breeze"))
}

/// An address that nobody listens on.
fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port")
}

fn relay_file(folder: &Path, bus: SocketAddr, http: SocketAddr) -> PathBuf {
    let path = folder.join("relay.toml");
    let text = format!(
        "region = \"eu\"\n[http]\nlisten = \"{http}\"\n[bus]\nservers = [\"nats://{bus}\"]\ndomain = \"eu\"\n\
         [relay]\nid = \"eu-1\"\ninstance_ca = \"{PIN}\"\nquic_listen = \"127.0.0.1:0\"\nwss_listen = \"127.0.0.1:0\"\n\
         data = \"data\"\n"
    );
    fs::write(&path, text).expect("written");
    path
}

struct Running {
    child: Child,
    log: PathBuf,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

impl Running {
    fn start(folder: &Path, role: &str, file: &Path) -> anyhow::Result<Self> {
        let log = folder.join("log");
        let stderr = fs::File::create(&log)?;
        let child = breeze().arg(role).arg("--config").arg(file).stderr(stderr).stdout(Stdio::null()).spawn()?;
        Ok(Self { child, log })
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn ended(&mut self) -> anyhow::Result<(Option<i32>, String)> {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok((status.code(), self.said()));
            }
            ensure!(Instant::now() < until, "it goes on: {}", self.said());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Status and body.
fn get(addr: SocketAddr, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(addr).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let status = answer.split(' ').nth(1)?.parse().ok()?;
    Some((status, answer.split_once("\r\n\r\n")?.1.to_owned()))
}

fn eventually<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> anyhow::Result<T> {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = found() {
            return Ok(value);
        }
        ensure!(Instant::now() < until, "{what} did not happen in time");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

#[test]
fn an_engine_that_is_away_is_waited_for_and_named() -> anyhow::Result<()> {
    let folder = folder();
    let (bus, http) = (nobody(), nobody());
    let file = relay_file(folder.path(), bus, http);
    let mut relay = Running::start(folder.path(), "relay", &file)?;
    let body = eventually("an answer that names NATS", || {
        get(http, "/readyz").filter(|(status, body)| *status == 503 && body.contains(&bus.to_string()))
    })?;
    ensure!(body.1.contains("\"bus\"") && body.1.contains("not reachable"), "{}", body.1);
    ensure!(get(http, "/healthz").context("healthz")?.0 == 200, "it lives");
    ensure!(get(http, "/metrics").context("metrics")?.1.contains("breeze_component_ready"), "it counts");
    ensure!(relay.said().contains(&bus.to_string()), "the log names it: {}", relay.said());
    let pid = rustix::process::Pid::from_raw(i32::try_from(relay.child.id())?).context("a pid")?;
    rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
    let (code, said) = relay.ended()?;
    ensure!(code == Some(0), "asked to stop while it waits, it stops: {said}");
    Ok(())
}

/// A server that speaks as NATS does when it does not know the user.
fn nats_that_refuses() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listens");
    let addr = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let info = r#"INFO {"server_id":"N","version":"2.15.0","proto":1,"max_payload":2097152,"headers":true,"auth_required":true,"host":"127.0.0.1","port":4222,"client_id":1,"go":"","nonce":"abc"}"#;
            let _gone = write!(stream, "{info}\r\n");
            let mut said = [0; 4096];
            let _gone = stream.read(&mut said);
            let _gone = write!(stream, "-ERR 'Authorization Violation'\r\n");
        }
    });
    addr
}

#[test]
fn wrong_credentials_end_the_process_with_words() -> anyhow::Result<()> {
    let folder = folder();
    let file = relay_file(folder.path(), nats_that_refuses(), nobody());
    let mut relay = Running::start(folder.path(), "relay", &file)?;
    let (code, said) = relay.ended()?;
    ensure!(code == Some(1), "{said}");
    let last = said.lines().last().unwrap_or_default();
    ensure!(last.starts_with("breeze: bus:") && last.contains("credentials") && last.contains("asked"), "{said}");
    Ok(())
}

#[test]
fn a_configuration_is_checked_and_shown() -> anyhow::Result<()> {
    let folder = folder();
    let file = relay_file(folder.path(), nobody(), nobody());
    let run = |words: &[&str], environment: &[(&str, &str)]| -> anyhow::Result<(bool, String, String)> {
        let output = breeze().args(words).arg(&file).envs(environment.iter().copied()).output()?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok((output.status.success(), text(output.stdout), text(output.stderr)))
    };
    let (ok, said, _) = run(&["config", "check"], &[])?;
    ensure!(ok && said == "ok: relay eu-1 of region eu\n", "{said}");
    let (ok, shown, _) = run(&["config", "show"], &[("BREEZE__RELAY__LANES", "7")])?;
    ensure!(ok && shown.contains("lanes = 7") && shown.contains("max_connections = 150000"), "{shown}");
    let (ok, _, error) = run(&["config", "check"], &[("BREEZE__RELAY__LANES", "70")])?;
    ensure!(!ok && error.contains("relay.lanes") && error.contains("1 to 16"), "{error}");
    let (ok, _, error) = run(&["config", "check"], &[("BREEZE__RELAY__LANES", "many")])?;
    ensure!(!ok && error.contains("BREEZE__RELAY__LANES"), "{error}");

    let seed = folder.path().join("relay.nk");
    fs::write(&seed, "SUAX")?;
    fs::set_permissions(&seed, fs::Permissions::from_mode(0o640))?;
    let (ok, _, error) = run(&["config", "check"], &[("BREEZE__BUS__NKEY_FILE", "relay.nk")])?;
    ensure!(!ok && error.contains("bus.nkey_file") && error.contains("chmod 600"), "{error}");
    let output = breeze().args(["collector", "--config"]).arg(&file).output()?;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success() && error.contains("is of relay eu-1 of region eu, not of a collector"), "{error}");
    Ok(())
}

#[test]
fn the_bus_gets_its_configuration_and_keeps_its_keys() -> anyhow::Result<()> {
    let folder = folder();
    let topology = folder.path().join("bus.toml");
    let node = |name: &str| format!("{{ name = \"{name}\", host = \"127.0.0.1\", store_dir = \"/tmp/{name}\" }}");
    fs::write(
        &topology,
        format!(
            "hub = [{}]\n[[regions]]\nname = \"eu\"\nservers = [{}]\nrelays = [\"eu-1\"]\ncollectors = [\"eu-a\"]\n",
            node("hub"),
            node("eu")
        ),
    )?;
    let out = folder.path().join("bus");
    let write = || breeze().args(["bus-config", "--topology"]).arg(&topology).arg("--out").arg(&out).output();
    let output = write()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for name in ["hub.conf", "eu.conf", "relay-eu-1.nk", "collector-eu-a.nk", "control-plane.nk", "migrate.nk"] {
        let mode = fs::metadata(out.join(name)).with_context(|| name.to_owned())?.permissions().mode();
        ensure!(mode & 0o777 == 0o600, "{name}: {mode:o}");
    }
    let seed = fs::read_to_string(out.join("relay-eu-1.nk"))?;
    ensure!(write()?.status.success() && fs::read_to_string(out.join("relay-eu-1.nk"))? == seed, "keys stay");
    Ok(())
}
