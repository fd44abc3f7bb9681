# What the batch scripts of this folder share: one job step that is asked to save before its job must end, and a job that
# is requeued then and goes on by itself.
#
#   --signal=B:USR1@N      N seconds before the time limit      preemption, scancel --signal=USR1
#   -> this script                                              -> this script, or the learners themselves
#   -> srun -> launch.py or learner -> checkpoint -> exit code 75 -> scontrol requeue -> the same command goes on
#
# Variables: PYTHON, the interpreter (.venv/bin/python beside the code, else python3); MURMURATION_CODE, the folder of the code (where the job was
# submitted); LEARNERS, learners of each node (its GPUs, else 1); RESTARTS, how often they are started again in this job
# where one fails (0).

set -u

readonly STOPPED=75 # of learners that were asked to stop and have saved: asr/training/stopped.py
readonly NEAR=300 # seconds before the time limit in which SLURM's signal comes: 120, up to a minute early, and the end of the learners
code=${MURMURATION_CODE:-$SLURM_SUBMIT_DIR}
python=${PYTHON:-$(if [[ -x $code/.venv/bin/python ]]; then echo "$code/.venv/bin/python"; else command -v python3; fi)}
learners=${LEARNERS:-${SLURM_GPUS_ON_NODE:-1}}
restarts=${RESTARTS:-0}
readonly PAUSE=5 # seconds until squeue is asked once more
asked="" # the signal that this script has got
step=""  # process of srun

# The learners of this job know each other by it; no other job has the same.
export MURMURATION_SECRET="${MURMURATION_SECRET:-$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')}"

say() { echo "$(date +%FT%T) job $SLURM_JOB_ID: $*"; }

# To srun always as SIGUSR1, which it passes on; after SIGTERM it would kill the learners.
ask_to_stop() {
    asked=$1
    say "$1: the learners are asked to save"
    if [[ -n $step ]]; then kill -USR1 "$step" 2>/dev/null; fi
}

# Run a step of the job to its end; its exit code. With --kill-on-bad-exit=0 the learners that are left when one is lost
# save what they have, and end by themselves.
run_step() {
    local cpus=()
    if [[ -n ${SLURM_CPUS_PER_TASK:-} ]]; then cpus=(--cpus-per-task="$SLURM_CPUS_PER_TASK"); fi # srun no longer takes it over
    trap 'ask_to_stop SIGUSR1' USR1
    trap 'ask_to_stop SIGTERM' TERM
    if [[ -n $asked ]]; then return "$STOPPED"; fi
    # In a session of its own, as SLURM's SIGTERM to the processes of this script would make srun kill the learners at once.
    setsid srun --kill-on-bad-exit=0 "${cpus[@]}" "$@" &
    step=$!
    while kill -0 "$step" 2>/dev/null; do wait "$step"; done # a signal to this script ends wait, not srun
    wait "$step"
}

# Whether a time left as squeue prints it, [days-][hours:]minutes:seconds, is short; UNLIMITED and an unknown one are not.
is_near() {
    local left=$1
    if [[ $left == INVALID ]]; then return 0; fi # beyond the limit
    [[ $left =~ ^(([0-9]+)-)?(([0-9]+):)?([0-9]+):([0-9]+)$ ]] || return 1
    local days=${BASH_REMATCH[2]:-0} hours=${BASH_REMATCH[4]:-0} minutes=${BASH_REMATCH[5]} seconds=${BASH_REMATCH[6]}
    (((10#$days * 24 + 10#$hours) * 3600 + 10#$minutes * 60 + 10#$seconds < NEAR))
}

# State of this job and its time left; nothing where the controller does not answer.
look_up() { squeue --noheader --jobs "$SLURM_JOB_ID" --format "%T %L" || true; }

# End the job with the exit code of its step, or requeue it: where the learners have saved, or had trained nothing yet
# when the signal came; the latter, less than NEAR before the time limit, would go on for ever.
end_job() {
    local ended=$1 state left
    case $ended in
        0) exit 0 ;;
        "$STOPPED" | $((128 + 10)) | $((128 + 15))) ;;
        *) if [[ -z $asked ]]; then exit "$ended"; fi ;;
    esac
    read -r state left <<<"$(look_up)"
    if [[ -z $state ]]; then
        sleep "$PAUSE"
        read -r state left <<<"$(look_up)"
    fi
    state=${state:-RUNNING} # as this script does
    if [[ $state != RUNNING ]]; then # as after scancel, or beyond the time limit
        say "it is $state and not requeued; the same command goes on"
        exit "$ended"
    fi
    if ((ended != STOPPED)) && is_near "$left"; then
        say "nothing was trained within its time limit: it is not requeued; give it more time (--time)"
        exit "$ended"
    fi
    say "requeued, to go on from the newest checkpoint"
    scontrol requeue "$SLURM_JOB_ID" || exit "$ended"
    exit 0
}
