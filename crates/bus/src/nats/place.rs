//! Where a stream lives, from its name alone.

use crate::BusError;
use breeze_proto::subject::DIRECTORY_STREAM;

/// JetStream domain of what belongs to no region.
pub const GLOBAL_DOMAIN: &str = "global";
/// Before a stream's name: where the server republishes the headers of what it has stored.
pub(crate) const STORED_PREFIX: &str = "stored";

/// A stream on NATS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// What it is called on the bus; also the subject that it stores.
    pub(crate) subject: String,
    /// Its JetStream name.
    pub(crate) name: String,
    /// Its JetStream domain; empty where servers have none.
    pub(crate) domain: String,
    /// Prefix of the subjects of JetStream's interface, as reached from the connected domain.
    pub(crate) api: String,
}

impl Place {
    /// Of a stream, for a connection to servers of the domain `connected`.
    ///
    /// # Errors
    /// [`BusError::Invalid`] for a name with `_`, which stands for a dot in JetStream's names.
    pub(crate) fn of(stream: &str, connected: &str) -> Result<Self, BusError> {
        if stream.contains('_') {
            return Err(BusError::Invalid(format!("{stream:?}: a stream's name must not contain '_'")));
        }
        let domain = if connected.is_empty() { "" } else { domain_of(stream).unwrap_or(connected) };
        let api = if domain == connected { "$JS.API".to_owned() } else { format!("$JS.{domain}.API") };
        Ok(Self { subject: stream.to_owned(), name: jetstream_name(stream), domain: domain.to_owned(), api })
    }

    /// For people: the stream, and the domain if there is one.
    pub(crate) fn shown(&self) -> String {
        if self.domain.is_empty() {
            self.subject.clone()
        } else {
            format!("{} (JetStream domain {})", self.subject, self.domain)
        }
    }
}

pub(crate) fn jetstream_name(stream: &str) -> String {
    stream.replace('.', "_")
}

/// `lane.<region>.<n>` and `foreign.<region>.<home>` belong to the region, the directory to all.
/// Others are where the connection is: `None`.
fn domain_of(stream: &str) -> Option<&str> {
    let mut tokens = stream.split('.');
    match (tokens.next(), tokens.next()) {
        (Some("lane" | "foreign"), Some(region)) => Some(region),
        (Some(DIRECTORY_STREAM), None) => Some(GLOBAL_DOMAIN),
        (_, _) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// stream, connected domain -> JetStream name, prefix of the interface
    #[test]
    fn a_stream_is_where_its_name_says() {
        for (stream, connected, name, api) in [
            ("lane.eu.0", "eu", "lane_eu_0", "$JS.API"),
            ("lane.eu-1.11", "us", "lane_eu-1_11", "$JS.eu-1.API"),
            ("foreign.eu.us", "eu", "foreign_eu_us", "$JS.API"),
            ("directory", "eu", "directory", "$JS.global.API"),
            ("directory", "global", "directory", "$JS.API"),
            ("lane.eu.0", "", "lane_eu_0", "$JS.API"),
            ("other.x", "eu", "other_x", "$JS.API"),
        ] {
            let place = Place::of(stream, connected).expect("a place");
            assert_eq!((place.name.as_str(), place.api.as_str()), (name, api), "{stream} from {connected}");
        }
        assert!(matches!(Place::of("lane.e_u.0", "eu"), Err(BusError::Invalid(_))), "two names must not meet");
    }
}
