//! From a device's clocks to stored time.
//!
//! A device may be a day wrong, may sleep, and may send what it took before its last boot. Within
//! the boot that sends, the monotonic clock alone decides: a sample is as old as the monotonic time
//! that has passed since. Across boots only the wall clock is left, corrected by the offset that was
//! measured when the frame was sent.

use crate::limits::{MAX_FUTURE, MAX_SAMPLE_AGE};

/// Clock readings of a frame: the sender's when it was sent, the relay's when it came. Microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameClock {
    /// Sender's wall clock.
    pub sent_wall_us: u64,
    /// Sender's monotonic clock.
    pub sent_mono_us: u64,
    /// Receiver's wall clock.
    pub received_us: u64,
}

/// A sample's stored time, or why it has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stamp {
    /// Microseconds since the Unix epoch, by the server's clock.
    At(u64),
    /// As `At`, but it claimed to be more than [`MAX_FUTURE`] ahead and was clamped to its arrival.
    Clamped(u64),
    /// Older than [`MAX_SAMPLE_AGE`]: refused and counted.
    TooOld,
}

impl FrameClock {
    /// Device clock minus server clock, saturating.
    #[must_use]
    pub fn offset_us(&self) -> i64 {
        saturating_difference(self.sent_wall_us, self.received_us)
    }

    /// The stored time of a sample taken at `wall_us` and `mono_us`; `same_boot` if in the boot
    /// that sent this frame.
    #[must_use]
    pub fn stamp(&self, wall_us: u64, mono_us: u64, same_boot: bool) -> Stamp {
        let at = if same_boot && mono_us <= self.sent_mono_us {
            self.received_us.saturating_sub(self.sent_mono_us - mono_us)
        } else {
            wall_us.saturating_add_signed(self.offset_us().saturating_neg())
        };
        let future = self.received_us.saturating_add(MAX_FUTURE.as_micros() as u64);
        let oldest = self.received_us.saturating_sub(MAX_SAMPLE_AGE.as_micros() as u64);
        if at > future {
            Stamp::Clamped(self.received_us)
        } else if at < oldest {
            Stamp::TooOld
        } else {
            Stamp::At(at)
        }
    }
}

fn saturating_difference(a: u64, b: u64) -> i64 {
    i64::try_from(i128::from(a) - i128::from(b)).unwrap_or(if a > b { i64::MAX } else { i64::MIN })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DAY: u64 = 86_400_000_000;
    const NOW: u64 = 1_800_000_000_000_000;

    #[test]
    fn a_clock_a_day_wrong_either_way_does_not_matter() {
        for sent_wall_us in [NOW - DAY, NOW, NOW + DAY] {
            let clock = FrameClock { sent_wall_us, sent_mono_us: 50_000_000, received_us: NOW };
            assert_eq!(clock.stamp(sent_wall_us - 7_000_000, 43_000_000, true), Stamp::At(NOW - 7_000_000));
            assert_eq!(clock.stamp(sent_wall_us - 7_000_000, 999, false), Stamp::At(NOW - 7_000_000));
        }
    }

    #[test]
    fn within_a_boot_a_jump_of_the_wall_clock_does_not_matter() {
        let clock = FrameClock { sent_wall_us: NOW, sent_mono_us: 50_000_000, received_us: NOW };
        assert_eq!(clock.stamp(NOW + 9 * DAY, 40_000_000, true), Stamp::At(NOW - 10_000_000));
    }

    #[test]
    fn the_future_is_clamped_and_the_distant_past_refused() {
        let clock = FrameClock { sent_wall_us: NOW, sent_mono_us: 1, received_us: NOW };
        assert_eq!(clock.stamp(NOW + DAY, 0, false), Stamp::Clamped(NOW));
        assert_eq!(clock.stamp(NOW - 31 * DAY, 0, false), Stamp::TooOld);
        assert_eq!(clock.stamp(NOW - 29 * DAY, 0, false), Stamp::At(NOW - 29 * DAY));
    }

    proptest! {
        #[test]
        fn hostile_clocks_never_panic_nor_leave_the_window(a in any::<u64>(), b in any::<u64>(), c in any::<u64>(), w in any::<u64>(), m in any::<u64>(), same in any::<bool>()) {
            let clock = FrameClock { sent_wall_us: a, sent_mono_us: b, received_us: c };
            match clock.stamp(w, m, same) {
                Stamp::At(at) | Stamp::Clamped(at) => {
                    prop_assert!(at <= c.saturating_add(MAX_FUTURE.as_micros() as u64));
                    prop_assert!(at >= c.saturating_sub(MAX_SAMPLE_AGE.as_micros() as u64));
                }
                Stamp::TooOld => {}
            }
        }
    }
}
