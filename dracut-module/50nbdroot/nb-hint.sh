#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# emergency hook (sourced before dracut's rescue shell opens): what to type.

if getarg nbdroot= > /dev/null; then
	warn "nbdroot: from the shell that follows:"
	warn "  ip address; ip route                   is there a network?"
	warn "  nbd-client -l HOST [PORT]              lists what a server offers"
	warn "  nbd-client HOST PORT /dev/nb0 -N NAME  attaches it by hand"
	warn "  exit                                   goes on booting"
fi
