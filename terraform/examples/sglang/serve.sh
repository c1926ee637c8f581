#!/bin/sh
# SGLang with a warm start: ./serve.sh MODEL [options of sglang.launch_server]. The image needs
# `pip install 'tritonsync[s3]'` (or [gcs]) and nothing else: the plugin is loaded in every process.
set -eu
MODEL=$1
shift
export TRITONSYNC_URL="${TRITONSYNC_URL:-s3://example-kernels/tritonsync}"
# One name a model: without it, all that SGLang serves would be one workload, `launch_server`.
export TRITONSYNC_WORKLOAD="${TRITONSYNC_WORKLOAD:-sglang-$(basename "$MODEL")}"
# Serve with readers. The first replica, or a warm-up job, is a writer: TRITONSYNC_MODE=read-write ./serve.sh MODEL
export TRITONSYNC_MODE="${TRITONSYNC_MODE:-read-only}"
exec python3 -m sglang.launch_server --model-path "$MODEL" "$@"
