#!/bin/sh
# Secrets for compose.yaml, each a file of its own: made at the first start, kept ever after.
#
#     compose-secrets.sh                                  make what is missing; harmless at every start
#     compose-secrets.sh put OPENAI_API_KEY < FILE        store one more setting, for worker and server
#
# What was put stays: nothing is written over it at a start. With `put ENCRYPTION_KEYS` the one key that was made here is
# no setting any more (only one of the two may be), and lies in encryption_key.before: name it in the list, or what it
# sealed does not open.
#
# vidgen/ and demo/ are for VIDGEN_SECRETS_DIR; the other files are for PostgreSQL, Redis and the S3 server, whose
# containers run as other users: so all may be read, by who has the volume mounted.
set -eu
umask 022
cd "${SECRETS_FOLDER:-/run/secrets}"
mkdir -p vidgen demo

store() { # NAME, text on stdin: whole or not at all
    cat >"$1.new"
    mv "$1.new" "$1"
}

store_new() { # NAME, text on stdin: unless somebody put one
    [ -s "$1" ] || store "$1"
}

random() { # bytes, as letters that need no escape anywhere
    head -c "$1" /dev/urandom | base64 | tr -d '\n=' | tr '+/' '-_'
}

if [ "${1:-}" = put ]; then
    case "${2:-}" in
        '' | *[!A-Z0-9_]*)
            echo "compose-secrets: wanted: put NAME_OF_A_SETTING < FILE" >&2
            exit 2
            ;;
    esac
    store "vidgen/$2"
    if [ "$2" = ENCRYPTION_KEYS ] && [ -e vidgen/ENCRYPTION_KEY ]; then
        mv vidgen/ENCRYPTION_KEY encryption_key.before
    fi
    echo "compose-secrets: stored $2; docker compose up --detach --force-recreate worker server" >&2
    exit 0
fi

for name in postgres_password redis_password s3_secret_key admin_token demo_admin_token; do
    [ -s "$name" ] || random 24 | store "$name"
done
[ -s s3_access_key ] || printf 'vidgen%s' "$(random 6 | tr -dc 'A-Za-z0-9')" | store s3_access_key
# 32 bytes in base64, as ENCRYPTION_KEY wants them.
[ -s vidgen/ENCRYPTION_KEY ] || [ -s vidgen/ENCRYPTION_KEYS ] ||
    head -c 32 /dev/urandom | base64 | store vidgen/ENCRYPTION_KEY
[ -s vidgen/VIDGEN_WEBHOOK_SECRETS ] ||
    printf 'whsec_%s' "$(head -c 32 /dev/urandom | base64)" | store vidgen/VIDGEN_WEBHOOK_SECRETS
printf 'requirepass %s\n' "$(cat redis_password)" | store redis.conf

postgres="postgresql://vidgen:$(cat postgres_password)@postgres:5432"
redis="redis://:$(cat redis_password)@redis:6379"
echo "$postgres/vidgen" | store_new vidgen/DATABASE_URL
echo "$redis/0" | store_new vidgen/REDIS_URL
store_new vidgen/ADMIN_TOKEN <admin_token
store_new vidgen/AWS_ACCESS_KEY_ID <s3_access_key
store_new vidgen/AWS_SECRET_ACCESS_KEY <s3_secret_key
# The demo lives in what PostgreSQL and Redis have anyway, and nobody else here uses.
echo "$postgres/postgres" | store demo/DATABASE_URL
echo "$redis/1" | store demo/REDIS_URL
store demo/ADMIN_TOKEN <demo_admin_token # its own: the demo prints it
store demo/AWS_ACCESS_KEY_ID <s3_access_key
store demo/AWS_SECRET_ACCESS_KEY <s3_secret_key
echo "compose-secrets: all there" >&2
