# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh disable=SC3028 # HOSTNAME is ours
# ipv4.sh - give an interface what DHCP or ip= said, and write it down.
#
# The caller has set the variables of klibc's ipconfig (DEVICE, IPV4ADDR ...).
# They may come from the wire: whatever is written for other shells to source
# is stripped of everything that could end a single-quoted string.

clean() {
	printf '%s' "$1" | tr -cd ' !-&(-~'
}

apply_ipv4() {
	# Not its IPv6 link-local address: nobody would make it again, and
	# systemd-networkd would wait for it for ever.
	ip -4 addr flush dev "$DEVICE" 2>/dev/null
	# Without a mask ifconfig takes the address's class, like the kernel.
	# shellcheck disable=SC2086 # two words or none
	ifconfig "$DEVICE" "$IPV4ADDR" ${IPV4NETMASK:+netmask "$IPV4NETMASK"} || return
	if [ -n "$IPV4GATEWAY" ]; then
		# A gateway outside the subnet (a /32, say) is reached directly.
		ip route replace default via "$IPV4GATEWAY" dev "$DEVICE" 2>/dev/null ||
			ip route replace default via "$IPV4GATEWAY" dev "$DEVICE" onlink ||
			return
	fi
	write_net_conf
	write_resolv_conf
	case $HOSTNAME in
	'' | *[!A-Za-z0-9.-]*) ;;
	*) hostname "$HOSTNAME" ;;
	esac
	echo "$DEVICE has $IPV4ADDR${IPV4NETMASK:+ mask $IPV4NETMASK}${IPV4GATEWAY:+, gateway $IPV4GATEWAY}${IPV4DNS0:+, name server $IPV4DNS0}" \
		>"/run/net-$DEVICE.said"
}

write_net_conf() {
	for key in DEVICE PROTO IPV4ADDR IPV4NETMASK IPV4GATEWAY IPV4DNS0 IPV4DNS1 \
			HOSTNAME DNSDOMAIN ROOTSERVER ROOTPATH; do
		eval "value=\$$key"
		printf "%s='%s'\n" "$key" "$(clean "$value")"
	done >"/run/net-$DEVICE.conf"
}

write_resolv_conf() {
	{
		[ -z "$DNSDOMAIN" ] || echo "search $(clean "$DNSDOMAIN")"
		for server in $IPV4DNS0 $IPV4DNS1; do
			[ "$server" = 0.0.0.0 ] || echo "nameserver $(clean "$server")"
		done
	} >/etc/resolv.conf
}
