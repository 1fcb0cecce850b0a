# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh
# common.sh - how the initramfs talks to the person at the console: steps,
# failures that name a cause and a next step, and the rescue shell.

STEPS=5
STEP=
HINT=

say() {
	echo "nbdroot: ${STEP:+$STEP: }$*"
}

one_line() {
	tr '\n' ' '
}

# fail WHAT [NEXT-STEP]: for a step's function, "fail ... || return" in one:
# it always returns 1.
fail() {
	say "FAILED: $1"
	HINT=${2-}
	return 1
}

# A shell for the person at the console. Leaving it goes on where we were.
rescue() {
	echo
	echo "nbdroot: $1"
	[ -z "$HINT" ] || echo "nbdroot: hint: $HINT"
	echo "nbdroot: this is a shell in the initramfs. 'exit' tries $2 again;"
	echo "nbdroot: 'reboot -f' and 'poweroff -f' are here too. Look at: dmesg | tail,"
	echo "nbdroot: cat /proc/cmdline, ip addr, cat /run/net-*.conf, nbd-client -l HOST PORT"
	echo
	HINT=
	PS1='(initramfs) ' setsid cttyhack /bin/sh
	echo "nbdroot: going on with $2"
}

# step NUMBER NAME FUNCTION: run one step until it succeeds.
step() {
	STEP="[$1/$STEPS] $2"
	case ",$opt_break," in
	*",$2,"*) rescue "break=$2 on the kernel command line" "the step $2" ;;
	esac
	until "$3"; do
		rescue "the step $2 failed, see above" "it"
	done
}

mount_kernel_filesystems() {
	mount -t proc -o nosuid,nodev,noexec proc /proc
	mount -t sysfs -o nosuid,nodev,noexec sysfs /sys
	mount -t devtmpfs -o nosuid,mode=0755 devtmpfs /dev
	mkdir -p /dev/pts
	mount -t devpts -o nosuid,noexec,gid=5,mode=0620 devpts /dev/pts
	# The root's own init finds /run mounted and keeps it, and what is in it.
	mount -t tmpfs -o nosuid,nodev,mode=0755 tmpfs /run
}

# What the steps need of the kernel command line. nbdroot= is not read here:
# only nbd-client understands it. Quotes are the kernel's; none of these
# values may hold a space.
read_command_line() {
	opt_root=
	opt_fstype=
	opt_flags=
	opt_rw=ro
	opt_init=
	opt_ip=
	opt_bootif=
	opt_break=
	set -f
	# shellcheck disable=SC2013 # words, not lines
	for word in $(cat /proc/cmdline); do
		case $word in
		--) break ;;	# the rest is for the root's init
		root=*) opt_root=${word#*=} ;;
		rootfstype=*) opt_fstype=${word#*=} ;;
		rootflags=*) opt_flags=${word#*=} ;;
		ro | rw) opt_rw=$word ;;
		init=*) opt_init=${word#*=} ;;
		ip=*) opt_ip=${word#*=} ;;
		BOOTIF=*) opt_bootif=${word#*=} ;;
		break=*) opt_break=${word#*=} ;;
		esac
	done
	set +f
}
