// SPDX-License-Identifier: GPL-2.0
/*
 * The file /dev/nb-control: one write is one command, the answer is read from
 * the same open file.
 *
 *	attach dev=nb0 server=192.0.2.1:1234 export=root lost=wait
 *	detach dev=nb0
 *
 * Words are separated by single spaces; a byte that a word cannot hold is
 * written as \ooo. A write returns when the command is carried out, or fails
 * with an errno; either way a read then gives one line for people. A read on
 * a fresh open tells what can be written.
 */

#include <linux/capability.h>
#include <linux/module.h>
#include <linux/fs.h>
#include <linux/inet.h>
#include <linux/miscdevice.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "nb.h"

static const char nb_help[] =
	"nb " NB_VERSION "\n"
	"attach dev=nbN server=ADDRESS:PORT [server=...] [export=NAME] [conns=N]\n"
	"       [lost=wait|SECONDS] [timeout=SECONDS] [hold=SECONDS] [ro=1] [station=WORD] [boot=WORD]\n"
	"detach dev=nbN [force=1]\n";

/* An open /dev/nb-control. */
struct nb_control {
	struct mutex lock;	/* one command at a time */
	char why[NB_TEXT + 1];	/* the last command's answer, with newline */
	loff_t read;		/* bytes of it that were read */
};

static int nb_control_open(struct inode *inode, struct file *file)
{
	struct nb_control *ctl;

	/* The mode keeps others out, but not root of a container. */
	if (!capable(CAP_SYS_ADMIN))
		return -EPERM;
	ctl = kzalloc(sizeof(*ctl), GFP_KERNEL);
	if (!ctl)
		return -ENOMEM;
	mutex_init(&ctl->lock);
	file->private_data = ctl;
	return stream_open(inode, file);
}

static int nb_control_release(struct inode *inode, struct file *file)
{
	kfree(file->private_data);
	return 0;
}

static ssize_t nb_control_read(struct file *file, char __user *buf,
			       size_t size, loff_t *pos)
{
	struct nb_control *ctl = file->private_data;
	const char *text;
	ssize_t ret;

	mutex_lock(&ctl->lock);
	text = ctl->why[0] ? ctl->why : nb_help;
	ret = simple_read_from_buffer(buf, size, &ctl->read, text,
				      strlen(text));
	mutex_unlock(&ctl->lock);
	return ret;
}

/* Turn \ooo into bytes, in place. The new length, or -EINVAL. */
static ssize_t nb_unescape(char *s)
{
	char *from = s, *to = s;

	while (*from) {
		unsigned int v = 0;
		int i;

		if (*from != '\\') {
			*to++ = *from++;
			continue;
		}
		from++;
		for (i = 0; i < 3; i++, from++) {
			if (*from < '0' || *from > '7')
				return -EINVAL;
			v = v * 8 + (*from - '0');
		}
		if (v > 0xff || !v)
			return -EINVAL;
		*to++ = v;
	}
	*to = '\0';
	return to - s;
}

/* "nb7" gives 7; anything else -EINVAL. */
static int nb_parse_dev(const char *s)
{
	unsigned int index;

	if (strncmp(s, NB_NAME, strlen(NB_NAME)))
		return -EINVAL;
	s += strlen(NB_NAME);
	/* kstrtouint would let "+7" and "007" through. */
	if (*s < '0' || *s > '9' || (*s == '0' && s[1]))
		return -EINVAL;
	if (kstrtouint(s, 10, &index) || index > NB_MAX_INDEX)
		return -EINVAL;
	return index;
}

/* "192.0.2.1:1234", "[2001:db8::1]:1234", "[fe80::1%eth0]:1234" */
static int nb_parse_server(char *s, struct nb_server *server)
{
	char *port = strrchr(s, ':');
	char *host = s;
	u16 number;
	int family = AF_INET;

	if (!port || strscpy(server->text, s, sizeof(server->text)) < 0)
		return -EINVAL;
	*port++ = '\0';
	/* A leading zero would make it octal further down. */
	if (*port == '0' || kstrtou16(port, 10, &number))
		return -EINVAL;
	if (*host == '[') {
		size_t len = strlen(host);

		if (host[len - 1] != ']')
			return -EINVAL;
		host[len - 1] = '\0';
		host++;
		family = AF_INET6;
	}
	return inet_pton_with_scope(&init_net, family, host, port,
				    &server->addr);
}

