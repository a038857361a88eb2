//! What the driver reports, in the state's terms. No text of ours holds a password; the driver's do not either.

use super::CqlConfig;
use crate::state::StateError;
use scylla::errors::{
    ConnectionError, ConnectionPoolError, ConnectionSetupRequestErrorKind, DbError, ExecutionError, MetadataError,
    NewSessionError, PrepareError, RequestAttemptError,
};
use std::error::Error;

/// Why a session could not be opened.
pub(super) fn connecting(error: &NewSessionError, contact_points: &str, config: &CqlConfig) -> StateError {
    if let NewSessionError::MetadataError(MetadataError::ConnectionPoolError(pool)) = error
        && let Some(refused) = refused(pool)
    {
        let who = config.username.as_deref().map_or_else(|| "nobody".into(), |user| format!("user {user:?}"));
        return StateError::Refused(format!("{contact_points} does not accept {who}: {refused}"));
    }
    if let NewSessionError::IllegalConfig(said) = error {
        return StateError::Settings(said.to_string());
    }
    StateError::Unavailable(format!("cannot reach {contact_points}: {}", chain(error)))
}

fn refused(pool: &ConnectionPoolError) -> Option<String> {
    let ConnectionPoolError::Broken { last_connection_error } = pool else { return None };
    let ConnectionError::ConnectionSetupRequestError(setup) = last_connection_error else { return None };
    let error = setup.get_error();
    if let ConnectionSetupRequestErrorKind::DbError(DbError::AuthenticationError | DbError::Unauthorized, said) = error
    {
        return Some(format!("wrong user name or password ({said})"));
    }
    let asked = matches!(error, ConnectionSetupRequestErrorKind::MissingAuthentication);
    asked.then(|| "it wants a user name and a password".into())
}

fn of_server(error: &ExecutionError) -> Option<(&DbError, &str)> {
    let (ExecutionError::LastAttemptError(attempt)
    | ExecutionError::PrepareError(PrepareError::AllAttemptsFailed { first_attempt: attempt })) = error
    else {
        return None;
    };
    let RequestAttemptError::DbError(error, said) = attempt else { return None };
    Some((error, said))
}

/// Whether the same request would fail again.
pub(super) fn is_final(error: &ExecutionError) -> bool {
    let of_request = matches!(error, ExecutionError::BadQuery(_));
    let by_server = matches!(
        of_server(error),
        Some((DbError::SyntaxError | DbError::Invalid | DbError::Unauthorized | DbError::ConfigError, _))
    );
    of_request || by_server
}

/// Whether nothing was heard in time, from the server or from its replicas.
pub(super) fn is_timeout(error: &ExecutionError) -> bool {
    matches!(error, ExecutionError::RequestTimeout(_))
        || matches!(of_server(error), Some((DbError::ReadTimeout { .. } | DbError::WriteTimeout { .. }, _)))
}

/// Why a request failed.
pub(super) fn failed(error: &ExecutionError, contact_points: &str) -> StateError {
    match of_server(error) {
        Some((DbError::Unauthorized, said)) => StateError::Refused(said.to_owned()),
        Some((DbError::SyntaxError | DbError::Invalid | DbError::ConfigError, said)) => {
            StateError::Schema(format!("{said}; `breeze migrate` creates and upgrades it"))
        }
        Some(_) | None => StateError::Unavailable(format!("cluster at {contact_points}: {}", chain(error))),
    }
}

/// An error with its causes, where it does not say them itself.
fn chain(error: &dyn Error) -> String {
    let mut said = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !said.contains(&more) {
            said = format!("{said}: {more}");
        }
        cause = error.source();
    }
    said
}

/// What cannot be read as it should.
pub(super) fn corrupt(what: &str, error: impl std::fmt::Display) -> StateError {
    StateError::Corrupt(format!("{what}: {error}"))
}
