// SPDX-License-Identifier: GPL-2.0
/*
 * config.c - fuzz target: arbitrary configuration files. A refusal names the
 * file and a line; what is accepted has an image for every export.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct export_settings *e;
	char why[512] = "";
	struct config c;

	if (!config_parse(&c, "conf", (const char *)data, size, why,
			  sizeof(why))) {
		if (memcmp(why, "conf:", 5) || strlen(why) >= sizeof(why))
			abort();
	} else {
		if (!c.port)
			abort();
		for (e = c.exports; e; e = e->next)
			if (!e->path || *e->path != '/' ||
			    strlen(e->name) > 256 ||
			    (e->overlay != OVERLAY_NONE &&
			     (!e->overlay_dir || e->read_only)))
				abort();
	}
	config_free(&c);
	return 0;
}
