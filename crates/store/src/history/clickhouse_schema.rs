//! The tables of the history in a region's ClickHouse, made and upgraded with those of the metrics.

use crate::metrics::clickhouse::schema::Extra;

/// Key and time first, as both are read newest first; the same key again is the same entry. Kept for so many
/// days.
pub(crate) fn tables(days: u32) -> Vec<Extra> {
    vec![
        Extra {
            name: "device_events",
            columns: "device FixedString(16) CODEC(ZSTD(1)), at DateTime64(3, 'UTC') CODEC(DoubleDelta, ZSTD(1)), \
                      id FixedString(16) CODEC(NONE), kind LowCardinality(String), \
                      summary String CODEC(ZSTD(3)), details String CODEC(ZSTD(3))",
            engine: "ReplacingMergeTree",
            partition: "toYYYYMM(at)",
            order: "device, at, id",
            ttl: Some(("at", days)),
        },
        Extra {
            name: "inventory_versions",
            // Versions of one section lie side by side, so each is packed as its difference to the last.
            columns: "device FixedString(16) CODEC(ZSTD(1)), section LowCardinality(String), \
                      at DateTime64(3, 'UTC') CODEC(DoubleDelta, ZSTD(1)), hash FixedString(32) CODEC(NONE), \
                      content String CODEC(ZSTD(6))",
            engine: "ReplacingMergeTree",
            partition: "toYYYYMM(at)",
            order: "device, section, at, hash",
            ttl: Some(("at", days)),
        },
    ]
}
