// SPDX-License-Identifier: GPL-2.0
/*
 * main.c - nbd-server from its start to its end.
 *
 * In the background, a child does everything from reading the configuration to
 * listening, with the caller's standard error still open, and then tells the
 * parent that it serves; only then does the parent leave with status 0. So
 * whoever starts it sees every reason for a failure, and a status that is true.
 *
 * The main thread only waits for signals; what happens in the meantime is the
 * engine's.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "args.h"
#include "background.h"
#include "become.h"
#include "check.h"
#include "config.h"
#include "control.h"
#include "engine.h"
#include "export.h"
#include "listen.h"
#include "log.h"
#include "loss.h"
#include "os.h"
#include "overlays.h"
#include "pins.h"
#include "run.h"
#include "session.h"
#include "translog.h"

#ifndef VERSION
#define VERSION "0.1"
#endif

#define WHY	1024

struct server {
	struct args args;
	struct config config;
	struct exports exports;
	struct listeners listeners;
	char *config_path;	/* absolute, for the background; NULL: none */
	char *file;		/* the command line's, absolute; NULL: is already */
	char *pidfile;		/* absolute; NULL: none written */
	char *pins;		/* folder of pins; NULL: none */
	sigset_t signals;	/* that mean something, see wait_for_end() */
	int tell;		/* see background_fork(); -1: in the foreground */
	int single;		/* standard input's connection; 0: none */
};

static bool complain(const char *why)
{
	log_msg(LOG_ERR, "%s", why);
	return false;
}

/* The same, with the line of this field of the configuration. */
static bool complain_at(const struct config *c, const void *field,
			const char *why)
{
	char at[CONFIG_PLACE];

	log_msg(LOG_ERR, "%s%s", config_place(c, field, at, sizeof(at)), why);
	return false;
}

/* -- setting up --------------------------------------------------------- */

static bool add_export(struct server *s, struct export_settings *e)
{
	char why[WHY];

	return exports_add(&s->exports, e, why, sizeof(why)) || complain(why);
}

/*
 * What is to be served: the command line's file, then the configuration's
 * exports, which are taken out of @c. NULL: nothing, and that was logged.
 */
static struct export_settings *wanted(const struct args *a, struct config *c)
{
	struct export_settings *list = NULL, **end = &list, *e;

	if (a->file) {
		e = export_settings_new("", a->file);
		if (!e) {
			complain("out of memory");
			return NULL;
		}
		e->size = a->size;
		e->read_only = a->read_only;
		*end = e;
		end = &e->next;
	}
	*end = c->exports;
	c->exports = NULL;
	for (e = list; e; e = e->next)
		e->read_only |= a->read_only && e->overlay == OVERLAY_NONE;
	if (!list)
		log_msg(LOG_ERR, "%s: no export in it; add a section: [root] and exportname = /srv/root.img",
			a->config);
	return list;
}

static bool open_exports(struct server *s)
{
	struct export_settings *list = wanted(&s->args, &s->config), *e;
	bool ok = list;

	/* Those of the command line were always open to be listed. */
	s->exports.may_list = !s->args.config || s->config.allow_list;
	s->exports.max_per_address = s->config.max_per_address;
	while ((e = list)) {
		list = e->next;
		e->next = NULL;
		if (ok)
			ok = add_export(s, e);
		else
			export_settings_free(e);
	}
	return ok;
}

static bool from_stdin(const struct server *s)
{
	return s->args.port && !strcmp(s->args.port, "0");
}

static bool start_listening(struct server *s)
{
	const char *address = s->config.address, *port = s->config.port;
	const void *at = address ? &s->config.address : &s->config.port;
	char why[WHY];

	if (from_stdin(s)) {
		s->single = listen_stdin(why, sizeof(why));
		return s->single > 0 || complain(why);
	}
	if (!listen_inherited(&s->listeners, why, sizeof(why)))
		return complain(why);
	if (s->listeners.n)
		return true;
	if (s->config.unix_socket) {
		if (!listen_unix(&s->listeners, s->config.unix_socket, why,
				 sizeof(why)))
			return complain_at(&s->config, &s->config.unix_socket,
					   why);
		if (!s->config.dual_listen && !s->args.port)
			return true;
	}
	/* The command line wins. */
	if (s->args.port) {
		port = s->args.port;
		address = s->args.address;
		at = NULL;
	}
	if (!listen_all(&s->listeners, address, port, why, sizeof(why)))
		return at ? complain_at(&s->config, at, why) : complain(why);
	return true;
}

