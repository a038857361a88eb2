//! A rolling upgrade as `docs/operations.md` has it: from the program of the commit before to this one, one process
//! after the other, under load; and part of the way back.

use super::{World, figure, in_a_world_of, skip};
use breeze_testkit::deployment::Role;
use std::{
    env,
    path::{Path, PathBuf},
    time::Instant,
};

/// The `breeze` of the commit before; `cargo xtask test --long` builds it.
const PREVIOUS: &str = "BREEZE_PREVIOUS_PROGRAM";

/// Stops a role, starts it as another program, and waits until agents of all regions are acknowledged.
fn replace(world: &mut World, program: &Path, pick: impl Fn(&mut World) -> &mut Role) -> anyhow::Result<()> {
    let started = Instant::now();
    let role = pick(world);
    let name = role.name.clone();
    role.replace(|process| process.set_program(program))?;
    figure(&format!("{name} is ready as {}, after", program.display()), started.elapsed());
    world.recover(&format!("{name} replaced"))
}

#[test]
fn one_process_after_the_other_becomes_the_next_version() -> anyhow::Result<()> {
    let Some(previous) = env::var_os(PREVIOUS).map(PathBuf::from) else {
        return skip("there is no program of the commit before: cargo xtask test --long builds it");
    };
    in_a_world_of(
        |options| options.breeze = Some(previous.clone()),
        |world| {
            world.goes_on(None, 3)?;
            world.deployment.options.breeze = None;
            let next = world.deployment.options.breeze();
            for done in world.deployment.migrate()? {
                figure("migrated", done);
            }
            let (control_planes, collectors) = (2, 2);
            for number in 0..control_planes {
                replace(world, &next, |world| &mut world.deployment.control_planes[number])?;
            }
            for region in 0..2 {
                for number in 0..collectors {
                    replace(world, &next, |world| &mut world.deployment.regions[region].collectors[number])?;
                }
            }
            for region in 0..2 {
                replace(world, &next, |world| &mut world.deployment.regions[region].relay)?;
            }
            // The way back, as far as the schema lets it.
            replace(world, &previous, |world| &mut world.deployment.control_planes[1])?;
            replace(world, &previous, |world| &mut world.deployment.regions[0].collectors[0])?;
            replace(world, &previous, |world| &mut world.deployment.regions[1].relay)
        },
    )
}
