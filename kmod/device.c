// SPDX-License-Identifier: GPL-2.0
/*
 * A device's beginning and end.
 *
 * Attach: the control work connects and makes the disk (nb_disk_create); the
 * attaching process then adds it, because adding reads the partition table,
 * and if the server dies during that read only the control work can bring it
 * back. Detach: the control work stops reconnecting, the detaching process
 * deletes the disk, then takes the rest apart. After del_gendisk() nothing
 * that is called for a block device somebody keeps open looks at the nb_device
 * (nb_open() is not called, nb_set_read_only() does not need it), so its memory
 * can go at once.
 */

#include <linux/in.h>
#include <linux/module.h>
#include <linux/minmax.h>
#include <linux/percpu.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>
#include <net/net_namespace.h>

#include "nb.h"

static LIST_HEAD(nb_devices);
static DEFINE_MUTEX(nb_devices_lock);

NB_BDEV_OPEN(nb_open)(struct gendisk *disk, blk_mode_t mode)
{
	struct nb_device *dev = disk->private_data;

	if (test_bit(NB_DETACHING, &dev->flags))
		return -ENXIO;
	if ((mode & BLK_OPEN_WRITE) && (dev->export.flags & NBD_FLAG_READ_ONLY))
		return -EROFS;
	return 0;
}

/* blockdev --setrw cannot make a read-only export writable. */
static int nb_set_read_only(struct block_device *bdev, bool ro)
{
	/* Not ->private_data: the disk may outlive the device. */
	if (!ro && test_bit(GD_READ_ONLY, &bdev->bd_disk->state))
		return -EROFS;
	return 0;
}

static const struct block_device_operations nb_bdev_ops = {
	.owner = THIS_MODULE,
	.open = nb_open,
	.set_read_only = nb_set_read_only,
};

static sector_t nb_sectors(u64 size, u32 block)
{
	return round_down(size, block) >> SECTOR_SHIFT;
}

/*
 * Tell userland that the device changed, in size too. On its own work item:
 * it allocates, and recovery must not wait for that.
 */
static void nb_uevent_work(struct work_struct *work)
{
	struct nb_device *dev = container_of(work, struct nb_device,
					     uevent_work);
	char state[32];
	char *env[2] = { state };
	sector_t sectors = nb_sectors(READ_ONCE(dev->export.size),
				      queue_logical_block_size(dev->disk->queue));

	if (sectors != get_capacity(dev->disk))
		set_capacity_and_notify(dev->disk, sectors);
	snprintf(state, sizeof(state), "NB_STATE=%s",
		 nb_state_name(READ_ONCE(dev->state)));
	kobject_uevent_env(&disk_to_dev(dev->disk)->kobj, KOBJ_CHANGE, env);
}

static void nb_limits(struct queue_limits *lim, const struct nbd_export *exp)
{
	u32 max;

	lim->logical_block_size = max(exp->min_block, 512U);
	lim->physical_block_size = clamp_t(u32, exp->pref_block,
					   lim->logical_block_size, PAGE_SIZE);
	lim->io_min = lim->physical_block_size;
	lim->max_hw_sectors = min(exp->max_payload, NBD_DEFAULT_MAX_PAYLOAD) >>
			      SECTOR_SHIFT;
	/* Read-ahead is twice io_opt: 2 MiB in flight hide a LAN's latency. */
	lim->io_opt = min_t(u32, SZ_1M, lim->max_hw_sectors << SECTOR_SHIFT);
	lim->max_segments = USHRT_MAX;
	lim->max_segment_size = UINT_MAX;

	/*
	 * Requests without payload: the protocol has 32 bits for their length,
	 * but a server that must write the zeroes has to be done in time, with
	 * as many of them as there are tags.
	 */
	max = SZ_64M >> SECTOR_SHIFT;
	if (exp->flags & NBD_FLAG_SEND_TRIM) {
		lim->max_hw_discard_sectors = max;
		lim->discard_granularity = lim->physical_block_size;
	}
	if (exp->flags & NBD_FLAG_SEND_WRITE_ZEROES)
		lim->max_write_zeroes_sectors = max;

	if (exp->flags & NBD_FLAG_SEND_FLUSH) {
		lim->features |= BLK_FEAT_WRITE_CACHE;
		if (exp->flags & NBD_FLAG_SEND_FUA)
			lim->features |= BLK_FEAT_FUA;
	}
	if (exp->flags & NBD_FLAG_ROTATIONAL)
		lim->features |= BLK_FEAT_ROTATIONAL;
}

