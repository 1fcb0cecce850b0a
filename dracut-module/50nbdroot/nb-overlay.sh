#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# pre-pivot hook (sourced): the root is mounted; lay the overlay over it that
# nbdroot= or nbdopts= asked for.

# shellcheck disable=SC2154 # NEWROOT is dracut's
/usr/lib/nbdroot/overlay "$NEWROOT" ||
	emergency_shell -n nbdroot "nbdroot: the root has no overlay, as was asked for; the reason is above"
