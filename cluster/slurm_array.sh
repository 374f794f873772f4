#!/usr/bin/env bash
# Four nodes share the runs of one job, each with all GPUs that Slurm gives it:
#   sbatch --array=0-3 --gres=gpu:8 --time=02:00:00 cluster/slurm_array.sh recipes/smm4h2020.yaml \
#       --task tasks/task5.yaml --data_dir DIR --output_dir runs/task5
# To be submitted from the repository, with the job's flags. Any number of elements does, and each may come late, go
# early, fail, or be requeued: all work on what is missing in the output folder, and each stays to the end. With
# `sbatch --wait` the shell waits for that. PYTHON names another interpreter than .venv/bin/python.
#SBATCH --job-name=smm4h
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%A_%a.log
#SBATCH --signal=B:TERM@120
# ^ 120 s before the time limit this script is told, and tells the job, which saves its state.
set -u
cd "${SLURM_SUBMIT_DIR:-.}" || exit 1

"${PYTHON:-.venv/bin/python}" run_classification.py "$@" &
job=$!
told=no
trap 'told=yes; kill -TERM "$job"' TERM
wait "$job"
code=$?
if [ "$told" = yes ]; then # the signal had interrupted `wait`
    wait "$job"
    code=$?
fi
if [ "$code" -eq 75 ]; then # stopped from outside: the same command goes on from there
    scontrol requeue "${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}"
fi
exit "$code"
