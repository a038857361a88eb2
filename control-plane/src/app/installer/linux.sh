#!/bin/sh
# Installs the Breeze agent on this machine as a systemd service, and its uninstaller.
# Usage: install.sh [--key-file FILE] [--ca FILE]
# The enrolment key comes from FILE, from BREEZE_ENROLLMENT_KEY, or is asked for.
set -eu

SERVER='@SERVER@'
BINARY=/usr/local/bin/breeze-agent
STATE=/var/lib/breeze-agent
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

umask 077
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT

if [ -z "$KEY_FILE" ]; then
    KEY=${BREEZE_ENROLLMENT_KEY:-}
    if [ -z "$KEY" ]; then
        printf 'Enrolment key: ' >/dev/tty
        read -r KEY </dev/tty
    fi
    KEY_FILE=$WORK/key
    printf '%s' "$KEY" >"$KEY_FILE"
fi

echo "Fetching the agent from $SERVER"
if [ -n "$CA" ]; then
    curl -fsS --cacert "$CA" -o "$WORK/breeze-agent" "$SERVER/install/breeze-agent-linux-$ARCH" ||
        die "the agent could not be fetched"
else
    curl -fsS -o "$WORK/breeze-agent" "$SERVER/install/breeze-agent-linux-$ARCH" || die "the agent could not be fetched"
fi

if systemctl is-active --quiet breeze-agent; then
    systemctl stop breeze-agent
fi
install -m 0755 -o root -g root "$WORK/breeze-agent" "$BINARY"
install -d -m 0700 -o root -g root "$STATE"

cat >"$UNIT" <<'UNIT_END'
[Unit]
Description=Breeze agent
Wants=network-online.target
After=network-online.target

[Service]
ExecStart=/usr/local/bin/breeze-agent run --state /var/lib/breeze-agent
Restart=always
RestartSec=5
StateDirectory=breeze-agent
StateDirectoryMode=0700
RuntimeDirectory=breeze-agent
UMask=0077
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=read-only
PrivateTmp=yes
PrivateDevices=no
ProtectKernelModules=yes
ProtectKernelTunables=yes
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

cat >"$UNINSTALL" <<'UNINSTALL_END'
#!/bin/sh
# Removes the Breeze agent with its service and state. Decommission the device in the dashboard as well.
set -eu
[ "$(id -u)" = 0 ] || { echo "run this as root (with sudo)" >&2; exit 1; }
systemctl disable --now breeze-agent 2>/dev/null || true
rm -f /etc/systemd/system/breeze-agent.service
systemctl daemon-reload
rm -rf /var/lib/breeze-agent
rm -f /usr/local/bin/breeze-agent /usr/local/sbin/breeze-agent-uninstall
echo "The Breeze agent is removed."
UNINSTALL_END
chmod 0755 "$UNINSTALL"

"$BINARY" enroll --server "$SERVER" --key-file "$KEY_FILE" --state "$STATE"
systemctl daemon-reload
systemctl enable --now breeze-agent
echo "The Breeze agent runs. To remove it: $UNINSTALL"
