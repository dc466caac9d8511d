#!/bin/sh
# Serves a model with the sizes of its profile: serve.sh NAME [further options of trtllm-serve].
# NAME is a profile with NAME.env (checkpoint and sizes) and NAME.yaml (LLM API) beside this file.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
name=${1:?usage: serve.sh NAME [options of trtllm-serve]}
shift
if [ ! -f "$here/$name.env" ]; then
    echo "serve.sh: no $name; there are:" >&2
    ls "$here" | sed -n 's/^\(.*\)\.env$/  \1/p' >&2
    exit 2
fi
. "$here/$name.env"
exec trtllm-serve "${CHECKPOINT}" \
    --host "${HOST:-0.0.0.0}" --port "${PORT:-8000}" --backend pytorch \
    --tp_size "${TENSOR_PARALLEL}" --ep_size "${EXPERT_PARALLEL:-1}" \
    --max_batch_size "${MAX_BATCH_SIZE:-256}" --max_num_tokens "${MAX_NUM_TOKENS:-8192}" \
    --max_seq_len "${MAX_SEQ_LEN:?}" \
    --extra_llm_api_options "$here/$name.yaml" "$@"
