#!/bin/sh
# vLLM with a warm start: ./serve.sh MODEL [options of vllm serve]. The image needs `pip install 'tritonsync[s3]'`
# (or [gcs]) and nothing else: the plugin is loaded in every process of vLLM, with its pieces of a graph as keys.
set -eu
MODEL=$1
shift
export TRITONSYNC_URL="${TRITONSYNC_URL:-s3://example-kernels/tritonsync}"
# One name a model: what a replica used is fetched ahead by the next one of that name.
export TRITONSYNC_WORKLOAD="${TRITONSYNC_WORKLOAD:-vllm-$(basename "$MODEL")}"
# Serve with readers. The first replica, or a warm-up job, is a writer: TRITONSYNC_MODE=read-write ./serve.sh MODEL
export TRITONSYNC_MODE="${TRITONSYNC_MODE:-read-only}"
exec vllm serve "$MODEL" "$@"
