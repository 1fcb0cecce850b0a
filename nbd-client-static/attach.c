// SPDX-License-Identifier: GPL-2.0
/*
 * attach.c - one attempt to attach a device: see attach.h.
 */
#include "sys.h"
#include "attach.h"
#include "intree.h"
#include "paths.h"
#include "resolve.h"
#include "server.h"
#include "text.h"

/* How many of a server's exports an error message names. */
#define MAX_OFFERS 8

/* A target with DHCP's part filled in and its addresses found. */
struct place {
	struct target target;
	char root_path[MAX_FACT];	/* DHCP's; target points into it */
	char root_server[MAX_FACT];
	unsigned int count;
	struct address addresses[CONTROL_SERVERS];
	bool tried;
};

void attach_failed(struct attempt *at, enum status status, int error,
		   const char *fmt, ...)
{
	va_list args;

	at->status = status;
	at->error = error;
	at->hint = NULL;
	va_start(args, fmt);
	at->why[0] = '\0';
	append_args(at->why, MAX_WHY, fmt, args);
	va_end(args);
}

/* The same, and no use to try again. */
static bool hopeless(struct attempt *at, const char *why)
{
	attach_failed(at, STATUS_USAGE, 0, "%s", why);
	at->final = true;
	return false;
}

/* Fill in what DHCP has to say. False with at->why. */
static bool ask_dhcp(struct attempt *at, struct place *p,
		     const struct facts *f)
{
	struct target *t = &p->target;
	static struct said said;
	struct target written;
	unsigned int i;

	if (t->dhcp) {
		if (!f->root_path[0]) {
			attach_failed(at, STATUS_UNREACHABLE, 0,
				      "DHCP has named no root path (%s)",
				      f->dhcp ? "no ROOTPATH in /run/net-*.conf" :
				      "there is no /run/net-*.conf yet");
			at->hint = "set DHCP option 17 (root-path) to server1:1234/export, or write nbdroot=server1:1234 in the boot line";
			return false;
		}
		strcpy(p->root_path, f->root_path);
		memset(&said, 0, sizeof(said));
		if (!target_parse(t, p->root_path +
				  (starts_with(p->root_path, "nbdroot=") ? 8 : 0),
				  "DHCP root path ", &said))
			return hopeless(at, said.error);
		if (t->dhcp)
			return hopeless(at, "DHCP's root path (option 17) names no server");
		/* The boot line's word counts for more. */
		for (i = 0; i < OPTIONS; i++)
			if (!at->option[i])
				at->option[i] = said.option[i];
	}
	if (t->host[0])
		return true;
	if (!f->root_server[0]) {
		attach_failed(at, STATUS_UNREACHABLE, 0, "DHCP has named no root server (no ROOTSERVER in /run/net-*.conf)");
		at->hint = "name the server in nbdroot=, as in nbdroot=server1:1234";
		return false;
	}
	written = *t;
	strcpy(p->root_server, f->root_server);
	said.error[0] = '\0';
	if (!host_parse(t, p->root_server, said.error))
		return hopeless(at, said.error);
	t->port = written.port;
	t->export = written.export;
	return true;
}

static bool zone_exists(const struct address *a)
{
	char path[64];
	uint64_t v;

	if (!a->zone[0] ||
	    parse_number(a->zone, strlen(a->zone), UINT32_MAX, &v))
		return true;
	put(path, sizeof(path), "/sys/class/net/%s", a->zone);
	return !access(path, F_OK);
}

/* Find the addresses of a place. False with at->why. */
static bool locate(struct attempt *at, struct place *p, uint16_t port,
		   const struct facts *f)
{
	char why[512];
	unsigned int i;

	if (!ask_dhcp(at, p, f))
		return false;
	if (p->target.literal) {
		p->addresses[0] = p->target.address;
		p->count = 1;
		if (!zone_exists(p->addresses)) {
			attach_failed(at, STATUS_UNREACHABLE, 0,
				      "there is no network interface %s yet",
				      p->addresses[0].zone);
			return false;
		}
	} else {
		p->count = resolve(p->target.host, f, p->addresses,
				   CONTROL_SERVERS, why, sizeof(why));
		if (!p->count) {
			attach_failed(at, STATUS_UNREACHABLE, 0, "%s: %s",
				      p->target.host, why);
			return false;
		}
	}
	for (i = 0; i < p->count; i++)
		p->addresses[i].port = p->target.port ? p->target.port : port;
	return true;
}

