#!/usr/bin/env bash
# What a GPU has to show, in one call of under 8 minutes on one H100 or H200: tests, benchmarks and a profile.
#
#     tests/benchmarks/gpu.sh           # PYTHON names the interpreter, by default python3
#     tests/benchmarks/gpu.sh --tiny    # the same steps, small, where there is no GPU
#
# It needs a Python with torch and a few packages; it says which are missing, and leaves out what needs them. It needs
# neither Ray nor Redis nor the network. A step that fails keeps no later one from running; the exit status is 1 then.
# A table of all steps and goals comes last, and one JSON document as the last line. With OUT set, the output of each
# step and the report are also files of that folder.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit
if [[ ${1:-} != @(|--tiny) ]]; then
	echo "gpu.sh takes --tiny or nothing, not $1" >&2
	exit 2
fi

python=${PYTHON:-python3}
temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT
logs=${OUT:-$temporary/logs}
mkdir -p "$logs"
: >"$logs/steps.tsv"

for folder in tests/cluster tests/support worker gateway operator proto; do
	PYTHONPATH=$PWD/$folder${PYTHONPATH:+:$PYTHONPATH}
done
export PYTHONPATH PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1

# step NAME SECONDS COMMAND...
step() {
	local name=$1 limit=$2 started=$SECONDS status=0
	shift 2
	printf '\n== %s: %s s at most\n' "$name" "$limit"
	timeout --kill-after=10 "$limit" "$@" 2>&1 | tee "$logs/$name.log" || status=${PIPESTATUS[0]}
	printf '%s\t%s\t%s\t\n' "$name" "$status" $((SECONDS - started)) >>"$logs/steps.tsv"
}

# left_out NAME STATUS REASON
left_out() { printf '%s\t%s\t0\t%s\n' "$@" >>"$logs/steps.tsv"; }

runnable() { "$python" tests/benchmarks/missing_packages.py "$@"; }

# tests NAME SECONDS MARKERS FILE...
tests() {
	local name=$1 limit=$2 markers=$3 files
	shift 3
	mapfile -t files < <(runnable "$@")
	if [ ${#files[@]} = 0 ]; then
		left_out "$name" 1 "packages are missing, see above"
		return
	fi
	# Without the options of pyproject.toml, some of which are those of plugins that may be missing.
	step "$name" "$limit" "$python" -m pytest -q --override-ini=addopts= --import-mode=importlib --strict-markers \
		-p no:cacheprovider -W ignore::pytest.PytestConfigWarning --numprocesses="$processes" --dist=loadgroup \
		-m "$markers" "${files[@]}"
}

can_bench=$(runnable tests/benchmarks/bench_gpu.py)
if [ "${1:-}" = --tiny ]; then
	shape=llama-tiny bench_options=(--tiny) processes=0 model_tests=(tests/worker/model/test_counter_rng.py)
	engine_options=(--shape smollm2-tiny --cells 1x32+4 --rounds 1)
else
	shape=qwen3-0.6b bench_options=(--seconds 30) processes=8 model_tests=(tests/worker/model/test_*.py)
	engine_options=(--shape smollm2-135m --cells "8x512+64,32x512+64" --rounds 2)
	if [ -n "$can_bench" ] && ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
		echo "$python sees no CUDA device; gpu.sh --tiny runs the same steps, small, on the CPU" >&2
		exit 2
	fi
fi

if [ -n "$can_bench" ]; then
	"$python" tests/benchmarks/model_shapes.py "$shape" "$temporary/weights" & # takes 40 s of one core
	writer=$!
fi
mapfile -t gpu_tests < <(grep -rl --include='test_*.py' 'mark\.gpu' tests/worker)
tests gpu-tests 60 gpu "${gpu_tests[@]}"
tests model-tests 90 "not gpu and not model and not ray" "${model_tests[@]}"
if [ -n "$can_bench" ] && wait "$writer"; then
	step bench-gpu 230 "$python" tests/benchmarks/bench_gpu.py --weights "$temporary/weights" "${bench_options[@]}"
else
	left_out bench-gpu 1 "packages or weights are missing, see above"
fi
if [ -n "$(runnable tests/benchmarks/engine_peers/transformers_peer.py)" ]; then
	read -ra engines < <("$python" -c 'from roost_worker.config import KERNELS
print(*(f"roost-{name}" for name in KERNELS if name != "auto"))')
	step bench-engine 95 "$python" tests/benchmarks/bench_engine.py --engines "${engines[@]}" transformers \
		"${engine_options[@]}"
else
	left_out bench-engine 0 "there is no transformers to compare with"
fi
"$python" tests/benchmarks/gpu_report.py "$logs" | tee "$logs/report.txt"
