// SPDX-License-Identifier: GPL-2.0
/*
 * The root without an initramfs: a driver that is built in reads nbdroot=
 * itself (bootline.h) and attaches nb0 before the kernel mounts root=.
 *
 *	ip=dhcp nbdroot=192.0.2.1:1234 root=/dev/nb0
 *
 * The kernel's own autoconfiguration, a late_initcall, has brought the network
 * up; this is the step after it, and the last before the root is mounted. It
 * waits for the server as long as it takes, saying so on the console, because
 * a station that comes back from a power cut before its server does has
 * nothing else to do. It does not wait for what cannot come any more: a line
 * that is wrong, or a network that autoconfiguration gave up on. Then the
 * kernel finds no root and panics, and panic=SECONDS makes it try anew.
 *
 * With an initramfs all of this is its business (nbd-client --boot), and the
 * driver keeps its hands off.
 */

#include <linux/delay.h>
#include <linux/in.h>
#include <linux/init.h>
#include <linux/initrd.h>
#include <linux/jiffies.h>
#include <linux/kernel.h>
#include <linux/namei.h>
#include <linux/slab.h>
#include <net/ipconfig.h>

#include "bootline.h"
#include "nb.h"

#define NB_BOOT_RETRY_MS	500
#define NB_BOOT_SAY		(10 * HZ)
/* Router advertisements (IPv6) may come later than autoconfiguration. */
#define NB_BOOT_NETWORK		(60 * HZ)

static char *nb_boot_values[NB_MAX_SERVERS] __initdata;
static unsigned int nb_boot_count __initdata;

/* @value stays: it is in the kernel's copy of the command line. */
static int __init nb_boot_setup(char *value)
{
	if (nb_boot_count < NB_MAX_SERVERS)
		nb_boot_values[nb_boot_count] = value;
	nb_boot_count++;
	return 1;
}
__setup("nbdroot=", nb_boot_setup);

static bool __init nb_have_initramfs(void)
{
	struct path path;

	wait_for_initramfs();
	if (kern_path("/init", LOOKUP_FOLLOW, &path))
		return false;
	path_put(&path);
	return true;
}

/* What autoconfiguration calls the server: DHCP's, or that of ip=. */
static const char *__init nb_boot_server(char *buf, size_t size)
{
#ifdef CONFIG_IP_PNP
	if (root_server_addr != htonl(INADDR_NONE)) {
		snprintf(buf, size, "%pI4", &root_server_addr);
		return buf;
	}
#endif
	return NULL;
}

static void __init nb_boot_attach(const char *line, char *command, char *why)
{
	unsigned long start = jiffies, said = start - NB_BOOT_SAY;
	int err;

	for (;;) {
		/* Parsing takes it apart. */
		strscpy(command, line, NB_MAX_LINE);
		why[0] = '\0';
		err = nb_command(command, why);
		if (!err)
			return;
		if (err == -EINVAL || err == -EEXIST) {
			pr_err("nbdroot=: %s\n", why);
			return;
		}
		if (err == -ENETUNREACH &&
		    time_after(jiffies, start + NB_BOOT_NETWORK)) {
			pr_err("nbdroot=: %s; giving up, there is no network: does the kernel command line have ip=dhcp, and the card a driver?\n",
			       why);
			return;
		}
		if (time_after_eq(jiffies, said + NB_BOOT_SAY)) {
			pr_notice("waiting for the root (%lu s): %s\n",
				  (jiffies - start) / HZ, why);
			said = jiffies;
		}
		msleep_interruptible(NB_BOOT_RETRY_MS);
	}
}

static int __init nb_boot(void)
{
	char *line, *command, *why, server[sizeof("255.255.255.255")];

	if (!nb_boot_count)
		return 0;
	if (nb_have_initramfs()) {
		pr_info("nbdroot= is for the initramfs, which has an /init\n");
		return 0;
	}
	if (nb_boot_count > NB_MAX_SERVERS) {
		pr_err("nbdroot=: at most %u servers can be named\n",
		       NB_MAX_SERVERS);
		return 0;
	}

	line = kmalloc(NB_MAX_LINE, GFP_KERNEL);
	command = kmalloc(NB_MAX_LINE, GFP_KERNEL);
	why = kmalloc(NB_TEXT, GFP_KERNEL);
	if (!line || !command || !why)
		pr_err("nbdroot=: out of memory\n");
	else if (nb_bootline(line, NB_MAX_LINE, nb_boot_values, nb_boot_count,
			     nb_boot_server(server, sizeof(server)), why,
			     NB_TEXT))
		nb_boot_attach(line, command, why);
	else
		pr_err("%s\n", why);
	kfree(line);
	kfree(command);
	kfree(why);
	return 0;
}
late_initcall_sync(nb_boot);
