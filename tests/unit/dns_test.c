// SPDX-License-Identifier: GPL-2.0
/*
 * dns_test.c - DNS questions and answers (nbd-client-static/dns.c), the
 * answers being what a nameserver, or somebody who would like to be taken for
 * one, may send.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <cmocka.h>

#include "bytes.h"
#include "dns.h"

#define ID 0x1234

static struct bytes msg;
static struct address found[4];
static unsigned int count;
static uint8_t query[DNS_QUERY];
static size_t query_len;

/* A name on the wire, from "server1.lab"; compression is written by hand. */
static void put_name(const char *name)
{
	while (*name) {
		size_t len = strcspn(name, ".");

		put_be(&msg, len, 1);
		put(&msg, name, len);
		name += len + (name[len] == '.');
	}
	put_be(&msg, 0, 1);
}

static void put_head(uint16_t id, uint16_t flags, uint16_t answers)
{
	msg.len = 0;
	put_be(&msg, id, 2);
	put_be(&msg, flags, 2);
	put_be(&msg, 1, 2);
	put_be(&msg, answers, 2);
	put_be(&msg, 0, 4);
}

static void put_question(const char *name, uint16_t type)
{
	put_name(name);
	put_be(&msg, type, 2);
	put_be(&msg, 1, 2);
}

/* What stands between the owner and the data of a record. */
static void put_record(uint16_t type, uint16_t len)
{
	put_be(&msg, type, 2);
	put_be(&msg, 1, 2);
	put_be(&msg, 300, 4);
	put_be(&msg, len, 2);
}

static void put_a(const char *owner, const char *ip)
{
	if (owner)
		put_name(owner);
	else
		put_be(&msg, 0xc00c, 2);	/* the question's name */
	put_record(DNS_A, 4);
	put(&msg, ip, 4);
}

static enum dns_result ask(const char *name, uint16_t type)
{
	enum dns_result result;
	uint8_t *exact = malloc(msg.len);	/* for ASan's red zones */

	memcpy(exact, msg.b, msg.len);
	query_len = dns_query(query, ID, name, type);
	assert_true(query_len > 0);
	result = dns_answer(exact, msg.len, query, query_len, found, 4, &count);
	free(exact);
	assert_int_equal(count > 0, result == DNS_FOUND);
	return result;
}

static void questions(void **state)
{
	static const uint8_t want[] =
		"\x12\x34\x01\x00\0\1\0\0\0\0\0\0\7server1\3lab\0\0\34\0\1";
	char name[300];

	(void)state;
	assert_int_equal(dns_query(query, ID, "server1.lab", DNS_AAAA),
			 sizeof(want) - 1);
	assert_memory_equal(query, want, sizeof(want) - 1);
	assert_int_equal(dns_query(query, ID, "server1.lab.", DNS_AAAA),
			 sizeof(want) - 1);
	assert_memory_equal(query, want, sizeof(want) - 1);

	assert_int_equal(dns_query(query, ID, "", DNS_A), 0);
	assert_int_equal(dns_query(query, ID, ".", DNS_A), 0);
	assert_int_equal(dns_query(query, ID, "a..b", DNS_A), 0);
	assert_int_equal(dns_query(query, ID, ".a", DNS_A), 0);
	memset(name, 'a', sizeof(name));
	name[64] = '\0';
	assert_int_equal(dns_query(query, ID, name, DNS_A), 0);
	name[63] = '\0';
	assert_int_equal(dns_query(query, ID, name, DNS_A), 12 + 65 + 4);
	/* 253 characters are 255 bytes on the wire, and no more fit. */
	memset(name, 'a', sizeof(name));
	name[63] = name[127] = name[191] = '.';
	name[254] = '\0';
	assert_int_equal(dns_query(query, ID, name, DNS_A), 0);
	name[253] = '\0';
	assert_int_equal(dns_query(query, ID, name, DNS_A), DNS_QUERY);
}

static void plain_answer(void **state)
{
	(void)state;
	put_head(ID, 0x8180, 2);
	put_question("server1.lab", DNS_A);
	put_a(NULL, "\300\0\2\1");
	put_a("SERVER1.Lab", "\300\0\2\2");
	assert_int_equal(ask("server1.lab", DNS_A), DNS_FOUND);
	assert_int_equal(count, 2);
	assert_int_equal(found[0].family, AF_INET);
	assert_memory_equal(found[0].ip, "\300\0\2\1", 4);
	assert_memory_equal(found[1].ip, "\300\0\2\2", 4);
	assert_int_equal(ask("Server1.LAB.", DNS_A), DNS_FOUND);
}

