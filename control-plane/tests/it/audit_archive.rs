//! What is kept no longer: archived to a folder and to an S3 server, then deleted; held; and what is left verifies.

use breeze_control_plane::audit::{
    checkpoint::Checkpoint,
    places::{Objects, Place as _},
    retention::clean,
    store::{Config, Store},
};
use breeze_proto::id::OrgId;
use breeze_store::{
    model::{
        Scope,
        audit::{Asked, AuditLog, Chain, Entry, Filter, INDEX, Intent, LOG, Policy, Reach},
    },
    state::{Commit, MAX_PAGE_ROWS, State, Table, memory::MemoryState},
};
use breeze_testkit::servers::{S3, Tools, skip};
use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

const DAY_MS: u64 = 24 * 3600 * 1000;
const START_MS: u64 = 1_760_000_000_000;

struct World {
    state: Arc<MemoryState>,
    log: AuditLog,
    now: Arc<AtomicU64>,
    chain: Chain,
    org: OrgId,
}

impl World {
    fn new() -> Self {
        let state = Arc::new(MemoryState::new());
        let now = Arc::new(AtomicU64::new(START_MS));
        let clock = Arc::clone(&now);
        let log =
            AuditLog::new(Arc::<MemoryState>::clone(&state), [7; 32], "test", move || clock.load(Ordering::SeqCst));
        let org = OrgId::generate();
        Self { state, log, now, chain: Chain::Organization(org), org }
    }

    async fn append(&self, action: &str) {
        let now = self.now.load(Ordering::SeqCst);
        self.log.append(Entry { org_id: Some(self.org), ..Entry::by_system(action, now) }).await.expect("appends");
    }

    async fn set(&self, change: impl FnOnce(&mut Policy)) {
        let found = self.log.policy(self.chain).await.expect("reads");
        let mut policy = found.value;
        change(&mut policy);
        let intent = Intent::new(Entry::by_system("policy.set", START_MS));
        self.log.set_policy(self.chain, &policy, found.version, &intent).await.expect("sets");
    }

    /// Rows of the log and its indexes.
    async fn rows(&self) -> usize {
        let mut rows = 0;
        for table in [Table::Merge(LOG), Table::Merge(INDEX)] {
            for bucket in 0..256 {
                rows += self.state.scan_family(table, bucket, None, MAX_PAGE_ROWS).await.expect("reads").rows.len();
            }
        }
        rows
    }

    async fn found(&self) -> Vec<String> {
        let asked = Asked {
            reach: Reach::Chain(self.chain),
            filter: &Filter::default(),
            after: None,
            limit: 100,
            budget: 1_000,
        };
        let found = self.log.find(&Scope::system("test"), &asked).await.expect("finds");
        found.entries.into_iter().map(|(_, sealed)| sealed.entry.action).collect()
    }
}

