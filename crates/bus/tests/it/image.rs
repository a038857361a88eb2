//! An image taken under appends makes a bus with all that was acknowledged.

use breeze_bus::{Bus, EmbeddedBus, EmbeddedBusConfig, embedded::BusImage};
use std::{fs, io::Read, path::Path, sync::Arc, time::Duration};

fn config(dir: &Path) -> EmbeddedBusConfig {
    EmbeddedBusConfig { segment_bytes: 4 * 1024, tail_bytes: 1024, reserve_bytes: 0, ..EmbeddedBusConfig::new(dir) }
}

fn write(image: &BusImage, dir: &Path) {
    let mut put = |path: &str, len: u64, content: &mut dyn Read| {
        let path = dir.join(path);
        fs::create_dir_all(path.parent().expect("below"))?;
        let mut bytes = Vec::new();
        content.read_to_end(&mut bytes)?;
        assert_eq!(bytes.len() as u64, len, "{}", path.display());
        fs::write(path, bytes)
    };
    image.write_to(&mut put).expect("written");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_has_what_was_acknowledged_and_not_what_was_trimmed() {
    let dir = tempfile::tempdir().expect("a folder");
    let bus = Arc::new(EmbeddedBus::open(config(dir.path())).expect("opens"));
    for number in 1..=200_u64 {
        bus.append("lane.local.0", "", format!("{number:0100}").into()).await.expect("appends");
    }
    bus.trim("lane.local.0", 50).await.expect("trims");
    bus.append("directory", "", "x".into()).await.expect("appends");
    let appending = Arc::clone(&bus);
    let others = tokio::spawn(async move {
        for number in 201.. {
            if appending.append("lane.local.0", "", format!("{number:0100}").into()).await.is_err() {
                return;
            }
        }
    });
    while bus.extent("lane.local.0").await.expect("there").last < 300 {
        tokio::task::yield_now().await;
    }
    let acknowledged = bus.extent("lane.local.0").await.expect("there").last;
    let image = bus.image();
    // Files of the image are removed before it is written.
    bus.trim("lane.local.0", acknowledged).await.expect("trims");
    let elsewhere = tempfile::tempdir().expect("a folder");
    write(&image, elsewhere.path());
    others.abort();
    bus.close().await;

    let identity = bus.extent("lane.local.0").await.expect("there").identity;
    let restored = EmbeddedBus::open(config(elsewhere.path())).expect("opens");
    let extent = restored.extent("lane.local.0").await.expect("there");
    assert_eq!((extent.first, extent.identity), (50, identity));
    assert!(extent.last >= acknowledged, "{} of {acknowledged}", extent.last);
    let mut next = 50;
    while next <= extent.last {
        for entry in restored.read("lane.local.0", next, 8 * 1024, Duration::ZERO).await.expect("reads") {
            assert_eq!(entry.position, next);
            assert_eq!(entry.payload, format!("{next:0100}"), "{next}");
            next += 1;
        }
    }
    assert_eq!(restored.extent("directory").await.expect("there").last, 1);
    let position = restored.append("lane.local.0", "", "goes on".into()).await.expect("appends");
    assert_eq!(position, extent.last + 1);
}
