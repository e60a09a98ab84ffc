#!/bin/sh
# Install the Debian packages of packages.txt that are missing, when root; otherwise say which are missing.
set -eu
command -v dpkg-query >/dev/null 2>&1 || exit 0
missing=""
for name in $(sed 's/#.*//' packages.txt); do
    dpkg-query -W -f='${Status}\n' "$name" 2>/dev/null | grep -q '^install ok installed' || missing="$missing $name"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ]; then
    echo "not root, so these Debian packages stay missing (some tests will be skipped):$missing" >&2
    exit 0
fi
echo "installing Debian packages:$missing"
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086  # a list of words
apt-get install -y -qq --no-install-recommends $missing >/dev/null 2>&1 || {
    apt-get update -qq
    # shellcheck disable=SC2086
    apt-get install -y -qq --no-install-recommends $missing >/dev/null
}
