/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The Network Block Device protocol as bytes.
 *
 * Every number of the protocol that this project uses is here and nowhere
 * else; names and meanings are those of the NBD specification (proto.md, "the
 * spec" below). All integers on the wire are big-endian. Messages are
 * encoded and decoded by the small functions at the end, byte by byte, so
 * neither alignment nor the host's endianness can matter.
 */
#ifndef NBD_WIRE_H
#define NBD_WIRE_H

#include "nbd-types.h"

/* The port IANA gave to NBD, in host byte order. */
#define NBD_DEFAULT_PORT		10809

/* Spec, "Handshake": magics. */
#define NBD_MAGIC			0x4e42444d41474943ULL	/* "NBDMAGIC" */
#define NBD_OPTS_MAGIC			0x49484156454f5054ULL	/* "IHAVEOPT" */
#define NBD_OLDSTYLE_MAGIC		0x0000420281861253ULL
#define NBD_REP_MAGIC			0x0003e889045565a9ULL

/* Spec, "Transmission": magics. */
#define NBD_REQUEST_MAGIC		0x25609513U
#define NBD_SIMPLE_REPLY_MAGIC		0x67446698U
#define NBD_STRUCTURED_REPLY_MAGIC	0x668e33efU
#define NBD_EXTENDED_REQUEST_MAGIC	0x21e41c71U
#define NBD_EXTENDED_REPLY_MAGIC	0x6e8a278cU

/* Sizes on the wire, in bytes. */
#define NBD_GREETING_SIZE		18	/* magic64 opts-magic64 flags16 */
#define NBD_CLIENT_FLAGS_SIZE		4
#define NBD_OPTION_SIZE			16	/* opts-magic64 option32 length32 */
#define NBD_OPTION_REPLY_SIZE		20	/* magic64 option32 type32 length32 */
#define NBD_EXPORT_NAME_REPLY_SIZE	10	/* size64 flags16 */
#define NBD_EXPORT_NAME_ZEROES		124	/* after it, unless NO_ZEROES */
#define NBD_INFO_EXPORT_SIZE		12	/* type16 size64 flags16 */
#define NBD_INFO_BLOCK_SIZE_SIZE	14	/* type16 min32 preferred32 max32 */
#define NBD_REQUEST_SIZE		28
#define NBD_SIMPLE_REPLY_SIZE		16
#define NBD_CHUNK_SIZE			20	/* a structured reply's head */
#define NBD_EXTENDED_REQUEST_SIZE	32
#define NBD_EXTENDED_REPLY_SIZE		32
#define NBD_CHUNK_OFFSET_SIZE		8	/* offset64, then data */
#define NBD_CHUNK_HOLE_SIZE		12	/* offset64 length32 */
#define NBD_CHUNK_ERROR_SIZE		6	/* error32 textlen16, then text */
#define NBD_EXTENT_SIZE			8	/* length32 flags32 */
#define NBD_EXTENT_EXT_SIZE		16	/* length64 flags64 */

/* Spec, "Values": strings are at most this long, in bytes, without a NUL. */
#define NBD_MAX_STRING			4096

/* Handshake flags (16 bits, server to client). */
#define NBD_FLAG_FIXED_NEWSTYLE		(1U << 0)
#define NBD_FLAG_NO_ZEROES		(1U << 1)

/* Client flags (32 bits, client to server). */
#define NBD_FLAG_C_FIXED_NEWSTYLE	(1U << 0)
#define NBD_FLAG_C_NO_ZEROES		(1U << 1)

/* Options. */
#define NBD_OPT_EXPORT_NAME		1U
#define NBD_OPT_ABORT			2U
#define NBD_OPT_LIST			3U
#define NBD_OPT_PEEK_EXPORT		4U
#define NBD_OPT_STARTTLS		5U
#define NBD_OPT_INFO			6U
#define NBD_OPT_GO			7U
#define NBD_OPT_STRUCTURED_REPLY	8U
#define NBD_OPT_LIST_META_CONTEXT	9U
#define NBD_OPT_SET_META_CONTEXT	10U
#define NBD_OPT_EXTENDED_HEADERS	11U

/* Option replies; those with the top bit set are errors, data = text. */
#define NBD_REP_ACK			1U
#define NBD_REP_SERVER			2U
#define NBD_REP_INFO			3U
#define NBD_REP_META_CONTEXT		4U
#define NBD_REP_FLAG_ERROR		0x80000000U
#define NBD_REP_ERR_UNSUP		0x80000001U
#define NBD_REP_ERR_POLICY		0x80000002U
#define NBD_REP_ERR_INVALID		0x80000003U
#define NBD_REP_ERR_PLATFORM		0x80000004U
#define NBD_REP_ERR_TLS_REQD		0x80000005U
#define NBD_REP_ERR_UNKNOWN		0x80000006U
#define NBD_REP_ERR_SHUTDOWN		0x80000007U
#define NBD_REP_ERR_BLOCK_SIZE_REQD	0x80000008U
#define NBD_REP_ERR_TOO_BIG		0x80000009U
#define NBD_REP_ERR_EXT_HEADER_REQD	0x8000000aU

/* Information types of NBD_REP_INFO. */
#define NBD_INFO_EXPORT			0U
#define NBD_INFO_NAME			1U
#define NBD_INFO_DESCRIPTION		2U
#define NBD_INFO_BLOCK_SIZE		3U

/* Transmission flags (16 bits, a property of the export). */
#define NBD_FLAG_HAS_FLAGS		(1U << 0)
#define NBD_FLAG_READ_ONLY		(1U << 1)
#define NBD_FLAG_SEND_FLUSH		(1U << 2)
#define NBD_FLAG_SEND_FUA		(1U << 3)
#define NBD_FLAG_ROTATIONAL		(1U << 4)
#define NBD_FLAG_SEND_TRIM		(1U << 5)
#define NBD_FLAG_SEND_WRITE_ZEROES	(1U << 6)
#define NBD_FLAG_SEND_DF		(1U << 7)
#define NBD_FLAG_CAN_MULTI_CONN		(1U << 8)
#define NBD_FLAG_SEND_CACHE		(1U << 10)
#define NBD_FLAG_SEND_FAST_ZERO		(1U << 11)

/* Commands. */
#define NBD_CMD_READ			0U
#define NBD_CMD_WRITE			1U
#define NBD_CMD_DISC			2U
#define NBD_CMD_FLUSH			3U
#define NBD_CMD_TRIM			4U
#define NBD_CMD_CACHE			5U
#define NBD_CMD_WRITE_ZEROES		6U
#define NBD_CMD_BLOCK_STATUS		7U

/* Command flags. */
#define NBD_CMD_FLAG_FUA		(1U << 0)
#define NBD_CMD_FLAG_NO_HOLE		(1U << 1)
#define NBD_CMD_FLAG_DF			(1U << 2)
#define NBD_CMD_FLAG_REQ_ONE		(1U << 3)
#define NBD_CMD_FLAG_FAST_ZERO		(1U << 4)
#define NBD_CMD_FLAG_PAYLOAD_LEN	(1U << 5)	/* extended headers */

/* Chunks of a structured reply; those with the top bit set are errors. */
#define NBD_REPLY_FLAG_DONE		(1U << 0)	/* the reply's last */
#define NBD_REPLY_TYPE_NONE		0U
#define NBD_REPLY_TYPE_OFFSET_DATA	1U
#define NBD_REPLY_TYPE_OFFSET_HOLE	2U
#define NBD_REPLY_TYPE_BLOCK_STATUS	5U
#define NBD_REPLY_TYPE_BLOCK_STATUS_EXT	6U
#define NBD_REPLY_FLAG_ERROR		0x8000U
#define NBD_REPLY_TYPE_ERROR		0x8001U
#define NBD_REPLY_TYPE_ERROR_OFFSET	0x8002U	/* error, text, offset64 */

/* The metadata context base:allocation, and its flags. */
#define NBD_META_ALLOCATION		"base:allocation"
#define NBD_STATE_HOLE			(1U << 0)
#define NBD_STATE_ZERO			(1U << 1)

/* Errors of replies. Anything else means NBD_EINVAL to a client. */
#define NBD_SUCCESS			0U
#define NBD_EPERM			1U
#define NBD_EIO				5U
#define NBD_ENOMEM			12U
#define NBD_EINVAL			22U
#define NBD_ENOSPC			28U
#define NBD_EOVERFLOW			75U
#define NBD_ENOTSUP			95U
#define NBD_ESHUTDOWN			108U

/* Spec, "Block size constraints": what holds when none were advertised. */
#define NBD_DEFAULT_MIN_BLOCK		1U
#define NBD_DEFAULT_PREF_BLOCK		4096U
#define NBD_DEFAULT_MAX_PAYLOAD		(32U << 20)
#define NBD_MAX_MIN_BLOCK		65536U	/* largest minimum allowed */
#define NBD_MAX_EXPORT_SIZE		0x7fffffffffffffffULL

static inline u16 nbd_get16(const u8 *p)
{
	return (u16)(p[0] << 8 | p[1]);
}

static inline u32 nbd_get32(const u8 *p)
{
	return (u32)p[0] << 24 | (u32)p[1] << 16 | (u32)p[2] << 8 | p[3];
}

static inline u64 nbd_get64(const u8 *p)
{
	return (u64)nbd_get32(p) << 32 | nbd_get32(p + 4);
}

/* The masks tell sparse that the truncation is meant. */
static inline void nbd_put16(u8 *p, u16 v)
{
	p[0] = v >> 8 & 0xff;
	p[1] = v & 0xff;
}

static inline void nbd_put32(u8 *p, u32 v)
{
	p[0] = v >> 24 & 0xff;
	p[1] = v >> 16 & 0xff;
	p[2] = v >> 8 & 0xff;
	p[3] = v & 0xff;
}

static inline void nbd_put64(u8 *p, u64 v)
{
	nbd_put32(p, v >> 32 & 0xffffffff);
	nbd_put32(p + 4, v & 0xffffffff);
}

/* An option as the client sends it; @length bytes of data follow. */
struct nbd_option {
	u32 option;
	u32 length;
};

static inline void nbd_option_put(u8 *p, const struct nbd_option *o)
{
	nbd_put64(p, NBD_OPTS_MAGIC);
	nbd_put32(p + 8, o->option);
	nbd_put32(p + 12, o->length);
}

/* False when the magic is wrong: the stream has lost its place. */
static inline bool nbd_option_get(const u8 *p, struct nbd_option *o)
{
	o->option = nbd_get32(p + 8);
	o->length = nbd_get32(p + 12);
	return nbd_get64(p) == NBD_OPTS_MAGIC;
}

/* A reply to @option; @length bytes of data follow. */
struct nbd_option_reply {
	u32 option;
	u32 type;
	u32 length;
};

static inline void nbd_option_reply_put(u8 *p,
					const struct nbd_option_reply *r)
{
	nbd_put64(p, NBD_REP_MAGIC);
	nbd_put32(p + 8, r->option);
	nbd_put32(p + 12, r->type);
	nbd_put32(p + 16, r->length);
}

static inline bool nbd_option_reply_get(const u8 *p,
					struct nbd_option_reply *r)
{
	r->option = nbd_get32(p + 8);
	r->type = nbd_get32(p + 12);
	r->length = nbd_get32(p + 16);
	return nbd_get64(p) == NBD_REP_MAGIC;
}

/*
 * A request (spec: "Request message"), and its form with extended headers.
 * @cookie comes back unchanged in the reply; @offset and @length are bytes. A
 * WRITE is followed by @length bytes, as is, with extended headers, whatever
 * has NBD_CMD_FLAG_PAYLOAD_LEN. Without them @length has 32 bits.
 */
struct nbd_request {
	u16 flags;
	u16 type;
	u64 cookie;
	u64 offset;
	u64 length;
};

static inline void nbd_request_put(u8 *p, const struct nbd_request *r)
{
	nbd_put32(p, NBD_REQUEST_MAGIC);
	nbd_put16(p + 4, r->flags);
	nbd_put16(p + 6, r->type);
	nbd_put64(p + 8, r->cookie);
	nbd_put64(p + 16, r->offset);
	nbd_put32(p + 24, r->length & 0xffffffff);
}

static inline bool nbd_request_get(const u8 *p, struct nbd_request *r)
{
	r->flags = nbd_get16(p + 4);
	r->type = nbd_get16(p + 6);
	r->cookie = nbd_get64(p + 8);
	r->offset = nbd_get64(p + 16);
	r->length = nbd_get32(p + 24);
	return nbd_get32(p) == NBD_REQUEST_MAGIC;
}

static inline void nbd_extended_request_put(u8 *p, const struct nbd_request *r)
{
	nbd_put32(p, NBD_EXTENDED_REQUEST_MAGIC);
	nbd_put16(p + 4, r->flags);
	nbd_put16(p + 6, r->type);
	nbd_put64(p + 8, r->cookie);
	nbd_put64(p + 16, r->offset);
	nbd_put64(p + 24, r->length);
}

static inline bool nbd_extended_request_get(const u8 *p, struct nbd_request *r)
{
	r->flags = nbd_get16(p + 4);
	r->type = nbd_get16(p + 6);
	r->cookie = nbd_get64(p + 8);
	r->offset = nbd_get64(p + 16);
	r->length = nbd_get64(p + 24);
	return nbd_get32(p) == NBD_EXTENDED_REQUEST_MAGIC;
}

/* A simple reply; a READ without error is followed by the data asked for. */
struct nbd_simple_reply {
	u32 error;
	u64 cookie;
};

static inline void nbd_simple_reply_put(u8 *p,
					const struct nbd_simple_reply *r)
{
	nbd_put32(p, NBD_SIMPLE_REPLY_MAGIC);
	nbd_put32(p + 4, r->error);
	nbd_put64(p + 8, r->cookie);
}

static inline bool nbd_simple_reply_get(const u8 *p,
					struct nbd_simple_reply *r)
{
	r->error = nbd_get32(p + 4);
	r->cookie = nbd_get64(p + 8);
	return nbd_get32(p) == NBD_SIMPLE_REPLY_MAGIC;
}

/*
 * A chunk of a structured reply (spec: "Structured reply chunk message"), and
 * its form with extended headers, which has an @offset too. @length bytes of
 * payload follow.
 */
struct nbd_chunk {
	u16 flags;
	u16 type;
	u64 cookie;
	u64 offset;
	u64 length;
};

/* @c->length must fit in 32 bits; @c->offset is not sent. */
static inline void nbd_chunk_put(u8 *p, const struct nbd_chunk *c)
{
	nbd_put32(p, NBD_STRUCTURED_REPLY_MAGIC);
	nbd_put16(p + 4, c->flags);
	nbd_put16(p + 6, c->type);
	nbd_put64(p + 8, c->cookie);
	nbd_put32(p + 16, c->length & 0xffffffff);
}

static inline bool nbd_chunk_get(const u8 *p, struct nbd_chunk *c)
{
	c->flags = nbd_get16(p + 4);
	c->type = nbd_get16(p + 6);
	c->cookie = nbd_get64(p + 8);
	c->offset = 0;
	c->length = nbd_get32(p + 16);
	return nbd_get32(p) == NBD_STRUCTURED_REPLY_MAGIC;
}

static inline void nbd_extended_reply_put(u8 *p, const struct nbd_chunk *c)
{
	nbd_put32(p, NBD_EXTENDED_REPLY_MAGIC);
	nbd_put16(p + 4, c->flags);
	nbd_put16(p + 6, c->type);
	nbd_put64(p + 8, c->cookie);
	nbd_put64(p + 16, c->offset);
	nbd_put64(p + 24, c->length);
}

static inline bool nbd_extended_reply_get(const u8 *p, struct nbd_chunk *c)
{
	c->flags = nbd_get16(p + 4);
	c->type = nbd_get16(p + 6);
	c->cookie = nbd_get64(p + 8);
	c->offset = nbd_get64(p + 16);
	c->length = nbd_get64(p + 24);
	return nbd_get32(p) == NBD_EXTENDED_REPLY_MAGIC;
}

/*
 * The spec's name of a number, for logs and messages ("NBD_OPT_GO"); a number
 * it does not have gives "unknown". The strings are constants.
 */
const char *nbd_option_name(u32 option);
const char *nbd_reply_name(u32 type);
const char *nbd_command_name(u32 type);
const char *nbd_error_name(u32 error);

#endif /* NBD_WIRE_H */
