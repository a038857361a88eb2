//! What the command line says when something is wrong.

use crate::agent::{command, output, text};
use std::path::Path;
use tempfile::TempDir;

async fn fails(state: &Path, arguments: &[&str], words: &str) {
    let mut agent = command(state);
    agent.args(arguments);
    let output = output(agent).await;
    assert!(!output.status.success(), "{arguments:?} succeeded");
    let said = text(&output.stderr);
    assert!(said.contains(words), "{arguments:?} said {said:?}, not {words:?}");
}

#[tokio::test]
async fn errors_say_what_to_do() {
    let folder = TempDir::new().expect("a folder");
    let state = folder.path();
    fails(state, &["run"], "run `breeze-agent enroll` first").await;
    fails(state, &["unenroll"], "is not enrolled").await;
    fails(state, &["metric", "queue", "x"], "is not a number").await;
    fails(state, &["metric", "a b", "1"], "of the characters").await;
    fails(state, &["metric", "queue", "1"], "no agent listens").await;
    let enroll = ["enroll", "--server", "http://breeze.example.com"];
    fails(state, &enroll, "plain http:// is allowed to this machine only").await;
    fails(state, &["enroll", "--server", "http://127.0.0.1:1"], "no enrolment key").await;
    let key_file = state.join("key");
    std::fs::write(&key_file, "brz1_nonsense").expect("writes");
    let path = key_file.to_str().expect("utf-8");
    fails(state, &["enroll", "--server", "http://127.0.0.1:1", "--key-file", path], "not an enrolment key").await;
    fails(state, &["--proxy", "socks5://x:1", "run"], "only proxies with http:// URLs").await;
    fails(state, &["enroll", "--server", "http://127.0.0.1:1", "--key", "x"], "unexpected argument").await;
}

#[tokio::test]
async fn help_explains_and_status_answers_before_enrolment() {
    let folder = TempDir::new().expect("a folder");
    let mut help = command(folder.path());
    help.arg("--help");
    let said = text(&output(help).await.stdout);
    for words in ["enroll", "unenroll", "metric", "identity.json", "Exit status"] {
        assert!(said.contains(words), "{words} is missing in {said}");
    }
    let mut status = command(folder.path());
    status.arg("status");
    let output = output(status).await;
    assert!(output.status.success());
    assert!(text(&output.stdout).contains("not enrolled"));
}

#[cfg(unix)]
#[tokio::test]
async fn the_state_directory_is_the_owners_alone_and_one_agents() {
    use breeze_agent::state_dir::StateDir;
    use std::os::unix::fs::PermissionsExt as _;
    let folder = TempDir::new().expect("a folder");
    let state = folder.path().join("state");
    let dir = StateDir::lock(&state).expect("locks");
    dir.write("file", b"content").expect("writes");
    let mode = |path: &Path| std::fs::metadata(path).expect("exists").permissions().mode() & 0o777;
    assert_eq!(mode(&state), 0o700);
    assert_eq!(mode(&state.join("file")), 0o600);
    assert_eq!(mode(&state.join("lock")), 0o600);
    fails(&state, &["run"], "another breeze-agent uses").await;
    drop(dir);
    fails(&state, &["run"], "is not enrolled").await;
}
