#!/bin/sh
# Makes a base for the images of executors/ where no registry can be reached: Debian 12 by debootstrap, with this
# machine's own package sources and certificates, as root.
#
#     .ci/debian.sh ulos-debian && ulos executor build NAME --base ulos-debian
set -eu
tag=$1
docker image inspect "$tag" >/dev/null 2>&1 && exit 0
[ "$(id -u)" = 0 ] || { echo "debootstrap needs root; or take a public base, like debian:12-slim"; exit 1; }
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Codename: bookworm' 2>/dev/null | head -1)
debootstrap --variant=minbase --include=ca-certificates bookworm "$directory" ${mirror:+"$mirror"} \
    >"/tmp/$tag.log" 2>&1 || { tail -5 "/tmp/$tag.log"; exit 1; }
rm -rf "$directory"/var/cache/apt/archives/*.deb "$directory"/var/lib/apt/lists/* "$directory"/dev/*
for kept in /etc/apt/apt.conf.d /etc/ssl/certs/ca-certificates.crt /usr/etc/npmrc /etc/pip.conf; do
    [ ! -e $kept ] || cp -RL --parents $kept "$directory"
done
tar -C "$directory" -c . | docker import - "$tag" >/dev/null
