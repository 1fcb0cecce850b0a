// SPDX-License-Identifier: GPL-2.0
/*
 * May this server carry the device? Asked when a connection is open
 * and negotiated, before the first request goes out on it.
 *
 * The first server says what the device is. Every later one must say the same:
 * an export no smaller, of no fewer features, and, where servers tell, the
 * same image. A server that tells its identity (proto/nbd-session.h) answers
 * two more questions. Has it fenced the connections that we lost, so that
 * writes may be sent again at once? And is it the same boot of the same
 * machine, or is the memory gone that held what we had not flushed?
 *
 * All of this is the control work's.
 */

#include <linux/ktime.h>
#include <linux/minmax.h>
#include <linux/random.h>

#include "nb.h"

/* Transmission flags that the disk's limits promise on the server's behalf. */
#define NB_USED_FLAGS	(NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA |	\
			 NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_WRITE_ZEROES)

/*
 * Who we say we are. Where the attach line does not tell the boot, a random
 * word of this attach stands for it: so much of a boot as the session lasts.
 * The counter of attaches starts from the clock since boot, in tenths of a
 * second, for the module may be loaded more than once in a boot.
 */
void nb_session_init(struct nb_device *dev)
{
	static atomic_t attaches = ATOMIC_INIT(0);
	struct nbd_session *s = &dev->session;
	u32 now = div_u64(ktime_get_boottime_ns(), NSEC_PER_SEC / 10);
	int before;

	strscpy(s->station, dev->cfg.station[0] ? dev->cfg.station : "-",
		sizeof(s->station));
	if (dev->cfg.boot[0])
		strscpy(s->boot, dev->cfg.boot, sizeof(s->boot));
	else
		snprintf(s->boot, sizeof(s->boot), "nb-%016llx",
			 get_random_u64());
	before = atomic_read(&attaches);
	do {
		s->attach = max_t(u32, before + 1, now);
	} while (!atomic_try_cmpxchg(&attaches, &before, s->attach));
	s->generation = 1;
}

static int nb_first_export(struct nb_device *dev, char *why)
{
	const struct nbd_export *exp = &dev->nego->export;
	int err;

	if (exp->min_block > PAGE_SIZE) {
		snprintf(why, NB_TEXT,
			 "the export wants blocks of %u bytes; this kernel takes at most %lu",
			 exp->min_block, PAGE_SIZE);
		return -EOPNOTSUPP;
	}
	if (exp->max_payload < PAGE_SIZE) {
		snprintf(why, NB_TEXT,
			 "the server takes only %u bytes at a time",
			 exp->max_payload);
		return -EOPNOTSUPP;
	}
	if (exp->size < max(exp->min_block, 512U)) {
		snprintf(why, NB_TEXT, "the export is empty (%llu bytes)",
			 exp->size);
		return -ENXIO;
	}
	dev->export = *exp;
	if (dev->cfg.ro)
		dev->export.flags |= NBD_FLAG_READ_ONLY;
	err = nb_disk_create(dev);
	if (err)
		snprintf(why, NB_TEXT, "the disk cannot be made: error %d",
			 -err);
	return err;
}

/*
 * Is this the export that the device was made from? Else its blocks must not
 * appear under a filesystem that knows others.
 */
static int nb_same_export(const struct nb_device *dev, char *why)
{
	const struct nbd_export *old = &dev->export;
	const struct nbd_export *new = &dev->nego->export;
	u16 fewer = old->flags & ~new->flags & NB_USED_FLAGS;

	if (new->size < old->size) {
		snprintf(why, NB_TEXT,
			 "the export has shrunk from %llu to %llu bytes; not the same image",
			 old->size, new->size);
		return -ESTALE;
	}
	if ((new->flags & NBD_FLAG_READ_ONLY) &&
	    !(old->flags & NBD_FLAG_READ_ONLY)) {
		strscpy(why, "the export has become read-only", NB_TEXT);
		return -ESTALE;
	}
	if (fewer) {
		snprintf(why, NB_TEXT,
			 "the export has lost features (transmission flags %#x, before %#x)",
			 new->flags, old->flags);
		return -ESTALE;
	}
	/* What counts is what nb_limits() made of them. */
	if (max(new->min_block, 512U) > max(old->min_block, 512U) ||
	    min(new->max_payload, NBD_DEFAULT_MAX_PAYLOAD) <
	    min(old->max_payload, NBD_DEFAULT_MAX_PAYLOAD)) {
		snprintf(why, NB_TEXT,
			 "the export takes other block sizes (%u..%u, before %u..%u)",
			 new->min_block, new->max_payload, old->min_block,
			 old->max_payload);
		return -ESTALE;
	}
	return 0;
}

