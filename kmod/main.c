// SPDX-License-Identifier: GPL-2.0
/*
 * The module: what exists once, before any device.
 */

#include <linux/module.h>
#include <linux/in.h>
#include <net/net_namespace.h>
#include <net/sock.h>

#include "nb.h"

int nb_major;

/*
 * A socket that is never connected. It holds the static key which lets
 * SOCK_MEMALLOC sockets take packets from the memory reserves. Turning that
 * key takes cpus_read_lock(), which a reconnect on the way to swap must not
 * wait for; so it is turned once, here, and sockets only set the flag.
 */
static struct socket *nb_memalloc_sock;

static int __init nb_init(void)
{
	int err;

	err = sock_create_kern(&init_net, AF_INET, SOCK_STREAM, IPPROTO_TCP,
			       &nb_memalloc_sock);
	if (err) {
		pr_err("no TCP sockets on this kernel: error %d\n", err);
		return err;
	}
	sk_set_memalloc(nb_memalloc_sock->sk);

	nb_major = register_blkdev(0, NB_NAME);
	if (nb_major < 0) {
		err = nb_major;
		goto out_sock;
	}
	err = nb_events_init();
	if (err)
		goto out_blkdev;
	err = nb_control_init();
	if (err)
		goto out_events;
	return 0;

out_events:
	nb_events_exit();
out_blkdev:
	unregister_blkdev(nb_major, NB_NAME);
out_sock:
	sk_clear_memalloc(nb_memalloc_sock->sk);
	sock_release(nb_memalloc_sock);
	return err;
}

/* Every attached device holds the module, so none is left here. */
static void __exit nb_exit(void)
{
	nb_control_exit();
	nb_events_exit();
	unregister_blkdev(nb_major, NB_NAME);
	sk_clear_memalloc(nb_memalloc_sock->sk);
	sock_release(nb_memalloc_sock);
}

module_init(nb_init);
module_exit(nb_exit);

MODULE_DESCRIPTION("Network block device for a root filesystem (NBD protocol)");
MODULE_AUTHOR("The nbdroot authors");
MODULE_VERSION(NB_VERSION);
MODULE_LICENSE("GPL");
