//! `/devices`: the list, one device, its inventory and its history.

mod delete;
mod events;
mod fields;
mod get;
mod inventory;
mod inventory_history;
mod list;
mod metrics;
mod update;

use crate::api::{
    Action, Api,
    access::{DevicesDelete, DevicesRead, DevicesWrite},
};
use utoipa_axum::routes;

/// Registers the endpoints.
#[must_use]
pub(super) fn register(api: Api) -> Api {
    api.read::<DevicesRead>(routes!(list::list_devices))
        .read::<DevicesRead>(routes!(fields::list_device_fields))
        .read::<DevicesRead>(routes!(get::get_device))
        .mutation::<DevicesWrite>(Action::new("device.update"), routes!(update::update_device))
        .mutation::<DevicesDelete>(Action::new("device.decommission"), routes!(delete::delete_device))
        .read::<DevicesRead>(routes!(inventory::get_device_hardware))
        .read::<DevicesRead>(routes!(inventory::get_device_network))
        .read::<DevicesRead>(routes!(inventory::list_device_software))
        .read::<DevicesRead>(routes!(metrics::get_device_metrics))
        .read::<DevicesRead>(routes!(events::list_device_events))
        .read::<DevicesRead>(routes!(inventory_history::list_device_inventory_history))
        .read::<DevicesRead>(routes!(inventory_history::get_device_inventory_version))
        .read::<DevicesRead>(routes!(inventory_history::get_device_inventory_changes))
}
