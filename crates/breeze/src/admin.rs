//! `breeze admin`: what is done to the registry of relays, while any may use it.

mod relays;

/// Look after an installation.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Print what relays pin: SHA-256 over the public key of the instance's authority, in hex
    InstanceCa {
        #[command(flatten)]
        node: relays::Node,
    },
    AddRelay(relays::AddRelay),
    /// Take a relay off the list that agents are given
    ///
    /// It gets no certificate any more; the one that it has ends within 30 days. Stop it, too.
    RemoveRelay {
        #[command(flatten)]
        node: relays::Node,
        /// As it was registered
        #[arg(long)]
        id: String,
    },
    /// Print the registered relays
    ListRelays {
        #[command(flatten)]
        node: relays::Node,
    },
}

/// Runs it; `print` gets the lines of the result.
///
/// # Errors
/// When the store or the keys cannot be read.
pub(crate) fn run(command: &Command, print: &mut dyn FnMut(&str)) -> anyhow::Result<()> {
    match command {
        Command::InstanceCa { node } => relays::instance_ca(node, print),
        Command::AddRelay(relay) => relays::add(relay, print),
        Command::RemoveRelay { node, id } => relays::remove(node, id, print),
        Command::ListRelays { node } => relays::list(node, print),
    }
}
