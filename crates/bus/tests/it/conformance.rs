//! Every backend gives the same.

use async_trait::async_trait;
use breeze_bus::{
    Bus, EmbeddedBus, EmbeddedBusConfig, MemoryBus,
    conformance::{self, Backend},
};
use std::sync::Arc;
use tempfile::TempDir;

struct Memory(Arc<MemoryBus>);

#[async_trait]
impl Backend for Memory {
    fn bus(&self) -> Arc<dyn Bus> {
        self.0.clone()
    }

    async fn reopen(&mut self) -> bool {
        false
    }
}

/// Small segments and a small tail, so that a short run crosses files and reads from them.
struct Embedded {
    config: EmbeddedBusConfig,
    bus: Option<Arc<EmbeddedBus>>,
    _dir: TempDir,
}

impl Embedded {
    fn open() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let config = EmbeddedBusConfig {
            segment_bytes: 8 * 1024,
            tail_bytes: 3 * 1024,
            reserve_bytes: 0,
            ..EmbeddedBusConfig::new(dir.path())
        };
        let bus = EmbeddedBus::open(config.clone()).expect("opens");
        Self { config, bus: Some(Arc::new(bus)), _dir: dir }
    }
}

#[async_trait]
impl Backend for Embedded {
    fn bus(&self) -> Arc<dyn Bus> {
        self.bus.clone().expect("open")
    }

    async fn reopen(&mut self) -> bool {
        let bus = self.bus.take().expect("open");
        bus.close().await;
        assert_eq!(Arc::strong_count(&bus), 1, "nobody else holds it");
        drop(bus);
        self.bus = Some(Arc::new(EmbeddedBus::open(self.config.clone()).expect("opens again")));
        true
    }
}

#[test]
fn memory_streams_match_the_model() {
    conformance::streams_match_the_model(64, || Memory(Arc::new(MemoryBus::new())));
}

#[test]
fn embedded_streams_match_the_model() {
    conformance::streams_match_the_model(24, Embedded::open);
}

#[tokio::test]
async fn memory_plays_the_scenes() {
    conformance::scenes(Arc::new(MemoryBus::new())).await;
}

#[tokio::test]
async fn embedded_plays_the_scenes() {
    conformance::scenes(Embedded::open().bus()).await;
}
