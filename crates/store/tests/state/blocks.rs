//! Claims, reservations, leases and recorded answers, on every engine.

use crate::{LANES, USERS, engines};
use breeze_store::state::{
    Assert, Commit, CommitOutcome,
    claims::{Claimed, Claims},
    idempotency::{Replay, Request},
    leases::{Acquired, Lease, Leases},
    reservations::{Count, Reservations, Reserved},
};
use std::sync::Arc;
use tokio::task::JoinSet;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_name_has_one_owner() {
    let (_temporary, engines) = engines().await;
    for state in engines {
        let claims = Claims::new(state, USERS);
        let mut tasks = JoinSet::new();
        for owner in 0..24u8 {
            let claims = claims.clone();
            tasks
                .spawn(async move { (owner, claims.claim("email", "a@example.org", &[owner]).await.expect("judged")) });
        }
        let outcomes = tasks.join_all().await;
        let winners: Vec<u8> = outcomes.iter().filter(|(_, claimed)| *claimed == Claimed::Yes).map(|o| o.0).collect();
        let [winner] = winners[..] else { panic!("one wins, not {winners:?}") };
        assert!(
            outcomes.iter().all(|(owner, claimed)| *owner == winner || *claimed == Claimed::By(vec![winner].into()))
        );

        let name = "a@example.org";
        assert_eq!(claims.claim("email", name, &[winner]).await.expect("judged"), Claimed::Yes, "claiming repeats");
        assert_eq!(claims.claim("slug", name, b"other kind").await.expect("judged"), Claimed::Yes);
        assert!(!claims.release("email", name, b"stranger").await.expect("judged"));
        assert!(claims.release("email", name, &[winner]).await.expect("judged"));
        assert_eq!(claims.owner("email", name).await.expect("readable"), None);
        assert_eq!(claims.claim("email", name, b"next").await.expect("judged"), Claimed::Yes);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_limit_holds_in_a_race() {
    const LIMIT: u64 = 10;
    let (_temporary, engines) = engines().await;
    for state in engines {
        let uses = Reservations::new(state, USERS);
        let mut tasks = JoinSet::new();
        for id in 0..25u8 {
            let uses = uses.clone();
            tasks.spawn(async move {
                let reserved = uses.reserve(b"key", &[id], LIMIT, 1_000, 0).await.expect("judged");
                if reserved == Reserved::Yes && id % 3 == 0 {
                    // Twice, as a retry would.
                    assert!(uses.confirm(b"key", &[id]).await.expect("judged"));
                    assert!(uses.confirm(b"key", &[id]).await.expect("judged"));
                }
                reserved == Reserved::Yes
            });
        }
        let reserved = tasks.join_all().await.into_iter().filter(|yes| *yes).count();
        assert_eq!(reserved as u64, LIMIT);
        let Count { taken, held } = uses.count(b"key", 0).await.expect("readable");
        assert_eq!(taken + held, LIMIT);
        let exhausted = Reserved::Exhausted { taken, held };
        assert_eq!(uses.reserve(b"key", b"late", LIMIT, 2_000, 999).await.expect("judged"), exhausted);

        // Those that were not confirmed expire.
        assert_eq!(uses.count(b"key", 1_000).await.expect("readable"), Count { taken, held: 0 });
        for id in taken..LIMIT {
            let id = format!("later {id}");
            assert_eq!(uses.reserve(b"key", id.as_bytes(), LIMIT, 2_000, 1_000).await.expect("judged"), Reserved::Yes);
        }
        let full = uses.reserve(b"key", b"late", LIMIT, 2_000, 1_000).await.expect("judged");
        assert_eq!(full, Reserved::Exhausted { taken, held: LIMIT - taken });
    }
}

#[tokio::test]
async fn places_come_back() {
    let (_temporary, engines) = engines().await;
    for state in engines {
        let uses = Reservations::new(state, USERS);
        assert_eq!(uses.reserve(b"org", b"a", 1, 100, 0).await.expect("judged"), Reserved::Yes);
        assert!(uses.cancel(b"org", b"a").await.expect("judged"));
        assert!(!uses.cancel(b"org", b"a").await.expect("judged"));
        assert!(!uses.confirm(b"org", b"a").await.expect("judged"), "there is nothing to confirm");
        assert_eq!(uses.reserve(b"org", b"b", 1, 100, 0).await.expect("judged"), Reserved::Yes);
        assert!(uses.confirm(b"org", b"b").await.expect("judged"));
        assert_eq!(uses.reserve(b"org", b"b", 1, 100, 0).await.expect("judged"), Reserved::Yes, "it has its place");
        let full = Reserved::Exhausted { taken: 1, held: 0 };
        assert_eq!(uses.reserve(b"org", b"c", 1, 300, 200).await.expect("judged"), full);
        assert!(uses.release(b"org", b"b").await.expect("judged"));
        assert!(!uses.release(b"org", b"b").await.expect("judged"));
        assert_eq!(uses.reserve(b"org", b"c", 1, 300, 200).await.expect("judged"), Reserved::Yes);
        // An expired reservation whose place nobody needed may still be confirmed, once taken away not.
        assert_eq!(uses.reserve(b"org", b"d", 1, 500, 400).await.expect("judged"), Reserved::Yes);
        assert!(!uses.confirm(b"org", b"c").await.expect("judged"));
    }
}

fn held(acquired: Acquired) -> Lease {
    match acquired {
        Acquired::Yes(lease) => lease,
        Acquired::Held { holder, until_ms } => panic!("held by {holder:?} until {until_ms}"),
    }
}

#[tokio::test]
async fn a_replaced_holder_records_nothing() {
    let (_temporary, engines) = engines().await;
    for state in engines {
        let leases = Leases::new(Arc::clone(&state), LANES);
        let record = async |lease: &Lease, what: &'static str| {
            let commit = Commit::new(LANES, lease.partition.clone()).assert(lease.fence()).put("boundary", what);
            matches!(state.commit(commit).await.expect("judged"), CommitOutcome::Applied { .. })
        };
        let mut first = held(leases.acquire(b"lane", b"one", 100, 0).await.expect("judged"));
        assert_eq!(first.epoch, 1);
        let refused = leases.acquire(b"lane", b"two", 200, 99).await.expect("judged");
        assert_eq!(refused, Acquired::Held { holder: "one".into(), until_ms: 100 });
        assert!(record(&first, "a").await);
        assert!(leases.renew(&mut first, 150).await.expect("judged"));
        assert!(record(&first, "b").await, "a renewal does not fence its own holder");
        assert!(matches!(leases.acquire(b"lane", b"two", 200, 149).await.expect("judged"), Acquired::Held { .. }));

        // Expired, not taken: renewed all the same.
        assert!(leases.renew(&mut first, 300).await.expect("judged"));
        let second = held(leases.acquire(b"lane", b"two", 400, 300).await.expect("judged"));
        assert_eq!(second.epoch, 2);
        assert!(!record(&first, "c").await);
        assert!(!leases.renew(&mut first, 900).await.expect("judged"));
        assert!(!leases.release(first).await.expect("judged"));
        assert!(record(&second, "d").await);

        // A restart under the same name takes over at once, and fences what it was.
        let third = held(leases.acquire(b"lane", b"two", 500, 310).await.expect("judged"));
        assert_eq!(third.epoch, 3);
        assert!(!record(&second, "e").await);
        assert!(leases.release(third.clone()).await.expect("judged"));
        assert!(!record(&third, "f").await, "what was given back is not held");
        let fourth = held(leases.acquire(b"lane", b"one", 600, 320).await.expect("judged"));
        assert_eq!(fourth.epoch, 4, "a release does not set the epoch back");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_lease_is_won_by_one() {
    let (_temporary, engines) = engines().await;
    for state in engines {
        let leases = Leases::new(state, LANES);
        for round in 0..5u64 {
            let mut tasks = JoinSet::new();
            for holder in 0..12u64 {
                let leases = leases.clone();
                let name = (round * 100 + holder).to_be_bytes();
                tasks.spawn(async move {
                    leases.acquire(b"race", &name, (round + 1) * 100, round * 100).await.expect("judged")
                });
            }
            let outcomes = tasks.join_all().await;
            let won: Vec<u64> = outcomes
                .iter()
                .filter_map(|outcome| match outcome {
                    Acquired::Yes(lease) => Some(lease.epoch),
                    Acquired::Held { .. } => None,
                })
                .collect();
            assert_eq!(won, [round + 1]);
        }
    }
}

#[tokio::test]
async fn a_repeated_request_is_answered_the_same() {
    let (_temporary, engines) = engines().await;
    for state in engines {
        let create = async |request: &Request, answer: &'static str| {
            let commit = Commit::new(USERS, "derived-id").assert(Assert::Absent("entity".into())).put("entity", answer);
            match state.commit(request.recorded(commit, answer.as_bytes())).await.expect("judged") {
                CommitOutcome::Applied { .. } => None,
                CommitOutcome::Conflict { rows, .. } => {
                    let row = rows.iter().find(|row| row.key == *request.row()).expect("it was recorded");
                    Some(request.replay(row).expect("readable"))
                }
            }
        };
        assert_eq!(create(&Request::new("key", b"body"), "first").await, None);
        assert_eq!(create(&Request::new("key", b"body"), "second").await, Some(Replay::Answer("first".into())));
        assert_eq!(create(&Request::new("key", b"other"), "third").await, Some(Replay::Mismatch));
    }
}
