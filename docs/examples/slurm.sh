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
export MEDCAP_CACHE=${MEDCAP_CACHE:-/tmp/$USER/medcap}  # a disk of each node
export RAY_TMPDIR=${RAY_TMPDIR:-/tmp/$USER}
# Other users reach these nodes too: only who has the token in this home folder gets in.
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
ray get-auth-token --generate >/dev/null

mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${hosts[0]}
port=$((20000 + SLURM_JOB_ID % 20000))
gpus=${SLURM_GPUS_ON_NODE:-0}

srun --nodes=1 --ntasks=1 --nodelist="$head" \
    ray start --head --port="$port" --num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="$gpus" --block &
sleep 20  # the head listens before the others join
if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then
    srun --nodes=$((SLURM_JOB_NUM_NODES - 1)) --ntasks=$((SLURM_JOB_NUM_NODES - 1)) --exclude="$head" \
        ray start --address="$head:$port" --num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="$gpus" --block &
    sleep 20
fi

# This script runs on the head node. SIGTERM, 120 s before the end, stops the sweep at a point from which it goes on.
if medcap status "$RUN" >/dev/null 2>&1; then
    medcap run --resume "$RUN" --address "$head:$port" &
else
    medcap run "$SPACE" --out "$RUN" --address "$head:$port" &
fi
sweep=$!
trap 'kill -TERM $sweep; wait $sweep || true; scontrol requeue "$SLURM_JOB_ID"' TERM
wait $sweep
