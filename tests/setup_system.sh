#!/bin/sh
# What the tests need of the system: a headless Chromium to look at the report's pages, Slurm to run on a cluster, and
# OpenStack Swift, an object store.
# Installs Debian's packages where that is possible; elsewhere the tests that need them are skipped, and say so.
PATH=$PATH:/usr/sbin:/sbin

install() {
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
    echo "installing $* ..."
    # RUNLEVEL: a package's daemons are not started
    { apt-get update && RUNLEVEL=1 apt-get install --yes --no-install-recommends "$@"; } >/dev/null
}

skipped() {
    echo "=== SKIPPED: no $1 here and none could be installed; $2 ===" >&2
}

command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null ||
    install chromium || skipped Chromium "the report's pages are not looked at in a browser"
{ command -v slurmctld >/dev/null && command -v munged >/dev/null; } ||
    install slurm-wlm munge || skipped Slurm "the workflow is not run on a cluster"
[ -e /usr/lib/python3/dist-packages/swift/proxy/server.py ] || install python3-swift python3-pastescript ||
    skipped Swift "archives in an object store are tried with a mock alone"