static bool reload(void *ctx, char *why, size_t why_size);

/*
 * The process id goes into a file of its own: one that holds anything but a
 * number is somebody else's, and stays.
 */
static bool write_pidfile(struct server *s)
{
	const char *path = s->args.pidfile;
	char old[32], *end = old;
	ssize_t n;
	int fd;

	if (!path)
		return true;
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK,
		  0644);
	n = fd < 0 ? -1 : read(fd, old, sizeof(old) - 1);
	if (n >= 0) {
		old[n] = '\0';
		(void)strtol(old, &end, 10);
		end += strspn(end, " \n");
		if (n == sizeof(old) - 1 || end != old + n) {
			log_msg(LOG_ERR, "-p %s: holds something else than a process id, so it is not overwritten; name another file, or remove that one",
				path);
			close(fd);
			return false;
		}
		n = ftruncate(fd, 0);
	}
	if (n < 0 || lseek(fd, 0, SEEK_SET) < 0 ||
	    dprintf(fd, "%ld\n", (long)getpid()) < 0) {
		log_msg(LOG_ERR, "-p %s: cannot write the process id there: %s",
			path, strerror(errno));
		if (fd >= 0)
			close(fd);
		return false;
	}
	close(fd);
	/* The background leaves this directory. */
	s->pidfile = realpath(path, NULL);
	return true;
}

/* Another server may have taken the name over since: its file stays. */
static void remove_pidfile(const struct server *s)
{
	FILE *f = s->pidfile ? fopen(s->pidfile, "re") : NULL;
	long pid = 0;

	if (!f)
		return;
	if (fscanf(f, "%ld", &pid) == 1 && pid == (long)getpid())
		unlink(s->pidfile);
	fclose(f);
}

/* As many connections as we may have: a descriptor each. */
static void raise_file_limit(void)
{
	struct rlimit r;

	if (!getrlimit(RLIMIT_NOFILE, &r) && r.rlim_cur < r.rlim_max) {
		r.rlim_cur = r.rlim_max;
		setrlimit(RLIMIT_NOFILE, &r);
	}
}

static bool open_control(struct server *s)
{
	const struct control_settings settings = {
		.path = s->config.control,
		.metrics_port = s->config.metrics_port,
		.exports = &s->exports,
		.reload = reload,
		.ctx = s,
	};
	char why[WHY];

	if (control_open(&settings, why, sizeof(why)))
		return true;
	return complain_at(&s->config, strncmp(why, "metricsport", 11) ?
			   &s->config.control : &s->config.metrics_port, why);
}

/*
 * The background leaves this directory, and the name is looked up again for
 * each station: the image may be replaced. No link in it is followed here, for
 * what it leads to may be replaced too.
 */
static bool make_absolute(struct server *s)
{
	const char *file = s->args.file;
	char *here;
	bool ok;

	if (!file || *file == '/')
		return true;
	here = getcwd(NULL, 0);
	ok = here && asprintf(&s->file, "%s/%s", strcmp(here, "/") ? here : "",
			      file) >= 0;
	free(here);
	if (!ok) {
		s->file = NULL;
		log_msg(LOG_ERR, "%s: cannot tell where this directory is: %s; write it from the root: /srv/root.img",
			file, strerror(errno));
		return false;
	}
	s->args.file = s->file;
	return true;
}

/*
 * Signals wait for wait_for_end(): those that end nothing from the start to the
 * end, as it may take a while to get the images' locks, or to stop. Who reads the
 * pidfile may send the others, too, at once.
 */
static bool hold_signals(struct server *s, bool all)
{
	sigemptyset(&s->signals);
	sigaddset(&s->signals, SIGHUP);
	sigaddset(&s->signals, SIGUSR1);
	sigaddset(&s->signals, SIGUSR2);
	if (all) {
		sigaddset(&s->signals, SIGTERM);
		sigaddset(&s->signals, SIGINT);
	}
	return !sigprocmask(SIG_BLOCK, &s->signals, NULL);
}

