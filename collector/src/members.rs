//! Who shares the region's lanes: collectors tell each other that they are there, and each works out
//! for itself, by the same rule from the same members, which lanes are whose.
//!
//! It is advice, not truth: a lane is owned by whoever holds its lease. Two collectors that see other
//! members for a moment can at worst both want a lane, and its owner gives it only to the one whom it
//! sees entitled itself.

mod shares;
#[cfg(test)]
mod tests;

use crate::{Config, clock::boot_us, lane::LaneShared};
use breeze_bus::{Bus, Received, Subscription};
use breeze_proto::{shard::LaneCount, subject, v1::CollectorPresence};
use parking_lot::Mutex;
use prost::Message as _;
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How often a collector says that it is there.
const PERIOD: Duration = Duration::from_millis(500);
/// Silence after which one counts as gone.
pub(crate) const TIMEOUT_US: u64 = 3_000_000;
/// A collector that joins a region with others gets lanes when it has been there for so long.
const SETTLE_US: u64 = 2_000_000;
/// Each time that it was gone within [`FLAP_WINDOW_US`] doubles that, up to this.
const SETTLE_MOST_US: u64 = 60_000_000;
const FLAP_WINDOW_US: u64 = 300_000_000;
/// Members that are kept apart; further ones are ignored and counted.
const MAX_MEMBERS: usize = 64;

/// Whose a lane is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Plan {
    Mine,
    Of(String),
    /// Nobody takes lanes just now: all that are there are leaving.
    Nobody,
}

#[derive(Debug)]
struct Member {
    instance: u64,
    is_leaving: bool,
    owned: Vec<u32>,
    seen_us: u64,
    since_us: u64,
    /// How often it was gone lately, and when last.
    flaps: u32,
    gone_us: u64,
}

impl Member {
    fn is_there(&self, now_us: u64) -> bool {
        now_us.saturating_sub(self.seen_us) < TIMEOUT_US
    }

    fn settle_us(&self) -> u64 {
        (SETTLE_US << self.flaps.min(16)).min(SETTLE_MOST_US)
    }
}

/// What one collector knows of all of them, itself included. Time is microseconds of any clock that
/// does not go back.
#[derive(Debug)]
pub(crate) struct Members {
    own_id: String,
    members: BTreeMap<String, Member>,
}

impl Members {
    pub(crate) fn new(own_id: &str, instance: u64, now_us: u64) -> Self {
        let mut members = Self { own_id: own_id.to_owned(), members: BTreeMap::new() };
        let own = CollectorPresence { collector_id: own_id.to_owned(), instance, ..CollectorPresence::default() };
        members.handle_presence(own, now_us);
        members
    }

    /// Hears of a collector. Whether who is entitled may have changed.
    pub(crate) fn handle_presence(&mut self, told: CollectorPresence, now_us: u64) -> bool {
        if !self.members.contains_key(&told.collector_id) && self.members.len() >= MAX_MEMBERS {
            self.members.retain(|_, member| now_us.saturating_sub(member.seen_us) < FLAP_WINDOW_US);
            if self.members.len() >= MAX_MEMBERS {
                metrics::counter!("breeze_collector_members_refused_total").increment(1);
                return false;
            }
        }
        let Some(member) = self.members.get_mut(&told.collector_id) else {
            let member = Member {
                instance: told.instance,
                is_leaving: told.leaving,
                // One that has lanes was there before this one.
                since_us: if told.owned.is_empty() { now_us } else { now_us.saturating_sub(SETTLE_US) },
                owned: told.owned,
                seen_us: now_us,
                flaps: 0,
                gone_us: 0,
            };
            self.members.insert(told.collector_id, member);
            return true;
        };
        if told.instance < member.instance && member.is_there(now_us) {
            // A process that is gone, or should be: its name is another's. Once that is silent, the lower
            // number is of a host whose clock was set back.
            return false;
        }
        let was_there = member.is_there(now_us) && !member.is_leaving && member.instance == told.instance;
        let is_new = !was_there && !told.leaving;
        if is_new {
            let recent = member.gone_us != 0 && now_us.saturating_sub(member.gone_us) < FLAP_WINDOW_US;
            member.flaps = if recent { member.flaps + 1 } else { 0 };
            member.gone_us = now_us;
            member.since_us = now_us;
        }
        let changed = is_new || member.is_leaving != told.leaving || member.owned != told.owned;
        member.instance = told.instance;
        member.is_leaving = told.leaving;
        member.owned = told.owned;
        member.seen_us = now_us;
        changed
    }

