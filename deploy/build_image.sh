#!/usr/bin/env bash
# Build the image of deploy/Dockerfile with what there is: docker, podman, or buildah without a daemon.
#   deploy/build_image.sh [NAME]        NAME: calogan:VERSION
# Where no registry can be reached, buildah starts from what deploy/python_image.sh makes of this machine.
set -euo pipefail
cd "$(dirname "$0")/.."
name=${1:-calogan:$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)}
revision=${REVISION:-$(git describe --always --dirty)}

for tool in docker podman; do
    if "$tool" info > /dev/null 2>&1; then
        exec "$tool" build --file deploy/Dockerfile --tag "$name" --build-arg "REVISION=$revision" .
    fi
done
command -v buildah > /dev/null || { echo "no docker, podman or buildah: install one of them" >&2; exit 1; }
base=localhost/python:3.11-slim-bookworm
buildah inspect --type image "$base" > /dev/null 2>&1 || deploy/python_image.sh "$base"
# Certificates and settings of pip are this machine's while packages are fetched, and not part of the image.
settings=$(mktemp -d)
trap 'rm -rf "$settings"' EXIT
echo 'system-certs = true' > "$settings/uv.toml"
mounts=(--volume "$settings/uv.toml:/etc/uv/uv.toml:ro" --volume /etc/ssl/certs/ca-certificates.crt:/etc/ssl/certs/ca-certificates.crt:ro)
[ ! -f /etc/pip.conf ] || mounts+=(--volume /etc/pip.conf:/etc/pip.conf:ro)
buildah build --layers --isolation chroot --file deploy/Dockerfile --ignorefile deploy/Dockerfile.dockerignore \
    --build-arg "PYTHON_IMAGE=$base" --build-arg "REVISION=$revision" "${mounts[@]}" --tag "$name" .
