# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh
# root.sh - steps 3 to 5: attach the device, mount it, hand over to its init.

# The client loads the driver (nb, else the kernel's own nbd), reads nbdroot=
# itself, tells the console what it tries, and goes on trying while the server may yet come; it gives up only where that
# cannot help (a malformed line, say), and has then said why.
attach_device() {
	say "asking the server for the disk, until it answers (break=attach gives a shell first)"
	nbd-client --boot && {
		name_root
		return
	}
	fail "nbd-client gave up with status $?; its reason stands above" \
		"correct the boot line in the PXE configuration; a right one: root=/dev/nb0 nbdroot=192.0.2.1:1234"
}

# No root=, or one that names only the server: it is the device that the client
# has attached.
name_root() {
	case $opt_root in
	"" | nbd:*)
		NB_DEVICE=
		eval "$(nbd-client --parse 2>/dev/null)"
		opt_root=/dev/${NB_DEVICE:-nb0}
		;;
	esac
}

mount_root() {
	find_root_device || return
	unclean=
	if [ -e /run/nbdroot.overlay ]; then
		opt_rw=ro
		unclean="with overlay the image must have been unmounted cleanly: boot it once without; "
	fi
	# The kernel's own order: the type asked for, else each it can try.
	if ! error=$(mount -o "$opt_rw${opt_flags:+,$opt_flags}" \
			${opt_fstype:+-t "$opt_fstype"} "$device" /root 2>&1); then
		parts=$(partitions_of "$device")
		fail "$device does not mount: $error" \
			"$unclean${parts:+it has partitions: root=/dev/${parts%% *} perhaps; }does the export hold a root file system? rootfstype= names its type, rootflags= its options"
		return
	fi
	# shellcheck disable=SC2046 # the fields of the mount's line
	set -- $(grep ' /root ' /proc/mounts)
	say "$device is mounted: $3, $4"
	find_init || return
	/lib/nbdroot/overlay /root && return
	fail "the root has no overlay, as was asked for" "rm /run/nbdroot.overlay goes on without, read-only"
	umount /root
	return 1
}

# Set $device from root=. The client has returned, so the disk is there; what
# may lag is a partition's node or a file system's label.
find_root_device() {
	tries=0
	while :; do
		case $opt_root in
		LABEL=* | UUID=*) device=$(findfs "$opt_root" 2>/dev/null) ;;
		*) device=$opt_root ;;
		esac
		[ -n "$device" ] && [ -b "$device" ] && return
		tries=$((tries + 1))
		[ $tries -lt 10 ] || break
		sleep 1
	done
	fail "root=$opt_root does not appear; block devices here: $(ls /sys/class/block | one_line)" \
		"root= is /dev/nb0, /dev/nb0p1 (a partition), LABEL= or UUID=; the boot line said root=$opt_root"
}

partitions_of() {
	for path in "/sys/class/block/${1##*/}"/*/partition; do
		[ -e "$path" ] || continue
		path=${path%/partition}
		printf '%s ' "${path##*/}"
	done
}

# Set $init to the root's first program, as the kernel looks for it. A link
# counts unseen: its target is meant for a root directory that is not ours yet.
find_init() {
	for init in $opt_init /sbin/init /etc/init /bin/init /bin/sh; do
		[ -x "/root$init" ] || [ -L "/root$init" ] && return
		[ "$init" != "$opt_init" ] || say "init=$init is not on the root; trying the usual ones"
	done
	umount /root
	fail "$device holds no /sbin/init" \
		"is it the right export and partition? init= names another first program"
}

# Give the root what it needs of our mounts. All checks come first: once /dev
# has moved there is no going back to a shell here.
hand_over() {
	for dir in dev proc sys run; do
		[ -d "/root/$dir" ] || mkdir "/root/$dir" 2>/dev/null || {
			fail "the root has no directory /$dir, and is mounted read-only" \
				"make the directory in the image"
			return
		}
	done
	say "starting $init"
	for dir in dev proc sys run; do
		mount -o move "/$dir" "/root/$dir"
	done
}
