#!/usr/bin/env bash
# A real Slurm cluster on one Debian 12 machine: munge, a controller and several nodes, to try batch scripts on and to test
# them. Everything lies in one folder; the system's own Slurm and /etc are not touched.
#
#   slurm/local_cluster.sh start [--nodes 4] [--cpus 2] [--dir build/slurm_cluster]   again: starts what is missing
#   eval "$(slurm/local_cluster.sh env)"      then sbatch, squeue, scancel ... talk to it
#   slurm/local_cluster.sh status             nodes and jobs; fails where it does not run
#   slurm/local_cluster.sh lose NODE          as if the node's power failed; `start` brings it back
#   slurm/local_cluster.sh stop               ends jobs and daemons; the folder and its logs stay
#
# Partition `main` is preempted by partition `urgent`, with a minute's grace. Needs root, or sudo without a password, and
# the packages slurm-wlm and munge.
set -euo pipefail

fail() {
  echo "local_cluster.sh: $1" >&2
  exit "${2:-1}"
}

usage() { fail "usage: slurm/local_cluster.sh start|stop|status|env|lose NODE [--nodes N] [--cpus N] [--dir DIR]" 64; }

nodes=4 cpus=2 lost=
dir=$(cd "$(dirname "$0")/.." && pwd)/build/slurm_cluster
command=${1:-}
arguments=("$@")
[[ $# -eq 0 ]] || shift
if [[ $command == lose ]]; then
  [[ ${1:-} =~ ^n[0-9]+$ ]] || usage
  lost=$1
  shift
fi
while [[ $# -gt 0 ]]; do
  [[ $# -gt 1 ]] || usage
  case $1 in
    --nodes) nodes=$2 ;;
    --cpus) cpus=$2 ;;
    --dir) dir=$(realpath -m -- "$2") ;;
    *) usage ;;
  esac
  shift 2
done
[[ $nodes =~ ^[1-9][0-9]?$ && $cpus =~ ^[1-9][0-9]*$ ]] || usage
# Slurm's configuration knows no quotes, and the path of a socket has 107 bytes at most.
[[ $dir =~ ^[A-Za-z0-9/._+-]+$ && ${#dir} -le 90 ]] ||
  fail "--dir: expected a path of at most 90 letters, digits and /._+-, got $dir" 64

as_root() {
  [[ $(id -u) -ne 0 ]] || return 0
  command -v sudo >/dev/null && sudo -n true 2>/dev/null || fail "daemons need root; run as root or with sudo" 77
  exec sudo -n "$0" "${arguments[@]}" --dir "$dir"
}

export PATH=$PATH:/usr/sbin SLURM_CONF=$dir/slurm.conf

# Process ids of our daemons whose log is FILE. Slurm's steps write into the log of their node.
daemons_of() {
  local link
  for link in $(find /proc/[0-9]*/fd -lname "$dir/log/$1" 2>/dev/null | cut -d/ -f3 | sort -u); do
    case $(cat "/proc/$link/comm" 2>/dev/null) in munged | slurmctld | slurmd | slurmstepd) echo "$link" ;; esac
  done
}

with_descendants() {
  local pid
  for pid in "$@"; do
    echo "$pid"
    with_descendants $(cat /proc/"$pid"/task/*/children 2>/dev/null)
  done
}

# What jobs left without a parent.
orphans() {
  local file
  for file in $(grep -lsaF "SLURM_CONF=$SLURM_CONF" /proc/[0-9]*/environ 2>/dev/null); do
    ! grep -qsa "SLURM_JOB_ID=" "$file" || [[ $file == /proc/$$/* ]] || cut -d/ -f3 <<<"$file"
  done
}

end_processes() { [[ $# -eq 0 ]] || kill -"$1" "${@:2}" 2>/dev/null || true; }

# Two clusters that start at once look in different places first.
free_ports() {
  local base port free try
  for ((try = 0; try < 80; ++try)); do
    base=$((17000 + ($$ + try) % 80 * 100)) free=1
    for ((port = base; port <= base + nodes; ++port)); do
      ! (: <>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || free=0
    done
    [[ $free -eq 0 ]] || { echo "$base" && return; }
  done
  fail "no free ports between 17000 and 25000"
}

write_configuration() {
  local base host i
  base=$(free_ports)
  host=$(hostname)
  cat <<END
ClusterName=shardit
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$((base + nodes))
SlurmUser=root
# A job that is queued again may start when its old credential has expired.
AuthType=auth/munge
AuthInfo=socket=$dir/munge.socket,cred_expire=10
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool/%n
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/%n.pid
SlurmctldLogFile=$dir/log/slurmctld
SlurmdLogFile=$dir/log/%n
MailProg=/bin/true
# Neither cgroups nor accounting: this runs in containers too.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=bf_interval=1,sched_interval=1,sched_min_interval=0,batch_sched_delay=0
# Nodes are what this file says, whatever the machine has.
SlurmdParameters=config_overrides
# A dead node is noticed, and its job queued again, within seconds.
SlurmdTimeout=12
KillWait=10
# Jobs that are over are remembered for a day.
MinJobAge=86400
ReturnToService=2
JobRequeue=1
# The preempted get their own warning signal (--signal), not TERM.
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
PartitionName=main Nodes=ALL Default=YES State=UP PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes=ALL State=UP PriorityTier=2 PreemptMode=OFF
END
  for ((i = 0; i < nodes; ++i)); do
    echo "NodeName=n$i NodeHostname=$host NodeAddr=127.0.0.1 Port=$((base + i)) CPUs=$cpus"
  done
}

all_up() {
  local states
  states=$(sinfo --noheader --Node --partition=main --format=%T 2>/dev/null) && [[ -n $states ]] &&
    [[ ! $states =~ down|unk|\* ]]
}

start() {
  local program i
  for program in munged slurmctld slurmd sbatch; do
    command -v "$program" >/dev/null || fail "$program is missing; run: apt-get install slurm-wlm munge" 77
  done
  as_root
  mkdir -p "$dir"/{state,spool,log}
  if [[ -z $(daemons_of slurmctld) ]]; then
    rm -rf "$dir"/state/*
    write_configuration >"$SLURM_CONF"
  else
    nodes=$(grep -c ^NodeName= "$SLURM_CONF")
  fi
  if [[ -z $(daemons_of munged) ]]; then
    [[ -s $dir/munge.key ]] || (umask 077 && head -c 128 /dev/urandom >"$dir/munge.key")
    # --force: the folder may lie below one that others may write to, such as /tmp.
    munged --force --key-file="$dir/munge.key" --socket="$dir/munge.socket" --pid-file="$dir/munged.pid" \
      --log-file="$dir/log/munged" --seed-file="$dir/munge.seed" 2>>"$dir/log/start" || fail "munged: see $dir/log/start"
  fi
  [[ -n $(daemons_of slurmctld) ]] || slurmctld -f "$SLURM_CONF" 2>>"$dir/log/start" || fail "slurmctld: see $dir/log"
  for ((i = 0; i < nodes; ++i)); do
    mkdir -p "$dir/spool/n$i"
    [[ -n $(daemons_of "n$i") ]] || slurmd -f "$SLURM_CONF" -N "n$i" 2>>"$dir/log/start" || fail "slurmd: see $dir/log/n$i"
  done
  for ((i = 0; i < 600; ++i)); do
    ! all_up || return 0
    sleep 0.2
  done
  fail "the nodes did not come up within two minutes; see $dir/log"
}

stop() {
  local i
  as_root
  local -a all
  mapfile -t all < <(with_descendants $(daemons_of '*'))
  end_processes TERM $(daemons_of '*')
  for ((i = 0; i < 50; ++i)); do
    [[ -n $(daemons_of '*') ]] || break
    sleep 0.1
  done
  end_processes KILL "${all[@]}" $(daemons_of '*') $(orphans)
  # What root's daemons wrote is left to whoever asked for them.
  [[ -z ${SUDO_UID:-} ]] || chown -R "$SUDO_UID:$SUDO_GID" "$dir"/{state,spool,log}
}

lose() {
  as_root
  local -a all
  mapfile -t all < <(with_descendants $(daemons_of "$lost"))
  [[ ${#all[@]} -gt 0 ]] || fail "no node $lost is running in $dir"
  end_processes KILL "${all[@]}"
}

status() {
  timeout 10 sinfo 2>/dev/null || fail "not running in $dir"
  squeue
}

environment() {
  printf 'export SLURM_CONF=%s\n' "$SLURM_CONF"
  # Nodes share one machine: shared memory would take ranks of several nodes for neighbours.
  echo 'export OMPI_MCA_btl=tcp,self OMPI_MCA_btl_tcp_if_include=lo OMPI_MCA_rmaps_base_oversubscribe=1'
  echo "export OMPI_MCA_hwloc_base_binding_policy=none OMPI_MCA_mpi_yield_when_idle=1"
  [[ $(id -u) -ne 0 ]] || echo 'export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1'
}

case $command in
  start | stop | status | lose) "$command" ;;
  env) environment ;;
  *) usage ;;
esac
