#!/usr/bin/env bash
# A real Kafka (KRaft, one broker) and a real HDFS (NameNode and DataNode) on loopback, for the tests and benches.
# The jars come from Maven Central, once; the data directory is fresh at every `start`.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/packages.sh"

usage() {
  cat <<'TEXT'
usage: scripts/services.sh COMMAND
  start                 fetch what is missing, start all three, wait until they answer
  stop                  stop all three, and wait until they are gone
  status                say which of them run
  env                   print the exports that the tests need: eval "$(scripts/services.sh env)"
  kill NAME             kill -9 one of kafka, namenode, datanode
  restart NAME          kill -9 it and start it again on the same data
  fs ARGS...            Hadoop's file system shell, e.g. fs -ls -R /
  dfsadmin ARGS...      Hadoop's admin commands, e.g. dfsadmin -setSpaceQuota 1m /dir
environment, with defaults:
  TIDEMILL_SERVICES     ~/.cache/tidemill-services (jars, data, logs)
  KAFKA_PORT 29092 (and the next one)   NAMENODE_PORT 29000   NAMENODE_HTTP_PORT 29870
  KAFKA_HEAP 768m       HDFS_HEAP 384m (each)       SERVICES_WAIT_S 90
  KAFKA_VERSION 4.1.0   HADOOP_VERSION 3.4.2
TEXT
}

root=${TIDEMILL_SERVICES:-$HOME/.cache/tidemill-services}
run=$root/run
kafka_version=${KAFKA_VERSION:-4.1.0}
hadoop_version=${HADOOP_VERSION:-3.4.2}
kafka_port=${KAFKA_PORT:-29092}
namenode_port=${NAMENODE_PORT:-29000}
namenode_http_port=${NAMENODE_HTTP_PORT:-29870}
wait_s=${SERVICES_WAIT_S:-90}
names=(kafka namenode datanode)
kafka_jars=$root/jars/kafka-$kafka_version
hadoop_jars=$root/jars/hadoop-$hadoop_version

say() { echo "services: $*" >&2; }
die() { say "$*"; exit 1; }

# --- what has to be on the machine -------------------------------------------------------------------------------

java_major() { java -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -1; }

need_java() {
  local major; major=$(command -v java >/dev/null && java_major || true)
  if [ "${major:-0}" -ge 17 ]; then return; fi
  apt_install openjdk-17-jre-headless || apt_install default-jre-headless \
    || die "Java 17 or later is missing. Install it: Debian and Ubuntu have the package openjdk-17-jre-headless."
  [ "$(java_major)" -ge 17 ] || die "the Java that was installed is older than 17"
}

need_maven() {
  command -v mvn >/dev/null || apt_install maven \
    || die "Maven is missing; it fetches the jars. Install it: Debian and Ubuntu have the package maven."
}

fetch_jars() { # directory group:artifact:version...
  local directory=$1; shift
  if [ -f "$directory/.complete" ]; then return; fi
  need_maven
  say "fetching $* from Maven Central"
  rm -rf "$directory"; mkdir -p "$directory"
  local artifact group name version
  {
    echo '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>'
    echo '<groupId>tidemill</groupId><artifactId>services</artifactId><version>1</version><dependencies>'
    for artifact in "$@"; do
      IFS=: read -r group name version <<<"$artifact"
      echo "<dependency><groupId>$group</groupId><artifactId>$name</artifactId><version>$version</version></dependency>"
    done
    echo '</dependencies></project>'
  } >"$directory/pom.xml"
  # A registry hiccup should not fail a test run, so it gets three tries.
  local try
  for try in 1 2 3; do
    if mvn --quiet --batch-mode --file "$directory/pom.xml" dependency:copy-dependencies \
      -DincludeScope=runtime -DoutputDirectory="$directory" >"$directory/maven.log" 2>&1
    then touch "$directory/.complete"; return; fi
    say "Maven failed (try $try of 3)"
  done
  tail -n 20 "$directory/maven.log" >&2
  die "could not fetch $*"
}

fetch_all() {
  mkdir -p "$root"
  need_java
  # Kafka and Hadoop bring loggers that exclude each other, so each has its own directory and class path.
  fetch_jars "$kafka_jars" "org.apache.kafka:kafka_2.13:$kafka_version" \
    org.apache.logging.log4j:log4j-slf4j-impl:2.24.3
  fetch_jars "$hadoop_jars" "org.apache.hadoop:hadoop-common:$hadoop_version" \
    "org.apache.hadoop:hadoop-hdfs:$hadoop_version" "org.apache.hadoop:hadoop-hdfs-client:$hadoop_version"
}

# --- configuration -----------------------------------------------------------------------------------------------

