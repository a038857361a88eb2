#!/usr/bin/env bash
# Apache Cassandra for tests, as the CQL server: its jars come by Maven, it runs in the foreground on the
# class path, small and without its own scripts. Needs a JDK (17) and, to install, Maven.
#   cassandra.sh install LIB
#       downloads the jars into LIB, then makes a class-data archive that halves the CPU time of each start
#   cassandra.sh run LIB DIR IP CQL_PORT STORAGE_PORT DATACENTER NODES
#       becomes a node whose configuration, data and logs are in DIR; all nodes of a cluster share STORAGE_PORT.
#       NODES are the addresses of all, with commas: each is a seed, so that any of them starts without the others
#   in the environment: CASSANDRA_VERSION; CASSANDRA_SYNC = batch (default), group or periodic; CASSANDRA_HEAP;
#       CASSANDRA_JVM (more flags); CASSANDRA_AUTHENTICATOR (PasswordAuthenticator: user cassandra, password cassandra)
set -euo pipefail

install() {
  mkdir -p "$1"
  local lib; lib=$(cd "$1" && pwd)
  if [ ! -f "$lib/.complete" ]; then
    cat > "$lib/pom.xml" <<X
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>test</groupId><artifactId>cassandra</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies><dependency>
    <groupId>org.apache.cassandra</groupId><artifactId>cassandra-all</artifactId>
    <version>${CASSANDRA_VERSION:-5.0.9}</version>
  </dependency></dependencies>
</project>
X
    mvn -q -B -f "$lib/pom.xml" dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$lib"
    touch "$lib/.complete"
  fi
  [ -f "$lib/cassandra.jsa" ] && return
  # Starts once, until CQL is answered, and stops in order: the archive is written at the end. Without it all works.
  local scratch; scratch=$(mktemp -d)
  CASSANDRA_JVM="-XX:ArchiveClassesAtExit=$lib/cassandra.jsa" \
    "$0" run "$lib" "$scratch" 127.0.0.1 19999 17999 dc1 127.0.0.1 > "$scratch/out" 2>&1 &
  local pid=$!
  for ((i = 0; i < 1200; i++)); do
    kill -0 "$pid" 2>/dev/null || break
    (exec 3<>/dev/tcp/127.0.0.1/19999) 2>/dev/null && break
    sleep 0.1
  done
  kill "$pid" 2>/dev/null || true
  wait "$pid" || true
  rm -rf "$scratch"
}

configure() {
  local ip=$1 port=$2 storage=$3 dc=$4 nodes=$5 sync
  case ${CASSANDRA_SYNC:-batch} in
    batch) sync='commitlog_sync: batch' ;;
    group) sync=$'commitlog_sync: group\ncommitlog_sync_group_window: 2ms' ;;
    *) sync=$'commitlog_sync: periodic\ncommitlog_sync_period: 10000ms' ;;
  esac
  mkdir -p "$dir/log"
  printf 'dc=%s\nrack=r1\nprefer_local=false\n' "$dc" > "$dir/rackdc.properties"
  cat > "$dir/logback.xml" <<X
<configuration>
  <appender name="F" class="ch.qos.logback.core.FileAppender"><file>$dir/log/system.log</file>
    <encoder><pattern>%-5level [%thread] %date{ISO8601} %F:%L - %msg%n</pattern></encoder></appender>
  <root level="INFO"><appender-ref ref="F"/></root>
</configuration>
X
  cat > "$dir/cassandra.yaml" <<X
cluster_name: test
num_tokens: 1
partitioner: org.apache.cassandra.dht.Murmur3Partitioner
auto_bootstrap: false
data_file_directories: [ $dir/data ]
commitlog_directory: $dir/commitlog
hints_directory: $dir/hints
saved_caches_directory: $dir/saved_caches
cdc_raw_directory: $dir/cdc_raw
listen_address: $ip
rpc_address: $ip
storage_port: $storage
native_transport_port: $port
endpoint_snitch: GossipingPropertyFileSnitch
seed_provider:
  - class_name: org.apache.cassandra.locator.SimpleSeedProvider
    parameters: [ { seeds: "${nodes//,/:$storage,}:$storage" } ]