/* Control work, at the first connection: dev->export is known. */
int nb_disk_create(struct nb_device *dev)
{
	const struct nbd_export *exp = &dev->export;
	struct queue_limits lim = { };
	struct gendisk *disk;
	int err;

	nb_limits(&lim, exp);

	dev->tag_set.ops = &nb_mq_ops;
	dev->tag_set.nr_hw_queues = dev->nr_queues;
	dev->tag_set.queue_depth = NB_DEPTH;
	dev->tag_set.numa_node = NUMA_NO_NODE;
	dev->tag_set.cmd_size = sizeof(struct nb_cmd);
	dev->tag_set.timeout = NB_REQUEST_TIMEOUT;
	/*
	 * Sending takes the socket lock, hence BLOCKING. Replies come by the
	 * network, whichever CPU a request was submitted on, hence STACKING:
	 * else a CPU that goes offline, as all but one do when the machine is
	 * suspended, waits in blk_mq_hctx_notify_offline() for the requests of
	 * its queue. While no server answers, or once the network card is
	 * suspended, that is for ever, under the lock of CPU hotplug.
	 */
	dev->tag_set.flags = BLK_MQ_F_BLOCKING | BLK_MQ_F_STACKING |
			     BLK_MQ_F_NO_SCHED_BY_DEFAULT;
	dev->tag_set.driver_data = dev;
	err = blk_mq_alloc_tag_set(&dev->tag_set);
	if (err)
		return err;

	disk = blk_mq_alloc_disk(&dev->tag_set, &lim, dev);
	if (IS_ERR(disk)) {
		blk_mq_free_tag_set(&dev->tag_set);
		return PTR_ERR(disk);
	}
	disk->major = nb_major;
	disk->first_minor = dev->cfg.index << NB_PART_BITS;
	disk->minors = 1 << NB_PART_BITS;
	disk->fops = &nb_bdev_ops;
	disk->private_data = dev;
	strscpy(disk->disk_name, dev->name, sizeof(disk->disk_name));
	set_capacity(disk, nb_sectors(exp->size, lim.logical_block_size));
	if (exp->flags & NBD_FLAG_READ_ONLY)
		set_disk_ro(disk, true);
	dev->disk = disk;
	return 0;
}

/*
 * A queue for each connection that there may be, and the connections. More
 * than there are CPUs would carry nothing. Fixed for the device's life: to
 * change the number of queues freezes them, which waits for all requests.
 */
static int nb_alloc_queues(struct nb_device *dev)
{
	unsigned int i, nr;

	nr = dev->cfg.conns ?: min(num_online_cpus(), NB_DEFAULT_CONNS + 0U);
	nr = min(nr, nr_cpu_ids);
	dev->queues = kcalloc(nr, sizeof(*dev->queues), GFP_KERNEL);
	dev->conns = kcalloc(nr, sizeof(*dev->conns), GFP_KERNEL);
	if (!dev->queues || !dev->conns)
		return -ENOMEM;
	dev->nr_queues = nr;
	dev->nr_slots = nr * NB_DEPTH;
	for (i = 0; i < nr; i++) {
		dev->queues[i].dev = dev;
		dev->queues[i].conn = &dev->conns[0];
		dev->queues[i].slot = i * NB_DEPTH;
		if (nb_conn_init(&dev->conns[i], dev, i))
			return -ENOMEM;
	}
	return 0;
}

