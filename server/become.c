// SPDX-License-Identifier: GPL-2.0
/*
 * become.c - from root to the user of the configuration, and what has to be that
 * user's before.
 *
 * A folder that this server made, or that systemd made for it, is given away
 * with what is in it. One that the operator made is only looked at: it may be
 * used for other things as well.
 */
#define _GNU_SOURCE
#include "become.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "control.h"
#include "log.h"

/* No errno: it cannot be told. */
#define UNKNOWN	255

/* We are who we shall be, whatever the file says by now. */
static bool became;

struct who {
	const char *user, *name;	/* NULL: none; for messages */
	uid_t uid;
	gid_t gid;
	bool other;	/* than we are */
	bool kept;	/* the state directory was nobody else's until now */
};

/* Has nobody else been able to put anything there? */
static bool is_kept(const struct stat *st)
{
	return S_ISDIR(st->st_mode) && st->st_uid == geteuid() &&
	       !(st->st_mode & 022);
}

static bool find(const struct config *c, struct who *w, char *why,
		 size_t why_size)
{
	struct passwd *pw = c->user ? getpwnam(c->user) : NULL;
	struct group *gr = c->group ? getgrnam(c->group) : NULL;
	char at[CONFIG_PLACE];
	struct stat st;

	if (became) {
		*w = (struct who){ .uid = geteuid(), .gid = getegid() };
		return true;
	}
	if (c->user && !pw) {
		snprintf(why, why_size, "%suser = %s: no such user",
			 config_place(c, &c->user, at, sizeof(at)), c->user);
		return false;
	}
	if (c->group && !gr) {
		snprintf(why, why_size, "%sgroup = %s: no such group",
			 config_place(c, &c->group, at, sizeof(at)), c->group);
		return false;
	}
	w->user = c->user;
	w->name = c->user ? c->user : c->group;
	w->uid = pw ? pw->pw_uid : geteuid();
	w->gid = gr ? gr->gr_gid : pw && w->uid != geteuid() ? pw->pw_gid :
							       getegid();
	w->other = w->uid != geteuid() || w->gid != getegid();
	w->kept = c->state_dir && !stat(c->state_dir, &st) && is_kept(&st);
	return true;
}

static bool become(const struct who *w)
{
	return !setgid(w->gid) &&
	       (!w->user || (!initgroups(w->user, w->gid) && !setuid(w->uid)));
}

bool become_user(const struct config *c, char *why, size_t why_size)
{
	struct who w;

	if (!find(c, &w, why, why_size))
		return false;
	became = true;
	if (!w.other)
		return true;
	control_chown(c->user ? w.uid : (uid_t)-1, w.gid);
	if (become(&w))
		return true;
	snprintf(why, why_size, "cannot become %s%s%s: %s; start as root, or take user and group out of the configuration",
		 c->user ? c->user : "", c->group ? ":" : "",
		 c->group ? c->group : "", strerror(errno));
	return false;
}

/* May @w do that there? 0, or why not; in a process that can become it. */
static int look_as(const struct who *w, const char *path, int mode)
{
	int status;
	pid_t pid;

	if (!w->other)
		return access(path, mode) ? errno : 0;
	pid = fork();
	if (!pid)
		_exit(!become(w) ? UNKNOWN : access(path, mode) ? errno : 0);
	if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
		return UNKNOWN;
	return WEXITSTATUS(status);
}

/* @path without its last part, to be freed. */
static char *parent_of(const char *path)
{
	size_t len = strlen(path);

	while (len > 1 && path[len - 1] == '/')
		len--;
	while (len && path[len - 1] != '/')
		len--;
	return strndup(path, len ? len : 1);
}

/*
 * Is it a name that this server gives, or systemd for it? In a folder that is the
 * user's he gives them, to any folder of root's that is there.
 */
