/* SPDX-License-Identifier: GPL-2.0 */
/*
 * netlink.h - what of <linux/netlink.h>, <linux/genetlink.h> and
 * <linux/nbd-netlink.h> is needed here: musl-gcc does not see the kernel's
 * headers. Numbers are the kernel's ABI, in host order.
 */
#ifndef CLIENT_NETLINK_H
#define CLIENT_NETLINK_H

#include <stdint.h>

#ifndef AF_NETLINK
#define AF_NETLINK		16
#endif
#define NL_GENERIC		16	/* NETLINK_GENERIC */
#define NL_ERROR		2	/* NLMSG_ERROR */
#define NL_REQUEST		1	/* NLM_F_REQUEST */
#define NL_ACK			4	/* NLM_F_ACK */
#define NL_NESTED		0x8000	/* NLA_F_NESTED */

#define GENL_CTRL		16	/* GENL_ID_CTRL */
#define CTRL_GETFAMILY		3
#define CTRL_FAMILY_ID		1
#define CTRL_FAMILY_NAME	2

/* nlmsghdr and genlmsghdr */
struct nl_header {
	uint32_t len;
	uint16_t type, flags;
	uint32_t seq, pid;
	uint8_t cmd, version;
	uint16_t reserved;
};

/* nlattr */
struct nl_attr {
	uint16_t len, type;
};

#define NBD_CMD_CONNECT		1
#define NBD_CMD_DISCONNECT	2
#define NBD_CMD_RECONFIGURE	3

#define NBD_ATTR_INDEX		1	/* u32, as NBD_SOCK_FD; the rest u64 */
#define NBD_ATTR_SIZE		2
#define NBD_ATTR_BLOCK_SIZE	3
#define NBD_ATTR_TIMEOUT	4
#define NBD_ATTR_SERVER_FLAGS	5
#define NBD_ATTR_SOCKETS	7
#define NBD_ATTR_DEAD_TIMEOUT	8
#define NBD_ATTR_BACKEND	10	/* NBD_ATTR_BACKEND_IDENTIFIER, a string */
#define NBD_SOCK_ITEM		1
#define NBD_SOCK_FD		1

#endif /* CLIENT_NETLINK_H */
