//! A timer wheel for offline deadlines: one slot for each half second of the next nine minutes.
//! Moving a deadline later costs nothing: the timer fires at the old one and is armed again.

/// Resolution, in microseconds.
pub const TICK_US: u64 = 500_000;
const SLOTS: usize = 1024;

/// The tick with which a deadline is over; of the deadline alone, whenever its timer was armed.
#[must_use]
pub const fn due_tick(deadline_us: u64) -> u64 {
    deadline_us / TICK_US + 1
}

/// A timer: which device, and the tick for which it was armed (another tick's timer is stale).
pub type Timer = (u32, u64);

/// The wheel. It knows no clock; the first [`Wheel::advance`] sets where it begins.
#[derive(Debug)]
pub struct Wheel {
    slots: Vec<Vec<Timer>>,
    /// All before it have fired.
    tick: u64,
}

impl Default for Wheel {
    fn default() -> Self {
        Self { slots: vec![Vec::new(); SLOTS], tick: 0 }
    }
}

impl Wheel {
    /// Arms a timer; the tick at which it fires, which is sooner than `deadline_us` only if that is
    /// beyond the wheel.
    pub fn arm(&mut self, device: u32, deadline_us: u64) -> u64 {
        let tick = due_tick(deadline_us).clamp(self.tick + 1, self.tick + SLOTS as u64 - 1);
        self.slots[tick as usize % SLOTS].push((device, tick));
        tick
    }

    /// Moves to `now_us` and takes what has fired.
    pub fn advance(&mut self, now_us: u64, fired: &mut Vec<Timer>) {
        let now = now_us / TICK_US;
        if self.tick == 0 {
            // Nothing was armed against a clock yet: keep what there is due at once.
            for slot in &mut self.slots {
                fired.append(slot);
            }
        }
        let steps = now.saturating_sub(self.tick).min(SLOTS as u64);
        for step in 1..=steps {
            fired.append(&mut self.slots[(self.tick + step) as usize % SLOTS]);
        }
        self.tick = self.tick.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_timer_fires_once_neither_early_nor_late(deadlines in prop::collection::vec(0u64..900_000_000, 1..60), step in 1u64..200_000_000) {
            let start = 1_800_000_000_000_000;
            let mut wheel = Wheel::default();
            let mut fired = Vec::new();
            wheel.advance(start, &mut fired);
            for (device, deadline) in deadlines.iter().enumerate() {
                wheel.arm(device as u32, start + deadline);
            }
            let mut now = start;
            let mut done = vec![false; deadlines.len()];
            while now < start + 2_000_000_000 {
                now += step;
                wheel.advance(now, &mut fired);
                for (device, _) in std::mem::take(&mut fired) {
                    let deadline = start + deadlines[device as usize];
                    if deadline > now {
                        wheel.arm(device, deadline);
                        continue;
                    }
                    prop_assert!(!std::mem::replace(&mut done[device as usize], true));
                    prop_assert!(now - deadline <= step + 2 * TICK_US);
                }
            }
            prop_assert!(done.iter().all(|done| *done));
        }
    }
}
