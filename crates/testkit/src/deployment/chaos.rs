//! A schedule of faults that a seed decides, and the reckoning at its end.

use super::{
    Deployment, faketime,
    faults::{Fault, RECOVERY_PATIENCE, Recovery, suffer},
    fleet::Fleet,
    oracle::{self, Verdict},
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use std::time::{Duration, Instant};

/// The longest that a fault is held, in milliseconds.
const HOLD_MS_MAX: u64 = 8_000;
/// How wrong a clock may be, in seconds.
const SKEW_S_MAX: i64 = 600;
/// One in so many times two faults strike together.
const PAIRS: u32 = 4;

/// One round.
#[derive(Debug)]
pub struct Round {
    pub faults: Vec<Fault>,
    pub held: Duration,
    pub recovery: Recovery,
}

/// The next faults of a schedule, and how long they are held.
pub fn next(rng: &mut StdRng, deployment: &Deployment) -> (Vec<Fault>, Duration) {
    let count = if rng.random_range(0..PAIRS) == 0 { 2 } else { 1 };
    let mut faults: Vec<Fault> = Vec::new();
    while faults.len() < count {
        let fault = any(rng, deployment);
        // Two of one kind would heal each other.
        if !faults
            .iter()
            .any(|other| std::mem::discriminant(other) == std::mem::discriminant(&fault) || clash(other, &fault))
        {
            faults.push(fault);
        }
    }
    (faults, Duration::from_millis(rng.random_range(500..=HOLD_MS_MAX)))
}

fn any(rng: &mut StdRng, deployment: &Deployment) -> Fault {
    let region = rng.random_range(0..deployment.regions.len());
    let collector = rng.random_range(0..deployment.options.collectors);
    match rng.random_range(0..22) {
        0 => Fault::KillRelay(region),
        1 => Fault::KillCollector(region, collector),
        2 => Fault::KillControlPlane(rng.random_range(0..deployment.control_planes.len())),
        3 => Fault::KillNats(region),
        4 => Fault::KillHub,
        5 => Fault::KillClickHouse(region),
        6 => Fault::KillCassandra(rng.random_range(0..deployment.cassandra.len())),
        7 | 8 => Fault::PauseCollector(region, collector),
        9 => Fault::PauseRelay(region),
        10 => Fault::PauseNats(region),
        11 => Fault::PauseClickHouse(region),
        12 => Fault::InsertsFail(region),
        13 => Fault::InsertsUnanswered(region),
        14 => Fault::InsertsTwice(region),
        15 => Fault::InsertsLate(region),
        16 => Fault::CutRegion(region),
        17 => Fault::CutAndRoam(region),
        18 | 19 => Fault::SlowCollector(region, collector),
        // Not a wrong clock where there is no libfaketime, so that a seed's faults differ as little as possible.
        20 if faketime().is_some() => {
            Fault::SkewCollector(region, collector, rng.random_range(-SKEW_S_MAX..=SKEW_S_MAX))
        }
        21 if deployment.options.nats_servers == 3 => Fault::LoseNatsData(region, rng.random_range(0..3)),
        _ => Fault::PauseCollector(region, collector),
    }
}

/// Whether one would undo or forbid the other: both are of one process.
fn clash(one: &Fault, other: &Fault) -> bool {
    let part = |fault: &Fault| match *fault {
        Fault::KillRelay(_) | Fault::PauseRelay(_) | Fault::CutRegion(_) | Fault::CutAndRoam(_) => 1,
        Fault::KillCollector(..) | Fault::PauseCollector(..) | Fault::SlowCollector(..) | Fault::SkewCollector(..) => 2,
        Fault::KillControlPlane(_) => 3,
        Fault::KillNats(_) | Fault::PauseNats(_) | Fault::LoseNatsData(..) => 4,
        Fault::KillHub => 5,
        Fault::KillCassandra(_) => 6,
        Fault::KillClickHouse(_)
        | Fault::PauseClickHouse(_)
        | Fault::InsertsFail(_)
        | Fault::InsertsUnanswered(_)
        | Fault::InsertsTwice(_)
        | Fault::InsertsLate(_)
        | Fault::DiesInInsert(_) => 7,
    };
    part(one) == part(other)
}

/// Lets faults strike for about `length`, each until the system has recovered; `tell` is told each round.
/// Then stops the agents and checks that everything acknowledged is stored once.
///
/// # Errors
/// The first round that did not recover, or what the books say; the caller knows the seed.
pub fn run(
    deployment: &mut Deployment,
    fleets: &mut [Fleet],
    seed: u64,
    length: Duration,
    tell: &mut dyn FnMut(&Round),
) -> anyhow::Result<Vec<Verdict>> {
    let mut rng = StdRng::seed_from_u64(seed);
    let until = Instant::now() + length;
    while Instant::now() < until {
        let (faults, held) = next(&mut rng, deployment);
        let recovery = suffer(deployment, fleets, &faults, held)?;
        tell(&Round { faults, held, recovery });
    }
    reckon(deployment, fleets)
}

/// Kills the agents and checks the books of every region.
///
/// # Errors
/// What is wrong.
pub fn reckon(deployment: &Deployment, fleets: &mut [Fleet]) -> anyhow::Result<Vec<Verdict>> {
    fleets.iter_mut().for_each(|fleet| fleet.process.kill());
    let check = |fleet: &Fleet| oracle::check(deployment, &fleet.region, &fleet.acknowledged()?, RECOVERY_PATIENCE);
    fleets.iter().map(check).collect()
}
