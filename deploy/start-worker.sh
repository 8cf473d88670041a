#!/bin/sh
# Start a worker where nobody else looks whether all is there: `deploy/start-worker.sh`, in the image `start-worker`.
#
# Checks the environment, PostgreSQL, Redis and the bucket, migrates the schema, and becomes the worker (or the
# command that is given: `start-worker vidgen serve`). Every message goes to stderr.
#
#   exit code 1     a server is not there after START_PATIENCE_S seconds (30), or refuses us; the table says which
#             2     the settings are not usable; each wrong one is named
#             127   vidgen or the command is not installed here
#             143   SIGTERM came before the start
#   else those of the worker itself
set -eu

patience_s="${START_PATIENCE_S:-30}"
case "$patience_s" in
    '' | *[!0-9]*)
        echo "start-worker: START_PATIENCE_S: came '$patience_s'; wanted: seconds, as a whole number" >&2
        exit 2
        ;;
esac
[ "$#" -gt 0 ] || set -- vidgen worker

for program in vidgen "$1"; do
    command -v "$program" >/dev/null || {
        echo "start-worker: $program is not installed, or not in PATH" >&2
        exit 127
    }
done

# In the background and waited for: a shell heeds a signal only between commands, or while it waits.
child=
trap '[ -z "$child" ] || kill "$child" 2>/dev/null || true; exit 143' TERM INT
run() {
    "$@" >&2 &
    child=$!
    code=0
    wait "$child" || code=$?
    child=
    return "$code"
}

until_s=$(($(date +%s) + patience_s))
while :; do
    code=0
    run vidgen doctor --servers || code=$?
    case "$code" in
        0) break ;;
        2)
            echo "start-worker: the settings are not usable, see above" >&2
            exit 2
            ;;
    esac
    if [ "$(date +%s)" -ge "$until_s" ]; then
        echo "start-worker: not started, see above; waited ${patience_s} s" >&2
        exit 1
    fi
    echo "start-worker: not everything is there yet, looking again in 2 s" >&2
    run sleep 2
done

run vidgen migrate || {
    code=$?
    echo "start-worker: the schema could not be brought up to this release, see above" >&2
    exit "$code"
}

echo "start-worker: all is there, starting: $*" >&2
trap - TERM INT
exec "$@"