/* What went wrong with a word of the line, said to the operator. */
static int nb_bad_word(char *why, const char *key, const char *value,
		       const char *hint)
{
	snprintf(why, NB_TEXT, "%.64s=%.128s: %s", key, value, hint);
	return -EINVAL;
}

static const char nb_word_hint[] =
	"write 1 to 64 of the characters A-Z a-z 0-9 . _ : -";

/* kstrtouint() would let "+7" and "007" through. */
static int nb_parse_number(const char *s, unsigned int min, unsigned int max,
			   unsigned int *number)
{
	if (*s < '0' || *s > '9' || (*s == '0' && s[1]) ||
	    kstrtouint(s, 10, number) || *number < min || *number > max)
		return -EINVAL;
	return 0;
}

static int nb_parse_word(struct nb_config *cfg, bool *force, bool attach,
			 char *key, char *value, char *why)
{
	char shown[65];
	ssize_t len;

	strscpy(shown, value, sizeof(shown));
	len = nb_unescape(value);
	if (len < 0)
		return nb_bad_word(why, key, shown,
				   "a backslash starts three octal digits, not 000");

	if (!strcmp(key, "dev")) {
		cfg->index = nb_parse_dev(value);
		if (cfg->index < 0)
			return nb_bad_word(why, key, shown,
					   "not a device name; write dev=nb0");
	} else if (attach && !strcmp(key, "server")) {
		if (cfg->nr_servers == NB_MAX_SERVERS)
			return nb_bad_word(why, key, shown,
					   "more servers than the driver takes (8)");
		if (nb_parse_server(value, &cfg->servers[cfg->nr_servers]))
			return nb_bad_word(why, key, shown,
					   "not an address and port; write server=192.0.2.1:10809 or server=[2001:db8::1]:10809");
		cfg->nr_servers++;
	} else if (attach && !strcmp(key, "export")) {
		if (len > NBD_MAX_STRING)
			return nb_bad_word(why, key, shown,
					   "longer than 4096 bytes");
		kfree(cfg->export);
		cfg->export = kmemdup(value, len + 1, GFP_KERNEL);
		if (!cfg->export)
			return -ENOMEM;
		cfg->export_len = len;
	} else if (attach && !strcmp(key, "lost")) {
		if (!strcmp(value, "wait"))
			cfg->lost = 0;
		else if (kstrtouint(value, 10, &cfg->lost) || !cfg->lost ||
			 cfg->lost > 86400)
			return nb_bad_word(why, key, shown,
					   "write lost=wait, or seconds from 1 to 86400");
	} else if (attach && !strcmp(key, "conns")) {
		if (nb_parse_number(value, 1, NB_MAX_CONNS, &cfg->conns))
			return nb_bad_word(why, key, shown,
					   "write a number of connections from 1 to 16");
	} else if (attach && !strcmp(key, "timeout")) {
		if (nb_parse_number(value, NB_MIN_SILENCE, NB_MAX_SILENCE,
				    &cfg->timeout))
			return nb_bad_word(why, key, shown,
					   "write seconds from 2 to 240");
	} else if (attach && !strcmp(key, "hold")) {
		if (nb_parse_number(value, 0, 3600, &cfg->hold))
			return nb_bad_word(why, key, shown,
					   "write seconds from 0 to 3600");
		cfg->hold_given = true;
	} else if (attach && !strcmp(key, "ro")) {
		if (kstrtobool(value, &cfg->ro))
			return nb_bad_word(why, key, shown, "write ro=1");
	} else if (attach && !strcmp(key, "station")) {
		if (!nbd_session_word(value))
			return nb_bad_word(why, key, shown, nb_word_hint);
		strscpy(cfg->station, value, sizeof(cfg->station));
	} else if (attach && !strcmp(key, "boot")) {
		if (!nbd_session_word(value))
			return nb_bad_word(why, key, shown, nb_word_hint);
		strscpy(cfg->boot, value, sizeof(cfg->boot));
	} else if (!attach && !strcmp(key, "force")) {
		if (kstrtobool(value, force))
			return nb_bad_word(why, key, shown, "write force=1");
	} else {
		return nb_bad_word(why, key, shown,
				   "unknown word; read /dev/nb-control for the list");
	}
	return 0;
}

