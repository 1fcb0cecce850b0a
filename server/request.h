/* SPDX-License-Identifier: GPL-2.0 */
/*
 * request.h - which requests of the transmission phase are right, and which
 * error of the protocol the others get. No I/O, no state.
 */
#ifndef SERVER_REQUEST_H
#define SERVER_REQUEST_H

#include "nego.h"

/* Advertised and held to: the payload of one READ or WRITE, in bytes. */
#define REQUEST_MAX_PAYLOAD	(64U << 20)

/*
 * NBD_SUCCESS when @r may be carried out on @e; else the NBD_E* to answer and
 * in *@why what is wrong with it (a constant). A WRITE that is refused is
 * still followed by its payload. @allocation: base:allocation was negotiated.
 * ->flags of @e have SEND_DF if the client has structured replies.
 */
u32 request_check(const struct nbd_request *r, const struct nego_export *e,
		  enum nego_headers headers, bool allocation,
		  const char **why);

/* How many bytes of payload follow it, whether it is right or not. */
u64 request_payload(const struct nbd_request *r, enum nego_headers headers);

/* The protocol's number of a negative errno; 0 gives NBD_SUCCESS. */
u32 request_error(int err);

#endif
