//! `cargo xtask up`.

use crate::{
    process::{say, step},
    stack::{self, Stack},
    web,
};
use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Where data is kept between starts [default: .breeze in the checkout]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Address of dashboard and API; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8420")]
    listen: String,
    /// Start every role as a process of its own, in two regions, on NATS, ClickHouse's engine and Cassandra
    #[arg(long)]
    distributed: bool,
}

pub(crate) fn run(root: &Path, arguments: &Arguments) -> anyhow::Result<()> {
    if arguments.distributed {
        return crate::distributed::up(root, arguments.data.as_deref(), &arguments.listen);
    }
    let started = Instant::now();
    step("1/3 Dashboard");
    web::build(root)?;
    step("2/3 Server and agent (the first build takes some minutes)");
    stack::build(root)?;
    step("3/3 Starting");
    let stopped = stop_flag()?;
    let data = arguments.data.clone().unwrap_or_else(|| root.join(".breeze"));
    let mut stack = Stack::start(root, &data, &arguments.listen)?;
    say(&format!("\nBreeze is up after {:.0?}.\n", started.elapsed()));
    match &stack.ready.setup_url {
        Some(url) => say(&format!("  Choose your password here (works once):\n\n    {url}\n")),
        None => say(&format!("  Dashboard:  {}\n", stack.ready.dashboard)),
    }
    say(&format!("  Data and logs:  {}\n  Ctrl-C stops everything; data is kept.\n", data.display()));
    while !stopped.load(Ordering::Relaxed) {
        stack.check()?;
        std::thread::sleep(Duration::from_millis(200));
    }
    say("\nStopping …");
    drop(stack);
    say("Stopped. Start again with: cargo xtask up");
    Ok(())
}

/// Set by Ctrl-C or SIGTERM.
pub(crate) fn stop_flag() -> anyhow::Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&flag))?;
    }
    Ok(flag)
}
