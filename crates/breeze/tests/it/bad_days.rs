//! Bad days of the roles as processes, on real servers: who is not let in, finds another schema, a full
//! disk, a full stream or a certificate that is not accepted, says what and where, and either ends with
//! words or goes on and recovers by itself.

mod certificates;
mod credentials;
mod disk;
mod migrate;
mod relay;
mod schema;

use crate::support::{process::run, role::breeze};
use anyhow::{Context, ensure};
use breeze_testkit::servers::{Nats, Tools, nats::Ports};
use serde_json::Value;
use std::{
    fmt::Write as _,
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};
use tempfile::TempDir;

/// On memory where there is such a place: what is tested is not the disk.
fn folder() -> anyhow::Result<TempDir> {
    let mut builder = tempfile::Builder::new();
    let builder = builder.prefix("breeze-bad-days-");
    let memory = Path::new("/dev/shm");
    Ok(if memory.is_dir() { builder.tempdir_in(memory)? } else { builder.tempdir()? })
}

/// A name that no other run has: of a database, or the first part of keyspaces' names.
fn name_of_its_own(prefix: &str) -> String {
    format!("{prefix}_{:08x}", rand::random::<u32>())
}

/// A file of mode 0600.
fn secret(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text)?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o600))?)
}

/// Region eu's nats-server as `breeze bus-config` describes it, with the users of `collector eu-a`; files and
/// seeds are in `folder/bus`. Not started. `tls` is the section of the topology.
fn configured_nats(tools: &Tools, folder: &Path, tls: &str) -> anyhow::Result<Nats> {
    let (hub, ports) = (Ports::choose()?, Ports::choose()?);
    let bus = write_bus(folder, &folder.join("bus"), hub, ports, tls)?;
    let mut text = fs::read_to_string(bus.join("nats-eu.conf"))?;
    let _infallible = write!(text, "\nhttp: \"127.0.0.1:{}\"\n", ports.monitor);
    Nats::with_config(tools, &folder.join("nats"), "nats-eu", ports, &text)
}

fn write_bus(folder: &Path, out: &Path, hub: Ports, ports: Ports, tls: &str) -> anyhow::Result<PathBuf> {
    let node = |section: &str, name: &str, ports: Ports| {
        format!(
            "[[{section}]]\nname = \"{name}\"\nhost = \"127.0.0.1\"\nclient_port = {}\nleaf_port = {}\n\
             store_dir = \"{}\"\n",
            ports.client,
            ports.leaf,
            folder.join(name).display()
        )
    };
    let topology = format!(
        "{}[[regions]]\nname = \"eu\"\nrelays = [\"eu-1\"]\ncollectors = [\"eu-a\"]\n{}{tls}",
        node("hub", "nats-hub", hub),
        node("regions.servers", "nats-eu", ports)
    );
    let file = folder.join("topology.toml");
    fs::write(&file, topology)?;
    let output = breeze().args(["bus-config", "--topology"]).arg(&file).arg("--out").arg(out).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(out.to_owned())
}

/// Asks a nats-server without users, as far as a test of its own needs its protocol; the answer.
fn ask(port: u16, subject: &str, payload: &[u8]) -> anyhow::Result<Value> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(
        stream,
        "CONNECT {{\"verbose\":false}}\r\nSUB answer.{port} 1\r\nPUB {subject} answer.{port} {}\r\n",
        payload.len()
    )?;
    stream.write_all(payload)?;
    stream.write_all(b"\r\n")?;
    let mut answers = BufReader::new(stream);
    loop {
        let mut line = String::new();
        ensure!(answers.read_line(&mut line)? > 0, "{subject}: the connection ended");
        ensure!(!line.starts_with("-ERR"), "{subject}: {line}");
        if line.starts_with("MSG ") {
            let length = line.trim_end().rsplit(' ').next().and_then(|length| length.parse().ok());
            let mut body = vec![0; length.with_context(|| line.clone())?];
            answers.read_exact(&mut body)?;
            return serde_json::from_slice(&body).with_context(|| String::from_utf8_lossy(&body).into_owned());
        }
    }
}

/// Fails if `name` is not a program of this machine.
fn has(name: &str) -> bool {
    run(&["which", name]).is_ok()
}
