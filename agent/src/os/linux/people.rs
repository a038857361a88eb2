//! Who is signed in, or was last.

use crate::os::files::{cut, list, read};
use std::{
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
};

/// Size of a record of utmp(5) and wtmp on Linux, of 64-bit and 32-bit glibc alike.
const RECORD_BYTES: usize = 384;
/// Newest records of wtmp that are looked at.
const MAX_RECORDS: u64 = 256;
const USER_PROCESS: i16 = 7;

/// The user of the newest session; of one that is still open where there is one.
pub(super) fn last_user() -> String {
    signed_in_by_logind()
        .or_else(|| newest_user(&tail("/run/utmp")))
        .or_else(|| newest_user(&tail("/var/log/wtmp")))
        .unwrap_or_default()
}

/// systemd-logind keeps one file a session; utmp is gone from newer distributions.
fn signed_in_by_logind() -> Option<String> {
    let sessions = list("/run/systemd/sessions");
    sessions.iter().filter_map(|id| parse_session(&read(format!("/run/systemd/sessions/{id}")))).max().map(|(_, u)| u)
}

/// (when it began, user) of a person's session that is open.
fn parse_session(text: &str) -> Option<(u64, String)> {
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    let is_person = value("CLASS").is_none_or(|class| class.starts_with("user"));
    let is_open = value("STATE").is_none_or(|state| state != "closing");
    let began = value("REALTIME").and_then(|time| time.parse().ok()).unwrap_or(0);
    (is_person && is_open).then(|| value("USER").map(|user| (began, cut(user))))?
}

fn newest_user(records: &[u8]) -> Option<String> {
    records.chunks_exact(RECORD_BYTES).rev().find_map(|record| {
        let kind = i16::from_le_bytes([record[0], record[1]]);
        // struct utmp: type 0..4 with padding, pid 4..8, line 8..40, id 40..44, user 44..76.
        let user = record[44..76].split(|byte| *byte == 0).next().unwrap_or_default();
        (kind == USER_PROCESS && !user.is_empty()).then(|| cut(&String::from_utf8_lossy(user)))
    })
}

/// The newest whole records of a file.
fn tail(path: &str) -> Vec<u8> {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let record = RECORD_BYTES as u64;
        let records = file.metadata()?.len() / record;
        file.seek(SeekFrom::Start(records.saturating_sub(MAX_RECORDS) * record))?;
        let mut bytes = Vec::new();
        file.take(MAX_RECORDS * record).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: i16, user: &str) -> Vec<u8> {
        let mut record = vec![0; RECORD_BYTES];
        record[..2].copy_from_slice(&kind.to_le_bytes());
        record[44..44 + user.len()].copy_from_slice(user.as_bytes());
        record
    }

    #[test]
    fn the_newest_person_counts_and_torn_records_do_not() {
        let mut records = [record(7, "ada"), record(7, "grace"), record(8, "ended"), record(2, "reboot")].concat();
        records.extend_from_slice(&[7; 100]);
        assert_eq!(newest_user(&records).as_deref(), Some("grace"));
        assert_eq!(newest_user(b""), None);
    }

    #[test]
    fn only_open_sessions_of_people_count() {
        let session = "UID=1000\nUSER=ada\nACTIVE=1\nSTATE=active\nCLASS=user\nREALTIME=1700000000000000\n";
        assert_eq!(parse_session(session), Some((1_700_000_000_000_000, "ada".to_owned())));
        assert_eq!(parse_session(&session.replace("CLASS=user", "CLASS=greeter")), None);
        assert_eq!(parse_session(&session.replace("STATE=active", "STATE=closing")), None);
    }
}
