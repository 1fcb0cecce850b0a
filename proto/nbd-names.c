// SPDX-License-Identifier: GPL-2.0
/*
 * The specification's names of the protocol's numbers, so that
 * logs of the server, the client and the driver speak the same words.
 */
#include "nbd-wire.h"

/*
 * Numbers in one table, names in one string, in the same order: a pointer to each
 * name would cost as much as the name, and a program of 40 KiB carries them. A
 * number fits a byte, the highest bit of an error's reply being that of the byte.
 */
#define BYTE(x)	((u8)(((x) | (x) >> 24) & 0xff))
#define VALUE(x) BYTE(x),
#define TEXT(x)	#x "\0"

#define OPTIONS(X) \
	X(NBD_OPT_EXPORT_NAME) X(NBD_OPT_ABORT) X(NBD_OPT_LIST) \
	X(NBD_OPT_PEEK_EXPORT) X(NBD_OPT_STARTTLS) X(NBD_OPT_INFO) \
	X(NBD_OPT_GO) X(NBD_OPT_STRUCTURED_REPLY) \
	X(NBD_OPT_LIST_META_CONTEXT) X(NBD_OPT_SET_META_CONTEXT) \
	X(NBD_OPT_EXTENDED_HEADERS)

#define REPLIES(X) \
	X(NBD_REP_ACK) X(NBD_REP_SERVER) X(NBD_REP_INFO) \
	X(NBD_REP_META_CONTEXT) X(NBD_REP_ERR_UNSUP) X(NBD_REP_ERR_POLICY) \
	X(NBD_REP_ERR_INVALID) X(NBD_REP_ERR_PLATFORM) \
	X(NBD_REP_ERR_TLS_REQD) X(NBD_REP_ERR_UNKNOWN) \
	X(NBD_REP_ERR_SHUTDOWN) X(NBD_REP_ERR_BLOCK_SIZE_REQD) \
	X(NBD_REP_ERR_TOO_BIG) X(NBD_REP_ERR_EXT_HEADER_REQD)

#define COMMANDS(X) \
	X(NBD_CMD_READ) X(NBD_CMD_WRITE) X(NBD_CMD_DISC) X(NBD_CMD_FLUSH) \
	X(NBD_CMD_TRIM) X(NBD_CMD_CACHE) X(NBD_CMD_WRITE_ZEROES) \
	X(NBD_CMD_BLOCK_STATUS)

#define ERRORS(X) \
	X(NBD_SUCCESS) X(NBD_EPERM) X(NBD_EIO) X(NBD_ENOMEM) X(NBD_EINVAL) \
	X(NBD_ENOSPC) X(NBD_EOVERFLOW) X(NBD_ENOTSUP) X(NBD_ESHUTDOWN)

static const u8 options[] = { OPTIONS(VALUE) };
static const char option_names[] = OPTIONS(TEXT);
static const u8 replies[] = { REPLIES(VALUE) };
static const char reply_names[] = REPLIES(TEXT);
static const u8 commands[] = { COMMANDS(VALUE) };
static const char command_names[] = COMMANDS(TEXT);
static const u8 errors[] = { ERRORS(VALUE) };
static const char error_names[] = ERRORS(TEXT);

static const char *lookup(const u8 *values, size_t count, const char *names,
			  u32 value)
{
	for (; count--; values++) {
		if (*values == BYTE(value) && !(value & 0x7fffff00))
			return names;
		while (*names++)
			;
	}
	return "unknown";
}

const char *nbd_option_name(u32 option)
{
	return lookup(options, sizeof(options), option_names, option);
}

const char *nbd_reply_name(u32 type)
{
	return lookup(replies, sizeof(replies), reply_names, type);
}

const char *nbd_command_name(u32 type)
{
	return lookup(commands, sizeof(commands), command_names, type);
}

const char *nbd_error_name(u32 error)
{
	return lookup(errors, sizeof(errors), error_names, error);
}
