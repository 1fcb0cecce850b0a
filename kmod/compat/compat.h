/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Old kernels made to look like new ones. Included before every
 * file (-include), so that the driver itself is written for the newest kernel
 * and knows of no other. Each part asks for the feature, not for a version,
 * because distributions carry features back.
 */
#ifndef NB_COMPAT_H
#define NB_COMPAT_H

#include <linux/blk-mq.h>
#include <linux/blkdev.h>

#ifdef NB_HAVE_SHOULD_MERGE		/* before 6.14: merging must be asked for */
#define BLK_MQ_F_NO_SCHED_BY_DEFAULT \
	(BLK_MQ_F_NO_SCHED_BY_DEFAULT | BLK_MQ_F_SHOULD_MERGE)
#endif

#ifndef NB_HAVE_RQ_LIST

/* Before 6.13: lists of requests have no type. */
#define rq_list			request *

/*
 * And a request that finds the queue quiesced is put on a list, but the queue
 * is not run for it afterwards (6.12.2 does): if the queue is opened between
 * the two, nobody ever comes for it. So run it once more, when whoever saw it
 * quiesced is done. Context: process.
 */
static inline void nb_unquiesce_queue(struct request_queue *q)
{
	blk_mq_unquiesce_queue(q);
#ifdef NB_HAVE_QUIESCE_OF_SET	/* since 6.2 */
	blk_mq_wait_quiesce_done(q->tag_set);
#else
	blk_mq_wait_quiesce_done(q);
#endif
	blk_mq_run_hw_queues(q, true);
}

#define blk_mq_unquiesce_queue	nb_unquiesce_queue

#endif /* NB_HAVE_RQ_LIST */

#ifndef NB_HAVE_SENDPAGES_OK		/* before 6.5: TCP copies whatever it is told */
#define sendpages_ok(page, len, offset)	(false)
#endif

#ifndef NB_HAVE_SOCKADDR_UNSIZED	/* before 6.19: an address had a size */
#define sockaddr_unsized	sockaddr
#endif

#ifdef BLK_FEAT_WRITE_CACHE

/* open() gets the disk. */
#define NB_BDEV_OPEN(name)	static int name

#else /* before queue limits with features (6.11), and open(disk) (6.5) */

#define BLK_FEAT_WRITE_CACHE	(1U << 0)
#define BLK_FEAT_FUA		(1U << 1)
#define BLK_FEAT_ROTATIONAL	(1U << 2)

/* blk_mq_alloc_disk() takes the limits, features among them. */
struct nb_queue_limits {
	unsigned int logical_block_size;
	unsigned int physical_block_size;
	unsigned int io_min;
	unsigned int io_opt;
	unsigned int max_hw_sectors;
	unsigned int max_segments;
	unsigned int max_segment_size;
	unsigned int max_hw_discard_sectors;
	unsigned int discard_granularity;
	unsigned int max_write_zeroes_sectors;
	unsigned int features;
};

static inline struct gendisk *nb_alloc_disk(struct blk_mq_tag_set *set,
					    const struct nb_queue_limits *lim,
					    void *queuedata)
{
	struct gendisk *disk = blk_mq_alloc_disk(set, queuedata);
	struct request_queue *q;

	if (IS_ERR(disk))
		return disk;
	q = disk->queue;
	blk_queue_logical_block_size(q, lim->logical_block_size);
	blk_queue_physical_block_size(q, lim->physical_block_size);
	blk_queue_io_min(q, lim->io_min);
	blk_queue_io_opt(q, lim->io_opt);
	blk_queue_max_hw_sectors(q, lim->max_hw_sectors);
	blk_queue_max_segments(q, lim->max_segments);
	blk_queue_max_segment_size(q, lim->max_segment_size);
	blk_queue_max_discard_sectors(q, lim->max_hw_discard_sectors);
	q->limits.discard_granularity = lim->discard_granularity;
	blk_queue_max_write_zeroes_sectors(q, lim->max_write_zeroes_sectors);
	blk_queue_write_cache(q, lim->features & BLK_FEAT_WRITE_CACHE,
			      lim->features & BLK_FEAT_FUA);
	if (!(lim->features & BLK_FEAT_ROTATIONAL))
		blk_queue_flag_set(QUEUE_FLAG_NONROT, q);
	blk_queue_flag_clear(QUEUE_FLAG_ADD_RANDOM, q);
	return disk;
}

#undef blk_mq_alloc_disk
#define blk_mq_alloc_disk	nb_alloc_disk
#define queue_limits		nb_queue_limits

/* open() gets the block device, and a mode of another type. */
typedef fmode_t blk_mode_t;
#define BLK_OPEN_WRITE		FMODE_WRITE
#define NB_BDEV_OPEN(name)						\
	static int name##_disk(struct gendisk *disk, blk_mode_t mode);	\
	static int name(struct block_device *bdev, fmode_t mode)	\
	{								\
		return name##_disk(bdev->bd_disk, mode);		\
	}								\
	static int name##_disk

#endif /* BLK_FEAT_WRITE_CACHE */

#endif /* NB_COMPAT_H */
