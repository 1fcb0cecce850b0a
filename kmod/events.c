// SPDX-License-Identifier: GPL-2.0
/*
 * What the rest of the machine tells us: a link came up, an
 * address was added, the machine resumes, the machine goes down.
 *
 * The first three make the control work of every device try again at once,
 * instead of at the end of its back-off. At the last, what was written is
 * flushed and the servers are told goodbye; each step has its time, and a
 * server that does not answer cannot hold the machine up.
 *
 * Nothing is to be done before the machine is suspended. Requests that wait
 * then, for a server or for its answer, go on when it resumes, whether they were
 * lost before or while it went to sleep: no CPU waits for them (STACKING in
 * device.c). Only who waits for them himself, beyond any signal, cannot be
 * frozen; the kernel says who, gives up after 20 s, and stays awake. (And
 * before that it syncs, which takes as long as the server is away.)
 *
 * Context of all notifiers: process, may sleep. Those of the network hold
 * RTNL, and take nb_devices_lock under it, never the other way round.
 */

#include <linux/blkdev.h>
#include <linux/inetdevice.h>
#include <linux/netdevice.h>
#include <linux/notifier.h>
#include <linux/reboot.h>
#include <linux/suspend.h>
#include <net/net_namespace.h>

#include "nb.h"

/* At most so long for the flushes of all devices, and then for the goodbyes. */
#define NB_FLUSH_TIME	(5 * HZ)
#define NB_LEAVE_TIME	(2 * HZ)

static void nb_retry_now(struct nb_device *dev)
{
	set_bit(NB_RETRY_NOW, &dev->flags);
	wake_up(&dev->wait);
	nb_ctl_kick(dev);
}

static int nb_netdev_event(struct notifier_block *nb, unsigned long event,
			   void *data)
{
	struct net_device *netdev = netdev_notifier_info_to_dev(data);

	if ((event == NETDEV_UP || event == NETDEV_CHANGE) &&
	    net_eq(dev_net(netdev), &init_net) && netif_running(netdev) &&
	    netif_carrier_ok(netdev))
		nb_call_devices(nb_retry_now);
	return NOTIFY_DONE;
}

static int nb_inetaddr_event(struct notifier_block *nb, unsigned long event,
			     void *data)
{
	const struct in_ifaddr *ifa = data;

	/* Other namespaces are not ours, and anybody's to play with. */
	if (event == NETDEV_UP && net_eq(dev_net(ifa->ifa_dev->dev), &init_net))
		nb_call_devices(nb_retry_now);
	return NOTIFY_DONE;
}

static int nb_pm_event(struct notifier_block *nb, unsigned long event,
		       void *data)
{
	switch (event) {
	case PM_POST_SUSPEND:
	case PM_POST_HIBERNATION:
	case PM_POST_RESTORE:
		nb_call_devices(nb_retry_now);
		break;
	}
	return NOTIFY_DONE;
}

/* Devices whose flush, or whose goodbye, is still to come. */
static atomic_t nb_goodbyes;
static DECLARE_WAIT_QUEUE_HEAD(nb_goodbye_wait);

/* One of them is done, or is not to come any more. Any context. */
void nb_goodbye_done(void)
{
	if (atomic_dec_and_test(&nb_goodbyes))
		wake_up(&nb_goodbye_wait);
}

void nb_flush_work(struct work_struct *work)
{
	struct nb_device *dev = container_of(work, struct nb_device,
					     flush_work);

	if (blkdev_issue_flush(dev->disk->part0))
		pr_warn("%s: the last flush failed\n", dev->name);
	nb_goodbye_done();
}

static void nb_begin_flush(struct nb_device *dev)
{
	if (!dev->added || (dev->export.flags & NBD_FLAG_READ_ONLY))
		return;
	atomic_inc(&nb_goodbyes);
	if (!schedule_work(&dev->flush_work))
		nb_goodbye_done();
}

static void nb_begin_leave(struct nb_device *dev)
{
	if (!dev->added)
		return;
	if (!test_and_set_bit(NB_LEAVING, &dev->flags))
		atomic_inc(&nb_goodbyes);
	set_bit(NB_DETACHING, &dev->flags);
	wake_up(&dev->wait);
	nb_ctl_kick(dev);
}

static int nb_reboot_event(struct notifier_block *nb, unsigned long event,
			   void *data)
{
	nb_call_devices(nb_begin_flush);
	if (!wait_event_timeout(nb_goodbye_wait, !atomic_read(&nb_goodbyes),
				NB_FLUSH_TIME))
		pr_warn("a server does not answer: going down without a last flush\n");
	nb_call_devices(nb_begin_leave);
	wait_event_timeout(nb_goodbye_wait, !atomic_read(&nb_goodbyes),
			   NB_LEAVE_TIME);
	return NOTIFY_DONE;
}

static struct notifier_block nb_netdev_notifier = {
	.notifier_call = nb_netdev_event,
};

static struct notifier_block nb_inetaddr_notifier = {
	.notifier_call = nb_inetaddr_event,
};

static struct notifier_block nb_pm_notifier = {
	.notifier_call = nb_pm_event,
};

/* Last: what lies on top of us (md, for one) flushes there first. */
static struct notifier_block nb_reboot_notifier = {
	.notifier_call = nb_reboot_event,
	.priority = INT_MIN,
};

int nb_events_init(void)
{
	int err;

	err = register_netdevice_notifier(&nb_netdev_notifier);
	if (err)
		return err;
	err = register_inetaddr_notifier(&nb_inetaddr_notifier);
	if (err)
		goto out_netdev;
	err = register_pm_notifier(&nb_pm_notifier);
	if (err)
		goto out_inetaddr;
	err = register_reboot_notifier(&nb_reboot_notifier);
	if (err)
		goto out_pm;
	return 0;

out_pm:
	unregister_pm_notifier(&nb_pm_notifier);
out_inetaddr:
	unregister_inetaddr_notifier(&nb_inetaddr_notifier);
out_netdev:
	unregister_netdevice_notifier(&nb_netdev_notifier);
	return err;
}

void nb_events_exit(void)
{
	unregister_reboot_notifier(&nb_reboot_notifier);
	unregister_pm_notifier(&nb_pm_notifier);
	unregister_inetaddr_notifier(&nb_inetaddr_notifier);
	unregister_netdevice_notifier(&nb_netdev_notifier);
}
