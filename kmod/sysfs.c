// SPDX-License-Identifier: GPL-2.0
/*
 * What an operator wants to know of a device: /sys/block/nbN/nb/, which
 * docs/architecture.md describes. All files are read-only; none takes a lock
 * that recovery could hold for long.
 */

#include <linux/device.h>
#include <linux/sysfs.h>

#include "nb.h"

static struct nb_device *to_nb(struct device *d)
{
	return dev_to_disk(d)->private_data;
}

static ssize_t state_show(struct device *d, struct device_attribute *attr,
			  char *buf)
{
	return sysfs_emit(buf, "%s\n",
			  nb_state_name(READ_ONCE(to_nb(d)->state)));
}
static DEVICE_ATTR_RO(state);

/* The server in use; while recovering, the one that is tried. */
static ssize_t server_show(struct device *d, struct device_attribute *attr,
			   char *buf)
{
	struct nb_device *dev = to_nb(d);

	return sysfs_emit(buf, "%s\n",
			  dev->cfg.servers[READ_ONCE(dev->server)].text);
}
static DEVICE_ATTR_RO(server);

static ssize_t servers_show(struct device *d, struct device_attribute *attr,
			    char *buf)
{
	struct nb_device *dev = to_nb(d);
	unsigned int i;
	int len = 0;

	for (i = 0; i < dev->cfg.nr_servers; i++)
		len += sysfs_emit_at(buf, len, "%s\n", dev->cfg.servers[i].text);
	return len;
}
static DEVICE_ATTR_RO(servers);

static ssize_t export_show(struct device *d, struct device_attribute *attr,
			   char *buf)
{
	return sysfs_emit(buf, "%.4000s\n", to_nb(d)->cfg.export ?: "");
}
static DEVICE_ATTR_RO(export);

static ssize_t connections_show(struct device *d, struct device_attribute *attr,
				char *buf)
{
	return sysfs_emit(buf, "%u\n", READ_ONCE(to_nb(d)->live_conns));
}
static DEVICE_ATTR_RO(connections);

/* One line each: its number, whether it is live, how often it was lost. */
static ssize_t conns_show(struct device *d, struct device_attribute *attr,
			  char *buf)
{
	struct nb_device *dev = to_nb(d);
	unsigned int i;
	int len = 0;

	for (i = 0; i < dev->nr_queues; i++) {
		const struct nb_conn *conn = &dev->conns[i];

		len += sysfs_emit_at(buf, len, "%u %s lost %u\n", i,
				     READ_ONCE(conn->live) ? "live" : "down",
				     READ_ONCE(conn->losses));
	}
	return len;
}
static DEVICE_ATTR_RO(conns);

/* Who the server says it is: boot, host and image; empty for a stranger's. */
static ssize_t identity_show(struct device *d, struct device_attribute *attr,
			     char *buf)
{
	struct nb_device *dev = to_nb(d);

	if (!READ_ONCE(dev->identified))
		return 0;
	return sysfs_emit(buf, "%s %s %s\n", dev->identity.boot,
			  dev->identity.host, dev->identity.image);
}
static DEVICE_ATTR_RO(identity);

/* Who we say we are: station, boot, attach and generation. */
static ssize_t session_show(struct device *d, struct device_attribute *attr,
			    char *buf)
{
	const struct nbd_session *s = &to_nb(d)->session;

	return sysfs_emit(buf, "%s %s %u %u\n", s->station, s->boot, s->attach,
			  READ_ONCE(s->generation));
}
static DEVICE_ATTR_RO(session);

static ssize_t reconnects_show(struct device *d, struct device_attribute *attr,
			       char *buf)
{
	return sysfs_emit(buf, "%u\n", READ_ONCE(to_nb(d)->reconnects));
}
static DEVICE_ATTR_RO(reconnects);

static ssize_t requeued_show(struct device *d, struct device_attribute *attr,
			     char *buf)
{
	return sysfs_emit(buf, "%llu\n", READ_ONCE(to_nb(d)->requeued));
}
static DEVICE_ATTR_RO(requeued);

static ssize_t last_error_show(struct device *d, struct device_attribute *attr,
			       char *buf)
{
	struct nb_device *dev = to_nb(d);
	int len;

	spin_lock_bh(&dev->lock);
	len = sysfs_emit(buf, "%s\n", dev->last_error);
	spin_unlock_bh(&dev->lock);
	return len;
}
static DEVICE_ATTR_RO(last_error);

/* The export's transmission flags, as the NBD specification numbers them. */
static ssize_t transmission_flags_show(struct device *d,
				       struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%#x\n", to_nb(d)->export.flags);
}
static DEVICE_ATTR_RO(transmission_flags);

/* A histogram; counters of each connection: see stats.c. */
static ssize_t latency_show(struct device *d, struct device_attribute *attr,
			    char *buf)
{
	return nb_latency_show(to_nb(d), buf);
}
static DEVICE_ATTR_RO(latency);

static ssize_t traffic_show(struct device *d, struct device_attribute *attr,
			    char *buf)
{
	return nb_traffic_show(to_nb(d), buf);
}
static DEVICE_ATTR_RO(traffic);

static struct attribute *nb_attrs[] = {
	&dev_attr_state.attr,
	&dev_attr_server.attr,
	&dev_attr_servers.attr,
	&dev_attr_export.attr,
	&dev_attr_connections.attr,
	&dev_attr_conns.attr,
	&dev_attr_identity.attr,
	&dev_attr_session.attr,
	&dev_attr_reconnects.attr,
	&dev_attr_requeued.attr,
	&dev_attr_last_error.attr,
	&dev_attr_latency.attr,
	&dev_attr_traffic.attr,
	&dev_attr_transmission_flags.attr,
	NULL,
};

static const struct attribute_group nb_group = {
	.name = NB_NAME,
	.attrs = nb_attrs,
};

const struct attribute_group *nb_groups[] = {
	&nb_group,
	NULL,
};