$sync
commitlog_segment_size: 16MiB
commitlog_total_space: 128MiB
commitlog_disk_access_mode: legacy
memtable_heap_space: 48MiB
memtable_offheap_space: 48MiB
memtable_flush_writers: 1
concurrent_reads: 16
concurrent_writes: 16
concurrent_counter_writes: 4
concurrent_compactors: 1
key_cache_size: 2MiB
counter_cache_size: 0MiB
row_cache_size: 0MiB
prepared_statements_cache_size: 4MiB
file_cache_size: 32MiB
networking_cache_size: 16MiB
column_index_size: 4KiB
hinted_handoff_enabled: true
authenticator: ${CASSANDRA_AUTHENTICATOR:-AllowAllAuthenticator}
authorizer: AllowAllAuthorizer
auto_snapshot: false
snapshot_before_compaction: false
read_request_timeout: 10s
range_request_timeout: 10s
write_request_timeout: 10s
cas_contention_timeout: 5s
truncate_request_timeout: 60s
request_timeout: 10s
materialized_views_enabled: false
X
}

run() {
  local lib=$1 dir
  mkdir -p "$2"
  dir=$(cd "$2" && pwd)
  configure "${@:3}"
  local flags=()
  # The archive fits one class path only: the jars in the order of their names.
  [ -f "$lib/cassandra.jsa" ] && flags+=(-XX:SharedArchiveFile="$lib/cassandra.jsa" -Xshare:auto)
  local package
  for package in java.base/jdk.internal.misc java.management.rmi/com.sun.jmx.remote.internal.rmi \
    java.rmi/sun.rmi.registry java.rmi/sun.rmi.server java.sql/java.sql java.base/java.lang.ref \
    jdk.unsupported/sun.misc jdk.attach/sun.tools.attach; do
    flags+=(--add-exports "$package=ALL-UNNAMED")
  done
  for package in java.base/java.lang.module java.base/jdk.internal.loader java.base/jdk.internal.ref \
    java.base/jdk.internal.reflect java.base/jdk.internal.math java.base/jdk.internal.module \
    java.base/jdk.internal.util.jar jdk.management/com.sun.management.internal java.base/sun.nio.ch java.base/java.io \
    java.base/java.lang.reflect java.base/java.lang java.base/java.util java.base/java.nio; do
    flags+=(--add-opens "$package=ALL-UNNAMED")
  done
  cd "$dir"
  # shellcheck disable=SC2086
  exec java -Xms64m "-Xmx${CASSANDRA_HEAP:-512m}" -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xss512k \
    -XX:MaxDirectMemorySize=256m -XX:+ExitOnOutOfMemoryError ${CASSANDRA_JVM:-} "${flags[@]}" \
    -Djdk.attach.allowAttachSelf=true -Dio.netty.tryReflectionSetAccessible=true -Djava.net.preferIPv4Stack=true \
    -Dcassandra.config="file://$dir/cassandra.yaml" -Dcassandra-rackdc.properties="file://$dir/rackdc.properties" \
    -Dcassandra.storagedir="$dir" -Dcassandra.logdir="$dir/log" -Dlogback.configurationFile="$dir/logback.xml" \
    -Djava.io.tmpdir="$dir/log" -Dcassandra-foreground=yes -Dcassandra.skip_wait_for_gossip_to_settle=0 \
    -Dcassandra.ring_delay_ms=100 -Dcassandra.superuser_setup_delay_ms=0 \
    -Dcassandra.memtable_row_overhead_computation_step=1000 -Dcassandra.shutdown_announce_in_ms=0 \
    -cp "$(ls "$lib"/*.jar | paste -sd:)" org.apache.cassandra.service.CassandraDaemon
}

case ${1:-} in
  install) install "$2" ;;
  run) run "${@:2}" ;;
  *) sed -n 2,11p "$0"; exit 2 ;;
esac