static void ipv6_answer(void **state)
{
	(void)state;
	put_head(ID, 0x8180, 1);
	put_question("server1.lab", DNS_AAAA);
	put_be(&msg, 0xc00c, 2);
	put_record(DNS_AAAA, 16);
	put(&msg, "\x20\1\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\1", 16);
	assert_int_equal(ask("server1.lab", DNS_AAAA), DNS_FOUND);
	assert_int_equal(found[0].family, AF_INET6);
	assert_int_equal(found[0].ip[0], 0x20);
	assert_int_equal(found[0].ip[15], 1);
}

/* Aliases are followed, whatever the order of the records. */
static void aliases(void **state)
{
	(void)state;
	put_head(ID, 0x8180, 3);
	put_question("a", DNS_A);
	put_a("c", "\12\0\0\1");
	put_name("b");
	put_record(5, 3);
	put_name("c");
	put_name("a");
	put_record(5, 3);
	put_name("b");
	assert_int_equal(ask("a", DNS_A), DNS_FOUND);
	assert_memory_equal(found[0].ip, "\12\0\0\1", 4);
}

static void alias_loop(void **state)
{
	(void)state;
	put_head(ID, 0x8180, 2);
	put_question("a", DNS_A);
	put_name("a");
	put_record(5, 3);
	put_name("b");
	put_name("b");
	put_record(5, 3);
	put_name("a");
	assert_int_equal(ask("a", DNS_A), DNS_NO_ADDRESS);
}

static void more_addresses_than_room(void **state)
{
	int i;

	(void)state;
	put_head(ID, 0x8180, 9);
	put_question("a", DNS_A);
	for (i = 0; i < 9; i++)
		put_a(NULL, "\12\0\0\1");
	assert_int_equal(ask("a", DNS_A), DNS_FOUND);
	assert_int_equal(count, 4);
}

static void refusals(void **state)
{
	(void)state;
	put_head(ID, 0x8183, 0);
	put_question("a", DNS_A);
	assert_int_equal(ask("a", DNS_A), DNS_NO_NAME);
	put_head(ID, 0x8182, 0);
	put_question("a", DNS_A);
	assert_int_equal(ask("a", DNS_A), DNS_REFUSED);
	put_head(ID, 0x8185, 0);
	msg.len = 12;
	msg.b[5] = 0;
	assert_int_equal(ask("a", DNS_A), DNS_REFUSED);
	put_head(ID, 0x8180, 0);
	put_question("a", DNS_A);
	assert_int_equal(ask("a", DNS_A), DNS_NO_ADDRESS);
}

/* Not an answer to what was asked: as if it had never come. */
static void strays(void **state)
{
	size_t len;

	(void)state;
	put_head(ID + 1, 0x8180, 1);		/* another id */
	put_question("a", DNS_A);
	put_a(NULL, "\12\0\0\1");
	assert_int_equal(ask("a", DNS_A), DNS_STRAY);
	put_head(ID, 0x0180, 1);		/* a question */
	put_question("a", DNS_A);
	put_a(NULL, "\12\0\0\1");
	assert_int_equal(ask("a", DNS_A), DNS_STRAY);
	put_head(ID, 0xa980, 1);		/* an update */
	put_question("a", DNS_A);
	put_a(NULL, "\12\0\0\1");
	assert_int_equal(ask("a", DNS_A), DNS_STRAY);
	put_head(ID, 0x8180, 1);		/* another name */
	put_question("b", DNS_A);
	put_a(NULL, "\12\0\0\1");
	assert_int_equal(ask("a", DNS_A), DNS_STRAY);
	put_head(ID, 0x8180, 1);		/* another type */
	put_question("a", DNS_AAAA);
	put_a(NULL, "\12\0\0\1");
	assert_int_equal(ask("a", DNS_A), DNS_STRAY);
	put_head(ID, 0x8180, 1);		/* more questions */
	put_question("a", DNS_A);
	put_a(NULL, "\12\0\0\1");
	msg.b[5] = 2;
	assert_int_equal(ask("a", DNS_A), DNS_STRAY);
	put_head(ID, 0x8183, 0);		/* "no such name", no question */
	msg.b[5] = 0;
	put_be(&msg, 0, 1);
	assert_int_equal(ask("a", DNS_A), DNS_STRAY);

	/* Cut anywhere before its first record it is no answer either. */
	put_head(ID, 0x8180, 1);
	put_question("server1.lab", DNS_A);
	for (len = msg.len; len--;) {
		msg.len = len;
		assert_int_equal(ask("server1.lab", DNS_A), DNS_STRAY);
	}
}

/* Records of others, among them a glue record that looks tempting. */
static void other_owners_are_ignored(void **state)
{
	(void)state;
	put_head(ID, 0x8180, 3);
	put_question("a", DNS_A);
	put_a("b", "\12\0\0\1");
	put_a("a.b", "\12\0\0\2");
	put_a("", "\12\0\0\3");
	assert_int_equal(ask("a", DNS_A), DNS_NO_ADDRESS);
}