const char *attach_hint(int error)
{
	switch (error) {
	case ECONNREFUSED:
		return "start the NBD server there, or correct the port";
	case ETIMEDOUT:
	case EHOSTUNREACH:
		return "is the server on, its address right, the cable in?";
	case ENETUNREACH:
	case ENETDOWN:
	case EADDRNOTAVAIL:
		return "is the network up, and is there a route to the server?";
	case ECONNRESET:
	case EPIPE:
		return "the server's log says why";
	case EACCES:
		return "allow this station's address in the server's configuration";
	case ENOENT:
		return "add it to the server's configuration, or name another one";
	default:
		return NULL;
	}
}

enum status attach_status(int error)
{
	switch (error) {
	case -1:
		return STATUS_NO_DRIVER;
	case ENOENT:
	case EACCES:
	case EOPNOTSUPP:
		return STATUS_REFUSED;
	case EEXIST:
	case EBUSY:
		return STATUS_BUSY;
	case EINVAL:
	case EPERM:
	case ENOMEM:
	case EINTR:
		return STATUS_FAILED;
	default:
		return STATUS_UNREACHABLE;
	}
}

void append_server(const struct attempt *at, unsigned int i, char *buf,
		   size_t size)
{
	char server[ADDRESS_TEXT];

	address_format(&at->servers[i], server);
	append(buf, size, at->hosts[i][0] ? "%s (%s)" : "%s%s", at->hosts[i],
	       server);
}

/*
 * The server was not reached, so that there is nothing to tell but the errno.
 * One that accepts and then stays silent is timed out as well, but of that the
 * driver has more to say.
 */
static bool is_unreached(int error, const char *text)
{
	switch (error) {
	case ECONNREFUSED:
	case EHOSTUNREACH:
	case ENETUNREACH:
	case ENETDOWN:
	case EADDRNOTAVAIL:
		return true;
	case ETIMEDOUT:
		return !starts_with(text, "connected");
	default:
		return false;
	}
}

/*
 * The driver says "nb0: 192.0.2.1:1234: cause". Here the name that was written
 * is known, and what to do about the common causes at a boot.
 */
static void explain_answer(struct attempt *at, const char *answer)
{
	const char *text = strchr(answer, ':');
	char server[ADDRESS_TEXT];
	unsigned int i;

	for (i = 0; text && i < at->count; i++) {
		address_format(&at->servers[i], server);
		append(server, sizeof(server), ": ");
		if (text[1] != ' ' || !starts_with(text + 2, server))
			continue;
		text += 2 + strlen(server);
		append_server(at, i, at->why, MAX_WHY);
		if (is_unreached(at->error, text)) {
			append(at->why, MAX_WHY, ": %s", error_text(at->error));
			at->hint = attach_hint(at->error);
		} else {
			append(at->why, MAX_WHY, ": %s", text);
			if (at->error != ETIMEDOUT)
				at->hint = attach_hint(at->error);
		}
		return;
	}
	append(at->why, MAX_WHY, "%s", answer);
}

/*
 * Words that the driver does not know are not passed over, if somebody asked
 * for them: a station that was to give up after a minute must not wait for ever.
 */
static bool driver_knows(struct attempt *at)
{
	unsigned int i;

	for (i = 0; i < DRIVER_OPTIONS; i++) {
		if (!at->option[i] || i == OPT_LOST ||
		    (i == OPT_RO && at->option[i][0] == '0') ||
		    control_knows(option_keys[i], true))
			continue;
		attach_failed(at, STATUS_USAGE, 0, "the driver nb that is loaded does not know %s=; leave it out, or load a newer nb.ko",
			      option_keys[i]);
		at->final = true;
		return false;
	}
	return true;
}