static void nb_free_queues(struct nb_device *dev)
{
	unsigned int i;

	for (i = 0; i < dev->nr_queues; i++)
		nb_conn_free(&dev->conns[i]);
	kfree(dev->conns);
	kfree(dev->queues);
}

static struct nb_device *nb_alloc(struct nb_config *cfg)
{
	struct nb_device *dev = kzalloc(sizeof(*dev), GFP_KERNEL);

	if (!dev)
		return NULL;
	dev->cfg = *cfg;
	cfg->export = NULL;
	snprintf(dev->name, sizeof(dev->name), NB_NAME "%d", cfg->index);
	set_bit(NB_ADDING, &dev->flags);
	spin_lock_init(&dev->lock);
	init_completion(&dev->attached);
	init_completion(&dev->quiet);
	INIT_DELAYED_WORK(&dev->ctl_work, nb_ctl_work);
	INIT_WORK(&dev->uevent_work, nb_uevent_work);
	INIT_WORK(&dev->flush_work, nb_flush_work);
	if (!dev->cfg.timeout)
		dev->cfg.timeout = NB_SILENCE;
	if (!dev->cfg.hold_given)
		dev->cfg.hold = dev->cfg.timeout +
				max(1U, dev->cfg.timeout / 4);
	nb_turns_reset(dev);
	nb_session_init(dev);
	init_waitqueue_head(&dev->wait);

	/*
	 * Each device has its own rescuers: one whose connect takes long must
	 * not hold up another that swap waits for.
	 */
	dev->ctl_wq = alloc_workqueue("%s-ctl", WQ_MEM_RECLAIM | WQ_UNBOUND, 1,
				      dev->name);
	dev->io_wq = alloc_workqueue("%s-io", WQ_MEM_RECLAIM | WQ_HIGHPRI, 0,
				     dev->name);
	dev->nego = kvzalloc(sizeof(*dev->nego), GFP_KERNEL);
	dev->stats = alloc_percpu(struct nb_stats);
	if (dev->ctl_wq && dev->io_wq && dev->nego && dev->stats &&
	    !nb_alloc_queues(dev))
		return dev;

	if (dev->ctl_wq)
		destroy_workqueue(dev->ctl_wq);
	if (dev->io_wq)
		destroy_workqueue(dev->io_wq);
	nb_free_queues(dev);
	kvfree(dev->nego);
	free_percpu(dev->stats);
	kfree(dev->cfg.export);
	kfree(dev);
	return NULL;
}

/*
 * Take apart what nb_attach() built. The disk, if there is one, has been
 * deleted or was never added.
 */
static void nb_destroy(struct nb_device *dev)
{
	unsigned int i;

	/*
	 * Twice: the first makes sure that the control work is not at work on
	 * a connection, the second that no callback of a connection has
	 * queued it once more.
	 */
	set_bit(NB_GONE, &dev->flags);
	cancel_delayed_work_sync(&dev->ctl_work);
	for (i = 0; i < dev->nr_queues; i++)
		nb_conn_stop(&dev->conns[i], true);
	cancel_delayed_work_sync(&dev->ctl_work);
	cancel_work_sync(&dev->uevent_work);
	if (cancel_work_sync(&dev->flush_work))
		nb_goodbye_done();
	if (test_and_clear_bit(NB_LEAVING, &dev->flags))
		nb_goodbye_done();

	if (dev->disk) {
		put_disk(dev->disk);
		blk_mq_free_tag_set(&dev->tag_set);
	}

	mutex_lock(&nb_devices_lock);
	list_del(&dev->list);
	mutex_unlock(&nb_devices_lock);

	destroy_workqueue(dev->ctl_wq);
	destroy_workqueue(dev->io_wq);
	nb_free_queues(dev);
	kvfree(dev->nego);
	free_percpu(dev->stats);
	kfree(dev->cfg.export);
	kfree(dev);
	module_put(THIS_MODULE);	/* the control file's open holds one too */
}

