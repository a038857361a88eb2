//! Making and upgrading the schema: forward only, by statements that may each be repeated, so several
//! nodes may do it at once.

use super::super::MetricsError;
use super::client::{ClickHouseConfig, Connection};
use super::schema::{Kind, ROLL_UPS, SCHEMA_VERSION, VERSION_TABLE, tables, view};

/// Creates the database and its tables, brings them to [`SCHEMA_VERSION`] and sets how long each is kept.
/// Says what was done; nothing when there was nothing to do.
///
/// # Errors
/// [`MetricsError::Invalid`] if the database has a newer schema, [`MetricsError::Unavailable`] if the
/// server does not answer or refuses; what was done so far holds, and it may be run again.
pub async fn migrate(config: &ClickHouseConfig) -> Result<Vec<String>, MetricsError> {
    let connection = Connection::new(config.clone())?;
    let mut done = Vec::new();
    let database = &config.database;
    let found: u64 = connection
        .fetch_one(connection.serverwide().query("SELECT count() FROM system.databases WHERE name = ?").bind(database))
        .await?;
    if found == 0 {
        let create = format!("CREATE DATABASE IF NOT EXISTS {database}");
        connection.run(connection.serverwide().query_raw(&create)).await?;
        done.push(format!("created database {database}"));
    }
    connection
        .execute(&format!(
            "CREATE TABLE IF NOT EXISTS {VERSION_TABLE} (version UInt32, at DateTime('UTC') DEFAULT now()) \
             ENGINE = ReplacingMergeTree ORDER BY version"
        ))
        .await?;
    let version = version(&connection).await?;
    refuse_newer(&connection, version)?;
    if version < 1 {
        for table in tables(config) {
            connection.execute(&table.create(config.token_window)).await?;
        }
        for kind in Kind::BOTH {
            for (resolution, _) in ROLL_UPS {
                connection.execute(&view(kind, resolution)).await?;
            }
        }
        record(&connection, 1, &mut done).await?;
    }
    keep_retention(&connection, &mut done).await?;
    Ok(done)
}

/// Fails unless the database has the schema of this program.
pub(crate) async fn check(connection: &Connection) -> Result<(), MetricsError> {
    let version = version(connection).await?;
    refuse_newer(connection, version)?;
    if version < SCHEMA_VERSION {
        let place = connection.place();
        return Err(MetricsError::Invalid(if version == 0 {
            format!("{place} has no schema yet; run `breeze migrate`")
        } else {
            format!("{place} has schema version {version}, this program needs {SCHEMA_VERSION}; run `breeze migrate`")
        }));
    }
    Ok(())
}

fn refuse_newer(connection: &Connection, version: u32) -> Result<(), MetricsError> {
    if version > SCHEMA_VERSION {
        return Err(MetricsError::Invalid(format!(
            "{} has schema version {version}; this program knows {SCHEMA_VERSION} and must not write to it",
            connection.place()
        )));
    }
    Ok(())
}

/// The version of the database's schema; 0 where there is none.
async fn version(connection: &Connection) -> Result<u32, MetricsError> {
    let exists: u64 = connection
        .fetch_one(
            connection
                .serverwide()
                .query("SELECT count() FROM system.tables WHERE database = ? AND name = ?")
                .bind(&connection.config.database)
                .bind(VERSION_TABLE),
        )
        .await?;
    if exists == 0 {
        return Ok(0);
    }
    let query = connection.client().query_raw("SELECT max(version) FROM breeze_schema");
    connection.fetch_one(query).await
}

async fn record(connection: &Connection, version: u32, done: &mut Vec<String>) -> Result<(), MetricsError> {
    connection.execute(&format!("INSERT INTO {VERSION_TABLE} (version) VALUES ({version})")).await?;
    done.push(format!("{} is at schema version {version}", connection.place()));
    Ok(())
}

/// Sets how long tables are kept where that is not what is configured.
async fn keep_retention(connection: &Connection, done: &mut Vec<String>) -> Result<(), MetricsError> {
    for table in tables(&connection.config) {
        let Some(ttl) = table.ttl() else { continue };
        let made: String = connection
            .fetch_one(
                connection
                    .client()
                    .query("SELECT create_table_query FROM system.tables WHERE database = ? AND name = ?")
                    .bind(&connection.config.database)
                    .bind(&table.name),
            )
            .await?;
        if !made.contains(&format!("TTL {ttl} ")) {
            // Parts that are there get it with their next merge; dropping goes by whole parts anyway.
            let alter = format!("ALTER TABLE {} MODIFY TTL {ttl}", table.name);
            let query = connection.client().query_raw(&alter).with_setting("materialize_ttl_after_modify", "0");
            connection.run(query).await?;
            done.push(format!("{}: kept for {ttl}", table.name));
        }
    }
    Ok(())
}
