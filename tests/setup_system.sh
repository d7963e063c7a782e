#!/bin/sh
# The tests of the report look at its pages in a headless Chromium. Installs Debian's where that is possible;
# elsewhere those tests are skipped, and say so.
for browser in chromium chromium-browser google-chrome; do
    command -v "$browser" >/dev/null && exit 0
done
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing chromium ..."
    { apt-get update && apt-get install --yes --no-install-recommends chromium; } >/dev/null && exit 0
fi
echo "=== SKIPPED: no Chromium here and none could be installed; the report's pages are not looked at in a browser ===" >&2