static void cut_records(void **state)
{
	size_t len, start;

	(void)state;
	put_head(ID, 0x8180, 1);
	put_question("a", DNS_A);
	start = msg.len;
	put_a(NULL, "\12\0\0\1");
	for (len = msg.len - 1; len >= start; len--) {
		msg.len = len;
		assert_int_equal(ask("a", DNS_A), DNS_BROKEN);
	}
}

static void wrong_data_lengths(void **state)
{
	static const uint16_t lens[] = { 0, 3, 5, 16, 1000, 65535 };
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(lens) / sizeof(lens[0]); i++) {
		put_head(ID, 0x8180, 1);
		put_question("a", DNS_A);
		put_be(&msg, 0xc00c, 2);
		put_record(DNS_A, lens[i]);
		put_fill(&msg, 1, 20);
		assert_int_equal(ask("a", DNS_A), DNS_BROKEN);
	}
}

/* An answer whose owner is @name, at a known offset: 19 for question "a". */
static enum dns_result with_owner(const void *name, size_t len)
{
	put_head(ID, 0x8180, 1);
	put_question("a", DNS_A);
	assert_int_equal(msg.len, 19);
	put(&msg, name, len);
	put_record(DNS_A, 4);
	put_be(&msg, 0x0a000001, 4);
	return ask("a", DNS_A);
}

static void compression(void **state)
{
	(void)state;
	assert_int_equal(with_owner("\xc0\x0c", 2), DNS_FOUND);
	/* to itself, forwards, beyond the end, into the middle of nowhere */
	assert_int_equal(with_owner("\xc0\x13", 2), DNS_BROKEN);
	assert_int_equal(with_owner("\xc0\x15", 2), DNS_BROKEN);
	assert_int_equal(with_owner("\xff\xff", 2), DNS_BROKEN);
	/* a label, then back to that label: for ever */
	assert_int_equal(with_owner("\1x\xc0\x13", 4), DNS_BROKEN);
	/* two pointers that chase each other */
	assert_int_equal(with_owner("\xc0\x15\xc0\x13", 4), DNS_BROKEN);
	/* label types that do not exist */
	assert_int_equal(with_owner("\x40\0", 2), DNS_BROKEN);
	assert_int_equal(with_owner("\x80\0", 2), DNS_BROKEN);
	/* into the head of the message, which reads as an endless name */
	assert_int_not_equal(with_owner("\xc0\0", 2), DNS_FOUND);
}

/* Names that grow beyond 255 bytes through pointers. */
static void name_too_long(void **state)
{
	char labels[6 * 64 + 2];
	int i;

	(void)state;
	for (i = 0; i < 6; i++) {
		labels[i * 64] = 63;
		memset(labels + i * 64 + 1, 'x', 63);
	}
	labels[6 * 64] = 0;
	assert_int_equal(with_owner(labels, sizeof(labels) - 1), DNS_BROKEN);
	/* exactly 255 bytes are a name, though not ours */
	labels[3 * 64] = 61;
	labels[3 * 64 + 62] = 0;
	assert_int_equal(with_owner(labels, 255), DNS_NO_ADDRESS);
	labels[3 * 64] = 62;
	labels[3 * 64 + 63] = 0;
	assert_int_equal(with_owner(labels, 256), DNS_BROKEN);
}

/* 65535 answers are promised, few are there. */
static void promised_records(void **state)
{
	(void)state;
	put_head(ID, 0x8180, 0xffff);
	put_question("a", DNS_A);
	put_a(NULL, "\12\0\0\1");
	assert_int_equal(ask("a", DNS_A), DNS_BROKEN);
}

static void broken_alias(void **state)
{
	(void)state;
	put_head(ID, 0x8180, 1);
	put_question("a", DNS_A);
	put_be(&msg, 0xc00c, 2);
	put_record(5, 2);		/* its name is longer than its data */
	put_name("bcd");
	assert_int_equal(ask("a", DNS_A), DNS_BROKEN);
	put_head(ID, 0x8180, 1);
	put_question("a", DNS_A);
	put_be(&msg, 0xc00c, 2);
	put_record(5, 6);		/* and shorter */
	put_name("b");
	put_fill(&msg, 0, 3);
	assert_int_equal(ask("a", DNS_A), DNS_BROKEN);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(questions),
		cmocka_unit_test(plain_answer),
		cmocka_unit_test(ipv6_answer),
		cmocka_unit_test(aliases),
		cmocka_unit_test(alias_loop),
		cmocka_unit_test(more_addresses_than_room),
		cmocka_unit_test(refusals),
		cmocka_unit_test(strays),
		cmocka_unit_test(other_owners_are_ignored),
		cmocka_unit_test(cut_records),
		cmocka_unit_test(wrong_data_lengths),
		cmocka_unit_test(compression),
		cmocka_unit_test(name_too_long),
		cmocka_unit_test(promised_records),
		cmocka_unit_test(broken_alias),
	};

	return cmocka_run_group_tests_name("dns", tests, NULL, NULL);
}
