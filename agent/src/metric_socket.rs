//! The local socket for custom metrics. One line a connection: `metric NAME VALUE`; the answer is `ok`
//! or `error` with a reason. Whoever may enter the state directory may use it.

use anyhow::{Context as _, bail, ensure};
use breeze_proto::limits::MAX_METRIC_NAME_BYTES;
use std::path::Path;
#[cfg(unix)]
use std::{sync::Arc, time::Duration};
#[cfg(unix)]
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::{Semaphore, mpsc, oneshot},
    time::timeout,
};

/// In the state directory.
pub const SOCKET: &str = "metric.sock";
#[cfg(unix)]
const MAX_CONNECTIONS: usize = 8;
#[cfg(unix)]
const MAX_LINE_BYTES: u64 = 256;
#[cfg(unix)]
const PATIENCE: Duration = Duration::from_secs(2);

/// One value on its way to the session; the answer says whether it was taken.
#[cfg(unix)]
#[derive(Debug)]
pub struct Submission {
    pub name: String,
    pub value: f64,
    pub taken: oneshot::Sender<bool>,
}

/// Checks a metric's name.
///
/// # Errors
/// Says what is allowed.
pub fn check_name(name: &str) -> anyhow::Result<()> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.:/%-".contains(&byte);
    ensure!(
        !name.is_empty() && name.len() <= MAX_METRIC_NAME_BYTES && name.bytes().all(allowed),
        "a metric's name has 1 to {MAX_METRIC_NAME_BYTES} of the characters A-Z a-z 0-9 _ . : / % -"
    );
    Ok(())
}

/// Checks a metric's value.
///
/// # Errors
/// If it is not a finite number.
pub fn check_value(text: &str) -> anyhow::Result<f64> {
    let value: f64 = text.parse().ok().with_context(|| format!("{text:?} is not a number"))?;
    ensure!(value.is_finite(), "the value must be finite");
    Ok(value)
}

/// Hands one value to the agent that runs on `state`.
///
/// # Errors
/// If none runs, or if it does not take the value.
#[cfg(unix)]
pub async fn submit(state: &Path, name: &str, value: f64) -> anyhow::Result<()> {
    check_name(name)?;
    let path = state.join(SOCKET);
    let talk = async {
        let mut stream =
            UnixStream::connect(&path).await.with_context(|| format!("no agent listens at {}", path.display()))?;
        stream.write_all(format!("metric {name} {value}\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.take(MAX_LINE_BYTES).read_to_string(&mut answer).await?;
        match answer.trim() {
            "ok" => Ok(()),
            "" => bail!("the agent closed the connection"),
            other => bail!("the agent refused: {}", other.trim_start_matches("error ")),
        }
    };
    timeout(PATIENCE * 2, talk).await.context("the agent does not answer")?
}

/// Serves the socket until dropped.
///
/// # Errors
/// If it cannot be made.
#[cfg(unix)]
pub async fn serve(state: &Path, submissions: mpsc::Sender<Submission>) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let path = state.join(SOCKET);
    // Left behind by a killed agent; the lock says that none lives.
    let _absent = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).with_context(|| format!("cannot listen at {}", path.display()))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let place = places.clone().acquire_owned().await?;
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(PATIENCE).await;
            continue;
        };
        let submissions = submissions.clone();
        tokio::spawn(async move {
            let _answered = timeout(PATIENCE, answer(stream, submissions)).await;
            drop(place);
        });
    }
}

#[cfg(unix)]
async fn answer(mut stream: UnixStream, submissions: mpsc::Sender<Submission>) -> anyhow::Result<()> {
    let (reader, mut writer) = stream.split();
    let mut line = String::new();
    BufReader::new(reader.take(MAX_LINE_BYTES)).read_line(&mut line).await?;
    let reply = match take(&line, submissions).await {
        Ok(()) => "ok\n".to_owned(),
        Err(error) => format!("error {error}\n"),
    };
    writer.write_all(reply.as_bytes()).await?;
    Ok(())
}

#[cfg(unix)]
async fn take(line: &str, submissions: mpsc::Sender<Submission>) -> anyhow::Result<()> {
    let mut words = line.split_whitespace();
    let (Some("metric"), Some(name), Some(value), None) = (words.next(), words.next(), words.next(), words.next())
    else {
        bail!("expected: metric NAME VALUE");
    };
    check_name(name)?;
    let value = check_value(value)?;
    let (taken, answer) = oneshot::channel();
    submissions.send(Submission { name: name.to_owned(), value, taken }).await.context("stopping")?;
    ensure!(answer.await.context("stopping")?, "too many different metrics since the last heartbeat");
    Ok(())
}
