#!/usr/bin/env bash
# Checks parity, resume and throughput on a GPU, in at most eight minutes on a card like an H100. Needs the packages of
# requirements.txt and no network. Each part has its own time limit, so one that hangs or fails does not stop the others.
#
#     PYTHON=.venv/bin/python bash benchmarks/gpu.sh              # all parts
#     PYTHON=.venv/bin/python bash benchmarks/gpu.sh --smoke      # tiny sizes on the CPU, to test this script
#     PYTHON=.venv/bin/python bash benchmarks/gpu.sh throughput   # parts by name
#     PYTHON=.venv/bin/python bash benchmarks/gpu.sh speedrun     # speedrun.py with BERT-base, only by name
#
# Prints each result at once as a line of JSON; at the end, tables and one line of JSON with all results. The exit code
# is 1 if a check or a part fails, 2 without a GPU.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
PYTHON=${PYTHON:-python3}
# Time limits in seconds: of each concurrent part, of throughput, and of the whole script.
checks=${CHECKS_LIMIT:-120} throughput=${THROUGHPUT_LIMIT:-150} all=470 smoke=() threads=4
if [ "${1:-}" = --smoke ]; then
    # On a CPU that may be busy.
    checks=${CHECKS_LIMIT:-300} throughput=${THROUGHPUT_LIMIT:-300} all=900 smoke=(--smoke) threads=1
    shift
fi
[ $# -eq 0 ] && set -- parity resume commands throughput compiled

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
results=$folder/results.jsonl
export HF_HOME=$folder/huggingface HF_HUB_OFFLINE=1
# About ten processes run concurrently; a thread per core in each would slow them down.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$threads}
export TORCHINDUCTOR_CACHE_DIR=$folder/inductor TRITON_CACHE_DIR=$folder/triton

# run PART LIMIT: kill the part and its processes at the limit.
run() {
    local file=gpu.py begin=$SECONDS status=0
    case $1 in parity | throughput | compiled) file=gpu_training.py ;; esac
    {
        timeout -s KILL "$2" "$PYTHON" "benchmarks/$file" "$1" --results "$results" --limit "$2" "${smoke[@]}" ||
            status=$?
    } 2>"$folder/$1.log"
    printf '{"part": "%s", "status": %d, "seconds": %d, "limit": %d}\n' "$1" $status $((SECONDS - begin)) "$2" |
        tee -a "$results"
    [ $status -eq 0 ] || tail -n 20 "$folder/$1.log" >&2
    return $status
}

asked() { [[ " $parts " == *" $1 "* ]]; }

parts="$*"
run machine 60 || exit 2
# Checks of correctness can share the GPU.
for part in parity resume commands; do
    asked $part && run $part "$checks" &
done
wait
asked throughput && run throughput "$throughput"
asked compiled && run compiled $((all - SECONDS))
asked speedrun && run speedrun $((all - SECONDS))
"$PYTHON" benchmarks/gpu.py table --results "$results" "${smoke[@]}" --parts "$@"
