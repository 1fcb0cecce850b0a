# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh
# network.sh - step 2: one interface with an address, as ip= and BOOTIF= say.
#
#	(nothing), ip=dhcp, on, any	DHCP on the first interface that answers
#	ip=IF:dhcp			DHCP on that one
#	ip=ADDR:SERVER:GATEWAY:MASK:HOST:IF:off:DNS0:DNS1   (the kernel's form)
#	ip=auto6			IPv6 from the router's announcements
#	ip=off				nothing: somebody else does it
#	BOOTIF=01-52-54-00-12-34-56	the card PXE came from, and no other
#
# What is known of the network is left in /run/net-IF.conf, in the format of
# klibc's ipconfig, and in /etc/resolv.conf: the client reads both.

CARRIER_WAIT=8		# seconds a switch may take to bring the link up

bring_up_network() {
	net_how=dhcp
	net_dev=
	read_ip_option || return
	case $net_how in
	off)
		say "ip=off: left as it is"
		return ;;
	esac
	ip link set lo up

	set_from_bootif || return
	if [ -n "$net_dev" ] && [ ! -e "/sys/class/net/$net_dev" ]; then
		fail "there is no interface $net_dev; here are: $(interfaces | one_line)" \
			"name one of those in ip=, or leave the name out"
		return
	fi
	for dev in ${net_dev:-$(interfaces)}; do
		ip link set "$dev" up || say "$dev cannot be brought up"
	done

	round=1
	until try_interfaces; do
		say "no address yet (round $round). Is the cable in the right port, and the DHCP server (for ip=auto6 the router) running? Trying on; break=network gives a shell"
		round=$((round + 1))
		sleep 3
	done
	# The root's own network managers must not let go of what it hangs by.
	/lib/nbdroot/keep-link ||
		say "cannot leave word in /run for the root's network managers"
}

# ip= with colons is the kernel's list of fields, or dracut's IF:METHOD.
read_ip_option() {
	case $opt_ip in
	'' | dhcp | on | any | both) return ;;
	off | none) net_how=off; return ;;
	auto6) net_how=auto6; return ;;
	*:dhcp | *:auto6 | *:on | *:any)
		case ${opt_ip%:*} in
		*:*) ;;
		*)
			net_dev=${opt_ip%%:*}
			[ "${opt_ip#*:}" != auto6 ] || net_how=auto6
			return ;;
		esac ;;
	esac
	old_ifs=$IFS
	IFS=:
	set -f
	# shellcheck disable=SC2086 # split at the colons
	set -- $opt_ip
	set +f
	IFS=$old_ifs
	net_addr=${1-} net_server=${2-} net_gateway=${3-} net_mask=${4-}
	net_host=${5-} net_dev=${6-} net_auto=${7-} net_dns0=${8-} net_dns1=${9-}
	case $net_auto in
	'' | off | none | static) ;;
	*)
		net_how=dhcp
		return ;;
	esac
	case $net_addr in
	*[!0-9.]* | '')
		fail "ip=$opt_ip is not understood" \
			"ip=dhcp, ip=eth0:dhcp, ip=192.0.2.7::192.0.2.1:255.255.255.0:station7:eth0:off:192.0.2.53, ip=auto6 or ip=off"
		return ;;
	esac
	net_how=static
}

# BOOTIF=01-MAC, as pxelinux and our iPXE script pass it, chooses the card.
set_from_bootif() {
	[ -n "$opt_bootif" ] && [ -z "$net_dev" ] || return 0
	mac=$(echo "${opt_bootif#01-}" | tr 'A-F-' 'a-f:')
	for dev in $(interfaces); do
		if [ "$(cat "/sys/class/net/$dev/address")" = "$mac" ]; then
			net_dev=$dev
			return
		fi
	done
	fail "BOOTIF names the card $mac, which no interface here has: $(interfaces | one_line)" \
		"its driver may be missing (initramfs/drivers.list); without BOOTIF= any card will do"
}

# Give one interface an address; those with a link come first.
try_interfaces() {
	wait_for_carrier
	for dev in ${net_dev:-$(interfaces)}; do
		has_carrier "$dev" && configure "$dev" && return
	done
	[ "$net_how" = static ] || return 1
	# A fixed address can be had without a link; the link may come.
	for dev in ${net_dev:-$(interfaces)}; do
		say "$dev has no link yet"
		configure "$dev" && return
	done
	return 1
}

has_carrier() {
	[ "$(cat "/sys/class/net/$1/carrier" 2>/dev/null)" = 1 ]
}

wait_for_carrier() {
	waited=0
	while [ $waited -lt $CARRIER_WAIT ]; do
		for dev in ${net_dev:-$(interfaces)}; do
			has_carrier "$dev" && return
		done
		[ $waited -ne 1 ] || say "waiting for a link (${net_dev:-any interface})"
		waited=$((waited + 1))
		sleep 1
	done
	say "no link on ${net_dev:-any interface} after ${CARRIER_WAIT} s"
}

configure() {
	case $net_how in
	dhcp)
		say "$1 has link; asking DHCP for an address"
		udhcpc -i "$1" -f -n -q -t 4 -T 2 -S -O rootpath \
			-s /lib/nbdroot/udhcpc >/run/udhcpc.log 2>&1 || return
		;;
	static) configure_static "$1" || return ;;
	auto6) configure_auto6 "$1" || return ;;
	esac
	say "$(cat "/run/net-$1.said")"
	rm -f "/run/net-$1.said"
}

configure_static() {
	DEVICE=$1 PROTO=static IPV4ADDR=$net_addr IPV4NETMASK=$net_mask
	IPV4GATEWAY=$net_gateway IPV4DNS0=$net_dns0 IPV4DNS1=$net_dns1
	HOSTNAME=$net_host ROOTSERVER=$net_server ROOTPATH='' DNSDOMAIN=''
	if ! apply_ipv4; then
		say "$1 does not take the address ${net_addr}${net_mask:+ mask $net_mask}${net_gateway:+ gateway $net_gateway} of ip="
		return 1
	fi
}

# An address beyond the link, and past duplicate detection.
ipv6_address() {
	ip -6 addr show dev "$1" | grep -v -e 'scope link' -e tentative |
		sed -n 's/.*inet6 \([^ ]*\).*/\1/p' | head -n 1
}

configure_auto6() {
	say "$1 has link; waiting for a router to announce IPv6"
	tries=0
	until address=$(ipv6_address "$1") && [ -n "$address" ]; do
		tries=$((tries + 1))
		[ $tries -lt 12 ] || return
		sleep 1
	done
	printf "DEVICE='%s'\nPROTO='auto6'\n" "$1" >"/run/net-$1.conf"
	echo "$1 has $address" >"/run/net-$1.said"
}
