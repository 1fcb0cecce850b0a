/* SPDX-License-Identifier: GPL-2.0 */
/*
 * facts.h - what the network told this machine: nameservers, search domains,
 * DHCP's root path and host name, from the files that whoever configured the
 * network left behind; and by what a server can know the machine again.
 */
#ifndef CLIENT_FACTS_H
#define CLIENT_FACTS_H

#include <stdbool.h>

#include "address.h"

#ifndef DNS_PORT		/* tests have no right to 53 */
#define DNS_PORT	53
#endif

#define MAX_NAMESERVERS	4
#define MAX_SEARCH	4
#define MAX_FACT	256	/* one value, with its NUL */

struct facts {
	unsigned int nameservers;
	struct address nameserver[MAX_NAMESERVERS];	/* with port */
	unsigned int searches;
	char search[MAX_SEARCH][MAX_FACT];
	bool dhcp;			/* some file of a lease was there */
	char root_path[MAX_FACT];	/* DHCP option 17 */
	char root_server[MAX_FACT];	/* "" or an address */
	char dhcp_server[MAX_FACT];	/* the same, where there is no other */
	char host[MAX_FACT];		/* DHCP's name for this machine, or "" */
	char mac[20];			/* of the card with a cable, or "" */
	char boot[40];			/* the kernel's random id of this boot */
};

/*
 * Read them all anew: /etc/resolv.conf, then leases: /run/net-*.conf (klibc's
 * ipconfig and ours), /run/systemd/netif/leases/ (systemd-networkd),
 * /run/udhcpc* (the variables of its script). The first to know a fact is believed.
 */
void facts_load(struct facts *f);

/* The parsers, for @text of such a file; it is cut up in place. */
void facts_add_resolv(struct facts *f, char *text);
void facts_add_netconf(struct facts *f, char *text);

#endif /* CLIENT_FACTS_H */
