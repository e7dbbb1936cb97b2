#!/bin/sh
# LiteLLM's proxy beside us, in front of the mock provider. See scripts/bench --help.
#
#   litellm.sh install DIR               makes a Python environment in DIR and installs it there (some minutes)
#   litellm.sh start DIR PORT UPSTREAM   runs it on 127.0.0.1:PORT in front of UPSTREAM (http://127.0.0.1:…)
#
# PYTHON is the interpreter to install with (python3), LITELLM_VERSION the version. One process, no database, no callbacks:
# its fastest way. Its keys and spend would need PostgreSQL; ours are on, so that the comparison is in its favour.
set -eu
what=${1:?install or start} dir=${2:?a directory}

case $what in
install)
    mkdir -p "$dir"
    "${PYTHON:-python3}" -m venv "$dir/venv"
    "$dir/venv/bin/pip" install --quiet --disable-pip-version-check "litellm[proxy]==${LITELLM_VERSION:-1.106.2}"
    ;;
start)
    port=${3:?a port} upstream=${4:?the address of the provider}
    cat >"$dir/config.yaml" <<CONFIG
model_list:
  - model_name: gpt-4o-mini
    litellm_params: {model: openai/gpt-4o-mini, api_base: $upstream/v1, api_key: sk-upstream}
general_settings: {master_key: sk-bench}
litellm_settings: {num_retries: 0, request_timeout: 600, telemetry: false, callbacks: []}
CONFIG
    export LITELLM_LOCAL_MODEL_COST_MAP=True LITELLM_MODE=PRODUCTION LITELLM_LOG=ERROR
    cd "$dir"
    exec venv/bin/python venv/bin/litellm --config config.yaml --host 127.0.0.1 --port "$port" --num_workers 1
    ;;
*)
    echo "install or start" >&2
    exit 2
    ;;
esac