static bool is_ours(const struct config *c, const struct who *w,
		    const char *path)
{
	const char *of_systemd = getenv("STATE_DIRECTORY");
	const size_t len = strlen(c->state_dir);

	if (!strcmp(path, CONFIG_STATE_DIR) ||
	    (of_systemd && !strcmp(path, of_systemd)))
		return true;
	return w->kept && !strncmp(path, c->state_dir, len) &&
	       (!strcmp(path + len, "/overlays") || !strcmp(path + len, "/pins"));
}

/*
 * Of ours, made when the server was to be somebody else? No link: where the user
 * may write already he could have made one that leads to what is root's.
 */
static bool is_to_be_given(const struct config *c, const struct who *w,
			   const char *path)
{
	struct stat st;

	return w->uid != geteuid() && is_ours(c, w, path) &&
	       !lstat(path, &st) && is_kept(&st);
}

/*
 * Into it nobody else has been able to put anything so far. @made: just now, so there
 * is nothing in it, or it has changed places with another.
 */
static bool give_content(int fd, const struct who *w, bool made)
{
	DIR *dir = fdopendir(dup(fd));
	struct dirent *d;
	struct stat st;
	bool ok = dir;

	while (ok && (d = readdir(dir))) {
		if (made)
			ok = !strcmp(d->d_name, ".") || !strcmp(d->d_name, "..");
		else if (!fstatat(fd, d->d_name, &st, AT_SYMLINK_NOFOLLOW) &&
		    S_ISREG(st.st_mode) && st.st_uid == geteuid() &&
		    st.st_nlink == 1 &&
		    fchownat(fd, d->d_name, w->uid, w->gid,
			     AT_SYMLINK_NOFOLLOW))
			ok = false;
	}
	if (dir)
		closedir(dir);
	return ok;
}

/* The folder at @path, if it still is one of ours. */
static void give(const char *path, const struct who *w, bool made)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	struct stat st;

	errno = fd < 0 ? errno : 0;
	if (fd < 0 || fstat(fd, &st) || !is_kept(&st) ||
	    !give_content(fd, w, made) || fchown(fd, w->uid, w->gid))
		log_msg(LOG_WARNING, "%s: cannot be given to %s: %s", path,
			w->name, strerror(errno ? errno : EPERM));
	if (fd >= 0)
		close(fd);
}

#define ADVICE	"; name a directory for what stations write: overlay_dir = /srv/nbdroot/overlays"

static bool cannot_use(const struct who *w, const char *path, int err,
		       char *why, size_t why_size)
{
	snprintf(why, why_size, "%s: cannot be used by %s: %s; give it to that user (chown), with a way there, or name another",
		 path, w->name ? w->name : "this user", strerror(err));
	return false;
}

static bool make(const struct config *c, const struct who *w,
		 const char *path, char *why, size_t why_size)
{
	struct stat st;
	int err;

	if (!mkdir(path, 0700)) {
		if (w->other)
			give(path, w, true);
		return true;
	}
	err = errno;
	if (stat(path, &st) || !S_ISDIR(st.st_mode)) {
		snprintf(why, why_size, "%s: cannot be made: %s" ADVICE, path,
			 strerror(err));
		return false;
	}
	if (is_to_be_given(c, w, path))
		give(path, w, false);
	return true;
}

static bool make_for_use(const struct config *c, const struct who *w,
			 const char *path, char *why, size_t why_size)
{
	int err;

	if (!make(c, w, path, why, why_size))
		return false;
	err = look_as(w, path, R_OK | W_OK | X_OK);
	return !err || err == UNKNOWN ||
	       cannot_use(w, path, err, why, why_size);
}

bool become_folders(struct config *c, char *why, size_t why_size)
{
	struct export_settings *e;
	const char *last = NULL;
	bool keep_pins;
	struct who w;

	if (!find(c, &w, why, why_size))
		return false;
	(void)make(c, &w, c->state_dir, why, why_size);
	/* All exports have the same. */
	keep_pins = c->exports && make_for_use(c, &w, c->exports->pins, why,
					       why_size);
	for (e = c->exports; e; e = e->next) {
		if (!keep_pins) {
			free(e->pins);
			e->pins = NULL;
		}
		if (e->overlay == OVERLAY_NONE ||
		    (last && !strcmp(last, e->overlay_dir)))
			continue;
		last = e->overlay_dir;
		if (!make_for_use(c, &w, last, why, why_size))
			return false;
	}
	return true;
}

