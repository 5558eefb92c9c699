#!/bin/sh
# Two users beside the store's administrator: the services, and clients, who reach the inbox and nothing else. Idempotent.
set -eu

: "${MINIO_ROOT_USER:?}" "${MINIO_ROOT_PASSWORD:?}"
: "${EMPORTER_S3_ACCESS_KEY:?}" "${EMPORTER_S3_SECRET_KEY:?}"
: "${EMPORTER_CLIENT_S3_ACCESS_KEY:?}" "${EMPORTER_CLIENT_S3_SECRET_KEY:?}"

policies=$(dirname "$0")

# user NAME SECRET POLICY
user() {
    mc admin user add store "$1" "$2"
    mc admin policy create store "$3" "$policies/$3.json"
    if ! said=$(mc admin policy attach store "$3" --user "$1" 2>&1); then
        # Attaching once more is an error to mc, and the state we want.
        case $said in
        *"already in effect"*) ;;
        *)
            echo "$said" >&2
            exit 1
            ;;
        esac
    fi
}

mc alias set store http://s3:9000 "$MINIO_ROOT_USER" "$MINIO_ROOT_PASSWORD"
user "$EMPORTER_S3_ACCESS_KEY" "$EMPORTER_S3_SECRET_KEY" emporter-services
user "$EMPORTER_CLIENT_S3_ACCESS_KEY" "$EMPORTER_CLIENT_S3_SECRET_KEY" emporter-client