/// The whole life of a chain's old entries, on any store.
async fn life(config: &Config) {
    let store = &Store::open(config).expect("opens");
    let world = World::new();
    for n in 0..5 {
        world.append(&format!("old.{n}")).await;
    }
    world.now.fetch_add(60 * DAY_MS, Ordering::SeqCst);
    for n in 0..3 {
        world.append(&format!("new.{n}")).await;
    }
    let whole = world.rows().await;
    assert_eq!(clean(&world.log, Some(store), world.chain).await.expect("nothing to do"), 0, "no policy: for ever");

    world
        .set(|policy| {
            (policy.retention_days, policy.archive, policy.legal_hold) = (Some(30), true, Some("case".into()))
        })
        .await;
    assert_eq!(clean(&world.log, Some(store), world.chain).await.expect("held"), 0);
    assert_eq!(world.rows().await, whole, "what is held stays");

    // A hold that comes between archiving and deleting wins.
    world.set(|policy| policy.legal_hold = None).await;
    let run = world.log.due(world.chain).await.expect("reads").expect("due");
    assert_eq!(run.numbers(), (1, 5));
    world.set(|policy| policy.legal_hold = Some("case".into())).await;
    assert!(!world.log.take_away(&run, None, String::new()).await.expect("answers"));
    assert_eq!(world.rows().await, whole);
    world.set(|policy| policy.legal_hold = None).await;

    assert!(clean(&world.log, None, world.chain).await.is_err(), "no archive, no deletion");
    assert_eq!(world.rows().await, whole);
    assert_eq!(clean(&world.log, Some(store), world.chain).await.expect("cleans"), 5);
    assert!(world.rows().await < whole);
    assert_eq!(world.found().await, ["audit.archive", "new.2", "new.1", "new.0"]);
    let verdict = world.log.verify_chain(world.chain, &[]).await.expect("verifies");
    assert_eq!((verdict.broken, verdict.entries, verdict.archived), (None, 9, 5));

    let archive = world.log.floor(world.chain).await.expect("reads").expect("there");
    let lines = store.read(archive.object.as_deref().expect("archived")).await.expect("reads");
    assert!(world.log.archive_holds(world.chain, &archive, &lines));
    let altered = String::from_utf8(lines.to_vec()).expect("text").replace("old.3", "old.4");
    assert!(!world.log.archive_holds(world.chain, &archive, altered.as_bytes()));

    // The log goes on above its floor.
    world.append("later").await;
    assert_eq!(world.log.verify_chain(world.chain, &[]).await.expect("verifies").entries, 10);

    // Whoever lowers the floor by hand is found out.
    let key = [b"archive/".as_slice(), &1_u64.to_be_bytes()].concat();
    let forged = serde_json::to_vec(&breeze_store::model::audit::Archive { last: 7, ..archive }).expect("plain");
    let commit = Commit::new(breeze_store::model::audit::HEADS, world.chain.to_string()).put(key, forged);
    let _applied = world.state.commit(commit).await.expect("commits");
    let verdict = world.log.verify_chain(world.chain, &[]).await.expect("verifies");
    assert_eq!(
        verdict.broken.map(|broken| broken.why.to_string()).unwrap_or_default(),
        "the record of archived entries was altered, or one is missing"
    );
    assert!(world.log.due(world.chain).await.is_err(), "nothing more of it is taken away");

    // Checkpoints are written once.
    let checkpoint = |mac: &str| Checkpoint {
        instance_id: "i".into(),
        chain: "instance".into(),
        sequence: 1,
        mac: mac.into(),
        time_ms: 1,
        signature: String::new(),
    };
    let store = Arc::new(Store::open(config).expect("opens"));
    let objects = Objects(Arc::clone(&store));
    objects.bring(&[checkpoint("first")]).await.expect("written");
    objects.bring(&[checkpoint("second")]).await.expect("left alone");
    let kept = store.read("checkpoints/instance/00000000000000000001.json").await.expect("reads");
    assert!(String::from_utf8_lossy(&kept).contains("first"));
}

#[tokio::test]
async fn old_entries_go_to_a_folder_and_away() {
    let folder = tempfile::tempdir().expect("folder");
    let url = format!("file://{}", folder.path().display()).parse().expect("a url");
    let config = Config { url, endpoint: None, region: None, access_key_id: None, secret_access_key_file: None };
    life(&config).await;
}

#[tokio::test]
async fn old_entries_go_to_an_s3_server_and_away() {
    breeze_runtime::tls::install_provider();
    let folder = tempfile::tempdir().expect("folder");
    let Some(tools) = Tools::find().filter(|tools| tools.s3().is_some()) else {
        skip("the S3 server is not installed: cargo xtask test installs it");
        return;
    };
    let server = S3::start(&tools, &folder.path().join("s3"), "audit").expect("starts");
    let config = s3_config(&server, folder.path(), server.secret_key());
    life(&config).await;

    // It is a server that checks who comes.
    let stranger = Store::open(&s3_config(&server, folder.path(), "wrong")).expect("opens");
    assert!(stranger.create("x", "y".into()).await.is_err());
}

fn s3_config(server: &S3, folder: &Path, secret: &str) -> Config {
    let file = folder.join(format!("secret-{secret}"));
    std::fs::write(&file, secret).expect("written");
    Config {
        url: "s3://audit/breeze/log".parse().expect("a url"),
        endpoint: Some(server.url().parse().expect("a url")),
        region: None,
        access_key_id: Some(server.access_key().to_owned()),
        secret_access_key_file: Some(file),
    }
}
