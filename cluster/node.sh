# What Ray and kdray must find in the environment of every node of `ray up`: sourced before Ray starts and by each
# shell. The same values stand in kdray/train/environment.py (for the process that is submitted) and in the Dockerfile;
# a test keeps them equal.
[ -f "$HOME/venv/bin/activate" ] && . "$HOME/venv/bin/activate"
export RAY_AUTH_MODE=token
export RAY_TRAIN_ENABLE_STATE_TRACKING=1
export RAY_TRAIN_HEALTH_CHECK_INTERVAL_S=0.5
export RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S=600
export RAY_TRAIN_ENABLE_PRINT_PATCH=0
export RAY_DATA_DISABLE_PROGRESS_BARS=1
export RAY_CHDIR_TO_TRIAL_DIR=0
export RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO=1
export RAY_USAGE_STATS_ENABLED=0
# Of the head alone: `ray job stop` kills after 3 s, which is not enough to save a large state.
export RAY_JOB_STOP_WAIT_TIME_S=120
