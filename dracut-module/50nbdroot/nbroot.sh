#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# /sbin/nbroot INTERFACE NETROOT NEWROOT - the handler of netroot=nb:...
#
# Run once for each interface that comes up. The client tries for as long as
# it takes, so it runs in the background: the server may be behind the next
# interface, and dracut brings that up only when we return.

[ "${2%%:*}" = nb ] || exit 0

/usr/lib/nbdroot/keep-link

# What dhclient was told, where the client looks: the root path, the host name.
[ -e "/tmp/dhclient.$1.dhcpopts" ] && cp "/tmp/dhclient.$1.dhcpopts" "/run/net-$1.dhclient.conf"

mkdir /run/nbdroot 2> /dev/null || exit 0	# it is at it already
(
	/usr/lib/nbdroot/nbd-client --boot
	echo $? > /run/nbdroot/status.new
	mv /run/nbdroot/status.new /run/nbdroot/status
) < /dev/null > /dev/console 2>&1 &
exit 0
