//! Clock readings, the estimate of the server's time, and the detection of jumps.

/// Both clocks of the device, read together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Microseconds since boot, sleep included (CLOCK_BOOTTIME).
    pub mono_us: u64,
    /// Microseconds since the Unix epoch, as the device believes.
    pub wall_us: u64,
}

pub(crate) const SECOND: u64 = 1_000_000;
pub(crate) const MINUTE: u64 = 60 * SECOND;

/// The server's time, from the last time it was told plus monotonic time since.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ServerClock {
    anchor: Option<Anchor>,
}

#[derive(Debug, Clone, Copy)]
struct Anchor {
    server_us: u64,
    mono_us: u64,
}

impl ServerClock {
    pub(crate) fn set(&mut self, server_us: u64, now: Now) {
        if server_us > 0 {
            self.anchor = Some(Anchor { server_us, mono_us: now.mono_us });
        }
    }

    /// Microseconds since the epoch; `None` if never told in this boot.
    pub(crate) fn estimate(&self, now: Now) -> Option<u64> {
        self.anchor.map(|anchor| anchor.server_us.saturating_add(now.mono_us.saturating_sub(anchor.mono_us)))
    }

    /// The best guess at the real time.
    pub(crate) fn best_us(&self, now: Now) -> u64 {
        self.estimate(now).unwrap_or(now.wall_us)
    }
}

/// What happened to time between two calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Jump {
    None,
    /// The device slept or the process was stopped: the connection may be dead without having said so.
    Slept,
    /// The wall clock moved against the monotonic one: set by hand or by NTP, or this memory image is an
    /// older one that was started again.
    Moved,
}

/// Lateness of a wake-up that means sleep.
const LATE_US: u64 = 15 * SECOND;
/// Divergence of the two clocks that means a jump.
const MOVED_US: u64 = 30 * SECOND;

#[derive(Debug, Clone, Copy)]
pub(crate) struct JumpDetector {
    last: Now,
}

impl JumpDetector {
    pub(crate) const fn new(now: Now) -> Self {
        Self { last: now }
    }

    /// `planned_us` is when the shell was asked to call at the latest.
    pub(crate) fn observe(&mut self, now: Now, planned_us: u64) -> Jump {
        let mono = i128::from(now.mono_us) - i128::from(self.last.mono_us);
        let wall = i128::from(now.wall_us) - i128::from(self.last.wall_us);
        self.last = now;
        if (wall - mono).unsigned_abs() > u128::from(MOVED_US) {
            Jump::Moved
        } else if now.mono_us > planned_us.saturating_add(LATE_US) {
            Jump::Slept
        } else {
            Jump::None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleep_and_a_moved_clock_are_told_apart() {
        let at = |mono, wall| Now { mono_us: mono * SECOND, wall_us: wall * SECOND };
        let mut detector = JumpDetector::new(at(100, 1_000));
        assert_eq!(detector.observe(at(110, 1_010), 111 * SECOND), Jump::None);
        assert_eq!(detector.observe(at(3_700, 4_600), 111 * SECOND), Jump::Slept);
        assert_eq!(detector.observe(at(3_701, 90_000), 3_701 * SECOND), Jump::Moved);
        assert_eq!(detector.observe(at(3_702, 3_000), 3_702 * SECOND), Jump::Moved);
    }

    #[test]
    fn the_servers_time_goes_on_by_the_monotonic_clock() {
        let mut clock = ServerClock::default();
        let now = Now { mono_us: 5, wall_us: 70 };
        assert_eq!(clock.best_us(now), 70);
        clock.set(1_000, now);
        assert_eq!(clock.best_us(Now { mono_us: 8, wall_us: 9_999 }), 1_003);
    }
}
