// SPDX-License-Identifier: GPL-2.0
/*
 * loss.c - see loss.h. A list in memory, and for later runs a small file for each
 * file that lost something: "MACHINE-BOOT RUN FORMER-RUN". The word that stations
 * are told must not change within a run, so a run looks for one before itself.
 */
#define _GNU_SOURCE
#include "loss.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "log.h"

#define SUFFIX	".lost"
#define KEY	80
#define RUN	17

struct loss {
	struct loss *next;
	char key[KEY];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct loss *losses;
static char *keep;
static char boot_now[NBD_SESSION_WORD], run_now[RUN];

/* Of a file in this boot of the machine, whatever it is called. */
static bool find_key(int fd, char key[KEY])
{
	struct statx st;

	memset(&st, 0, sizeof(st));
	if (statx(fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS | STATX_BTIME, &st))
		return false;
	if (S_ISBLK(st.stx_mode))
		snprintf(key, KEY, "dev-%x-%x", st.stx_rdev_major,
			 st.stx_rdev_minor);
	else
		snprintf(key, KEY, "%x-%x-%llx-%llx.%x", st.stx_dev_major,
			 st.stx_dev_minor, (unsigned long long)st.stx_ino,
			 (unsigned long long)st.stx_btime.tv_sec,
			 st.stx_btime.tv_nsec);
	return true;
}

/* False: nothing of this boot of the machine. */
static bool read_mark(int dir, const char *name, char run[RUN], char former[RUN])
{
	int fd = openat(dir, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW |
				   O_NONBLOCK);
	char text[160], boot[NBD_SESSION_WORD];
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

	if (fd >= 0)
		close(fd);
	if (n < 0)
		return false;
	text[n] = '\0';
	return sscanf(text, "%64s %16s %16s", boot, run, former) == 3 &&
	       !strcmp(boot, boot_now);
}

static bool find_mark(const char *key, char run[RUN], char former[RUN])
{
	char name[KEY + sizeof(SUFFIX)];
	int dir = keep ? open(keep, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
	bool found;

	snprintf(name, sizeof(name), "%s" SUFFIX, key);
	found = dir >= 0 && read_mark(dir, name, run, former);
	if (dir >= 0)
		close(dir);
	return found;
}

/* Not synced: the end of the machine is told by its next boot. */
static bool write_mark(const char *key)
{
	char run[RUN], former[RUN], *path = NULL, *temp = NULL;
	FILE *f = NULL;
	bool ok;

	if (!find_mark(key, run, former))
		strcpy(run, "-");
	if (asprintf(&path, "%s/%s" SUFFIX, keep, key) < 0)
		path = NULL;
	if (path && asprintf(&temp, "%s.new", path) < 0)
		temp = NULL;
	if (temp)
		f = fopen(temp, "we");
	ok = f && fprintf(f, "%s %s %s\n", boot_now, run_now, run) > 0;
	if (f && fclose(f))
		ok = false;
	ok = ok && !rename(temp, path);
	free(path);
	free(temp);
	return ok;
}

void loss_keep_in(const char *dir, const char *machine_boot)
{
	DIR *d = opendir(dir);
	char run[RUN], former[RUN];
	struct dirent *e;
	uint64_t word;

	if (getrandom(&word, sizeof(word), GRND_NONBLOCK) != sizeof(word))
		word = (uint64_t)time(NULL) << 32 | (uint64_t)getpid();
	pthread_mutex_lock(&lock);
	snprintf(run_now, sizeof(run_now), "%016llx", (unsigned long long)word);
	snprintf(boot_now, sizeof(boot_now), "%s", machine_boot);
	free(keep);
	keep = strcmp(machine_boot, "-") ? strdup(dir) : NULL;
	/* Those of other boots have said all that they had to. */
	while (d && (e = readdir(d)))
		if (strstr(e->d_name, SUFFIX) &&
		    !read_mark(dirfd(d), e->d_name, run, former))
			(void)unlinkat(dirfd(d), e->d_name, 0);
	if (d)
		closedir(d);
	pthread_mutex_unlock(&lock);
}

static struct loss *find(const char *key)
{
	struct loss *l;

	for (l = losses; l && strcmp(l->key, key); l = l->next)
		;
	return l;
}

void loss_note(int fd, const char *path)
{
	bool known = false, kept = false;
	struct loss *l = NULL;
	char key[KEY];
	int err = 0;

	if (find_key(fd, key)) {
		pthread_mutex_lock(&lock);
		known = find(key);
		if (!known)
			l = calloc(1, sizeof(*l));
		if (l) {
			strcpy(l->key, key);
			l->next = losses;
			losses = l;
		}
		if (!known && keep) {
			kept = write_mark(key);
			err = errno;
		}
		pthread_mutex_unlock(&lock);
	}
	if (!known && !l)
		log_msg(LOG_CRIT, "%s: that a sync failed cannot be remembered: out of memory",
			path);
	if (!known && !kept)
		log_msg(LOG_CRIT, "%s: after a restart stations will not be told that a sync failed: %s",
			path, err ? strerror(err) : "there is no folder to note it in (statedir)");
}

bool loss_is_known(int fd)
{
	char key[KEY];
	bool known;

	pthread_mutex_lock(&lock);
	known = losses && find_key(fd, key) && find(key);
	pthread_mutex_unlock(&lock);
	return known;
}

bool loss_any(void)
{
	bool any;

	pthread_mutex_lock(&lock);
	any = losses;
	pthread_mutex_unlock(&lock);
	return any;
}

void loss_rename_boot(int fd, char boot[NBD_SESSION_WORD])
{
	char key[KEY], run[RUN], former[RUN];
	size_t len = strlen(boot);

	pthread_mutex_lock(&lock);
	if (keep && find_key(fd, key) && find_mark(key, run, former)) {
		const char *word = strcmp(run, run_now) ? run : former;

		if (strcmp(word, "-") && len + 1 + strlen(word) < NBD_SESSION_WORD)
			snprintf(boot + len, NBD_SESSION_WORD - len, ".%s", word);
	}
	pthread_mutex_unlock(&lock);
}
