#!/bin/bash
# sbatch docs/examples/slurm.sh: Ray on the nodes of one Slurm job, and a sweep on it. After a preemption Slurm requeues
# the job, and the sweep goes on where it stopped.
#SBATCH --job-name=medcap
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=32
#SBATCH --gpus-per-node=4
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=B:TERM@120
#SBATCH --open-mode=append
set -euo pipefail

RUN=${RUN:-$HOME/runs/lora}  # on a file system that all nodes share, or a URL
SPACE=${SPACE:-lora}
export MEDCAP_CACHE=${MEDCAP_CACHE:-/tmp/$(id -un)/medcap}  # a disk of each node
export RAY_TMPDIR=${RAY_TMPDIR:-/tmp/$(id -un)}
# Other users reach these nodes too: only who has the token in this home folder gets in.
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
ray get-auth-token --generate >/dev/null

mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${hosts[0]}
port=$((20000 + SLURM_JOB_ID % 6000 * 2))  # and the next for the dashboard: nodes may be shared
gpus=${SLURM_GPUS_ON_NODE:-0}

# Waits until Ray has $1 nodes, up to five minutes, while the last srun goes on.
wait_for() {
    local count="import ray; ray.init('$head:$port', log_to_driver=False); print(sum(n['Alive'] for n in ray.nodes()))"
    local end=$((SECONDS + 300))
    until [ "$(timeout 60 python -c "$count" 2>/dev/null)" = "$1" ]; do
        if [ $SECONDS -gt $end ] || ! kill -0 $!; then
            echo "Ray did not start on $1 nodes." >&2
            exit 1
        fi
        sleep 2
    done
}

srun --nodes=1 --ntasks=1 --nodelist="$head" \
    ray start --head --port="$port" --dashboard-port=$((port + 1)) --num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="$gpus" --block &
wait_for 1  # the head listens before the others join
if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then
    srun --nodes=$((SLURM_JOB_NUM_NODES - 1)) --ntasks=$((SLURM_JOB_NUM_NODES - 1)) --exclude="$head" \
        ray start --address="$head:$port" --num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="$gpus" --block &
    wait_for "$SLURM_JOB_NUM_NODES"
fi

# SIGTERM, 120 s before the end, stops the sweep at a point from which it goes on. A job that scancel ends is no longer
# RUNNING, and stays ended.
sweep=
stop() {
    kill -TERM "$sweep" || true
    wait "$sweep" || [ "$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T)" != RUNNING ] ||
        scontrol requeue "$SLURM_JOB_ID"
}
trap stop TERM
# This script runs on the head node.
if medcap status "$RUN" >/dev/null 2>&1; then
    medcap run --resume "$RUN" --address "$head:$port" &
else
    medcap run "$SPACE" --out "$RUN" --address "$head:$port" &
fi
sweep=$!
wait "$sweep"
