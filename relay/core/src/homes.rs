//! Whether the lanes of another region are worth a try. What they do not take in time is stored here, and
//! from then on no batch waits for them again until one of them, sent as a probe, gets through.

use crate::limits::{FIRST_HOME_PAUSE, LAST_HOME_PAUSE};
use breeze_proto::shard::LaneCount;

/// Where the next batch of a guest goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// To its home's lane.
    Home,
    /// To the stream of this region from which it is replayed.
    Detour,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// Nothing is tried before that monotonic time.
    Shut {
        until_us: u64,
    },
    /// One batch is on its way; the others do not wait for it.
    Probing,
}

/// What is known of one home, for all its lanes together.
#[derive(Debug)]
pub struct Home {
    state: State,
    pause_us: u64,
    /// As its collectors said last.
    lanes: Option<LaneCount>,
}

impl Default for Home {
    fn default() -> Self {
        Self { state: State::Open, pause_us: FIRST_HOME_PAUSE.as_micros() as u64, lanes: None }
    }
}

impl Home {
    /// Where to. After [`Route::Home`] comes [`Self::handle_taken`] or [`Self::handle_refused`].
    pub fn poll_route(&mut self, now_us: u64) -> Route {
        match self.state {
            State::Open => Route::Home,
            State::Shut { until_us } if now_us >= until_us => {
                self.state = State::Probing;
                Route::Home
            }
            State::Shut { .. } | State::Probing => Route::Detour,
        }
    }

    /// The home took a batch. `true` if it did not before.
    pub fn handle_taken(&mut self) -> bool {
        let back = self.state != State::Open;
        *self = Self { lanes: self.lanes, ..Self::default() };
        back
    }

    /// How many lanes the home has, of its own words. `true` if that is news.
    pub fn handle_lanes(&mut self, lanes: LaneCount) -> bool {
        self.lanes.replace(lanes) != Some(lanes)
    }

    /// How many lanes the home has; `None` until one of its collectors said so.
    #[must_use]
    pub const fn lanes(&self) -> Option<LaneCount> {
        self.lanes
    }

    /// The home did not take a batch in time. `true` if it did before.
    pub fn handle_refused(&mut self, now_us: u64) -> bool {
        match self.state {
            State::Open => {
                self.shut(now_us);
                true
            }
            State::Probing => {
                self.pause_us = (self.pause_us * 2).min(LAST_HOME_PAUSE.as_micros() as u64);
                self.shut(now_us);
                false
            }
            // Sent before it was known.
            State::Shut { .. } => false,
        }
    }

    fn shut(&mut self, now_us: u64) {
        self.state = State::Shut { until_us: now_us.saturating_add(self.pause_us) };
    }

    #[must_use]
    pub fn is_away(&self) -> bool {
        self.state != State::Open
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FIRST: u64 = FIRST_HOME_PAUSE.as_micros() as u64;

    #[test]
    fn one_batch_finds_out_and_the_others_do_not_wait() {
        let mut home = Home::default();
        assert_eq!(home.poll_route(0), Route::Home);
        assert_eq!(home.poll_route(0), Route::Home, "several lanes at once");
        assert!(home.handle_refused(10));
        assert!(!home.handle_refused(20), "the second lane says nothing new");
        assert_eq!(home.poll_route(9 + FIRST), Route::Detour);
        assert_eq!(home.poll_route(10 + FIRST), Route::Home, "the probe");
        assert_eq!(home.poll_route(10 + FIRST), Route::Detour);
        assert!(!home.handle_refused(10 + FIRST));
        assert_eq!(home.poll_route(10 + 2 * FIRST), Route::Detour, "the pause has doubled");
        assert_eq!(home.poll_route(10 + 3 * FIRST), Route::Home);
        assert!(home.handle_taken());
        assert!(!home.handle_taken() && !home.is_away());
        assert_eq!(home.poll_route(10 + 3 * FIRST), Route::Home);
    }

    proptest! {
        /// Whatever happens, a home that takes everything again is found within the longest pause.
        #[test]
        fn a_home_is_never_given_up(steps in prop::collection::vec((0u64..60_000_000, any::<bool>()), 0..60)) {
            let (mut home, mut now) = (Home::default(), 0);
            for (elapsed, taken) in steps {
                now += elapsed;
                if home.poll_route(now) == Route::Home {
                    if taken { home.handle_taken(); } else { home.handle_refused(now); }
                }
            }
            prop_assert_eq!(home.poll_route(now + LAST_HOME_PAUSE.as_micros() as u64), Route::Home);
        }
    }
}