static struct nb_device *nb_find(int index)
{
	struct nb_device *dev;

	lockdep_assert_held(&nb_devices_lock);
	list_for_each_entry(dev, &nb_devices, list)
		if (dev->cfg.index == index)
			return dev;
	return NULL;
}

void nb_call_devices(void (*fn)(struct nb_device *dev))
{
	struct nb_device *dev;

	mutex_lock(&nb_devices_lock);
	list_for_each_entry(dev, &nb_devices, list)
		fn(dev);
	mutex_unlock(&nb_devices_lock);
}

/*
 * The device that a server would take for an older session of @dev, and end:
 * the same export of the same station.
 */
static const struct nb_device *nb_rival(const struct nb_device *dev)
{
	const struct nb_config *cfg = &dev->cfg;
	const struct nb_device *other;
	unsigned int i, k;

	lockdep_assert_held(&nb_devices_lock);
	list_for_each_entry(other, &nb_devices, list) {
		if (!cfg->station[0] ||
		    strcmp(cfg->station, other->cfg.station) ||
		    strcmp(cfg->export ?: "", other->cfg.export ?: ""))
			continue;
		for (i = 0; i < cfg->nr_servers; i++)
			for (k = 0; k < other->cfg.nr_servers; k++)
				if (!strcmp(cfg->servers[i].text,
					    other->cfg.servers[k].text))
					return other;
	}
	return NULL;
}

/*
 * Stop the control work from connecting, and wait until it has: from then on
 * requests are served by the live connections or fail. Also the last uevent is
 * out, so that none comes after that of del_gendisk().
 */
static void nb_stop_control(struct nb_device *dev)
{
	set_bit(NB_DETACHING, &dev->flags);
	wake_up(&dev->wait);
	nb_ctl_kick(dev);
	wait_for_completion(&dev->quiet);
	cancel_work_sync(&dev->uevent_work);
}

/*
 * Make sure that the kernel can make sockets of each server's family, loading
 * what it needs. During recovery modprobe might lie on the device itself.
 */
static int nb_load_families(const struct nb_config *cfg, char *why)
{
	unsigned int i;

	for (i = 0; i < cfg->nr_servers; i++) {
		const struct nb_server *server = &cfg->servers[i];
		struct socket *sock;
		int err;

		err = sock_create_kern(&init_net, server->addr.ss_family,
				       SOCK_STREAM, IPPROTO_TCP, &sock);
		if (err) {
			snprintf(why, NB_TEXT,
				 "nb%d: %s: no socket can be made: %s (error %d)",
				 cfg->index, server->text,
				 nb_errno_text(err) ?: "not by this kernel",
				 -err);
			return err;
		}
		sock_release(sock);
	}
	return 0;
}