    /// Whether it was heard of lately.
    pub(crate) fn is_there(&self, id: &str, now_us: u64) -> bool {
        self.members.get(id).is_some_and(|member| member.is_there(now_us))
    }

    /// Those that are there and stay, in order of their names.
    pub(crate) fn present(&self, now_us: u64) -> Vec<&str> {
        let present = self.members.iter().filter(|(_, member)| member.is_there(now_us) && !member.is_leaving);
        present.map(|(id, _)| id.as_str()).collect()
    }

    /// Whether anybody else says that the lane is theirs.
    pub(crate) fn is_claimed(&self, lane: u16, now_us: u64) -> bool {
        self.members.iter().any(|(id, member)| {
            *id != self.own_id && member.is_there(now_us) && member.owned.contains(&u32::from(lane))
        })
    }

    /// Those that lanes are shared among: settled, or all if none is.
    fn entitled(&self, now_us: u64) -> Vec<&str> {
        let present = self.present(now_us);
        let settled: Vec<&str> = present
            .iter()
            .filter(|id| {
                let member = &self.members[**id];
                now_us.saturating_sub(member.since_us) >= member.settle_us()
            })
            .copied()
            .collect();
        if settled.is_empty() { present } else { settled }
    }

    /// Whose each lane is to be.
    pub(crate) fn plans(&self, lanes: LaneCount, now_us: u64) -> Vec<Plan> {
        let entitled = self.entitled(now_us);
        let owners = shares::assign(&entitled, lanes);
        let plan = |owner: Option<&str>| match owner {
            Some(id) if id == self.own_id => Plan::Mine,
            Some(id) => Plan::Of(id.to_owned()),
            None => Plan::Nobody,
        };
        owners.into_iter().map(plan).collect()
    }
}

/// What lanes see of the members.
#[derive(Debug, Clone)]
pub(crate) struct Shares {
    pub(crate) members: Arc<Mutex<Members>>,
    pub(crate) plans: watch::Receiver<Vec<Plan>>,
}

impl Shares {
    pub(crate) fn plan(&self, lane: &LaneShared) -> Plan {
        self.plans.borrow().get(usize::from(lane.lane.number())).cloned().unwrap_or(Plan::Nobody)
    }

    pub(crate) fn is_there(&self, id: &str) -> bool {
        self.members.lock().is_there(id, boot_us())
    }

    /// Whether there is somebody to leave lanes to.
    pub(crate) fn has_others(&self) -> bool {
        let members = self.members.lock();
        let present = members.present(boot_us());
        present.iter().any(|id| *id != members.own_id)
    }
}

/// Tells the others, and hears them.
#[derive(Debug)]
pub(crate) struct Sharing {
    config: Arc<Config>,
    bus: Arc<dyn Bus>,
    lanes: Vec<Arc<LaneShared>>,
    count: LaneCount,
    instance: u64,
    members: Arc<Mutex<Members>>,
    plans: watch::Sender<Vec<Plan>>,
}