/* Give the servers in @at to the driver. */
static bool attach_servers(struct attempt *at, const char *device,
			   const char *export)
{
	static char line[CONTROL_LINE + 1];
	char answer[CONTROL_ANSWER];
	int error;

	at->export = export;
	if (device_is_intree(device))
		return intree_attach(at, device);
	if (!driver_knows(at))
		return false;
	if (!control_attach_line(line, device, at->servers, at->count,
				 at->option, at->boot, export))
		return hopeless(at, "the name of the export is too long for the driver");
	error = control_command(line, answer);
	if (!error) {
		at->status = STATUS_OK;
		return true;
	}
	attach_failed(at, attach_status(error), error, "%s", "");
	explain_answer(at, answer);
	at->final = error < 0 || error == EINVAL || error == EPERM || error == EEXIST;
	return false;
}

static void add_servers(struct attempt *at, const struct place *p)
{
	unsigned int i;

	for (i = 0; i < p->count && at->count < CONTROL_SERVERS; i++) {
		at->hosts[at->count] = p->target.literal ? "" : p->target.host;
		at->servers[at->count++] = p->addresses[i];
	}
}

/*
 * HOST:NUMBER with no default export there: Debian's nbd-client takes the
 * number as the name of an export too, so servers named theirs that way.
 */
static bool attach_by_number(struct attempt *at, const char *device,
			     const struct place *p)
{
	static char name[8];
	static struct attempt other;

	if (at->error != ENOENT || p->target.export[0] || !p->target.port)
		return false;
	other = *at;
	other.count = 0;
	add_servers(&other, p);
	put(name, sizeof(name), "%u", (unsigned int)p->target.port);
	if (!attach_servers(&other, device, name))
		return false;
	*at = other;
	say("warning: %s has no default export; taking its export \"%s\". Write nbdroot=%s:%s/%s to say so",
	    p->target.host, name, p->target.host, name, name);
	return true;
}

/* By what a server knows this station again, where the driver passes it on. */
static void name_station(struct attempt *at, const struct facts *f)
{
	if (!at->option[OPT_STATION] && control_knows("station", false)) {
		if (station_is_word(f->host))
			at->option[OPT_STATION] = f->host;
		else if (f->mac[0])
			at->option[OPT_STATION] = f->mac;
	}
	if (control_knows("boot", false))
		at->boot = f->boot;
}

void attach_try(struct attempt *at, const char *device,
		const struct target *targets, unsigned int count,
		uint16_t port, const char *const option[OPTIONS],
		const struct facts *facts)
{
	static struct place places[MAX_TARGETS];
	unsigned int i, k;
	bool any = false;

	memset(at, 0, sizeof(*at));
	memset(places, 0, sizeof(places));
	memcpy(at->option, option, sizeof(at->option));
	for (i = 0; i < count; i++) {
		places[i].target = targets[i];
		if (locate(at, &places[i], port, facts))
			any = true;
		else if (at->final)
			return;
	}
	if (!any)
		return;
	name_station(at, facts);
	/*
	 * What lies under an overlay is not written to. Before the device is
	 * there, because dracut mounts it as soon as it is, and whoever it is
	 * that attaches it: the person at the console perhaps.
	 */
	if (at->option[OPT_OVERLAY]) {
		if (!at->option[OPT_RO])
			at->option[OPT_RO] = "1";
		if (!write_file(OVERLAY_PATH, at->option[OPT_OVERLAY])) {
			hopeless(at, OVERLAY_PATH " cannot be written");
			return;
		}
	}
	for (i = 0; i < count; i++) {
		struct place *p = &places[i];

		if (p->tried || !p->count)
			continue;
		at->count = 0;
		for (k = i; k < count; k++) {
			if (strcmp(places[k].target.export, p->target.export))
				continue;
			add_servers(at, &places[k]);
			places[k].tried = true;
		}
		if (attach_servers(at, device, p->target.export) ||
		    attach_by_number(at, device, p) || at->final)
			return;
	}
}