/* Whoever asks for this has a machine that may hang without: all or nothing. */
static bool lock_memory(void)
{
	const char *what;
	int err = os_lock_memory(&what);

	if (err)
		log_msg(LOG_ERR, "lockmemory = true: the kernel refuses it (%s: %s); it needs Linux 5.6 and to be root with CAP_SYS_RESOURCE (under systemd: CapabilityBoundingSet=CAP_SYS_RESOURCE), or take the line out",
			what, strerror(err));
	return !err;
}

static bool set_up(struct server *s)
{
	struct nbd_identity server;
	char why[WHY];

	if (!make_absolute(s))
		return false;
	if (s->args.config &&
	    !config_load(&s->config, s->args.config, why, sizeof(why)))
		return complain(why);
	if (!s->args.config)
		s->config.realtime = true;
	else
		s->config_path = realpath(s->args.config, NULL);
	if (s->args.config && !become_folders(&s->config, why, sizeof(why)))
		return complain(why);
	/* While we may, and before there are images and threads. */
	if (s->config.lock_memory && !lock_memory())
		return false;
	/* All exports have the same, and take it from here. */
	if (s->config.exports && s->config.exports->pins)
		s->pins = strdup(s->config.exports->pins);
	/* While we may; a thread becomes it later, as whoever we are then. */
	if (s->config.realtime)
		os_allow_realtime(true);
	if (!open_exports(s) || !start_listening(s) || !open_control(s) ||
	    !hold_signals(s, true) || !write_pidfile(s))
		return false;
	if (!become_user(&s->config, why, sizeof(why)))
		return complain(why);
	/* As whose they are. */
	if (s->pins) {
		session_server(&server);
		loss_keep_in(s->pins, server.boot);
		pins_sweep(s->pins);
	}
	return true;
}

/* -- life --------------------------------------------------------------- */

/* The keys of [generic] that say something else by now and need a restart. */
static void what_waits(const struct server *s, const struct config *new,
		       char *buf, size_t size)
{
	const struct config *c = &s->config;
	const bool ours = !s->args.port;	/* else the command line says it */
	const struct {
		const char *key;
		const char *a, *b;
		bool other;
	} key[] = {
		{ "listenaddr", ours ? c->address : NULL, ours ? new->address : NULL, false },
		{ "port", ours ? c->port : NULL, ours ? new->port : NULL, false },
		{ "unixsock", c->unix_socket, new->unix_socket, false },
		{ "duallisten", NULL, NULL, c->dual_listen != new->dual_listen },
		{ "user", c->user, new->user, false },
		{ "group", c->group, new->group, false },
		{ "controlsock", c->control, new->control, false },
		{ "metricsport", c->metrics_port, new->metrics_port, false },
		{ "max_threads", NULL, NULL, c->workers != new->workers },
		{ "realtime", NULL, NULL, c->realtime != new->realtime },
		{ "lockmemory", NULL, NULL, c->lock_memory != new->lock_memory },
	};
	size_t i, n = 0;

	*buf = '\0';
	for (i = 0; i < sizeof(key) / sizeof(key[0]); i++)
		if (key[i].other ||
		    strcmp(key[i].a ? key[i].a : "", key[i].b ? key[i].b : ""))
			n += (size_t)snprintf(buf + n, size - n, "%s%s",
					      n ? ", " : "", key[i].key);
}

/*
 * The configuration once more: its exports come, change and go; the rest of it
 * holds until a restart. On failure all stays as it is. @why gets the reason,
 * or what was done.
 */