/* "-" says that it is not known; nothing, that nobody was asked yet. */
static bool nb_known(const char *word)
{
	return *word && strcmp(word, "-") != 0;
}

/*
 * Is it another image? Only where the two words can be compared: those of one
 * host, or of none. For the rest, whoever wrote the servers into one attach
 * line says that they have the same.
 */
static int nb_same_image(const struct nb_device *dev, char *why)
{
	const struct nbd_identity *old = &dev->identity;
	const struct nbd_identity *new = &dev->nego->identity;

	if (!dev->nego->identified ||
	    !nb_known(old->image) || !nb_known(new->image) ||
	    strcmp(old->host, new->host) || !strcmp(old->image, new->image))
		return 0;
	snprintf(why, NB_TEXT, "the export is another image (%s, before %s)",
		 new->image, old->image);
	return -ESTALE;
}

static bool nb_same_boot(const struct nbd_identity *a,
			 const struct nbd_identity *b)
{
	return nb_known(a->boot) && !strcmp(a->boot, b->boot) &&
	       !strcmp(a->host, b->host);
}

/* Is it the one that the device's live connections are with? */
static bool nb_same_server(const struct nb_device *dev)
{
	if (!dev->identified || !dev->nego->identified)
		return dev->identified == dev->nego->identified;
	return !strcmp(dev->identity.boot, dev->nego->identity.boot) &&
	       !strcmp(dev->identity.host, dev->nego->identity.host);
}

/*
 * The connection to dev->server is negotiated. 0 if it may carry the device,
 * else an errno and a sentence in @why. A @sibling of live connections must
 * come from the same boot of the same machine as they do.
 */
int nb_accept(struct nb_device *dev, bool sibling, char *why)
{
	const struct nbd_export *exp = &dev->nego->export;
	int err;

	if (dev->disk) {
		err = nb_same_export(dev, why);
		err = err ?: nb_same_image(dev, why);
		if (!err && sibling && !nb_same_server(dev)) {
			strscpy(why, "not the server that the other connections have",
				NB_TEXT);
			err = -ESTALE;
		}
		/* A flush on one would not cover what the others wrote. */
		if (!err && sibling &&
		    !(exp->flags & NBD_FLAG_CAN_MULTI_CONN)) {
			strscpy(why, "the export does not allow a second connection any more",
				NB_TEXT);
			err = -ESTALE;
		}
	} else {
		err = nb_first_export(dev, why);
	}
	if (err)
		return err;
	if (sibling)
		return 0;
	dev->want_conns = exp->flags & NBD_FLAG_CAN_MULTI_CONN ?
			  dev->tag_set.nr_hw_queues : 1;
	return 0;
}

/*
 * Recovering, a connection is accepted. Is it certain that nothing of the lost
 * connections will reach the image any more? It is when the server that had
 * them has answered our session, which a server does when it has ended its
 * older ones; or when it tells another boot, because its machine or, after a
 * loss, the server itself was started again. One machine may run several
 * servers, so it must be the same of the attach line: one known by two
 * addresses cannot be told from two.
 */
bool nb_fenced(const struct nb_device *dev)
{
	const struct nbd_identity *old = &dev->lost_identity;
	const struct nbd_identity *new = &dev->nego->identity;

	if (!dev->lost_identified || !dev->nego->identified ||
	    dev->server != dev->lost_server)
		return false;
	return nb_same_boot(old, new) ||
	       (nb_known(old->host) && !strcmp(old->host, new->host) &&
		nb_known(old->boot) && nb_known(new->boot));
}

/*
 * The device goes on with the server that was accepted, and is not held back
 * any more: remember it. One that does not tell who it is leaves in place what
 * is known of the last one that did: its cache may still be lost.
 */
void nb_adopt(struct nb_device *dev)
{
	const struct nbd_identity *new = &dev->nego->identity;
	u64 unflushed;

	if (!dev->nego->identified) {
		WRITE_ONCE(dev->identified, false);
		return;
	}
	unflushed = nb_unflushed(dev);
	if (unflushed && nb_known(dev->identity.boot) &&
	    nb_known(new->boot) && !nb_same_boot(&dev->identity, new)) {
		nb_cache_lost(dev);
		nb_set_error(dev,
			     "started again with writes not flushed: they may be lost");
		pr_err("%s: %s: the server's machine was started again (boot %s, before %s) while %llu bytes were acknowledged but not flushed: they may be lost, and the next flush fails\n",
		       dev->name, nb_server_text(dev), new->boot,
		       dev->identity.boot, unflushed);
	}
	dev->identity = *new;
	WRITE_ONCE(dev->identified, true);
}