configure_kafka() {
  mkdir -p "$run/kafka/conf"
  cat >"$run/kafka/conf/server.properties" <<CONF
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$((kafka_port + 1))
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:$kafka_port,CONTROLLER://127.0.0.1:$((kafka_port + 1))
advertised.listeners=PLAINTEXT://127.0.0.1:$kafka_port
log.dirs=$run/kafka/data
num.partitions=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
# The tests produce records with timestamps of years ago: by the default retention they would vanish in minutes.
log.retention.ms=-1
log.message.timestamp.before.max.ms=9223372036854775807
log.message.timestamp.after.max.ms=9223372036854775807
CONF
  cat >"$run/kafka/conf/log4j2.properties" <<'CONF'
rootLogger.level = warn
rootLogger.appenderRef.out.ref = out
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d %p %c{1}: %m%n
CONF
}

property() { echo "<property><name>$1</name><value>$2</value></property>"; }

configure_hdfs() {
  # The web servers of both daemons look for these directories on the class path.
  mkdir -p "$run/hdfs/conf/webapps/hdfs" "$run/hdfs/conf/webapps/datanode"
  {
    echo '<configuration>'
    property fs.defaultFS "hdfs://127.0.0.1:$namenode_port"
    echo '</configuration>'
  } >"$run/hdfs/conf/core-site.xml"
  {
    echo '<configuration>'
    property dfs.replication 1
    # The NameNode sets a whole block aside for each file that is being written; a small disk has room for few large ones.
    property dfs.blocksize 16777216
    property dfs.namenode.name.dir "file://$run/hdfs/name"
    property dfs.datanode.data.dir "file://$run/hdfs/data"
    property dfs.namenode.rpc-address "127.0.0.1:$namenode_port"
    property dfs.namenode.http-address "127.0.0.1:$namenode_http_port"
    property dfs.datanode.address 127.0.0.1:0
    property dfs.datanode.http.address 127.0.0.1:0
    property dfs.datanode.ipc.address 127.0.0.1:0
    # On, as in a real cluster: whoever started the NameNode is the superuser, HADOOP_USER_NAME is somebody else.
    property dfs.permissions.enabled true
    property dfs.namenode.safemode.extension 0
    property dfs.heartbeat.interval 1
    property dfs.namenode.heartbeat.recheck-interval 2000
    echo '</configuration>'
  } >"$run/hdfs/conf/hdfs-site.xml"
  cat >"$run/hdfs/conf/log4j.properties" <<'CONF'
log4j.rootLogger=WARN,out
log4j.appender.out=org.apache.log4j.ConsoleAppender
log4j.appender.out.target=System.err
log4j.appender.out.layout=org.apache.log4j.PatternLayout
log4j.appender.out.layout.ConversionPattern=%d %p %c{1}: %m%n
CONF
}

kafka_java() { # main class, arguments
  java "-Xmx${KAFKA_HEAP:-768m}" "-Dtidemill.run=$run" \
    "-Dlog4j2.configurationFile=$run/kafka/conf/log4j2.properties" -cp "$kafka_jars/*" "$@"
}

hdfs_java() { # main class, arguments
  java "-Xmx${HDFS_HEAP:-384m}" "-Dtidemill.run=$run" "-Dhadoop.log.dir=$run/hdfs" \
    -cp "$run/hdfs/conf:$hadoop_jars/*" "$@"
}

# --- processes ---------------------------------------------------------------------------------------------------

pid_of() { # name; prints the pid of the process that we started and that still runs
  local pid; pid=$(cat "$run/$1.pid" 2>/dev/null) || return 1
  # A pid may have been given to another process since: ours carries our directory on its command line.
  case $(ps -p "$pid" -o args= 2>/dev/null) in *"-Dtidemill.run=$run "*) echo "$pid" ;; *) return 1 ;; esac
}

port_open() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

http_get() { # port path
  { exec 3<>"/dev/tcp/127.0.0.1/$1" && printf 'GET %s HTTP/1.0\r\n\r\n' "$2" >&3 && cat <&3; } 2>/dev/null || true
}

name_node_bean() { http_get "$namenode_http_port" "/jmx?qry=Hadoop:service=NameNode,name=$1"; }
datanode_address() { name_node_bean NameNodeInfo | grep -o 'xferaddr[^,]*' || true; }
in_service() { name_node_bean FSNamesystemState | grep -q '"FSState" : "Operational"'; }

kafka_ready() { port_open "$kafka_port"; }
# Without a DataNode a NameNode that has blocks stays in safe mode.
namenode_ready() { port_open "$namenode_port" && { in_service || ! pid_of datanode >/dev/null; }; }
# The NameNode counts a killed DataNode as live for a while; the new one is known by its new port.
datanode_ready() { in_service && [ -n "$(datanode_address)" ] && [ "$(datanode_address)" != "$datanode_was" ]; }

