//! The whole system as real processes: `breeze up`, `breeze-agent` and the load generator.

mod support;

mod agent_figures;
mod audit;
mod backup;
mod bad_days;
mod clocks;
mod crash;
mod disk_full;
mod distributed;
mod enrolment;
mod first_heartbeat;
mod hostile;
mod installer;
mod networks;
mod operations;
mod restart;
mod roles;
mod spool;
mod starting;
