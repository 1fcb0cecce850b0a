// SPDX-License-Identifier: GPL-2.0
/*
 * facts.c - what the network told this machine: see facts.h.
 */
#include "sys.h"
#include "facts.h"
#include "paths.h"
#include "text.h"

#define MAX_FILE 8192
#define MAX_CONF 16	/* files of leases */
#define BOOT_ID 36	/* length of /proc/sys/kernel/random/boot_id */
#define MAC 17

static void add_nameserver(struct facts *f, const char *text)
{
	struct address a;
	unsigned int i;

	if (f->nameservers == MAX_NAMESERVERS ||
	    !address_parse(text, strlen(text), &a))
		return;
	/* klibc's ipconfig writes 0.0.0.0 for "none" */
	if (a.family == AF_INET && !memcmp(a.ip, "\0\0\0\0", 4))
		return;
	for (i = 0; i < f->nameservers; i++)
		if (f->nameserver[i].family == a.family &&
		    !memcmp(f->nameserver[i].ip, a.ip, sizeof(a.ip)))
			return;
	a.port = DNS_PORT;
	f->nameserver[f->nameservers++] = a;
}

static void add_searches(struct facts *f, char *text)
{
	char *word;
	unsigned int i;

	while ((word = next_word(&text))) {
		if (strlen(word) >= MAX_FACT || !strcmp(word, "."))
			continue;
		for (i = 0; i < f->searches; i++)
			if (same_name(f->search[i], word))
				break;
		if (i == f->searches && i < MAX_SEARCH)
			strcpy(f->search[f->searches++], word);
	}
}

/* resolv.conf(5) */
void facts_add_resolv(struct facts *f, char *text)
{
	char *line, *word;

	while ((line = next_line(&text))) {
		line[strcspn(line, "#;")] = '\0';
		word = next_word(&line);
		if (!word)
			continue;
		if (!strcmp(word, "nameserver")) {
			word = next_word(&line);
			if (word)
				add_nameserver(f, word);
		} else if (!strcmp(word, "search") ||
			   !strcmp(word, "domain")) {
			add_searches(f, line);
		}
	}
}

/*
 * Undo a shell word's quotes in place, as far as ipconfig writes them:
 * 'a'\''b' is a'b.
 */
static void unquote(char *s)
{
	char *d = s, quote = '\0';

	for (; *s; s++) {
		if (quote ? *s == quote : *s == '\'' || *s == '"')
			quote = quote ? '\0' : *s;
		else if (*s == '\\' && quote != '\'' && s[1])
			*d++ = *++s;
		else
			*d++ = *s;
	}
	*d = '\0';
}

/* The first interface that knows a fact is believed. */
static void set_fact(char fact[MAX_FACT], const char *value)
{
	if (!fact[0] && strlen(value) < MAX_FACT)
		strcpy(fact, value);
}

/* What a key means: a letter of packed_find()'s value. */
enum meaning {
	NAMESERVERS = 'n', SEARCH = 's', ROOT_PATH = 'p', ROOT_SERVER = 'r',
	DHCP_SERVER = 'd', HOST = 'h',
};

static const char keys[] =
	/* klibc's ipconfig, and our own scripts */
	"IPV4DNS0 n\0" "IPV4DNS1 n\0" "DNSDOMAIN s\0" "DOMAINSEARCH s\0"
	"ROOTPATH p\0" "ROOTSERVER r\0" "HOSTNAME h\0"
	/* systemd-networkd (and HOSTNAME) */
	"DNS n\0" "DOMAINNAME s\0" "DOMAIN_SEARCH_LIST s\0" "ROOT_PATH p\0"
	"NEXT_SERVER r\0" "SERVER_ADDRESS d\0"
	/* udhcpc's variables */
	"dns n\0" "domain s\0" "search s\0" "rootpath p\0" "siaddr r\0"
	"serverid d\0" "hostname h\0"
	/* dhclient's, without their "new_" */
	"domain_name_servers n\0" "domain_name s\0" "domain_search s\0"
	"root_path p\0" "next_server r\0" "dhcp_server_identifier d\0"
	"host_name h\0";

static void add_fact(struct facts *f, enum meaning meaning, char *value)
{
	char *word;

	switch (meaning) {
	case NAMESERVERS:
		while ((word = next_word(&value)))
			add_nameserver(f, word);
		break;
	case SEARCH:
		add_searches(f, value);
		break;
	case ROOT_PATH:
		set_fact(f->root_path, value);
		break;
	case HOST:
		set_fact(f->host, value);
		break;
	default:
		if (strcmp(value, "0.0.0.0"))
			set_fact(meaning == ROOT_SERVER ? f->root_server :
				 f->dhcp_server, value);
	}
}

void facts_add_netconf(struct facts *f, char *text)
{
	const char *meaning;
	char *line, *value;

	f->dhcp = true;
	while ((line = next_line(&text))) {
		value = strchr(line, '=');
		if (!value)
			continue;
		*value++ = '\0';
		unquote(value);
		if (starts_with(line, "new_"))
			line += 4;
		meaning = packed_find(keys, line);
		if (meaning)
			add_fact(f, (enum meaning)*meaning, value);
	}
}

static void load_station(struct facts *f)
{
	char name[FILE_NAME], path[128], value[64];

	name[0] = '\0';
	if (read_line(BOOT_ID_PATH, f->boot, sizeof(f->boot)) != BOOT_ID)
		f->boot[0] = '\0';
	/* The card with a cable; the first one if several have one. */
	while (!f->mac[0] && next_file(NET_PATH, "", "", name)) {
		if (!strcmp(name, "lo"))
			continue;
		put(path, sizeof(path), NET_PATH "/%s/carrier", name);
		if (read_line(path, value, sizeof(value)) < 0 ||
		    strcmp(value, "1"))
			continue;
		put(path, sizeof(path), NET_PATH "/%s/address", name);
		if (read_line(path, f->mac, sizeof(f->mac)) != MAC)
			f->mac[0] = '\0';
	}
}

void facts_load(struct facts *f)
{
	/* Where files of leases are, and whose they are. */
	static const struct { const char *dir, *prefix, *suffix; } places[] = {
		{ RUN_PATH, "net-", ".conf" },		/* ipconfig */
		{ RUN_PATH "/systemd/netif/leases", "", "" },
		{ RUN_PATH, "udhcpc", "" },		/* "set >" in its script */
	};
	static char text[MAX_FILE];
	char name[FILE_NAME], path[128];
	size_t i;
	int left = MAX_CONF;

	memset(f, 0, sizeof(*f));
	if (read_file(RESOLV_PATH, text, sizeof(text)) > 0)
		facts_add_resolv(f, text);
	for (i = 0; i < ARRAY_SIZE(places); i++) {
		name[0] = '\0';
		while (left-- > 0 && next_file(places[i].dir, places[i].prefix,
					       places[i].suffix, name)) {
			put(path, sizeof(path), "%s/%s", places[i].dir, name);
			if (read_file(path, text, sizeof(text)) > 0)
				facts_add_netconf(f, text);
		}
	}
	if (!f->root_server[0])
		strcpy(f->root_server, f->dhcp_server);
	load_station(f);
}
