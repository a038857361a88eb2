//! Everything as it should be.

use super::in_a_world;
use std::time::Duration;

#[test]
fn what_is_acknowledged_in_two_regions_is_stored_once() -> anyhow::Result<()> {
    in_a_world(|world| {
        for fleet in &mut world.fleets {
            let before = fleet.acknowledged()?;
            fleet.wait_for(&before, 5, Duration::from_secs(60))?;
        }
        Ok(())
    })
}
