//! Inventory documents of a batch: what they make of the stored sections, and what is said of it.

use super::{Halt, owner::Owner, recording::Recording};
use crate::core::{
    Push, changes,
    inventory::{self, Applied},
    pending::InventoryWork,
};
use breeze_proto::{
    id::DeviceId,
    v1::{InventorySection, StoredSection},
};
use breeze_store::{
    history::InventoryVersion,
    model::inventory::{section, section_row},
};
use bytes::Bytes;
use prost::Message as _;
use std::collections::HashMap;

/// What inventory documents came to.
#[derive(Debug, Default)]
pub(super) struct AppliedInventory {
    /// To be stored.
    pub(super) sections: Vec<(DeviceId, StoredSection)>,
    /// To be confirmed when that is done.
    pub(super) pushes: Vec<Push>,
}

impl Owner<'_> {
    pub(super) async fn apply_inventory(
        &mut self,
        works: Vec<InventoryWork>,
        stream: &str,
        recording: &mut Recording,
    ) -> Result<AppliedInventory, Halt> {
        let through = self.boundary.last;
        let mut held: HashMap<(u32, InventorySection), Option<StoredSection>> = HashMap::new();
        let mut changed = HashMap::new();
        let mut pushes = Vec::new();
        for mut work in works {
            let which = (work.device, work.document.section());
            let device = self.with_core(|core| core.device_id(work.device));
            if which.1 == InventorySection::Unspecified {
                metrics::counter!("breeze_collector_inventory_refused_total").increment(1);
                continue;
            }
            if let std::collections::hash_map::Entry::Vacant(vacant) = held.entry(which) {
                let state = self.deps.state.clone();
                let read = self.persist_state("reading inventory", || section(&*state, device, which.1)).await?;
                vacant.insert(read.map(|(_, section)| section));
            }
            let base = held.entry(which).or_default();
            let document = std::mem::take(&mut work.document);
            work.document.section = document.section;
            match inventory::apply(base.as_ref(), document, work.cause.received_us) {
                Applied::Changed(stored) if section_row(device, 0, &stored).is_some() => {
                    self.with_core(|core| core.handle_section(work.device, &stored, through));
                    // The section itself is stored in any case.
                    if self.with_core(|core| core.charge_inventory(work.device, work.cause.received_us)) {
                        recording.add_event(stream, changes::changed(work.cause, device, base.as_ref(), &stored));
                        if let Some(version) = version(device, &stored) {
                            recording.add_version(version);
                        }
                    }
                    *base = Some(*stored);
                    changed.insert(which, device);
                }
                Applied::Changed(_) => refuse_inventory(device, "too large to store"),
                Applied::Refused(why) => refuse_inventory(device, why),
                Applied::Held => {
                    // Also when a crash came between the section's merge and the facts'.
                    if let Some(stored) = base.as_ref() {
                        self.with_core(|core| core.handle_section(work.device, stored, through));
                    }
                }
                Applied::OtherBase => metrics::counter!("breeze_collector_inventory_other_base_total").increment(1),
            }
            pushes.push(self.with_core(|core| core.push_held(&work, base.as_ref())));
        }
        let sections = changed.into_iter().filter_map(|(which, device)| Some((device, held.remove(&which)??)));
        Ok(AppliedInventory { sections: sections.collect(), pushes })
    }
}

/// As the history keeps it: the stored section, encoded.
fn version(device: DeviceId, stored: &StoredSection) -> Option<InventoryVersion> {
    let hash = stored.hash.as_ref().try_into().ok()?;
    let content = Bytes::from(stored.encode_to_vec());
    Some(InventoryVersion { device, section: stored.section(), at_ms: stored.received_us / 1_000, hash, content })
}

fn refuse_inventory(device: DeviceId, why: &str) {
    metrics::counter!("breeze_collector_inventory_refused_total").increment(1);
    tracing::debug!(device.id = %device, why, "inventory refused");
}
