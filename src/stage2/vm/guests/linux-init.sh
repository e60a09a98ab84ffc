#!/bin/busybox sh
# PID 1 of the fetched Linux guest: shows the machine, works on memory, powers off.
# Kernel command line: stage2.init=shell gives a shell, stage2.init=idle waits for ever. stage2.share=write@GPA
# writes a pattern into memory shared with another VM, stage2.share=read@GPA waits for it and compares.
# stage2.work=full works on more memory: 200 forks instead of 40, and a file of 100 MB.
b=/bin/busybox
# Debian's kernel has no driver for the SBI console, so /dev/console may not open: lines go through the kernel's log.
exec >/dev/kmsg 2>&1
$b mount -t proc proc /proc
$b mount -t tmpfs tmpfs /tmp
# The kernel drops a writer's lines after ten in five seconds: the verdict must not be among them.
echo on >/proc/sys/kernel/printk_devkmsg
# Level 1, so that a `quiet` kernel shows them too.
say() { echo "<1>stage2-guest: $*"; }

say "$($b uname -srm), $($b grep -c ^processor /proc/cpuinfo) cpu, $($b sed -n 's/^MemTotal: *//p' /proc/meminfo)"
case "$($b cat /proc/cmdline)" in
*stage2.init=shell*)
    if (: </dev/console) 2>/dev/null; then exec $b setsid $b sh </dev/console >/dev/console 2>&1; fi
    say "no console to run a shell on: give the VM a serial port and console=ttyS0"
    $b poweroff -f ;;
*stage2.init=idle*) say "idle"; while true; do $b sleep 3600; done ;;
esac

forks=40
case "$($b cat /proc/cmdline)" in *stage2.work=full*) forks=200 full=1 ;; esac
good=1
check() { if [ "$1" = "$2" ]; then say "$3 ok"; else say "$3 FAILED: $1, not $2"; good=0; fi; }

# Forks: each child reads back what the line before wrote.
i=0 same=0
while [ $i -lt $forks ]; do
    i=$((i + 1))
    echo $i >/tmp/n
    [ "$($b cat /tmp/n)" = $i ] && same=$((same + 1))
done
check $same $forks "$forks forks"

# Write a pattern, read it back through another path, compare with sums that are known.
$b dd if=/dev/zero of=/tmp/zeros bs=64k count=64 2>/dev/null
check "$($b md5sum /tmp/zeros | $b cut -c1-32)" b5cfa9d6c8febd618f91ac2843d50a1c "4 MiB of zeros, md5"
$b yes stage2 | $b head -c 1048576 >/tmp/pattern
$b cp /tmp/pattern /tmp/copy
$b cmp /tmp/pattern /tmp/copy || { say "1 MiB of a pattern, compare FAILED"; good=0; }
check "$($b md5sum /tmp/copy | $b cut -c1-32)" 5f220fe25c215eac0ce7930e493a0de8 "1 MiB of a pattern, copied, md5"

# 100 times its number and that pattern, so that no two pages need be the same.
if [ -n "$full" ]; then
    $b mount -o remount,size=90% /tmp
    i=0
    while [ $i -lt 100 ]; do i=$((i + 1)); echo $i; $b cat /tmp/pattern; done >/tmp/large
    check "$($b md5sum /tmp/large | $b cut -c1-32)" ccb09d6a269fc89f80f373e0e04fd2a7 "100 MB file, md5 ccb09d6a269fc89f80f373e0e04fd2a7"
    $b rm /tmp/large
fi

# Shared memory: 32 words in two pages, then a flag. The other side sees nothing before the flag.
share=$($b sed -n 's/.*stage2.share=\([^ ]*\).*/\1/p' /proc/cmdline)
if [ -n "$share" ]; then
    [ -e /dev/mem ] || say "no /dev/mem"
    base=${share#*@} flag=$((${share#*@} + 8)) i=0 same=0 tries=0
    word() { $b printf '0x%x' $((base + 16 + i * 4 + i / 16 * 4096)); }
    case "$share" in
    write@*)
        while [ $i -lt 32 ]; do $b devmem $(word) 32 $((0x57a6e000 + i * 77)); i=$((i + 1)); done
        $b devmem $flag 32 0x600d5eed
        say "share: pattern written" ;;
    read@*)
        while [ $((tries += 1)) -lt 10000 ] && [ "$($b devmem $flag 32)" != 0x600D5EED ]; do $b sleep 1; done
        while [ $i -lt 32 ]; do
            [ $(($($b devmem $(word) 32))) = $((0x57a6e000 + i * 77)) ] && same=$((same + 1))
            i=$((i + 1))
        done
        check $same 32 "share: 32 words of the other VM" ;;
    esac
fi

if [ $good = 1 ]; then say "memory work ok"; else say "memory work FAILED"; fi
$b poweroff -f
