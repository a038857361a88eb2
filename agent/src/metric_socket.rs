//! The local socket for custom metrics. One line a connection: `metric NAME VALUE`; the answer is `ok`
//! or `error` with a reason. Whoever may enter the state directory may use it.

use crate::os::process::{self, LocalListener, LocalStream};
use anyhow::{Context as _, bail, ensure};
use breeze_proto::limits::MAX_METRIC_NAME_BYTES;
use std::{path::Path, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    sync::{Semaphore, mpsc, oneshot},
    time::timeout,
};

/// In the state directory.
pub const SOCKET: &str = process::LOCAL_SOCKET;
const MAX_CONNECTIONS: usize = 8;
const MAX_LINE_BYTES: u64 = 256;
const PATIENCE: Duration = Duration::from_secs(2);

/// One value on its way to the session; the answer says whether it was taken.
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
pub async fn submit(state: &Path, name: &str, value: f64) -> anyhow::Result<()> {
    check_name(name)?;
    let talk = async {
        let mut stream = process::connect_local(state).await?;
        stream.write_all(format!("metric {name} {value}\n").as_bytes()).await?;
        let mut answer = String::new();
        BufReader::new(stream.take(MAX_LINE_BYTES)).read_line(&mut answer).await?;
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
pub async fn serve(state: &Path, submissions: mpsc::Sender<Submission>) -> anyhow::Result<()> {
    let mut listener = LocalListener::bind(state)?;
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let place = places.clone().acquire_owned().await?;
        let Ok(stream) = listener.accept().await else {
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

async fn answer(mut stream: LocalStream, submissions: mpsc::Sender<Submission>) -> anyhow::Result<()> {
    let mut line = String::new();
    BufReader::new((&mut stream).take(MAX_LINE_BYTES)).read_line(&mut line).await?;
    let reply = match take(&line, submissions).await {
        Ok(()) => "ok\n".to_owned(),
        Err(error) => format!("error {error}\n"),
    };
    stream.write_all(reply.as_bytes()).await?;
    process::finish_local(stream).await;
    Ok(())
}

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
