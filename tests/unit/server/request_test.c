// SPDX-License-Identifier: GPL-2.0
/*
 * request_test.c - which requests are right, and the memory budget.
 */
#include "unit.h"

#include <errno.h>

#include "budget.h"
#include "request.h"

#define SIZE	(1ULL << 30)
#define ALL	(NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA | \
		 NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_WRITE_ZEROES | \
		 NBD_FLAG_SEND_FAST_ZERO)

static struct nego_export export_of(u64 size, u16 flags)
{
	return (struct nego_export){
		.name = "", .size = size, .flags = flags,
		.max_payload = REQUEST_MAX_PAYLOAD,
	};
}

static u32 check(const struct nego_export *e, u16 type, u64 offset, u32 length,
		 u16 flags)
{
	const struct nbd_request r = {
		.type = type, .offset = offset, .length = length,
		.flags = flags,
	};
	const char *why = NULL;
	u32 error = request_check(&r, e, NEGO_SIMPLE, false, &why);

	/* A refusal says why. */
	assert_int_equal(error != 0, why != NULL);
	return error;
}

static void ranges(void **state)
{
	const struct nego_export e = export_of(SIZE, ALL);
	static const u16 types[] = {
		NBD_CMD_READ, NBD_CMD_WRITE, NBD_CMD_TRIM, NBD_CMD_CACHE,
		NBD_CMD_WRITE_ZEROES,
	};
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
		u16 t = types[i];
		u32 beyond = t == NBD_CMD_WRITE || t == NBD_CMD_WRITE_ZEROES ?
			     NBD_ENOSPC : NBD_EINVAL;

		assert_int_equal(check(&e, t, 0, 1, 0), 0);
		assert_int_equal(check(&e, t, SIZE - 1, 1, 0), 0);
		assert_int_equal(check(&e, t, 0, 0, 0), NBD_EINVAL);
		assert_int_equal(check(&e, t, SIZE, 1, 0), beyond);
		assert_int_equal(check(&e, t, SIZE - 1, 2, 0), beyond);
		assert_int_equal(check(&e, t, UINT64_MAX, 1, 0), beyond);
		assert_int_equal(check(&e, t, UINT64_MAX, UINT32_MAX, 0),
				 beyond);
		assert_int_equal(check(&e, t, 0 - (u64)UINT32_MAX, UINT32_MAX,
				       0), beyond);
		assert_int_equal(check(&e, t, 1ULL << 63, 1, 0), beyond);
	}
}

static void payloads(void **state)
{
	const struct nego_export e = export_of(NBD_MAX_EXPORT_SIZE, ALL);
	const u32 max = REQUEST_MAX_PAYLOAD;

	(void)state;
	assert_int_equal(check(&e, NBD_CMD_READ, 0, max, 0), 0);
	assert_int_equal(check(&e, NBD_CMD_READ, 0, max + 1, 0), NBD_EINVAL);
	assert_int_equal(check(&e, NBD_CMD_WRITE, 0, max, 0), 0);
	assert_int_equal(check(&e, NBD_CMD_WRITE, 0, max + 1, 0), NBD_EINVAL);
	assert_int_equal(check(&e, NBD_CMD_WRITE_ZEROES, 0, UINT32_MAX, 0), 0);
	assert_int_equal(check(&e, NBD_CMD_TRIM, 0, UINT32_MAX, 0), 0);
	assert_int_equal(check(&e, NBD_CMD_READ, NBD_MAX_EXPORT_SIZE - 1, 1, 0),
			 0);
	assert_int_equal(check(&e, NBD_CMD_READ, NBD_MAX_EXPORT_SIZE, 1, 0),
			 NBD_EINVAL);
}

static void flags(void **state)
{
	const struct nego_export e = export_of(SIZE, ALL);
	const struct nego_export plain = export_of(SIZE, NBD_FLAG_HAS_FLAGS);
	u32 bit;

	(void)state;
	for (bit = 0; bit < 16; bit++) {
		u16 f = (u16)(1U << bit);
		bool fua = f == NBD_CMD_FLAG_FUA;
		bool zero = fua || f == NBD_CMD_FLAG_NO_HOLE ||
			    f == NBD_CMD_FLAG_FAST_ZERO;

		assert_int_equal(check(&e, NBD_CMD_READ, 0, 1, f),
				 fua ? 0 : NBD_EINVAL);
		assert_int_equal(check(&e, NBD_CMD_WRITE, 0, 1, f),
				 fua ? 0 : NBD_EINVAL);
		assert_int_equal(check(&e, NBD_CMD_FLUSH, 0, 0, f),
				 fua ? 0 : NBD_EINVAL);
		assert_int_equal(check(&e, NBD_CMD_WRITE_ZEROES, 0, 1, f),
				 zero ? 0 : NBD_EINVAL);
		assert_int_equal(check(&plain, NBD_CMD_WRITE, 0, 1, f),
				 NBD_EINVAL);
	}
}

