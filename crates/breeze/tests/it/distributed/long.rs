//! What takes minutes.

use super::{figure, in_a_world};
use breeze_testkit::deployment::{
    chaos,
    faults::{Fault, suffer},
};
use rand::{SeedableRng as _, rngs::StdRng};
use std::time::Duration;

/// Rounds of a schedule.
const ROUNDS: usize = 25;

#[test]
fn pairs_of_faults_in_a_seeded_order() -> anyhow::Result<()> {
    let seed = rand::random();
    figure("seed", seed);
    in_a_world(|world| {
        let mut rng = StdRng::seed_from_u64(seed);
        for _ in 0..ROUNDS {
            let (faults, hold) = chaos::next(&mut rng, &world.deployment);
            world.suffer(&faults, hold)?;
        }
        Ok(())
    })
    .map_err(|error| error.context(format!("seed {seed}")))
}

#[test]
fn a_collector_is_paused_at_many_moments_of_an_insert() -> anyhow::Result<()> {
    in_a_world(|world| {
        for step in 0..20_u64 {
            let fault = Fault::PauseCollector(0, (step % 2) as usize);
            // Somewhere else between gathering, recording and inserting each time.
            std::thread::sleep(Duration::from_millis(step * 137 % 1_000));
            suffer(&mut world.deployment, &mut world.fleets, &[fault], Duration::from_secs(4))?;
        }
        Ok(())
    })
}