static bool reload_now(struct server *s, char *why, size_t why_size)
{
	struct export_settings *list;
	struct config new;
	char did[200], waits[200];
	bool ok;

	if (!s->config_path) {
		snprintf(why, why_size, "there is no configuration file to read again (-C)");
		return false;
	}
	if (!config_load(&new, s->config_path, why, why_size) ||
	    !become_folders(&new, why, why_size)) {
		config_free(&new);
		return false;
	}
	/* Stations that run have their overlays, pins and losses there. */
	if (strcmp(s->config.state_dir, new.state_dir)) {
		snprintf(why, why_size, "statedir is %s now, and was %s: that takes a restart, before which nothing else of the file is heeded",
			 new.state_dir, s->config.state_dir);
		config_free(&new);
		return false;
	}
	list = wanted(&s->args, &new);
	if (!list)
		snprintf(why, why_size, "%s: no export in it", s->config_path);
	ok = list && exports_reload(&s->exports, list, did, sizeof(did), why,
				    why_size);
	if (ok) {
		translog_reopen();
		s->exports.may_list = new.allow_list;
		s->exports.max_per_address = new.max_per_address;
		what_waits(s, &new, waits, sizeof(waits));
		snprintf(why, why_size, "exports: %s%s%s", did,
			 *waits ? "; changed, but only after a restart: " : "",
			 waits);
	}
	config_free(&new);
	return ok;
}

/* A signal and the control socket may ask at the same time. */
static bool reload(void *ctx, char *why, size_t why_size)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	bool ok;

	pthread_mutex_lock(&lock);
	ok = reload_now(ctx, why, why_size);
	pthread_mutex_unlock(&lock);
	return ok;
}

/*
 * A disk may keep a reload waiting for as long as it likes: SIGTERM is heard
 * all the same. One at a time, and once more if it was asked for meanwhile.
 */
static struct {
	pthread_mutex_t lock;
	bool busy, again;
} hangup = { .lock = PTHREAD_MUTEX_INITIALIZER };

static void *reload_by_signal(void *ctx)
{
	char why[WHY];
	bool ok, more;

	do {
		ok = reload(ctx, why, sizeof(why));
		log_msg(ok ? LOG_NOTICE : LOG_ERR, "SIGHUP: %s%s",
			ok ? "read again: " : "nothing is changed: ", why);
		pthread_mutex_lock(&hangup.lock);
		more = hangup.busy = hangup.again;
		hangup.again = false;
		pthread_mutex_unlock(&hangup.lock);
	} while (more);
	return NULL;
}

static void heed_hangup(struct server *s)
{
	pthread_t thread;
	bool begin;

	pthread_mutex_lock(&hangup.lock);
	begin = !hangup.busy;
	hangup.again = !begin;
	hangup.busy = true;
	pthread_mutex_unlock(&hangup.lock);
	if (!begin)
		return;
	if (pthread_create(&thread, NULL, reload_by_signal, s))
		reload_by_signal(s);
	else
		pthread_detach(thread);
}

/* No reload by signal is under way, after a while at most. */
static bool no_hangup(void)
{
	bool busy;
	int wait;

	for (wait = 0; ; wait++) {
		pthread_mutex_lock(&hangup.lock);
		hangup.again = false;
		busy = hangup.busy;
		pthread_mutex_unlock(&hangup.lock);
		if (!busy || wait == 300)
			return !busy;
		usleep(10000);
	}
}

static void wait_for_end(struct server *s)
{
	int sig;

	for (;;) {
		if (sigwait(&s->signals, &sig))
			continue;
		if (sig == SIGUSR1 || sig == SIGUSR2) {
			log_msg(LOG_NOTICE, "%s: means nothing here; nbd-server status shows what goes on",
				strsignal(sig));
			continue;
		}
		if (sig != SIGHUP)
			break;
		heed_hangup(s);
	}
	log_msg(LOG_NOTICE, "%s: stopping", strsignal(sig));
}

static void impatient(int sig)
{
	(void)sig;
	_exit(1);
}

/* A second one while stopping: leave at once, as kill -9 would. */
static void heed_impatience(void)
{
	sigset_t end;

	signal(SIGTERM, impatient);
	signal(SIGINT, impatient);
	sigemptyset(&end);
	sigaddset(&end, SIGTERM);
	sigaddset(&end, SIGINT);
	sigprocmask(SIG_UNBLOCK, &end, NULL);
}

static void end_myself(void)
{
	kill(getpid(), SIGTERM);
}

