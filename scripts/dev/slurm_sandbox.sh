#!/usr/bin/env bash
# A real SLURM with two virtual nodes on this host, for tests: no systemd, nothing on the network, nothing outside its folder.
#
#   slurm_sandbox.sh install                 Debian's packages slurm-wlm and munge (root)
#   slurm_sandbox.sh start FOLDER            start it; its files, logs and configuration lie in FOLDER (root)
#   slurm_sandbox.sh exec FOLDER COMMAND...  run a command inside: sbatch, squeue, scontrol, ...
#   slurm_sandbox.sh stop FOLDER             end it with every job, and nothing else
#
# It runs in namespaces of its own (processes, network, mounts, host name): nodes n1 and n2 talk over a loopback that this host does
# not share, and the end of the first process inside is the end of all. Partitions: low (default; jobs in it are
# requeued when others need the nodes, after 30 s of grace), high.
set -euo pipefail

readonly NEEDED=(slurmctld slurmd munged sbatch unshare nsenter)
readonly START_SECONDS=20

fail() {
    echo "slurm_sandbox: $*" >&2
    exit 2
}

need_root() { [[ $(id -u) == 0 ]] || fail "$1 needs root"; }

need_slurm() {
    local name
    for name in "${NEEDED[@]}"; do
        command -v "$name" >/dev/null || fail "$name is not installed: $0 install"
    done
}

install_packages() {
    need_root install
    # With a run level of 1 the packages start no service.
    RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet --no-install-recommends slurm-wlm munge iproute2 util-linux
}

write_configuration() {
    local folder=$1
    mkdir -p "$folder"/{state,n1,n2,log,munge}
    chmod 700 "$folder/munge"
    head -c 1024 /dev/urandom >"$folder/munge/key"
    chmod 400 "$folder/munge/key"
    printf '127.0.0.1 localhost sandbox n1 n2\n' >"$folder/hosts"
    # ConstrainX=no: the cgroups are there to find every process of a job, not to limit it.
    printf '%s\n' CgroupAutomount=no ConstrainCores=no ConstrainRAMSpace=no ConstrainDevices=no >"$folder/cgroup.conf"
    # cred_expire: a requeued job waits that long, by default two minutes.
    cat >"$folder/slurm.conf" <<END
ClusterName=sandbox
SlurmctldHost=sandbox
SlurmUser=root
SlurmctldPort=17000
AuthType=auth/munge
AuthInfo=socket=$folder/munge/socket,cred_expire=5
CredType=cred/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/%n/slurmd.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/%n.log
SlurmctldParameters=preempt_send_user_signal,idle_on_node_suspend
SlurmdParameters=config_overrides
ProctrackType=proctrack/cgroup
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
KillWait=5
InactiveLimit=0
MessageTimeout=30
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=n[1-2] NodeAddr=127.0.0.1 Port=[17001-17002] CPUs=4 CoresPerSocket=4 Sockets=1 ThreadsPerCore=1 State=UNKNOWN
PartitionName=low Nodes=n[1-2] Default=YES PriorityTier=1 GraceTime=30 PreemptMode=REQUEUE MaxTime=INFINITE State=UP
PartitionName=high Nodes=n[1-2] PriorityTier=2 PreemptMode=OFF MaxTime=INFINITE State=UP
END
}

# The first process inside: all others end with it.
run_inside() {
    local folder=$1 node
    export SLURM_CONF=$folder/slurm.conf
    mount --make-rprivate /
    mount --bind "$folder/hosts" /etc/hosts
    hostname sandbox
    ip link set lo up
    ip address add 192.0.2.1/32 dev lo # without an address beside 127.0.0.1 glibc resolves nothing for SLURM's sockets
    munged --foreground --force --key-file="$folder/munge/key" --socket="$folder/munge/socket" --pid-file="$folder/munge/pid" \
        --seed-file="$folder/munge/seed" --log-file="$folder/log/munged.log" >>"$folder/log/munged.out" 2>&1 &
    until [[ -S $folder/munge/socket ]]; do sleep 0.05; done
    slurmctld -D -c >>"$folder/log/slurmctld.out" 2>&1 &
    for node in n1 n2; do
        unshare --uts bash -c "hostname $node; exec slurmd -D -c -N $node" >>"$folder/log/$node.out" 2>&1 &
    done
    trap 'exit 0' TERM
    wait
}

# The first process inside, as this host numbers it; empty where the sandbox does not run.
first_process() {
    local folder=$1 outer first
    [[ -f $folder/pid ]] || return 0
    outer=$(<"$folder/pid")
    grep -qs "run_inside" "/proc/$outer/cmdline" || return 0 # another process has its number by now
    first=$(ps -o pid= --ppid "$outer" | tr -d ' ')
    echo "${first%%$'\n'*}"
}

start() {
    local folder=${1%/} deadline
    need_root start
    need_slurm
    # In a folder that somebody else made, or a link of theirs, they could put files in the way of root.
    [[ -e $folder || -L $folder ]] || mkdir -m 700 -- "$folder"
    [[ -d $folder && -O $folder && ! -L $folder ]] || fail "$folder: not a folder of root's own; take \$(mktemp -d)"
    chmod 700 -- "$folder"
    folder=$(realpath "$folder")
    [[ -z $(first_process "$folder") ]] || fail "a sandbox runs in $folder already"
    write_configuration "$folder"
    setsid unshare --pid --fork --kill-child --mount-proc --net --uts --mount bash "$(realpath "$0")" run_inside "$folder" \
        </dev/null >>"$folder/log/sandbox.out" 2>&1 &
    echo $! >"$folder/pid"
    deadline=$((SECONDS + START_SECONDS))
    while ((SECONDS < deadline)); do
        if [[ $(run_in "$folder" timeout 3 sinfo --noheader --states=idle --format %D 2>/dev/null | head -n 1) == 2 ]]; then
            echo "two idle nodes: $0 exec $folder sinfo"
            return
        fi
        sleep 0.2
    done
    tail -n 5 "$folder"/log/* >&2
    stop "$folder"
    fail "SLURM has not started within $START_SECONDS seconds; its logs are in $folder/log"
}

run_in() {
    local folder first
    folder=$(realpath "$1")
    shift
    first=$(first_process "$folder")
    [[ -n $first ]] || fail "no sandbox runs in $folder: $0 start $folder"
    SLURM_CONF=$folder/slurm.conf nsenter --target "$first" --pid --net --uts --mount --wdns="$PWD" "$@"
}

stop() {
    local folder=$1 outer
    need_root stop
    [[ -n $(first_process "$folder") ]] || return 0
    outer=$(<"$folder/pid")
    kill -KILL "$(first_process "$folder")" # the kernel ends whatever is in its namespace of processes
    while kill -0 "$outer" 2>/dev/null; do sleep 0.05; done
    rm -f "$folder/pid"
    remove_cgroups
}

# What SLURM leaves of its own: groups without processes.
remove_cgroups() {
    local group
    for group in $(find /sys/fs/cgroup -depth -type d -path '*/slurm_n[12]*' 2>/dev/null); do
        rmdir "$group" 2>/dev/null || true
    done
}

case ${1:-} in
    install) install_packages ;;
    start) start "${2:?folder}" ;;
    stop) stop "${2:?folder}" ;;
    exec) shift && run_in "$@" ;;
    run_inside) run_inside "${2:?folder}" ;;
    *) sed -n '2,11s/^# \{0,1\}//p' "$0" && exit 2 ;;
esac
