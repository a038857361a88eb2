//! Reading of small system files and of package managers' output, bounded, never failing.

use breeze_proto::limits::MAX_TEXT_BYTES;
#[cfg(unix)]
use std::fs::{self, File};
use std::{
    io::Read as _,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// Largest file that is read whole (a package database may have tens of megabytes).
const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024;
/// How long a package manager may take.
const MAX_COMMAND_TIME: Duration = Duration::from_secs(30);
/// Where the system keeps its own programs; `PATH` may lead elsewhere.
#[cfg(unix)]
const SYSTEM_FOLDERS: &[&str] = &["/usr/bin", "/bin", "/usr/sbin", "/sbin"];
#[cfg(windows)]
const SYSTEM_FOLDERS: &[&str] = &[r"C:\Windows\System32"];

/// The file as text; empty if it cannot be read.
#[cfg(unix)]
pub(in crate::os) fn read(path: impl AsRef<Path>) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(path)?.take(MAX_FILE_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

/// As [`read`], trimmed and cut: for the one-value files of `/sys`.
#[cfg(all(unix, not(target_os = "macos")))]
pub(in crate::os) fn read_value(path: impl AsRef<Path>) -> String {
    cut(read(path).trim_matches(['\0', ' ', '\n', '\t']))
}

/// Names in a folder, sorted; empty if it cannot be read.
#[cfg(unix)]
pub(in crate::os) fn list(path: impl AsRef<Path>) -> Vec<String> {
    let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
    let mut names: Vec<String> = entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    names
}

/// At most `MAX_TEXT_BYTES`, cut at a character.
pub(in crate::os) fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(MAX_TEXT_BYTES)].to_owned()
}

/// Standard output of a program found in the system's folders; `None` if it is not there, fails,
/// or takes longer than [`MAX_COMMAND_TIME`].
pub(in crate::os) fn output_of(program: &str, arguments: &[&str]) -> Option<String> {
    let path = SYSTEM_FOLDERS.iter().map(|dir| Path::new(dir).join(program)).find(|path| path.exists())?;
    let mut child = Command::new(path)
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let stdout = child.stdout.take()?;
    // Read beside waiting, so that a full pipe cannot stop the child.
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _what_came = stdout.take(MAX_FILE_BYTES).read_to_end(&mut bytes);
        bytes
    });
    let until = Instant::now() + MAX_COMMAND_TIME;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break Some(status),
            Ok(None) if Instant::now() < until => std::thread::sleep(Duration::from_millis(20)),
            Ok(None) | Err(_) => {
                let _gone = child.kill();
                let _reaped = child.wait();
                break None;
            }
        }
    };
    let bytes = reader.join().ok()?;
    status?.success().then(|| String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_what_the_program_printed_and_failure_is_nothing() {
        assert_eq!(output_of("printf", &["a b"]).as_deref(), Some("a b"));
        assert_eq!(output_of("false", &[]), None);
        assert_eq!(output_of("no-such-program-here", &[]), None);
    }

    #[test]
    fn text_is_cut_at_a_character() {
        let long = "ä".repeat(MAX_TEXT_BYTES);
        assert_eq!(cut(&long).len(), MAX_TEXT_BYTES - MAX_TEXT_BYTES % 2);
    }
}
