//! A process that gets little done: stopped most of each period, by SIGSTOP and SIGCONT.

use rustix::process::{Pid, Signal, kill_process};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

const PERIOD: Duration = Duration::from_millis(500);

/// Holds a process back until dropped. The process must not be reaped before.
#[derive(Debug)]
pub struct Throttle {
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Throttle {
    /// Lets it run for `run` of each half second.
    #[must_use]
    pub fn hold(pid: Pid, run: Duration) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let told = ended.clone();
        let thread = thread::spawn(move || {
            while !told.load(Ordering::SeqCst) {
                let _already_gone = kill_process(pid, Signal::STOP);
                thread::sleep(PERIOD.saturating_sub(run));
                let _already_gone = kill_process(pid, Signal::CONT);
                thread::sleep(run);
            }
        });
        Self { ended, thread: Some(thread) }
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}
