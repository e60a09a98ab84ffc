#!/bin/busybox sh
# PID 1 of the fetched Linux guest: shows the machine, works on memory, powers off.
# Kernel command line: stage2.init=shell gives a shell, stage2.init=idle waits for ever.
b=/bin/busybox
exec >/dev/kmsg 2>&1
$b mount -t proc proc /proc
$b mount -t tmpfs tmpfs /tmp
say() { echo "stage2-guest: $*"; }

say "$($b uname -srm), $($b grep -c ^processor /proc/cpuinfo) cpu, $($b sed -n 's/^MemTotal: *//p' /proc/meminfo)"
case "$($b cat /proc/cmdline)" in
*stage2.init=shell*) exec $b setsid $b sh </dev/console >/dev/console 2>&1 ;;
*stage2.init=idle*) say "idle"; while true; do $b sleep 3600; done ;;
esac

good=1
check() { if [ "$1" = "$2" ]; then say "$3 ok"; else say "$3 FAILED: $1, not $2"; good=0; fi; }

# Forks: each child writes a file that the next line reads back.
i=0
while [ $i -lt 40 ]; do
    i=$((i + 1))
    echo $i >/tmp/n
    [ "$($b cat /tmp/n)" = $i ] || { say "fork $i FAILED"; good=0; }
done
check $i 40 "40 forks"

# Write a pattern, read it back through another path, compare with sums that are known.
$b dd if=/dev/zero of=/tmp/zeros bs=64k count=64 2>/dev/null
check "$($b md5sum /tmp/zeros | $b cut -c1-32)" b5cfa9d6c8febd618f91ac2843d50a1c "4 MiB of zeros, md5"
$b yes stage2 | $b head -c 1048576 >/tmp/pattern
$b cp /tmp/pattern /tmp/copy
$b cmp /tmp/pattern /tmp/copy && check "$($b md5sum /tmp/copy | $b cut -c1-32)" 5f220fe25c215eac0ce7930e493a0de8 "1 MiB of a pattern, copied, md5"

if [ $good = 1 ]; then say "memory work ok"; else say "memory work FAILED"; fi
$b poweroff -f
