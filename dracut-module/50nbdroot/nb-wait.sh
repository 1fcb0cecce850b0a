#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# initqueue/settled hook (sourced by dracut's main loop): looks after the
# client that nbroot has started.

if [ -e /run/nbdroot/status ]; then
	read -r status < /run/nbdroot/status
	if [ "$status" != 0 ]; then
		# It never gives up on a server; it has not understood nbdroot=.
		rm -rf /run/nbdroot
		emergency_shell -n nbdroot "nbdroot: nbd-client --boot ended with status $status; the reason is above"
		# What was mended there it finds, and a disk attached by hand too.
		/sbin/nbroot "" nb:cmdline
	fi
	unset status
elif [ -d /run/nbdroot ]; then
	# dracut gives up on a disk after some minutes. Stations wait: after a
	# power cut they are up before the boot host is. This is dracut's counter.
	# shellcheck disable=SC2034
	main_loop=0
fi
