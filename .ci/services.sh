#!/bin/sh
# Installs and starts what the demo and the tests run on. As root on Debian or Ubuntu it does so
# itself; elsewhere it says what is missing and how to get it, and what needs it is skipped.
#
#     .ci/services.sh            RabbitMQ, vsftpd, sshd, Docker, a busybox for the images of the tests, ext4
#     .ci/services.sh python     what `python3 -m venv` needs on Debian
#     .ci/services.sh docs       what the tests look at the AsyncAPI document and its page with: Node.js, Chromium;
#                                without it they are skipped
#     .ci/services.sh images     what makes the base of the images of executors/
set -eu
PATH="$PATH:/usr/sbin:/sbin"

there() { command -v "$1" >/dev/null 2>&1; }

missing=""
want() { there "$1" || missing="$missing $2"; }
if [ "${1:-}" = python ]; then
    missing=" python3-venv"
elif [ "${1:-}" = images ]; then
    want debootstrap debootstrap
elif [ "${1:-}" = docs ]; then
    want node nodejs
    want npm npm
    there google-chrome || there chromium-browser || want chromium chromium
else
    want rabbitmq-server rabbitmq-server
    want vsftpd vsftpd
    want sshd openssh-server
    want dockerd docker.io
    want iptables iptables
    want busybox busybox-static
    want mkfs.ext4 e2fsprogs
fi

if [ -n "$missing" ]; then
    command="apt-get install -y --no-install-recommends$missing"
    if [ "$(id -u)" != 0 ] || ! there apt-get; then
        echo "missing:$missing; on Debian or Ubuntu, as root: $command"
    else
        # Their packages would start servers of the whole system; the lab starts its own.
        policy=/usr/sbin/policy-rc.d
        if [ ! -e $policy ]; then
            printf '#!/bin/sh\nexit 101\n' >$policy && chmod +x $policy
            trap 'rm -f $policy' EXIT
        fi
        echo "installing:$missing"
        export DEBIAN_FRONTEND=noninteractive
        apt-get update >/tmp/ulos-apt.log 2>&1 || true
        # Newer Debians have Docker's command in a package of its own.
        if ! there docker && apt-cache show docker-cli >/dev/null 2>&1; then command="$command docker-cli"; fi
        $command >>/tmp/ulos-apt.log 2>&1 || { tail -20 /tmp/ulos-apt.log; [ "${1:-}" = docs ] || exit 1; }
    fi
fi
case "${1:-}" in python | images) exit 0 ;; esac

if [ "${1:-}" = docs ]; then
    cd "$(dirname "$0")/../asyncapi"
    installed=node_modules/.package-lock.json
    if there npm && { [ ! -e $installed ] || [ package-lock.json -nt $installed ]; }; then
        npm ci --ignore-scripts --no-audit --no-fund >/tmp/ulos-npm.log 2>&1 || tail -20 /tmp/ulos-npm.log
    fi
    exit 0
fi

if there docker && ! docker info >/dev/null 2>&1; then
    if [ "$(id -u)" != 0 ] || ! there dockerd; then
        echo "no Docker engine answers this user; container stages are left out. As root: dockerd &"
    else
        echo "starting dockerd"
        setsid nohup dockerd >/tmp/ulos-dockerd.log 2>&1 </dev/null &
        tries=0
        until docker info >/dev/null 2>&1; do
            tries=$((tries + 1))
            [ $tries -lt 150 ] || { echo "dockerd does not start; /tmp/ulos-dockerd.log ends:"; tail -5 /tmp/ulos-dockerd.log; exit 0; }
            sleep 0.2
        done
    fi
fi
