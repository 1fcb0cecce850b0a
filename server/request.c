// SPDX-License-Identifier: GPL-2.0
/*
 * request.c - the rules of the transmission phase (spec: "Request types",
 * "Error values", "Block size constraints"), in one place where a fuzzer can
 * reach them.
 */
#include "request.h"

#include <errno.h>

/* Flags a command may carry; FUA besides, wherever the export offers it. */
static u16 allowed_flags(u16 type)
{
	switch (type) {
	case NBD_CMD_WRITE_ZEROES:
		return NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO;
	case NBD_CMD_READ:
		return NBD_CMD_FLAG_DF;
	case NBD_CMD_BLOCK_STATUS:
		return NBD_CMD_FLAG_REQ_ONE;
	case NBD_CMD_WRITE:
		return NBD_CMD_FLAG_PAYLOAD_LEN;
	default:
		return 0;
	}
}

static bool writes(u16 type)
{
	return type == NBD_CMD_WRITE || type == NBD_CMD_TRIM ||
	       type == NBD_CMD_WRITE_ZEROES;
}

static u32 check_flags(const struct nbd_request *r,
		       const struct nego_export *e, enum nego_headers headers,
		       const char **why)
{
	u16 allowed = allowed_flags(r->type);

	if (headers != NEGO_EXTENDED) {
		allowed &= (u16)~NBD_CMD_FLAG_PAYLOAD_LEN;
	} else if (r->type == NBD_CMD_WRITE &&
		   !(r->flags & NBD_CMD_FLAG_PAYLOAD_LEN)) {
		*why = "with extended headers a write must say that its length is its payload's";
		return NBD_EINVAL;
	}
	if (!(e->flags & NBD_FLAG_SEND_DF))
		allowed &= (u16)~NBD_CMD_FLAG_DF;

	/* Spec: with SEND_FUA, FUA is legal on every command. */
	if (e->flags & NBD_FLAG_SEND_FUA)
		allowed |= NBD_CMD_FLAG_FUA;
	if (!(e->flags & NBD_FLAG_SEND_FAST_ZERO))
		allowed &= (u16)~NBD_CMD_FLAG_FAST_ZERO;
	if (r->flags & ~allowed) {
		*why = "a command flag that does not belong to it";
		return NBD_EINVAL;
	}
	return NBD_SUCCESS;
}

static u32 check_offered(const struct nbd_request *r,
			 const struct nego_export *e, bool allocation,
			 const char **why)
{
	u16 need = 0;

	switch (r->type) {
	case NBD_CMD_READ:
	case NBD_CMD_WRITE:
	case NBD_CMD_CACHE:	/* clients exist that send it unadvertised */
		break;
	case NBD_CMD_FLUSH:
		need = NBD_FLAG_SEND_FLUSH;
		break;
	case NBD_CMD_TRIM:
		need = NBD_FLAG_SEND_TRIM;
		break;
	case NBD_CMD_WRITE_ZEROES:
		need = NBD_FLAG_SEND_WRITE_ZEROES;
		break;
	case NBD_CMD_BLOCK_STATUS:
		if (allocation)
			break;
		*why = "base:allocation was not negotiated for this export";
		return NBD_EINVAL;
	default:
		*why = "a command this server does not have";
		return NBD_EINVAL;
	}
	if ((e->flags & need) != need) {
		*why = "a command this export does not offer";
		return NBD_EINVAL;
	}
	return NBD_SUCCESS;
}

u64 request_payload(const struct nbd_request *r, enum nego_headers headers)
{
	if (r->type == NBD_CMD_WRITE ||
	    (headers == NEGO_EXTENDED && r->flags & NBD_CMD_FLAG_PAYLOAD_LEN))
		return r->length;
	return 0;
}

u32 request_check(const struct nbd_request *r, const struct nego_export *e,
		  enum nego_headers headers, bool allocation, const char **why)
{
	u32 error;

	/* A read-only export refuses writes as such, whatever it offers. */
	if (writes(r->type) && e->flags & NBD_FLAG_READ_ONLY) {
		*why = "the export is read-only";
		return NBD_EPERM;
	}
	error = check_offered(r, e, allocation, why);
	if (!error)
		error = check_flags(r, e, headers, why);
	if (error)
		return error;

	if (r->type == NBD_CMD_FLUSH) {
		if (r->offset || r->length) {
			*why = "offset and length of a flush must be 0";
			return NBD_EINVAL;
		}
		return NBD_SUCCESS;
	}
	if (!r->length) {
		*why = "a length of 0";
		return NBD_EINVAL;
	}
	/* Written so that no sum can wrap (CVE-2025-47712). */
	if (r->offset > e->size || r->length > e->size - r->offset) {
		*why = "beyond the end of the export";
		return r->type == NBD_CMD_WRITE ||
		       r->type == NBD_CMD_WRITE_ZEROES ?
		       NBD_ENOSPC : NBD_EINVAL;
	}
	if ((r->type == NBD_CMD_READ || r->type == NBD_CMD_WRITE) &&
	    r->length > e->max_payload) {
		*why = "longer than the maximum payload";
		return NBD_EINVAL;
	}
	return NBD_SUCCESS;
}

u32 request_error(int err)
{
	switch (-err) {
	case 0:
		return NBD_SUCCESS;
	case EPERM:
	case EACCES:
	case EROFS:
		return NBD_EPERM;
	case ENOMEM:
		return NBD_ENOMEM;
	case EINVAL:
		return NBD_EINVAL;
	case ENOSPC:
	case EDQUOT:
	case EFBIG:
		return NBD_ENOSPC;
	case ENOTSUP:
		return NBD_ENOTSUP;
	default:
		return NBD_EIO;
	}
}
