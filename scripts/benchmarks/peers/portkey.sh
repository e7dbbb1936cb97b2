#!/bin/sh
# Portkey's gateway beside us, in front of the mock provider. See scripts/bench --help.
#
#   portkey.sh install DIR               installs it in DIR (needs node and npm)
#   portkey.sh start DIR PORT UPSTREAM   runs it on 127.0.0.1:PORT; UPSTREAM goes with each request, in a header
#
# PORTKEY_VERSION is the version. Two things that a plain installation gets wrong are put right here: with the newest
# @hono/node-server every stream answers 500, so that it is pinned as its own lockfile has it; and it would listen on
# every interface of the machine.
set -eu
what=${1:?install or start} dir=${2:?a directory}

case $what in
install)
    mkdir -p "$dir"
    cat >"$dir/package.json" <<PACKAGE
{"name": "peer", "private": true, "dependencies": {"@portkey-ai/gateway": "${PORTKEY_VERSION:-1.15.2}"},
 "overrides": {"@hono/node-server": "1.13.5", "hono": "4.9.7"}}
PACKAGE
    cd "$dir"
    npm install --ignore-scripts --no-audit --no-fund --loglevel=error
    ;;
start)
    port=${3:?a port}
    cat >"$dir/loopback.mjs" <<'PRELOAD'
import net from 'node:net';
const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function (...given) {
  if (given[0] && typeof given[0] === 'object') given[0] = { ...given[0], host: '127.0.0.1' };
  else if (typeof given[1] === 'string') given[1] = '127.0.0.1';
  else given.splice(1, typeof given[1] === 'function' ? 0 : 1, '127.0.0.1');
  return listen.apply(this, given);
};
PRELOAD
    cd "$dir"
    exec node --import ./loopback.mjs node_modules/@portkey-ai/gateway/build/start-server.js --port="$port" --headless
    ;;
*)
    echo "install or start" >&2
    exit 2
    ;;
esac