/* Under a name that nobody else has. */
int become_try(const char *folder)
{
	char *path;
	int err = 0;

	if (asprintf(&path, "%s/.nbd-server-check.%ld", folder,
		     (long)getpid()) < 0)
		return ENOMEM;
	if (mkdir(path, 0700) || rmdir(path))
		err = errno;
	free(path);
	return err;
}

/* Whatever slashes they end with. */
static bool same_folder(const char *a, const char *b)
{
	size_t la = strlen(a), lb = strlen(b);

	while (la > 1 && a[la - 1] == '/')
		la--;
	while (lb > 1 && b[lb - 1] == '/')
		lb--;
	return la == lb && !memcmp(a, b, la);
}

/* Could @w use it, once the folders of ours are made and given? As look_as(). */
static int look_ahead(const struct config *c, const struct who *w,
		      const char *path, const char *parent)
{
	struct stat st;
	const bool exists = !stat(path, &st);
	const bool given = is_to_be_given(c, w, path);
	char *above;
	int err;

	if (!same_folder(parent, c->state_dir) ||
	    !is_to_be_given(c, w, c->state_dir))
		return exists && !given ?
		       look_as(w, path, R_OK | W_OK | X_OK) :
		       look_as(w, parent, X_OK);
	if (exists && !given && st.st_uid != w->uid)
		return EACCES;
	above = parent_of(c->state_dir);
	err = above ? look_as(w, above, X_OK) : UNKNOWN;
	free(above);
	return err;
}

static bool check_folder(const struct config *c, const struct who *w,
			 const char *path, char *why, size_t why_size)
{
	char *parent = parent_of(path);
	struct stat st;
	int err = 0;
	bool ok;

	if (!parent) {
		snprintf(why, why_size, "out of memory");
		return false;
	}
	if (stat(path, &st))
		err = errno;
	else if (!S_ISDIR(st.st_mode))
		err = ENOTDIR;
	if (err == ENOENT && stat(parent, &st) && errno == ENOENT &&
	    same_folder(parent, c->state_dir)) {
		/* Which is made first. */
		free(parent);
		return check_folder(c, w, c->state_dir, why, why_size);
	}
	if (err == ENOENT)
		err = become_try(parent);
	if (err) {
		snprintf(why, why_size, "%s: cannot be made: %s" ADVICE, path,
			 strerror(err));
		ok = false;
	} else {
		err = look_ahead(c, w, path, parent);
		ok = !err || err == UNKNOWN ||
		     cannot_use(w, path, err, why, why_size);
	}
	free(parent);
	return ok;
}

unsigned int become_check(const struct config *c)
{
	const struct export_settings *e;
	const char *last = NULL;
	unsigned int wrong = 0;
	char why[1024];
	struct who w;

	if (!find(c, &w, why, sizeof(why))) {
		log_msg(LOG_ERR, "%s", why);
		return 1;
	}
	if (w.other && geteuid())
		log_msg(LOG_WARNING, "%s: only root can become it, and tell what it may use",
			w.name);
	for (e = c->exports; e; e = e->next) {
		if (e->overlay == OVERLAY_NONE ||
		    (last && !strcmp(last, e->overlay_dir)))
			continue;
		last = e->overlay_dir;
		if (check_folder(c, &w, last, why, sizeof(why)))
			continue;
		log_msg(LOG_ERR, "%s: %s", e->where, why);
		wrong++;
	}
	if (c->exports &&
	    !check_folder(c, &w, c->exports->pins, why, sizeof(why)))
		log_msg(LOG_WARNING, "%s. Without it a restart forgets which image each station runs from",
			why);
	return wrong;
}
