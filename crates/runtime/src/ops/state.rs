//! What a role's parts say of themselves, for `/readyz` and the log.

use parking_lot::Mutex;
use serde::Serialize;
use std::{
    borrow::Cow,
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

/// Bytes of a message that are kept.
const MAX_MESSAGE_BYTES: usize = 1_024;
/// Between two lines of the log with other words of a component that goes on as it is; the last words are
/// always logged.
const LOG_AGAIN: Duration = Duration::from_secs(5);

/// How a component is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ComponentState {
    /// It has not said anything yet.
    Starting,
    Ready,
    /// The role does its work, but something of it is missing or will be.
    Degraded,
    Failing,
}

/// The parts of one role and how they are. Cheap to clone; clones are the same.
#[derive(Debug, Clone)]
pub struct OpsState {
    role: &'static str,
    parts: Arc<Mutex<BTreeMap<Cow<'static, str>, Part>>>,
}

#[derive(Debug)]
struct Part {
    state: ComponentState,
    message: String,
    since: Instant,
    logged: Option<Instant>,
    /// The message is not in the log.
    is_untold: bool,
}

/// One part's own handle. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Component {
    name: Cow<'static, str>,
    state: OpsState,
}

/// The answer of `/readyz`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Readiness {
    pub ready: bool,
    pub role: &'static str,
    pub stopping: bool,
    pub components: Vec<ComponentReadiness>,
}

/// What one component says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ComponentReadiness {
    pub name: String,
    pub state: ComponentState,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// How long it has been in this state, in seconds.
    pub for_seconds: u64,
}

impl Readiness {
    pub(super) fn to_json(&self) -> String {
        // Plain data: it cannot fail, and an empty object would still carry the status.
        serde_json::to_string(self).unwrap_or_else(|_| "{}".into()) + "\n"
    }
}

impl OpsState {
    #[must_use]
    pub fn new(role: &'static str) -> Self {
        Self { role, parts: Arc::default() }
    }

    /// The part of that name; it counts as starting until it says otherwise. Names are few and known:
    /// engines and tasks, never a device or a tenant.
    #[must_use]
    pub fn component(&self, name: impl Into<Cow<'static, str>>) -> Component {
        let name = name.into();
        self.parts.lock().entry(name.clone()).or_insert_with(|| {
            gauge(&name, ComponentState::Starting);
            Part {
                state: ComponentState::Starting,
                message: String::new(),
                since: Instant::now(),
                logged: None,
                is_untold: false,
            }
        });
        Component { name, state: self.clone() }
    }

    /// How everything is now.
    #[must_use]
    pub fn readiness(&self, stopping: bool) -> Readiness {
        let parts = self.parts.lock();
        let components: Vec<ComponentReadiness> = parts
            .iter()
            .map(|(name, part)| ComponentReadiness {
                name: name.to_string(),
                state: part.state,
                message: part.message.clone(),
                for_seconds: part.since.elapsed().as_secs(),
            })
            .collect();
        let works = |state| matches!(state, ComponentState::Ready | ComponentState::Degraded);
        let all_ready = components.iter().all(|component| works(component.state));
        Readiness { ready: all_ready && !components.is_empty() && !stopping, role: self.role, stopping, components }
    }
}

impl Component {
    /// It works.
    pub fn ready(&self) {
        self.set(ComponentState::Ready, "");
    }

    /// It works, and this is amiss, in words for an operator: what, and where. `/readyz` shows it and answers
    /// 200 all the same; logged as [`Component::failing`] is.
    pub fn degraded(&self, why: impl AsRef<str>) {
        self.set(ComponentState::Degraded, why.as_ref());
    }

    /// It does not, in words for an operator: what, and where. The change is logged; the same again is not.
    pub fn failing(&self, why: impl AsRef<str>) {
        self.set(ComponentState::Failing, why.as_ref());
    }

    fn set(&self, state: ComponentState, message: &str) {
        let mut parts = self.state.parts.lock();
        let Some(part) = parts.get_mut(&self.name) else { return };
        let message = &message[..message.floor_char_boundary(MAX_MESSAGE_BYTES)];
        let (changed, reworded) = (part.state != state, part.message != message);
        if !changed && !reworded && !part.is_untold {
            return;
        }
        let now = Instant::now();
        if changed {
            part.state = state;
            part.since = now;
            gauge(&self.name, state);
        }
        if reworded {
            message.clone_into(&mut part.message);
            part.is_untold = true;
        }
        if changed || part.logged.is_none_or(|at| now.duration_since(at) >= LOG_AGAIN) {
            part.logged = Some(now);
            part.is_untold = false;
            let (role, component) = (self.state.role, &*self.name);
            match state {
                ComponentState::Failing => tracing::warn!(role, component, "not ready: {message}"),
                ComponentState::Degraded => tracing::warn!(role, component, "degraded: {message}"),
                ComponentState::Starting | ComponentState::Ready => tracing::info!(role, component, "ready"),
            }
        }
    }
}

fn gauge(name: &str, state: ComponentState) {
    let value = if state == ComponentState::Ready { 1.0 } else { 0.0 };
    ::metrics::gauge!("breeze_component_ready", "component" => name.to_owned()).set(value);
}
