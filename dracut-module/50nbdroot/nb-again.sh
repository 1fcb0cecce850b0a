#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# initqueue/timeout hook (sourced by dracut's main loop): dracut has waited
# for two minutes. If no interface came up, for want of a link or of an answer
# to DHCP, try them all again; dracut itself tries each once.

if getarg nbdroot= > /dev/null && [ ! -d /run/nbdroot ] && [ -x /sbin/ifup ]; then
	warn "nbdroot: no network: no card, no link, or no answer to DHCP. Trying again (ip= and BOOTIF= say how and on which card)."
	for nb_dev in /sys/class/net/*/device; do
		[ -e "$nb_dev" ] || continue
		nb_dev=${nb_dev%/device}
		nb_dev=${nb_dev##*/}
		/sbin/initqueue --name "ifup-$nb_dev" --unique --onetime /sbin/ifup "$nb_dev"
	done
	unset nb_dev
	# shellcheck disable=SC2034
	main_loop=0
fi