int nb_command(char *line, char *why)
{
	char *verb = strsep(&line, " ");
	struct nb_config *cfg;
	bool attach, force = false;
	char *word;
	int err;

	attach = !strcmp(verb, "attach");
	if (!attach && strcmp(verb, "detach")) {
		snprintf(why, NB_TEXT,
			 "%.64s: unknown command; write attach or detach", verb);
		return -EINVAL;
	}

	cfg = kzalloc(sizeof(*cfg), GFP_KERNEL);
	if (!cfg)
		return -ENOMEM;
	cfg->index = -1;

	while ((word = strsep(&line, " "))) {
		char *value = strchr(word, '=');

		if (!value) {
			snprintf(why, NB_TEXT,
				 "\"%.64s\": not key=value (one space between words)",
				 word);
			err = -EINVAL;
			goto out;
		}
		*value++ = '\0';
		err = nb_parse_word(cfg, &force, attach, word, value, why);
		if (err)
			goto out;
	}

	err = -EINVAL;
	if (cfg->index < 0)
		snprintf(why, NB_TEXT, "%s: dev=nbN is missing", verb);
	else if (attach && !cfg->nr_servers)
		snprintf(why, NB_TEXT,
			 "attach: server=ADDRESS:PORT is missing");
	else
		err = attach ? nb_attach(cfg, why) :
			       nb_detach(cfg->index, force, why);
out:
	kfree(cfg->export);
	kfree(cfg);
	return err;
}

/* @line has @size bytes and a NUL; it is ours to free. */
static int nb_control_line(char *line, size_t size, char *why)
{
	int err = -EINVAL;

	if (line[size - 1] == '\n')
		line[size - 1] = '\0';
	if (strlen(line) + 1 < size)
		strscpy(why, "a NUL byte in the middle of the line", NB_TEXT);
	else
		err = nb_command(line, why);
	kfree(line);
	return err;
}

static ssize_t nb_control_write(struct file *file, const char __user *buf,
				size_t size, loff_t *pos)
{
	struct nb_control *ctl = file->private_data;
	char *line;
	int err;

	if (!size || size > NB_MAX_LINE)
		return -EINVAL;
	line = memdup_user_nul(buf, size);

	mutex_lock(&ctl->lock);
	ctl->why[0] = '\0';
	err = PTR_ERR_OR_ZERO(line);
	if (!err)
		err = nb_control_line(line, size, ctl->why);
	if (err && !ctl->why[0]) {
		const char *text = nb_errno_text(err);

		if (text)
			strscpy(ctl->why, text, NB_TEXT);
		else
			snprintf(ctl->why, NB_TEXT, "error %d", -err);
	}
	strlcat(ctl->why, "\n", sizeof(ctl->why));
	ctl->read = 0;
	mutex_unlock(&ctl->lock);
	return err ?: size;
}

static const struct file_operations nb_control_fops = {
	.owner = THIS_MODULE,
	.open = nb_control_open,
	.release = nb_control_release,
	.read = nb_control_read,
	.write = nb_control_write,
};

static struct miscdevice nb_control_misc = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "nb-control",
	.mode = 0600,
	.fops = &nb_control_fops,
};

int nb_control_init(void)
{
	return misc_register(&nb_control_misc);
}

void nb_control_exit(void)
{
	misc_deregister(&nb_control_misc);
}
