#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# dracut module nbdroot: a root on /dev/nb0, named by nbdroot= on the kernel
# command line. What nbdroot= says is nbd-client's affair; here the network is
# brought up and the client is run.
#
# dracut sources this file; its variables and functions come from there.
# shellcheck disable=SC2154

# Debian's nbd-client package has a program of the same name. Ours is the one
# that knows --boot.
find_client() {
	local client
	for client in "$NBD_CLIENT" /usr/local/sbin/nbd-client /usr/sbin/nbd-client; do
		if [[ -x $dracutsysrootdir$client ]] \
			&& grep -qs -e --boot "$dracutsysrootdir$client"; then
			echo "$client"
			return 0
		fi
	done
	return 1
}

# Called for a device number, as dracut's block_is_nbd is: nb has no fixed major.
block_is_nb() {
	local name
	name=$(readlink -f "/sys/dev/block/$1")
	[[ ${name##*/} == nb[0-9]* ]]
}

check() {
	if ! find_client > /dev/null; then
		dwarn "nbdroot: no nbd-client that knows --boot in /usr/sbin or /usr/local/sbin; install ours, or set NBD_CLIENT"
		return 1
	fi
	# An image for this machine alone needs us if its root is one of ours.
	# A boot host's is not: it asks with -a nbdroot.
	if [[ $hostonly ]] || [[ $mount_needs ]]; then
		for_each_host_dev_and_slaves block_is_nb || return 255
	fi
	return 0
}

depends() {
	# dracut before 103 picks systemd-networkd wherever it is installed, and
	# its module never calls the handler of a network root. network-legacy
	# does. (-a network-legacy on the command line comes early enough to keep
	# networkd out of the image as well; here it may be in already, idle.)
	if ! grep -qs netroot "$dracutbasedir"/modules.d/*systemd-networkd/*.sh; then
		echo network-legacy
	fi
	# split from base in 108
	if [[ -d $(dracut_module_path initqueue) ]]; then
		echo initqueue
	fi
	echo network rootfs-block
}

installkernel() {
	# also in an image for this machine alone: depmod finds it in updates/
	# (nbd: the kernel's own, should nb be refused)
	hostonly='' instmods nb nbd overlay
	if ! modinfo -k "$kernel" nb > /dev/null 2>&1; then
		dfatal "nbdroot: kernel $kernel has no module nb; build it for that kernel, install it in /lib/modules/$kernel/updates and run depmod $kernel"
		return 1
	fi
}

install() {
	inst_simple "$(find_client)" /usr/lib/nbdroot/nbd-client
	# Not over dracut's own nbd module, which brings Debian's program.
	if ! dracut_module_included nbd; then
		inst_simple "$(find_client)" /usr/sbin/nbd-client
	fi
	inst_simple /usr/lib/nbdroot/keep-link
	inst_simple /usr/lib/nbdroot/overlay
	inst_rules 60-nb.rules
	inst_multiple mkdir cat cp

	# Priority 90: hooks of that number are run again when DHCP has named the
	# root. /sbin/nbroot: /sbin/netroot looks for a program called by the
	# first word of netroot= and "root"; nbdroot is the one of dracut's nbd.
	inst_hook cmdline 90 "$moddir/nb-cmdline.sh"
	inst_script "$moddir/nbroot.sh" /sbin/nbroot
	inst_hook initqueue/settled 50 "$moddir/nb-wait.sh"
	inst_hook initqueue/timeout 50 "$moddir/nb-again.sh"
	inst_hook pre-pivot 50 "$moddir/nb-overlay.sh"
	inst_hook emergency 50 "$moddir/nb-hint.sh"
	dracut_need_initqueue
}
