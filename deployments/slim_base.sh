#!/bin/sh
# Take out of a base of Debian with Python what no run needs: package tools and what only they use, Perl, accounts' and disks'
# tools, pip and IDLE, and glibc's conversions of character sets (Python has its own). Run as root, after the last apt-get.
# Arguments: packages that go, too.
set -e
dpkg --purge --force-remove-essential --force-remove-protected --force-depends \
  apt libapt-pkg6.0 gpgv debian-archive-keyring libgnutls30 libhogweed6 libnettle8 libp11-kit0 libtasn1-6 libidn2-0 \
  libunistring2 e2fsprogs logsave libext2fs2 libss2 mount adduser passwd login debconf perl-base "$@" > /dev/null 2>&1
stdlib=$(python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')
rm -rf "$stdlib/idlelib" "$stdlib/turtledemo" "$stdlib/site-packages/pip" /usr/lib/*/gconv \
  /etc/apt /var/lib/apt /var/cache/* /var/log/* /usr/share/doc /usr/share/man /usr/share/locale
