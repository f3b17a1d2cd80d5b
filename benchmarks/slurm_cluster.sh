#!/usr/bin/env bash
# Tests recipes/cluster/slurm.sbatch on a real Slurm: two nodes on this machine, in a folder that is deleted at the end.
# Run as root on Debian or Ubuntu, after apt-get install slurm-wlm munge. Needs no GPU.
#
#     PYTHON=.venv/bin/python benchmarks/slurm_cluster.sh     # five minutes
set -euo pipefail
cd "$(dirname "$0")/.."
batch_file=$PWD/recipes/cluster/slurm.sbatch
PYTHON=$(realpath -s "${PYTHON:-.venv/bin/python}")
folder=$(mktemp -d /tmp/slurm-cluster.XXXXXX)
export PYTHON SLURM_CONF=$folder/slurm.conf HF_HOME=$folder/huggingface
host=$(hostname -s)

# Without accounts, cgroups and GPUs, which do not matter here. Requeued jobs may restart after cred_expire seconds, by
# default 120.
cat >"$SLURM_CONF" <<CONF
ClusterName=one-machine
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=17817
SlurmUser=root
AuthInfo=socket=$folder/munge.socket,cred_expire=5
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool-%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd-%n.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=batch_sched_delay=1,sched_interval=2,bf_interval=5
NodeName=$host NodeHostname=$host NodeAddr=127.0.0.1 Port=17818 CPUs=2
NodeName=localhost NodeHostname=$host NodeAddr=127.0.0.1 Port=17819 CPUs=2
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 GraceTime=60
PartitionName=high Nodes=ALL PriorityTier=10
CONF

cleanup() {
    scancel --user=root 2>/dev/null || true
    sleep 3
    for pid_file in "$folder"/*.pid; do
        kill "$(cat "$pid_file")" 2>/dev/null || true
    done
    sleep 2
    rm -rf "$folder"
}
trap cleanup EXIT

mkdir "$folder/state"
head -c 128 /dev/urandom >"$folder/munge.key"
chmod 400 "$folder/munge.key"
munged --force --socket="$folder/munge.socket" --key-file="$folder/munge.key" --pid-file="$folder/munge.pid" \
    --log-file="$folder/munge.log" --seed-file="$folder/munge.seed"
slurmctld
slurmd -N "$host"
slurmd -N localhost
until [ "$(sinfo -h -t idle -o %D)" = 2 ]; do sleep 1; done
sinfo --version

# A task that stops on signals, as the scripts do, and exits with 0 when it is started again.
cat >"$folder/task.py" <<'TASK'
import os, signal, sys, time
told = []
for name in (signal.SIGTERM, signal.SIGUSR1):
    signal.signal(name, lambda number, frame: told.append(signal.Signals(number).name))
if sys.argv[1] == "mistake":
    sys.exit(2)
while not told and "SLURM_RESTART_COUNT" not in os.environ:
    time.sleep(0.1)
print("task", os.environ["RANK"], "of", os.environ["WORLD_SIZE"], told, flush=True)
time.sleep(2 * int(os.environ["RANK"]))  # tasks end at different times
sys.exit(75 if told else 0)
TASK

failures=0
# submit SBATCH_FLAGS... -- ARGUMENTS...
submit() {
    local flags=()
    while [ "$1" != -- ]; do flags+=("$1") && shift; done
    shift
    sbatch --parsable --gres=none --cpus-per-task=1 --output="$folder/%j.log" "${flags[@]}" "$batch_file" "$@"
}
field() { scontrol show job "$1" | tr ' ' '\n' | sed -n "s/^$2=//p"; }
# until_state JOB STATE SECONDS
until_state() {
    for _ in $(seq "$3"); do
        case $(field "$1" JobState) in
            "$2") return ;;
            FAILED | CANCELLED) break ;;
        esac
        sleep 1
    done
    echo "job $1 is not $2"
}
# report NAME JOB STATE EXIT_CODE RESTARTS
report() {
    local seen
    seen="$(field "$2" JobState) $(field "$2" ExitCode) $(field "$2" Restarts)"
    if [ "$seen" = "$3 $4 $5" ]; then
        echo "ok      $1: $3, exit code $4, $5 restart(s)"
    else
        failures=$((failures + 1))
        echo "FAILED  $1: $seen instead of $3 $4 $5"
        cat "$folder/$2.log"
    fi
}

job=$(submit --nodes=1 --ntasks-per-node=2 -- "$folder/task.py" mistake)
until_state "$job" FAILED 30
report "a mistake" "$job" FAILED 2:0 0

job=$(submit --nodes=1 --ntasks-per-node=2 -- "$folder/task.py" run)
until_state "$job" RUNNING 30 && sleep 5
scancel "$job"
until_state "$job" CANCELLED 40
sleep 10
report "scancel" "$job" CANCELLED 0:15 0

job=$(submit --nodes=2 --ntasks-per-node=1 -- "$folder/task.py" run)
until_state "$job" RUNNING 30 && sleep 5
sbatch --partition=high --nodes=2 --exclusive --output=/dev/null --wrap="sleep 5" >/dev/null
until_state "$job" COMPLETED 90
report "preemption, two nodes" "$job" COMPLETED 0:0 1

job=$(submit --nodes=1 --ntasks-per-node=2 --time=2 --signal=USR1@60 -- "$folder/task.py" run)
until_state "$job" COMPLETED 180
report "the time limit" "$job" COMPLETED 0:0 1

# The training script, stopped twice: by the signal of preemption, then by the signal of the time limit.
job=$(submit --nodes=2 --ntasks-per-node=1 -- run_mlm.py recipes/quickstart/mlm.yaml --use_cpu --max_steps 600 \
    --logging_steps 10 --dataloader_num_workers 1 --overwrite_output_dir false --output_dir "$folder/out")
lines() { cat "$folder/$job.log" 2>/dev/null | grep -c "$1" || true; }
for signal in TERM USR1; do
    logged=$(lines "^train ")
    stopped=$(lines "Requeueing job")
    until [ "$(lines "^train ")" -gt $((logged + 2)) ]; do sleep 1; done
    scancel --signal=$signal "$job"
    for _ in $(seq 60); do
        [ "$(lines "Requeueing job")" -gt "$stopped" ] && break
        sleep 1
    done
done
until_state "$job" COMPLETED 240
report "run_mlm.py, two nodes" "$job" COMPLETED 0:0 2
grep -E "Stopped|Resuming from|Training loss|Masked perplexity" "$folder/$job.log" || true
exit "$failures"
