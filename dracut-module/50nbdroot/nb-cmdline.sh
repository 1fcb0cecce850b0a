#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# cmdline hook (sourced): nbdroot= makes this a boot from the network.

if getarg nbdroot= > /dev/null; then
	if [ -z "$(getarg root=)" ]; then
		die "nbdroot= says where the disk is, root= is missing, which says what on it is the root: root=/dev/nb0, root=/dev/nb0p1 or root=LABEL=..."
	fi

	# netroot is what the modules that bring up the network look for. What
	# follows the colon is not read: the client reads the command line.
	# shellcheck disable=SC2034
	netroot=nb:cmdline
	# shellcheck disable=SC2034
	rootok=1

	# What dracut waits for: a device with a size.
	# shellcheck disable=SC2016,SC2154
	echo 'for size in /sys/block/nb[0-9]*/size /sys/block/nbd[0-9]*/size; do
	[ -e "$size" ] && [ "$(cat "$size")" -gt 0 ] && exit 0
done
exit 1' > "$hookdir/initqueue/finished/nbdroot.sh"
else
	# Nearly nbdroot=, or root=/dev/nb0 without it: say so, rather than wait.
	nb_status=0
	nb_said=$(/usr/lib/nbdroot/nbd-client --parse 2>&1 > /dev/null) || nb_status=$?
	[ $nb_status -ne 2 ] || die "$nb_said"
	unset nb_status nb_said
fi