static void offers(void **state)
{
	const struct nego_export e = export_of(SIZE, NBD_FLAG_HAS_FLAGS);
	u32 type;

	(void)state;
	assert_int_equal(check(&e, NBD_CMD_FLUSH, 0, 0, 0), NBD_EINVAL);
	assert_int_equal(check(&e, NBD_CMD_TRIM, 0, 1, 0), NBD_EINVAL);
	assert_int_equal(check(&e, NBD_CMD_WRITE_ZEROES, 0, 1, 0), NBD_EINVAL);
	assert_int_equal(check(&e, NBD_CMD_READ, 0, 1, 0), 0);
	assert_int_equal(check(&e, NBD_CMD_CACHE, 0, 1, 0), 0);
	for (type = NBD_CMD_BLOCK_STATUS; type <= 0xffff; type++)
		assert_int_equal(check(&e, (u16)type, 0, 1, 0), NBD_EINVAL);
}

static void read_only(void **state)
{
	const struct nego_export e =
		export_of(SIZE, NBD_FLAG_HAS_FLAGS | NBD_FLAG_READ_ONLY |
			  NBD_FLAG_SEND_FLUSH);

	(void)state;
	assert_int_equal(check(&e, NBD_CMD_WRITE, 0, 1, 0), NBD_EPERM);
	assert_int_equal(check(&e, NBD_CMD_WRITE, SIZE, 0, 0xffff), NBD_EPERM);
	assert_int_equal(check(&e, NBD_CMD_TRIM, 0, 1, 0), NBD_EPERM);
	assert_int_equal(check(&e, NBD_CMD_WRITE_ZEROES, 0, 1, 0), NBD_EPERM);
	assert_int_equal(check(&e, NBD_CMD_FLUSH, 0, 0, 0), 0);
	assert_int_equal(check(&e, NBD_CMD_READ, 0, 1, 0), 0);
}

static void errors(void **state)
{
	(void)state;
	assert_int_equal(request_error(0), NBD_SUCCESS);
	assert_int_equal(request_error(-EIO), NBD_EIO);
	assert_int_equal(request_error(-ENOSPC), NBD_ENOSPC);
	assert_int_equal(request_error(-EDQUOT), NBD_ENOSPC);
	assert_int_equal(request_error(-EFBIG), NBD_ENOSPC);
	assert_int_equal(request_error(-ENOTSUP), NBD_ENOTSUP);
	assert_int_equal(request_error(-EROFS), NBD_EPERM);
	assert_int_equal(request_error(-ENOMEM), NBD_ENOMEM);
	assert_int_equal(request_error(-EBADF), NBD_EIO);
}

static void budget(void **state)
{
	const size_t mib = 1 << 20;

	(void)state;
	budget_init(64 * mib);
	/* One connection: its maximum, and not more. */
	assert_true(budget_take(0, 33 * mib));
	assert_false(budget_take(33 * mib, 1));
	/* A second one: what is left of the total ... */
	assert_false(budget_take(0, 33 * mib));
	assert_true(budget_take(0, 31 * mib));
	/* ... which is nothing; but a little is everybody's right. */
	assert_false(budget_take(0, 3 * mib));
	assert_true(budget_pressed());
	assert_true(budget_take(0, BUDGET_FREE / 2));
	assert_true(budget_take(BUDGET_FREE / 2, BUDGET_FREE / 2));
	assert_false(budget_take(BUDGET_FREE, 1));
	budget_give(64 * mib + BUDGET_FREE);
	assert_false(budget_pressed());
	assert_true(budget_take(0, 33 * mib));
	/* What a reply takes counts, though nobody is asked. */
	budget_add(30 * mib);
	assert_true(budget_pressed());
	assert_false(budget_take(0, 2 * mib));
	budget_give(63 * mib);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(ranges),
		cmocka_unit_test(payloads),
		cmocka_unit_test(flags),
		cmocka_unit_test(offers),
		cmocka_unit_test(read_only),
		cmocka_unit_test(errors),
		cmocka_unit_test(budget),
	};

	return cmocka_run_group_tests_name("server request", tests, NULL, NULL);
}