impl Sharing {
    pub(crate) fn new(
        config: Arc<Config>,
        bus: Arc<dyn Bus>,
        lanes: Vec<Arc<LaneShared>>,
        count: LaneCount,
    ) -> (Self, Shares) {
        let instance = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64);
        let members = Members::new(&config.id, instance, boot_us());
        let plans = watch::Sender::new(members.plans(count, boot_us()));
        let members = Arc::new(Mutex::new(members));
        let shares = Shares { members: members.clone(), plans: plans.subscribe() };
        (Self { config, bus, lanes, count, instance, members, plans }, shares)
    }

    /// Until `stop`, and then until every lane is given back or away.
    pub(crate) async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let subject = subject::collectors(&self.config.region);
        let mut heard: Option<Box<dyn Subscription>> = None;
        let mut told = CollectorPresence::default();
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            if heard.is_none() {
                match self.bus.subscribe(&subject).await {
                    Ok(subscription) => heard = Some(subscription),
                    Err(error) => tracing::warn!(%error, "the other collectors cannot be heard; trying again"),
                }
            }
            let leaving = stop.is_cancelled();
            let mut is_due = false;
            tokio::select! {
                () = stop.cancelled(), if !leaving => {}
                _ = ticks.tick() => is_due = true,
                received = next(&mut heard) => match received {
                    Some(Received::Message { payload, .. }) => is_due = self.hear(&payload),
                    Some(Received::Lagged(_)) => {}
                    None => {
                        heard = None;
                        ticks.tick().await;
                    }
                },
                () = changed_hands(&self.lanes) => {}
            }
            let now = self.presence(stop.is_cancelled());
            if is_due || now != told {
                self.tell(&subject, &now).await;
                self.hear_own(now.clone());
                told = now;
            }
            self.replan();
            if told.leaving && told.owned.is_empty() && self.lanes.iter().all(|lane| lane.is_done()) {
                return Ok(());
            }
        }
    }

    fn presence(&self, leaving: bool) -> CollectorPresence {
        let owned = self.lanes.iter().filter(|lane| lane.is_owned()).map(|lane| lane.lane.number().into());
        CollectorPresence {
            collector_id: self.config.id.clone(),
            instance: self.instance,
            leaving,
            owned: owned.collect(),
        }
    }

    async fn tell(&self, subject: &str, presence: &CollectorPresence) {
        if let Err(error) = self.bus.publish(subject, presence.encode_to_vec().into()).await {
            tracing::debug!(%error, "presence not told");
        }
    }

    fn hear_own(&self, presence: CollectorPresence) {
        self.members.lock().handle_presence(presence, boot_us());
    }

    /// Whether the one who spoke is new here: it is answered at once, so that it knows of this one.
    fn hear(&self, payload: &bytes::Bytes) -> bool {
        let Ok(told) = CollectorPresence::decode(payload.clone()) else {
            metrics::counter!("breeze_collector_members_malformed_total").increment(1);
            return false;
        };
        if told.collector_id == self.config.id {
            if told.instance > self.instance {
                tracing::error!(id = told.collector_id, "another collector of this name is running: names must differ");
            }
            return false;
        }
        let now = boot_us();
        let mut members = self.members.lock();
        let knew = members.is_there(&told.collector_id, now);
        members.handle_presence(told, now);
        !knew
    }

    fn replan(&self) {
        let (plans, present) = {
            let members = self.members.lock();
            let now = boot_us();
            (members.plans(self.count, now), members.present(now).len())
        };
        metrics::gauge!("breeze_collector_members").set(present as f64);
        self.plans.send_if_modified(|held| {
            let changed = *held != plans;
            if changed {
                *held = plans;
            }
            changed
        });
    }
}

async fn next(heard: &mut Option<Box<dyn Subscription>>) -> Option<Received> {
    match heard {
        Some(heard) => heard.next().await,
        None => std::future::pending().await,
    }
}

/// Returns when a lane was taken or given away.
async fn changed_hands(lanes: &[Arc<LaneShared>]) {
    let changes = lanes.iter().map(|lane| Box::pin(lane.changed_hands.notified()));
    futures_util::future::select_all(changes).await;
}
