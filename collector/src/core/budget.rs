//! How many events of a device the history is told in an hour. The rest is counted, and the count told
//! when the hour is over: a device that flaps all day leaves a day's worth of lines, not of entries.

use breeze_proto::v1::EventBudget;

const HOUR_US: u64 = 3_600_000_000;

/// What is counted apart, so that a connection that flaps does not hide an installation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    Connections,
    Presence,
    Inventory,
}

impl Subject {
    pub(super) const ALL: [Self; 3] = [Self::Connections, Self::Presence, Self::Inventory];

    /// Events of a device and hour.
    #[must_use]
    pub const fn most(self) -> u16 {
        match self {
            Self::Connections | Self::Inventory => 60,
            Self::Presence => 24,
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Presence => "presence",
            Self::Inventory => "inventory",
        }
    }

    pub(super) const fn words(self) -> &'static str {
        match self {
            Self::Connections => "connections and disconnections",
            Self::Presence => "changes between online and offline",
            Self::Inventory => "inventory changes",
        }
    }
}

/// Of one subject.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Budget {
    hour: u32,
    used: u16,
    left_out: u32,
}

/// An hour in which there was more than was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeftOut {
    /// Since the epoch.
    pub hour: u32,
    pub events: u32,
}

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Charged {
    pub is_told: bool,
    /// It is the first of its hour that is not.
    pub is_first_left_out: bool,
    /// Of the hour before, which ends with it.
    pub ended: Option<LeftOut>,
}

/// The hour of a time.
#[must_use]
pub const fn hour_of(at_us: u64) -> u32 {
    (at_us / HOUR_US) as u32
}

impl Budget {
    /// Charges an event of that time; one of an earlier hour counts for the present one.
    pub fn charge(&mut self, at_us: u64, most: u16) -> Charged {
        let ended = self.end(hour_of(at_us));
        self.hour = self.hour.max(hour_of(at_us));
        if self.used < most {
            self.used += 1;
            return Charged { is_told: true, is_first_left_out: false, ended };
        }
        Charged { is_told: false, is_first_left_out: self.leave_out(), ended }
    }

    /// Counts an event that could not be told for another reason. Whether it is the first.
    pub fn leave_out(&mut self) -> bool {
        self.left_out = self.left_out.saturating_add(1);
        self.left_out == 1
    }

    /// Begins anew if its hour is over before `hour`; what was left out of it, if anything was.
    pub fn end(&mut self, hour: u32) -> Option<LeftOut> {
        if self.hour >= hour {
            return None;
        }
        let ended = std::mem::take(self);
        (ended.left_out > 0).then_some(LeftOut { hour: ended.hour, events: ended.left_out })
    }

    pub(super) fn export(self) -> EventBudget {
        EventBudget { hour: self.hour, used: self.used.into(), left_out: self.left_out }
    }

    pub(super) fn import(stored: &EventBudget) -> Self {
        let used = u16::try_from(stored.used).unwrap_or(u16::MAX);
        Self { hour: stored.hour, used, left_out: stored.left_out }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_has_so_many_events_and_the_rest_is_counted() {
        let mut budget = Budget::default();
        let told = (0..1_000).filter(|second| budget.charge(10 * HOUR_US + second * 1_000_000, 24).is_told).count();
        assert_eq!(told, 24);
        assert_eq!(Budget::import(&budget.export()), budget);
        let next = budget.charge(11 * HOUR_US, 24);
        assert_eq!((next.is_told, next.ended), (true, Some(LeftOut { hour: 10, events: 976 })));
        assert!(budget.charge(10 * HOUR_US, 24).is_told, "one that comes late counts now");
        assert_eq!(budget.end(12), None, "nothing was left out");
    }
}
