#!/usr/bin/env bash
# The first run on a machine with a GPU, eight minutes at most on a card like an H100. It needs what requirements.txt
# installs, and no network. Each part has its own time limit: one that hangs or dies costs itself alone.
#
#     PYTHON=.venv/bin/python bash benchmarks/gpu.sh              # all parts
#     PYTHON=.venv/bin/python bash benchmarks/gpu.sh --smoke      # tiny sizes on the CPU, to try this script
#     PYTHON=.venv/bin/python bash benchmarks/gpu.sh throughput   # parts by name
#
# Results are printed as they come, each a line of JSON; then tables, and one line of JSON with everything. Exit code 1
# if a check fails or a part does not end well, 2 without a GPU.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
PYTHON=${PYTHON:-python3}
# Seconds: of each of those that run together, of the first that measures, and of all.
checks=${CHECKS_LIMIT:-120} throughput=${THROUGHPUT_LIMIT:-150} all=470 smoke=() threads=4
if [ "${1:-}" = --smoke ]; then
    # On the CPU, perhaps a busy one.
    checks=${CHECKS_LIMIT:-300} throughput=${THROUGHPUT_LIMIT:-300} all=900 smoke=(--smoke) threads=1
    shift
fi
[ $# -eq 0 ] && set -- parity resume commands throughput compiled

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
results=$folder/results.jsonl
export HF_HOME=$folder/huggingface HF_HUB_OFFLINE=1
# Of ten processes at once, threads for each core would wait for each other.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$threads}
export TORCHINDUCTOR_CACHE_DIR=$folder/inductor TRITON_CACHE_DIR=$folder/triton

# run PART LIMIT: at its limit, a part is killed with all processes that it has started.
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
# What tells right from wrong does not need the GPU for itself.
for part in parity resume commands; do
    asked $part && run $part "$checks" &
done
wait
asked throughput && run throughput "$throughput"
asked compiled && run compiled $((all - SECONDS))
"$PYTHON" benchmarks/gpu.py table --results "$results" "${smoke[@]}" --parts "$@"
