//! The whole system as real processes: `breeze up`, `breeze-agent` and the load generator.

mod support;

mod first_heartbeat;
