//! What firmware says of a machine, and what can be made of it.

use super::files::cut;

/// What vendors leave where they have filled nothing in.
const PLACEHOLDERS: &[&str] = &[
    "To Be Filled By O.E.M.",
    "To be filled by O.E.M.",
    "System Product Name",
    "System manufacturer",
    "System Serial Number",
    "Default string",
    "Not Specified",
    "None",
    "N/A",
];

/// A text of the firmware; empty where it says nothing.
pub(in crate::os) fn said(value: &str) -> String {
    let value = value.trim_matches(['\0', ' ', '\n', '\t']);
    if PLACEHOLDERS.contains(&value) { String::new() } else { cut(value) }
}

/// The hypervisor, by vendor and product; empty on bare metal. `flagged`: the processor says that
/// there is one.
pub(in crate::os) fn hypervisor(vendor: &str, product: &str, flagged: bool) -> &'static str {
    let named = [("VMware", "vmware"), ("VirtualBox", "virtualbox"), ("Xen", "xen"), ("QEMU", "kvm"), ("KVM", "kvm")];
    let known = named.iter().find(|(word, _)| vendor.contains(word) || product.contains(word));
    match known {
        Some((_, name)) => name,
        None if vendor == "Microsoft Corporation" && product == "Virtual Machine" => "hyper-v",
        None if vendor.starts_with("Amazon") => "amazon",
        None if vendor.starts_with("Google") => "google",
        None if flagged => "vm",
        None => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hypervisors_are_known_by_their_vendor() {
        assert_eq!(hypervisor("QEMU", "Standard PC", true), "kvm");
        assert_eq!(hypervisor("Microsoft Corporation", "Virtual Machine", true), "hyper-v");
        assert_eq!(hypervisor("Microsoft Corporation", "Surface", false), "");
    }

    #[test]
    fn placeholders_say_nothing() {
        assert_eq!(said("Default string\n"), "");
        assert_eq!(said(" ThinkPad X1\0"), "ThinkPad X1");
    }
}
