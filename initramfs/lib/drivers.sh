# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh
# drivers.sh - step 1: load what the station's hardware asks for.

# Load a module for every device that names one. A driver may reveal further
# devices (virtio behind PCI, a network adapter behind USB), so go round
# until nothing new shows up.
load_drivers() {
	known=
	while :; do
		aliases=$(cat /sys/bus/*/devices/*/modalias 2>/dev/null | sort -u)
		[ "$aliases" != "$known" ] || break
		known=$aliases
		# shellcheck disable=SC2086 # one alias a word
		modprobe -ab $aliases 2>/dev/null
		usb_settles
	done

	if [ -z "$(interfaces)" ]; then
		cards=$(cards_without_driver)
		fail "no network interface${cards:+; no driver here for: $cards}" \
			"add the card's driver to initramfs/drivers.list, rebuild, and serve the new image"
		return
	fi
	for dev in $(interfaces); do
		say "$dev is a $(driver_of "$dev") card, $(cat "/sys/class/net/$dev/address")"
	done
}

# USB adapters take a moment to be found; wait only where there is USB.
usb_settles() {
	[ -d /sys/bus/usb/devices ] && [ -z "$(interfaces)" ] || return 0
	[ -n "$(ls /sys/bus/usb/devices)" ] && sleep 2
}

# Ethernet interfaces with hardware behind them (ARPHRD_ETHER is 1).
interfaces() {
	for path in /sys/class/net/*; do
		[ -e "$path/device" ] && [ "$(cat "$path/type")" = 1 ] && echo "${path##*/}"
	done
}

driver_of() {
	link=$(readlink "/sys/class/net/$1/device/driver")
	echo "${link##*/}"
}

# PCI devices of class 02 (network) that no driver has taken.
cards_without_driver() {
	for path in /sys/bus/pci/devices/*; do
		case $(cat "$path/class") in
		0x02*) ;;
		*) continue ;;
		esac
		[ -e "$path/driver" ] || printf '%s:%s ' \
			"$(sed s/0x// "$path/vendor")" "$(sed s/0x// "$path/device")"
	done
}
