#!/bin/bash
# Trains a pipeline over four nodes of a Slurm cluster, a stage on each:   sbatch examples/slurm.sh RUN.yaml [DIR]
# Ends well before its time is up, and goes on from its newest snapshot when it is submitted again.
#SBATCH --job-name=resbm
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --time=04:00:00
#SBATCH --signal=USR1@180
#SBATCH --requeue
set -eu
run=${1:?name a configuration}
dir=${2:-runs/$(basename "$run" .yaml)}
resbm=${RESBM:-resbm}
resume=
[ -z "$(find "$dir" -maxdepth 1 -name 'step-*' 2>/dev/null)" ] || resume=--resume

# USR1 (180 s before the end) reaches every rank; the first hands it on: a snapshot after the present step, and the end.
# Where mpirun starts ranks itself: mpirun -n "$SLURM_NTASKS" --map-by node --bind-to none instead of srun.
# --kill-on-bad-exit: when a rank has died the others cannot go on; resbm names it in $dir/fault.txt.
srun --kill-on-bad-exit=1 "$resbm" train "$run" --out "$dir" $resume engine=mpi \
    pipeline.stages="$SLURM_NTASKS" pipeline.startup_deadline=300s
