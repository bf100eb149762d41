#!/usr/bin/env bash
# Start a private Slurm cluster of virtual nodes on this machine. The system's own configuration is neither read nor changed.
#   bash tests/slurm/start.sh FOLDER [NODES]      then: export SLURM_CONF=FOLDER/slurm.conf; sinfo
#   bash tests/slurm/start.sh FOLDER stop
# Needs slurmctld, slurmd, slurm-client and munge (Debian and Ubuntu: apt-get install). Every daemon keeps its process
# id, log and state in FOLDER. Several clusters can run at a time: each takes free ports.
set -euo pipefail
folder="$(mkdir -p "$1" && cd "$1" && pwd)"

stop() {
    for file in "$folder"/run/*.pid; do
        [ -e "$file" ] && kill -9 "$(cat "$file")" 2> /dev/null || true
    done
    rm -f "$folder"/run/*.pid
}
if [ "${2:-}" = stop ]; then
    # jobs first: they would outlive the daemons
    export SLURM_CONF="$folder/slurm.conf"
    timeout 10 scancel --user="$(id -un)" --signal=KILL --full 2> /dev/null || true
    timeout 10 scancel --user="$(id -un)" 2> /dev/null || true
    for ((try = 0; try < 20; try++)); do
        [ -z "$(timeout 5 squeue --noheader 2> /dev/null)" ] && break
        sleep 0.5
    done
    stop
    for process in /proc/[0-9]*; do
        if [ "$(cat "$process/comm" 2> /dev/null)" = slurmstepd ] &&
            tr '\0' '\n' 2> /dev/null < "$process/environ" | grep -qxF "SLURM_CONF=$folder/slurm.conf"; then
            kill -9 "${process#/proc/}" 2> /dev/null || true
        fi
    done
    exit 0
fi
nodes="${2:-4}"
for program in munged slurmctld slurmd sbatch; do
    PATH="$PATH:/usr/sbin" command -v "$program" > /dev/null || { echo "$program is not installed" >&2; exit 1; }
done
export PATH="$PATH:/usr/sbin"
mkdir -p "$folder"/{run,log,state,spool}
chmod 755 "$folder"  # munged refuses a folder that others can write to

# n + 1 free ports: for slurmctld and for each slurmd
read -r -a ports <<< "$(python3 - "$((nodes + 1))" << 'PYTHON'
import socket, sys
sockets = [socket.socket() for _ in range(int(sys.argv[1]))]
for s in sockets:
    s.bind(("", 0))
print(*(s.getsockname()[1] for s in sockets))
PYTHON
)"
user="$(id -un)"
host="$(hostname -s)"
{
    cat << CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=${ports[0]}
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
AuthInfo=socket=$folder/run/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool/%n
SlurmctldPidFile=$folder/run/slurmctld.pid
SlurmdPidFile=$folder/run/slurmd-%n.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/slurmd-%n.log
# no control groups: the machine that runs the tests may be a container
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
# the nodes have more processors than the machine: the tests wait more than they compute
SlurmdParameters=config_overrides
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
JobRequeue=1
MpiDefault=none
SlurmdTimeout=10
KillWait=5
InactiveLimit=0
MinJobAge=600
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0,sched_min_interval=0
# a task may be sent its signal up to this many seconds late
OverTimeLimit=0
CONF
    for ((i = 1; i <= nodes; i++)); do
        echo "NodeName=n$i NodeHostname=$host NodeAddr=127.0.0.1 Port=${ports[$i]} CPUs=8 RealMemory=4000 State=UNKNOWN"
    done
    echo "PartitionName=main Nodes=n[1-$nodes] Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=30"
    echo "PartitionName=urgent Nodes=n[1-$nodes] MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF"
} > "$folder/slurm.conf"
export SLURM_CONF="$folder/slurm.conf"

trap 'stop; tail -n 5 "$folder"/log/*.log >&2' ERR
head -c 1024 /dev/urandom > "$folder/run/munge.key"
chmod 600 "$folder/run/munge.key"
munged --force --num-threads=2 --key-file="$folder/run/munge.key" --socket="$folder/run/munge.socket" \
    --pid-file="$folder/run/munged.pid" --log-file="$folder/log/munged.log" --seed-file="$folder/run/munge.seed"
slurmctld -f "$SLURM_CONF" -c
for ((i = 1; i <= nodes; i++)); do
    mkdir -p "$folder/spool/n$i"
    slurmd -N "n$i" -f "$SLURM_CONF"
done
for ((try = 0; try < 120; try++)); do
    [ "$(timeout 5 sinfo --noheader --partition=main --states=idle --format=%D 2> /dev/null)" = "$nodes" ] && exit 0
    sleep 0.5
done
echo "the nodes did not become idle in 60 s:" >&2
sinfo >&2 || true
false
