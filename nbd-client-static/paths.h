/* SPDX-License-Identifier: GPL-2.0 */
/*
 * paths.h - the files this program looks at. Tests build it with another
 * NB_ROOT, a directory that holds their own; nothing at run time changes it.
 */
#ifndef CLIENT_PATHS_H
#define CLIENT_PATHS_H

#ifndef NB_ROOT
#define NB_ROOT ""
#endif

#define CMDLINE_PATH	NB_ROOT "/proc/cmdline"
#define CONTROL_PATH	NB_ROOT "/dev/nb-control"
#define SYSBLOCK_PATH	NB_ROOT "/sys/block"
#define SYSMODULE_PATH	NB_ROOT "/sys/module"
#define DEV_PATH	NB_ROOT "/dev"
#define MODULES_PATH	NB_ROOT "/lib/modules"
#define HOSTS_PATH	NB_ROOT "/etc/hosts"
#define RESOLV_PATH	NB_ROOT "/etc/resolv.conf"
#define RUN_PATH	NB_ROOT "/run"
/* Where overlay= was said: the size of its tmpfs, for the hook that mounts it. */
#define OVERLAY_PATH	RUN_PATH "/nbdroot.overlay"
#define NET_PATH	NB_ROOT "/sys/class/net"
#define BOOT_ID_PATH	NB_ROOT "/proc/sys/kernel/random/boot_id"

#endif /* CLIENT_PATHS_H */
