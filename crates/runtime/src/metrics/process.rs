//! The process itself, read from the system when somebody asks. What the system does not tell is
//! left out rather than shown as zero.

use std::{
    fmt::Write,
    fs,
    sync::OnceLock,
    time::{SystemTime, UNIX_EPOCH},
};

static STARTED: OnceLock<f64> = OnceLock::new();

/// Notes the time, once: near enough to the process's start.
pub(super) fn started() {
    STARTED.get_or_init(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64()));
}

/// Appends the process's own figures.
pub(super) fn render(text: &mut String) {
    let start = STARTED.get().map(|seconds| format!("{seconds:.3}"));
    let figures = [
        ("breeze_process_cpu_seconds_total", "counter", cpu_seconds().map(|seconds| format!("{seconds:.2}"))),
        ("breeze_process_resident_bytes", "gauge", resident_bytes().map(|bytes| bytes.to_string())),
        ("breeze_process_open_fds", "gauge", open_fds().map(|count| count.to_string())),
        ("breeze_process_start_time_seconds", "gauge", start),
    ];
    for (name, kind, value) in figures {
        if let Some(value) = value {
            // Writing to a string does not fail.
            let _written = write!(text, "# TYPE {name} {kind}\n{name} {value}\n\n");
        }
    }
}

/// User and system time of all threads, those that ended too.
fn cpu_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The program's name may hold anything; the fields follow its closing parenthesis: proc_pid_stat(5).
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let (user, system): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    #[expect(clippy::cast_precision_loss, reason = "a figure for graphs")]
    let seconds = (user + system) as f64 / rustix::param::clock_ticks_per_second() as f64;
    Some(seconds)
}

fn resident_bytes() -> Option<u64> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

fn open_fds() -> Option<usize> {
    // One of them is the folder that is being read.
    Some(fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1))
}
