#!/usr/bin/env bash
# Make the base of deploy/Dockerfile without a registry: Debian by debootstrap, and the Python 3.11 of this machine.
#   deploy/python_image.sh [NAME]        NAME: localhost/python:3.11-slim-bookworm
# Needs root, buildah and debootstrap, and a Debian of the same release. Packages come from where this machine's do.
set -euo pipefail
name=${1:-localhost/python:3.11-slim-bookworm}
python=$(python3.11 -c 'import sys; print(sys.base_prefix)')
release=$(. /etc/os-release; echo "$VERSION_CODENAME")
mirror=${MIRROR:-$(apt-get indextargets --format '$(CODENAME) $(REPO_URI)' 'Created-By: Packages' | awk -v release="$release" '$1 == release {print $2; exit}')}
libraries=libssl3,libffi8,libsqlite3-0,libbz2-1.0,liblzma5,zlib1g,libreadline8,libncursesw6,libuuid1,libexpat1,libgdbm6

container=$(buildah from scratch)
trap 'buildah rm "$container" >/dev/null' EXIT
root=$(buildah mount "$container")
debootstrap --variant=minbase --include="ca-certificates,netbase,tzdata,$libraries" "$release" "$root" "$mirror" >/dev/null
mkdir -p "$root/usr/local/lib/python3.11/site-packages"
cp -a "$python"/bin/{python3.11,python3,python} "$root/usr/local/bin/"
cp -a "$python"/lib/libpython3* "$root/usr/local/lib/" 2>/dev/null || true
tar -C "$python/lib/python3.11" --exclude=./site-packages --exclude=./test --exclude='*/test' --exclude='*/tests' --exclude=__pycache__ \
    --exclude='*.a' -cf - . | tar -C "$root/usr/local/lib/python3.11" -xf -
find "$root/usr/local" \( -name 'libpython*.so*' -o -name '*.cpython-311-*.so' -o -name python3.11 \) -type f -exec strip --strip-unneeded {} +
chroot "$root" sh -c 'ldconfig && python3.11 -m ensurepip >/dev/null 2>&1 && ln -sf pip3 /usr/local/bin/pip && apt-get clean'
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/* "$root"/var/cache/debconf/*-old "$root"/usr/share/{doc,man,locale}/*
buildah config --env PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin --env LANG=C.UTF-8 --cmd python3 "$container"
buildah commit --quiet "$container" "$name"