/* Threads are at work that look at the exports: these are not to be freed. */
static __attribute__((noreturn)) void leave_as_it_is(struct server *s,
						      int status)
{
	(void)control_stop();
	remove_pidfile(s);
	listen_unlink(&s->listeners);
	_exit(status);
}

static int serve(struct server *s)
{
	const struct engine_settings settings = {
		.listeners = s->listeners.fd,
		.n_listeners = s->listeners.n,
		.exports = &s->exports,
		.workers = s->config.workers,
		.realtime = s->config.realtime,
		.realtime_asked = setting_line(&s->config.lines,
					       offsetof(struct config, realtime)),
		.single = s->single,
		.single_ended = end_myself,
	};
	unsigned int i;
	bool ok, alone;

	if (!engine_start(&settings) || !control_start())
		leave_as_it_is(s, 1);
	for (i = 0; i < s->listeners.n; i++)
		log_msg(LOG_NOTICE, "listening on %s", s->listeners.name[i]);
	/* Serving already, so that the caller's first connection finds it. */
	if (s->tell >= 0 && !background_detach(s->tell))
		leave_as_it_is(s, 1);
	wait_for_end(s);
	heed_impatience();
	alone = no_hangup();
	(void)control_stop();
	engine_stop();
	ok = exports_sync(&s->exports);
	log_msg(LOG_NOTICE, "stopped");
	if (!control_stop() || !alone)
		leave_as_it_is(s, ok ? 0 : 1);
	return ok ? 0 : 1;
}

static bool same_file(int a, int b)
{
	struct stat sa, sb;

	return !fstat(a, &sa) && !fstat(b, &sb) && sa.st_dev == sb.st_dev &&
	       sa.st_ino == sb.st_ino;
}

int main(int argc, char **argv)
{
	static struct server s = { .tell = -1 };
	char why[ARGS_WHY];
	int status = 1;

	if (argc > 1 && control_is_verb(argv[1]))
		return control_client(argc - 1, argv + 1);
	if (argc > 1 && !strcmp(argv[1], "overlays"))
		return overlays_command(argc - 1, argv + 1);
	if (!args_parse(argc, argv, &s.args, why)) {
		log_msg(LOG_ERR, "%s", why);
		return 1;
	}
	switch (s.args.verb) {
	case ARGS_HELP:
		fputs(args_help, stdout);
		return fflush(stdout) ? 1 : 0;
	case ARGS_VERSION:
		puts("nbd-server (nbdroot) " VERSION);
		return fflush(stdout) ? 1 : 0;
	case ARGS_USAGE:
		fputs(args_help, stderr);
		return 1;
	case ARGS_SERVE:
		break;
	}
	log_debug(s.args.debug);
	if (s.args.check) {
		return check(s.args.config) ? 0 : 1;
	}
	(void)hold_signals(&s, false);
	signal(SIGPIPE, SIG_IGN);
	/* Whoever started us may ignore it: then no child's status is kept. */
	signal(SIGCHLD, SIG_DFL);
#ifdef __GLIBC__
	/*
	 * Buffers of requests come and go all the time: without this each is
	 * given back to the kernel and faulted in again page by page.
	 */
	mallopt(M_MMAP_THRESHOLD, 4 << 20);
	mallopt(M_TRIM_THRESHOLD, 16 << 20);
#endif
	raise_file_limit();
	/* Who hands a connection or sockets over waits for this process. */
	if (from_stdin(&s) || listen_inherits())
		s.args.foreground = true;
	/* inetd: what is said there would go to the client. */
	if (from_stdin(&s) && same_file(STDIN_FILENO, STDERR_FILENO)) {
		int null = open("/dev/null", O_WRONLY | O_CLOEXEC);

		log_to_syslog();
		/* By the programs that we run, too. */
		if (null < 0 || dup2(null, STDERR_FILENO) < 0)
			return 1;
		close(null);
	}
	if (!s.args.foreground)
		s.tell = background_fork();
	if (set_up(&s))
		status = serve(&s);
	(void)control_stop();
	remove_pidfile(&s);
	free(s.pidfile);
	free(s.pins);
	free(s.config_path);
	free(s.file);
	listen_close(&s.listeners);
	exports_free(&s.exports);
	config_free(&s.config);
	return status;
}
