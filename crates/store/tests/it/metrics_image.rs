//! An image of the engine makes an engine that has all that was acknowledged, and its tokens.

use crate::metrics_support::{DAY, DAY_MS, at, batch, open, scalar_query, token};
use breeze_store::metrics::{Appended, EmbeddedMetrics, Metrics, embedded::MetricsImage};
use std::{fs, io::Read, path::Path};

fn write(image: &MetricsImage, dir: &Path) {
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

async fn count(engine: &EmbeddedMetrics, day: u32) -> u64 {
    let found = engine.query(&scalar_query(1, at(day, 0), at(day + 1, 0), DAY_MS)).await.expect("query");
    found.series[0].points.iter().map(|point| point.count).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_has_what_was_acknowledged_whatever_happens_to_the_files() {
    let dir = tempfile::tempdir().expect("folder");
    let engine = open(dir.path());
    for position in 1..=30_u64 {
        let (token, rows) = (token(position, position, DAY), batch(at(DAY, position * 1_000), position));
        engine.append(&token, &rows).await.expect("append");
        if position == 10 || position == 20 {
            engine.flush().await.expect("flush");
        }
    }
    // 20 rows in two segments, 10 in the log.
    let image = engine.image().await.expect("image");
    for position in 31..=40_u64 {
        let rows = batch(at(DAY, position * 1_000), position);
        engine.append(&token(position, position, DAY), &rows).await.expect("append");
    }
    // What the image holds is merged away, and its log is no longer needed.
    engine.flush().await.expect("flush");
    engine.maintain(at(DAY + 5, 0)).await.expect("seal");
    let elsewhere = tempfile::tempdir().expect("folder");
    write(&image, elsewhere.path());
    drop(image);
    assert_eq!(count(&engine, DAY).await, 40);

    let restored = open(elsewhere.path());
    assert_eq!(count(&restored, DAY).await, 30);
    for position in 1..=31_u64 {
        let (token, rows) = (token(position, position, DAY), batch(at(DAY, position * 1_000), position));
        let expected = if position <= 30 { Appended::Duplicate } else { Appended::New };
        assert_eq!(restored.append(&token, &rows).await.expect("append"), expected, "{position}");
    }
    restored.maintain(at(DAY + 5, 0)).await.expect("seals");
    assert_eq!(count(&restored, DAY).await, 31);
    let left = fs::read_dir(dir.path().join("segments")).expect("list").count();
    assert_eq!(left, 4, "what only the image held is deleted with it");
}