launch() { # name
  local name=$1 log=$run/$1.log
  export -f kafka_java hdfs_java
  export run kafka_jars hadoop_jars
  local command
  case $name in
    kafka) command=(kafka_java kafka.Kafka "$run/kafka/conf/server.properties") ;;
    namenode) command=(hdfs_java org.apache.hadoop.hdfs.server.namenode.NameNode) ;;
    datanode)
      datanode_was=$(datanode_address)
      command=(hdfs_java org.apache.hadoop.hdfs.server.datanode.DataNode)
      ;;
  esac
  # In a session of its own, so that Ctrl-C in the tests does not take the services along.
  setsid bash -c 'java() { exec java "$@"; }; "$@"' services "${command[@]}" </dev/null >>"$log" 2>&1 &
  echo $! >"$run/$name.pid"
  local deadline=$((SECONDS + wait_s))
  until "${name}_ready"; do
    if [ "$SECONDS" -ge "$deadline" ] || ! kill -0 "$(cat "$run/$name.pid")" 2>/dev/null; then
      say "$name did not come up within $wait_s s; the end of $log:"
      tail -n 30 "$log" >&2
      return 1
    fi
    sleep 0.2
  done
}

end() { # name signal
  local pid; pid=$(pid_of "$1") || { rm -f "$run/$1.pid"; return 0; }
  kill "-$2" "$pid" 2>/dev/null || true
  local tenths
  for tenths in $(seq 1 150); do
    if ! kill -0 "$pid" 2>/dev/null; then break; fi
    if [ "$tenths" = 100 ]; then kill -9 "$pid" 2>/dev/null || true; fi
    sleep 0.1
  done
  if kill -0 "$pid" 2>/dev/null; then die "$1 (pid $pid) does not stop"; fi
  rm -f "$run/$1.pid"
}

check_name() {
  case ${1:-} in kafka | namenode | datanode) ;; *) usage >&2; die "no such service: '${1:-}'" ;; esac
}

start() {
  local name
  for name in "${names[@]}"; do
    if pid_of "$name" >/dev/null; then die "$name runs already: scripts/services.sh stop"; fi
  done
  local port
  for port in "$kafka_port" "$((kafka_port + 1))" "$namenode_port" "$namenode_http_port"; do
    if port_open "$port"; then die "port $port is taken: set KAFKA_PORT, NAMENODE_PORT or NAMENODE_HTTP_PORT"; fi
  done
  fetch_all
  rm -rf "$run"; mkdir -p "$run"
  configure_kafka
  configure_hdfs
  kafka_java kafka.tools.StorageTool format --cluster-id dGlkZW1pbGwtdGVzdHMtMA \
    --config "$run/kafka/conf/server.properties" >"$run/kafka.log" 2>&1 \
    || { tail -n 20 "$run/kafka.log" >&2; die "Kafka's storage cannot be formatted"; }
  hdfs_java org.apache.hadoop.hdfs.server.namenode.NameNode -format -nonInteractive >"$run/namenode.log" 2>&1 \
    || { tail -n 20 "$run/namenode.log" >&2; die "the NameNode's directory cannot be formatted"; }
  # In case of failure nothing is left running.
  for name in "${names[@]}"; do launch "$name" || { stop; exit 1; }; done
  say "kafka $kafka_version on 127.0.0.1:$kafka_port, hdfs $hadoop_version on hdfs://127.0.0.1:$namenode_port"
}

stop() {
  local name pid
  # All three are told before one is waited for.
  for name in "${names[@]}"; do if pid=$(pid_of "$name"); then kill "$pid" 2>/dev/null || true; fi; done
  for name in datanode namenode kafka; do end "$name" TERM; done
}

status() {
  local name pid down=0
  for name in "${names[@]}"; do
    if pid=$(pid_of "$name"); then echo "$name runs (pid $pid)"; else echo "$name is down"; down=1; fi
  done
  return $down
}

case ${1:-} in
  start) start ;;
  stop) stop ;;
  status) status ;;
  env)
    echo "export TIDEMILL_TEST_KAFKA=127.0.0.1:$kafka_port"
    echo "export TIDEMILL_TEST_HDFS=hdfs://127.0.0.1:$namenode_port"
    ;;
  kill) check_name "${2:-}"; end "$2" KILL ;;
  restart) check_name "${2:-}"; end "$2" KILL; launch "$2" ;;
  fs) shift; hdfs_java org.apache.hadoop.fs.FsShell "$@" ;;
  dfsadmin) shift; hdfs_java org.apache.hadoop.hdfs.tools.DFSAdmin "$@" ;;
  help | --help | -h) usage ;;
  *) usage >&2; exit 2 ;;
esac