int nb_attach(struct nb_config *cfg, char *why)
{
	const struct nb_device *rival;
	int index = cfg->index;
	struct nb_device *dev;
	int err;

	err = nb_load_families(cfg, why);
	if (err)
		return err;

	/* An attached device keeps the module in; the caller's open does now. */
	__module_get(THIS_MODULE);
	dev = nb_alloc(cfg);
	if (!dev) {
		module_put(THIS_MODULE);
		strscpy(why, "out of memory", NB_TEXT);
		return -ENOMEM;
	}

	mutex_lock(&nb_devices_lock);
	if (nb_find(index)) {
		mutex_unlock(&nb_devices_lock);
		snprintf(why, NB_TEXT,
			 "nb%d: already attached; detach it first, or use another name",
			 index);
		INIT_LIST_HEAD(&dev->list);
		nb_destroy(dev);
		return -EEXIST;
	}
	rival = nb_rival(dev);
	if (rival) {
		snprintf(why, NB_TEXT,
			 "%s: %s has that export already, for the same station: they would end each other's connections",
			 dev->name, rival->name);
		mutex_unlock(&nb_devices_lock);
		INIT_LIST_HEAD(&dev->list);
		nb_destroy(dev);
		return -EEXIST;
	}
	list_add_tail(&dev->list, &nb_devices);
	mutex_unlock(&nb_devices_lock);

	nb_ctl_kick(dev);
	if (wait_for_completion_interruptible(&dev->attached)) {
		nb_stop_control(dev);
		wait_for_completion(&dev->attached);
		snprintf(why, NB_TEXT, "%s: interrupted", dev->name);
		err = -EINTR;
		goto out;
	}
	err = dev->attach_error;
	if (err) {
		strscpy(why, dev->last_error, NB_TEXT);
		goto out;
	}

	err = device_add_disk(NULL, dev->disk, nb_groups);
	if (err) {
		snprintf(why, NB_TEXT, "%s: the disk cannot be added: error %d",
			 dev->name, -err);
		goto out;
	}
	clear_bit(NB_ADDING, &dev->flags);
	/* Pairs with nb_lose(): it sees the bit gone, or we see its doing. */
	smp_mb__after_atomic();
	if (READ_ONCE(dev->state) != NB_LIVE ||
	    test_bit(NB_ADD_BROKEN, &dev->flags)) {
		/* Its partitions may not have been read: not usable. */
		spin_lock_bh(&dev->lock);
		strscpy(why, dev->last_error, NB_TEXT);
		spin_unlock_bh(&dev->lock);
		err = -ECONNRESET;
		nb_stop_control(dev);
		del_gendisk(dev->disk);
		goto out;
	}
	snprintf(why, NB_TEXT, "%s: %s export \"%.256s\" %llu bytes%s",
		 dev->name, dev->cfg.servers[dev->server].text,
		 dev->cfg.export ?: "", dev->export.size,
		 dev->export.flags & NBD_FLAG_READ_ONLY ? " read-only" : "");
	pr_info("%s\n", why);

	mutex_lock(&nb_devices_lock);
	WRITE_ONCE(dev->added, true);
	mutex_unlock(&nb_devices_lock);
	return 0;
out:
	nb_destroy(dev);
	return err;
}

int nb_detach(int index, bool force, char *why)
{
	struct nb_device *dev;
	struct gendisk *disk;
	int err = 0;

	mutex_lock(&nb_devices_lock);
	dev = nb_find(index);
	if (!dev || !dev->added) {
		mutex_unlock(&nb_devices_lock);
		snprintf(why, NB_TEXT, "nb%d: %s", index,
			 dev ? "being attached or detached just now" :
			       "not attached");
		return dev ? -EBUSY : -ENODEV;
	}

	/*
	 * nb_open() runs under open_mutex, so nobody comes in between the look
	 * at the openers and the bit that shuts the door. Whoever holds the
	 * mutex now has it open, and may wait for I/O that only detach can
	 * fail: so never wait for it.
	 */
	disk = dev->disk;
	if (force) {
		set_bit(NB_DETACHING, &dev->flags);
	} else if (!mutex_trylock(&disk->open_mutex)) {
		err = -EBUSY;
	} else {
		if (disk_openers(disk))
			err = -EBUSY;
		else
			set_bit(NB_DETACHING, &dev->flags);
		mutex_unlock(&disk->open_mutex);
	}
	if (!err)
		WRITE_ONCE(dev->added, false);
	mutex_unlock(&nb_devices_lock);
	if (err) {
		snprintf(why, NB_TEXT,
			 "%s: in use (mounted, swap or open); unmount it first, or detach with force=1 and lose what was not written",
			 dev->name);
		return err;
	}

	nb_stop_control(dev);
	del_gendisk(disk);
	pr_info("%s: detached\n", dev->name);
	snprintf(why, NB_TEXT, "%s: detached", dev->name);
	nb_destroy(dev);
	return 0;
}
