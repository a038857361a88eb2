#!/bin/sh
# Installs the Breeze agent on this machine as a systemd service, and its uninstaller. On a machine that is
# enrolled already it replaces the program and keeps the device.
# Usage: install.sh [--key-file FILE] [--ca FILE]
# The enrolment key comes from FILE, from BREEZE_ENROLLMENT_KEY, or is asked for. A proxy that BREEZE_PROXY or
# HTTPS_PROXY names (and BREEZE_NO_PROXY or NO_PROXY) is kept for the service.
set -eu

SERVER='@SERVER@'
BINARY=/usr/local/bin/breeze-agent
STATE=/var/lib/breeze-agent
PROXY=/etc/default/breeze-agent
UNIT=/etc/systemd/system/breeze-agent.service
UNINSTALL=/usr/local/sbin/breeze-agent-uninstall

die() {
    echo "breeze-agent: $*" >&2
    exit 1
}

KEY_FILE=
CA=
while [ $# -gt 0 ]; do
    case $1 in
        --key-file) [ $# -ge 2 ] || die "--key-file needs a file"; KEY_FILE=$2; shift 2 ;;
        --ca) [ $# -ge 2 ] || die "--ca needs a file"; CA=$2; shift 2 ;;
        *) die "unknown argument: $1" ;;
    esac
done

[ "$(id -u)" = 0 ] || die "run this as root (with sudo)"
[ "$(uname -s)" = Linux ] || die "this installer is for Linux"
command -v systemctl >/dev/null 2>&1 || die "systemd is needed"
command -v curl >/dev/null 2>&1 || die "curl is needed"
case $(uname -m) in
    x86_64 | amd64) ARCH=amd64 ;;
    aarch64 | arm64) ARCH=arm64 ;;
    *) die "there is no agent for $(uname -m)" ;;
esac

ENROLLED=
if [ -s "$STATE/identity.json" ]; then
    ENROLLED=$(sed -n 's/^ *"server": *"\([^"]*\)".*/\1/p' "$STATE/identity.json")
    [ "${ENROLLED%/}" = "$SERVER" ] ||
        die "this machine is a device of ${ENROLLED:-another server}; to enrol it here, run breeze-agent-uninstall first"
fi

umask 077
WORK=$(mktemp -d)
# A signal ends the script by way of EXIT: the key must not stay behind.
trap 'rm -rf "$WORK" "$BINARY.new"' EXIT
trap 'exit 130' HUP INT TERM

if [ -z "$ENROLLED" ] && [ -z "$KEY_FILE" ]; then
    KEY=${BREEZE_ENROLLMENT_KEY:-}
    if [ -z "$KEY" ]; then
        { printf 'Enrolment key: ' >/dev/tty; } 2>/dev/null ||
            die "there is nobody to ask for the enrolment key: use --key-file or BREEZE_ENROLLMENT_KEY"
        read -r KEY </dev/tty
    fi
    KEY_FILE=$WORK/key
    printf '%s' "$KEY" >"$KEY_FILE"
fi

echo "Fetching the agent from $SERVER"
set -- -fsS --connect-timeout 15 --retry 3
[ -z "$CA" ] || set -- "$@" --cacert "$CA"
curl "$@" -o "$WORK/breeze-agent" "$SERVER/install/breeze-agent-linux-$ARCH" || die "the agent could not be fetched"

# Beside the old one and then in its place: a running agent does not notice, and programs may run from here.
install -d -m 0755 "${BINARY%/*}" "${UNINSTALL%/*}"
install -m 0755 "$WORK/breeze-agent" "$BINARY.new"
"$BINARY.new" --version >/dev/null || die "the agent that was fetched does not run on this machine"
mv -f "$BINARY.new" "$BINARY"
install -d -m 0700 "$STATE"

cat >"$UNINSTALL" <<'UNINSTALL_END'
#!/bin/sh
# Removes the Breeze agent with its service and state. Decommission the device in the dashboard as well.
set -eu
[ "$(id -u)" = 0 ] || { echo "run this as root (with sudo)" >&2; exit 1; }
systemctl disable --now breeze-agent 2>/dev/null || true
rm -f /etc/systemd/system/breeze-agent.service /etc/default/breeze-agent
systemctl daemon-reload
rm -rf /var/lib/breeze-agent
rm -f /usr/local/bin/breeze-agent /usr/local/sbin/breeze-agent-uninstall
echo "The Breeze agent is removed."
UNINSTALL_END
chmod 0755 "$UNINSTALL"

if [ -n "$ENROLLED" ]; then
    echo "This machine is enrolled already and stays the same device."
else
    "$BINARY" enroll --server "$SERVER" --key-file "$KEY_FILE" --state "$STATE"
fi

KEEP_PROXY=${BREEZE_PROXY:-${HTTPS_PROXY:-${https_proxy:-}}}
if [ -n "$KEEP_PROXY" ]; then
    install -d -m 0755 "${PROXY%/*}"
    # It may contain a password: readable by root only.
    printf 'BREEZE_PROXY="%s"\nBREEZE_NO_PROXY="%s"\n' "$KEEP_PROXY" \
        "${BREEZE_NO_PROXY:-${NO_PROXY:-${no_proxy:-}}}" >"$PROXY"
fi

# The agent reads: /proc, /sys, package databases, the system's programs for more of them. It writes its
# state directory and nothing else, opens no device, and needs no more privileges than it is started with.
cat >"$UNIT" <<'UNIT_END'
[Unit]
Description=Breeze agent
Wants=network-online.target
After=network-online.target

[Service]
ExecStart=/usr/local/bin/breeze-agent run --state /var/lib/breeze-agent
EnvironmentFile=-/etc/default/breeze-agent
Restart=always
RestartSec=5
StateDirectory=breeze-agent
StateDirectoryMode=0700
UMask=0077
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=read-only
PrivateTmp=yes
PrivateDevices=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
RestrictSUIDSGID=yes
RestrictRealtime=yes
RestrictNamespaces=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
MemoryMax=256M
TasksMax=256

[Install]
WantedBy=multi-user.target
UNIT_END
chmod 0644 "$UNIT"

systemctl daemon-reload
systemctl enable breeze-agent
# Also when it runs: it is to be the new program.
systemctl restart breeze-agent
echo "The Breeze agent runs. To remove it: $UNINSTALL"
