#!/usr/bin/env bash
# The environment of a node and its part of Ray, the same on AWS, own machines, Slurm and Kubernetes.
#
#   node.sh set-up [PACKAGE ...]           makes the environment, with further packages
#   node.sh shells                         has all shells of this user begin in the environment
#   node.sh head [OPTION ...]              starts the head, with further options of `ray start`
#   node.sh worker HOST:PORT [OPTION ...]  joins a head
#   node.sh keep HOST:PORT [OPTION ...]    joins, and again where Ray dies here, until the head is gone
#   node.sh leave HOST:PORT SECONDS        has all trials leave this node, which will then be gone
#   node.sh watch-spot HOST:PORT           leaves once AWS says that it takes this node away
#   node.sh stop                           ends Ray here, and what `keep` and `watch-spot` do
#   node.sh run COMMAND ...                runs a command in the environment
#
# The environment is $PARETOSEG_ENVIRONMENT, or ~/venv. constraints.txt pins every package that it
# names; any other is resolved as of one day. To move Ray, write constraints.txt anew
# (CONTRIBUTING.md) and move the day below with it.
set -euo pipefail

uv_version=0.13.9 python_version=3.11.18 day=2026-11-23
checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
export VIRTUAL_ENV=${PARETOSEG_ENVIRONMENT:-$HOME/venv}
export PATH=$VIRTUAL_ENV/bin:$HOME/.local/bin:$PATH
# Workers share the node's environment; even under `uv run` they must not build one each
variables="RAY_AUTH_MODE=token RAY_ENABLE_UV_RUN_RUNTIME_ENV=0"
# shellcheck disable=SC2163,SC2086
export $variables
leaving=$HOME/.paretoseg-leaving-$HOSTNAME # until when, in seconds since 1970; homes may be shared
look_every_s=5 refusals=6 # a head that is started again refuses connections for seconds

set_up() {
  # Newer systems let pip install into their own Python only where it is asked to
  command -v uv > /dev/null || PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --user uv==$uv_version
  uv venv --allow-existing --managed-python --python $python_version "$VIRTUAL_ENV"
  uv pip install --constraints "$checkout/constraints.txt" --exclude-newer $day \
    --editable "$checkout[server]" 'ray[default]' "$@"
}

# `ray up` and `ray exec` run their commands in such shells
shells() {
  grep -qs '# paretoseg$' ~/.bashrc || echo "export VIRTUAL_ENV=$VIRTUAL_ENV \
PATH=$VIRTUAL_ENV/bin:\$HOME/.local/bin:\$PATH $variables # paretoseg" >> ~/.bashrc
}

start_ray() {
  # Ray's launcher sets it to 1; unset, Ray gives each trial as many threads as CPUs
  unset OMP_NUM_THREADS
  ulimit -n 65536 2> /dev/null || true
  ray start --dashboard-host=127.0.0.1 "$@"
}

# The command line of the process that makes this machine a node of a cluster
raylet_of() { pgrep -u "$(id -u)" -a -f "raylet/raylet .*--gcs-address=$1( |\$)"; }

# Whether a port is open, refused, or out of reach
reach() {
  local error
  if error=$(LC_ALL=C timeout 5 bash -c ": < /dev/tcp/${1%:*}/${1##*:}" 2>&1); then
    echo open
  elif [[ $error == *refused* ]]; then
    echo refused
  fi
}

is_leaving() { [[ -f $leaving ]] && (($(< "$leaving") > $(date +%s))); }

worker() {
  if is_leaving; then
    echo "error: this machine will soon be gone, as it said itself" >&2
    exit 1
  fi
  start_ray --address="$@"
}

# A link that is cut may heal; a head that refuses connections has ended, unless it has yet to begin
keep() {
  local refused=0 joined=
  while ((refused < refusals)); do
    if raylet_of "$1" > /dev/null; then
      refused=0 joined=yes
    elif ! is_leaving; then
      case $(reach "$1") in
        open) worker "$@" || sleep 60 ;;
        refused) [[ ! $joined ]] || refused=$((refused + 1)) ;;
      esac
    fi
    sleep $look_every_s
  done
  echo "the head at $1 has ended: this node has left the cluster"
}

leave() {
  local node
  node=$(raylet_of "$1" | grep -o -e '--node_id=[0-9a-f]*' | head -n 1) || true
  if [[ ! $node ]]; then
    echo "error: no node of the cluster at $1 runs here" >&2
    return 2
  fi
  echo $(($(date +%s) + $2)) > "$leaving"
  ray drain-node --address="$1" --node-id="${node#*=}" --reason DRAIN_NODE_REASON_PREEMPTION \
    --reason-message "its machine will be gone" --deadline-remaining-seconds "$2"
}

# AWS says so two minutes before, at an address that only the machine itself can reach
watch_spot() {
  local metadata=http://169.254.169.254/latest token
  while sleep $look_every_s; do
    token=$(curl -sf -X PUT -H "X-aws-ec2-metadata-token-ttl-seconds: 60" $metadata/api/token) || continue
    curl -sf -H "X-aws-ec2-metadata-token: $token" $metadata/meta-data/spot/instance-action || continue
    leave "$1" 100 && return
  done
}

stop() {
  pkill -u "$(id -u)" -f 'cloud/node.sh (keep|watch-spot) ' || true
  ray stop
}

usage() {
  echo "usage: node.sh set-up|shells|head|worker|keep|leave|watch-spot|stop|run ..." >&2
  exit 2
}

case ${1:-} in
  worker | keep | watch-spot | run) (($# > 1)) || usage ;;
  leave) [[ $# == 3 && $3 =~ ^[0-9]+$ ]] || usage ;;
esac
case ${1:-} in
  set-up) set_up "${@:2}" ;;
  shells) shells ;;
  head) start_ray --head "${@:2}" ;;
  worker) worker "${@:2}" ;;
  keep) keep "${@:2}" ;;
  leave) leave "${@:2}" ;;
  watch-spot) watch_spot "${@:2}" ;;
  stop) stop ;;
  run) exec "${@:2}" ;;
  *) usage ;;
esac
