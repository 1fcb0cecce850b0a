/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Trace events: /sys/kernel/tracing/events/nb/. A request and its reply carry
 * the same cookie, which no other request of the device has; op is the NBD
 * command's number (0 read, 1 write, 3 flush, 4 trim, 6 write zeroes).
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM nb

#if !defined(NB_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define NB_TRACE_H

#include <linux/tracepoint.h>

#include "nb.h"

/* Handed to the sender; not sent yet. */
TRACE_EVENT(nb_request,
	TP_PROTO(const struct nb_cmd *cmd),
	TP_ARGS(cmd),
	TP_STRUCT__entry(
		__field(int, dev)
		__field(unsigned int, conn)
		__field(u64, cookie)
		__field(u16, type)
		__field(u16, flags)
		__field(u64, offset)
		__field(u32, length)
	),
	TP_fast_assign(
		__entry->dev = cmd->conn->dev->cfg.index;
		__entry->conn = cmd->conn->index;
		__entry->cookie = cmd->cookie;
		__entry->type = cmd->type;
		__entry->flags = cmd->flags;
		__entry->offset = cmd->answer.offset;
		__entry->length = cmd->answer.length;
	),
	TP_printk("nb%d conn=%u cookie=%#llx op=%u flags=%#x offset=%llu length=%u",
		  __entry->dev, __entry->conn, __entry->cookie, __entry->type,
		  __entry->flags, __entry->offset, __entry->length)
);

/* The whole reply is in; error as NBD numbers them. */
TRACE_EVENT(nb_reply,
	TP_PROTO(const struct nb_cmd *cmd, u64 ns),
	TP_ARGS(cmd, ns),
	TP_STRUCT__entry(
		__field(int, dev)
		__field(unsigned int, conn)
		__field(u64, cookie)
		__field(u16, type)
		__field(u32, error)
		__field(u64, ns)
	),
	TP_fast_assign(
		__entry->dev = cmd->conn->dev->cfg.index;
		__entry->conn = cmd->conn->index;
		__entry->cookie = cmd->cookie;
		__entry->type = cmd->type;
		__entry->error = cmd->answer.error;
		__entry->ns = ns;
	),
	TP_printk("nb%d conn=%u cookie=%#llx op=%u error=%u ns=%llu",
		  __entry->dev, __entry->conn, __entry->cookie, __entry->type,
		  __entry->error, __entry->ns)
);

/* A connection is over; nobody's request fails by it. */
TRACE_EVENT(nb_lost,
	TP_PROTO(const struct nb_conn *conn),
	TP_ARGS(conn),
	TP_STRUCT__entry(
		__field(int, dev)
		__field(unsigned int, conn)
		__array(char, cause, NB_CAUSE)
	),
	TP_fast_assign(
		__entry->dev = conn->dev->cfg.index;
		__entry->conn = conn->index;
		strscpy(__entry->cause, conn->cause, NB_CAUSE);
	),
	TP_printk("nb%d conn=%u cause=\"%s\"", __entry->dev, __entry->conn,
		  __entry->cause)
);

/* A server answers again after @seconds. */
TRACE_EVENT(nb_reconnect,
	TP_PROTO(const struct nb_device *dev, unsigned int seconds),
	TP_ARGS(dev, seconds),
	TP_STRUCT__entry(
		__field(int, dev)
		__array(char, server, 64)
		__field(unsigned int, seconds)
	),
	TP_fast_assign(
		__entry->dev = dev->cfg.index;
		strscpy(__entry->server, dev->cfg.servers[dev->server].text, 64);
		__entry->seconds = seconds;
	),
	TP_printk("nb%d server=%s seconds=%u", __entry->dev, __entry->server,
		  __entry->seconds)
);

/* The server has fenced what came before @generation of this device. */
TRACE_EVENT(nb_takeover,
	TP_PROTO(const struct nb_device *dev, unsigned int generation),
	TP_ARGS(dev, generation),
	TP_STRUCT__entry(
		__field(int, dev)
		__array(char, server, 64)
		__field(unsigned int, generation)
	),
	TP_fast_assign(
		__entry->dev = dev->cfg.index;
		strscpy(__entry->server, dev->cfg.servers[dev->server].text, 64);
		__entry->generation = generation;
	),
	TP_printk("nb%d server=%s generation=%u", __entry->dev,
		  __entry->server, __entry->generation)
);

#endif /* NB_TRACE_H */

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace
#include <trace/define_trace.h>