struct offers {
	char *buf;
	size_t size;
	unsigned int count;
};

static void add_offer(void *context, const char *name,
		      const char *description)
{
	struct offers *o = context;

	(void)description;
	if (o->count++ < MAX_OFFERS)
		append(o->buf, o->size, "%s%.64s", o->count > 1 ? ", " : "",
		       name[0] ? name : "\"\" (the default export)");
}

static void explain_no_export(const struct attempt *at, char *buf, size_t size)
{
	char offers[MAX_WHY / 2], why[256];
	struct offers o = { .buf = offers, .size = sizeof(offers) };
	unsigned int i;
	bool listed = false;

	for (i = 0; i < at->count && !listed; i++) {
		o.count = 0;
		offers[0] = '\0';
		listed = !server_list(&at->servers[i], add_offer, &o, why,
				       sizeof(why));
	}
	append_server(at, i - 1, buf, size);
	if (at->export[0])
		append(buf, size, ": no export \"%.128s\"", at->export);
	else
		append(buf, size, ": no default export");
	if (!listed)
		append(buf, size, " (and it does not list what it offers: %s)",
		       why);
	else if (!o.count)
		append(buf, size, " (server offers nothing to this address)");
	else
		append(buf, size, " (server offers: %s%s)", offers,
		       o.count > MAX_OFFERS ? ", ..." : "");
}

void attach_explain(const struct attempt *at, char *buf, size_t size)
{
	buf[0] = '\0';
	if (at->error == ENOENT && at->count)
		explain_no_export(at, buf, size);
	else
		append(buf, size, "%s", at->why);
	if (at->hint)
		append(buf, size, "; %s", at->hint);
}

void append_size(char *buf, size_t size, uint64_t sectors)
{
	uint64_t tenths = sectors * 5;		/* of KiB */
	unsigned int unit = 0;

	while (tenths >= 10240 && unit < 3) {
		tenths = (tenths + 512) / 1024;
		unit++;
	}
	append(buf, size, "%llu.%llu %ciB", (unsigned long long)tenths / 10,
	       (unsigned long long)tenths % 10, "KMGT"[unit]);
}

bool attach_state(const char *device, char *buf, size_t size)
{
	return device_fact(device, device_is_intree(device) ? "pid" : "nb/state",
			   buf, size);
}

void attach_report(const struct attempt *at, const char *device)
{
	const char *ahead = at->option[OPT_PREFETCH];
	char line[512], fact[128], server[ADDRESS_TEXT];
	uint64_t sectors;
	unsigned int i;

	put(line, sizeof(line), SYSBLOCK_PATH "/%s/queue/read_ahead_kb",
	    device);
	if (ahead && !write_file(line, ahead))
		say("warning: %s: %s", line, error_text(errno));
	put(line, sizeof(line), "/dev/%s is ", device);
	if (at->export[0])
		append(line, sizeof(line), "\"%.128s\"", at->export);
	else
		append(line, sizeof(line), "the default export");
	if (device_is_intree(device)) {
		append(line, sizeof(line), " on ");
		append_server(at, at->used, line, sizeof(line));
	} else if (device_fact(device, "nb/server", fact, sizeof(fact))) {
		append(line, sizeof(line), " on ");
		for (i = 0; i < at->count; i++) {
			address_format(&at->servers[i], server);
			if (!strcmp(server, fact))
				break;
		}
		if (i < at->count)
			append_server(at, i, line, sizeof(line));
		else
			append(line, sizeof(line), "%s", fact);
	}
	if (device_fact(device, "size", fact, sizeof(fact)) &&
	    parse_number(fact, strlen(fact), UINT64_MAX / 5, &sectors)) {
		append(line, sizeof(line), ", ");
		append_size(line, sizeof(line), sectors);
	}
	if (device_fact(device, "ro", fact, sizeof(fact)) && fact[0] == '1')
		append(line, sizeof(line), ", read-only");
	say("%s", line);
}
