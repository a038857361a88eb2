//! Relays that are there, by what they say of themselves: a device that falls silent together with its
//! relay is told apart from one that falls silent alone.

use crate::clock::boot_us;
use breeze_bus::{Bus, Received};
use breeze_proto::{subject, v1::RoleStatus};
use parking_lot::Mutex;
use prost::Message as _;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// A relay that says nothing for so long is gone.
const GONE_US: u64 = 10_000_000;
/// One that was gone for so long is forgotten.
const FORGOTTEN_US: u64 = 86_400_000_000;
/// Relays that are kept apart; further ones are never found to be gone.
const MAX_RELAYS: usize = 4_096;
const RETRY: Duration = Duration::from_secs(5);

/// When each was heard of last, by region and id. Whether all that have a name are gone is what is asked:
/// names are unique in a region only.
#[derive(Debug, Default)]
pub(crate) struct Relays {
    seen: Mutex<BTreeMap<(String, String), u64>>,
}

impl Relays {
    fn handle_status(&self, status: RoleStatus, now_us: u64) {
        let mut seen = self.seen.lock();
        let key = (status.region, status.id);
        if seen.len() >= MAX_RELAYS && !seen.contains_key(&key) {
            seen.retain(|_, at_us| now_us.saturating_sub(*at_us) < FORGOTTEN_US);
            if seen.len() >= MAX_RELAYS {
                return;
            }
        }
        seen.insert(key, now_us);
    }

    /// Names of those that were there and are gone.
    pub(crate) fn gone(&self, now_us: u64) -> Vec<String> {
        let seen = self.seen.lock();
        let is_gone = |at_us: &u64| now_us.saturating_sub(*at_us) > GONE_US;
        let there: Vec<&str> = seen.iter().filter(|(_, at)| !is_gone(at)).map(|((_, id), _)| id.as_str()).collect();
        let gone = seen.iter().filter(|((_, id), at)| is_gone(at) && !there.contains(&id.as_str()));
        gone.map(|((_, id), _)| id.clone()).collect()
    }
}

/// Listens until it is stopped. A bus that refuses costs a cause in the history, and no more.
pub(crate) async fn run(relays: Arc<Relays>, bus: Arc<dyn Bus>, stop: CancellationToken) -> anyhow::Result<()> {
    let listen = async {
        loop {
            if let Ok(mut heard) = bus.subscribe(&subject::status("relay", "*")).await {
                while let Some(received) = heard.next().await {
                    let Received::Message { payload, .. } = received else { continue };
                    if let Ok(status) = RoleStatus::decode(payload) {
                        relays.handle_status(status, boot_us());
                    }
                }
            }
            tokio::time::sleep(RETRY).await;
        }
    };
    tokio::select! {
        () = stop.cancelled() => Ok(()),
        () = listen => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_is_gone_when_none_of_its_name_is_heard() {
        let relays = Relays::default();
        let say = |region: &str, id: &str, at_us| {
            let status = RoleStatus { region: region.into(), id: id.into(), ..RoleStatus::default() };
            relays.handle_status(status, at_us);
        };
        say("eu", "1", 0);
        say("eu", "2", 0);
        say("us", "2", 5_000_000);
        assert_eq!(relays.gone(GONE_US), Vec::<String>::new());
        assert_eq!(relays.gone(GONE_US + 1), ["1"]);
        say("eu", "1", GONE_US);
        assert_eq!(relays.gone(GONE_US + 5_000_001), ["2", "2"]);
    }
}
