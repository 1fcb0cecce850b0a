# SPDX-License-Identifier: GPL-2.0
# build.mk - what the Makefiles of the userland folders share. Include it as
#	TOP := ..
#	include $(TOP)/tools/build.mk
#
# V=1 shows the commands; WERROR=1 makes warnings errors (the tests do);
# SAN=1 builds with AddressSanitizer and UBSan into build/san/ instead.

# Headers are named relatively, and .d files name $(OUT) as such, so that they
# still hold when the whole tree is copied or moved.
BASE_INCLUDES := -I$(TOP)/proto
DEPFLAGS = -MMD -MP -MT '$$(OUT)/$(@F)'
TOP := $(abspath $(TOP))
NAME := $(notdir $(CURDIR))

V ?= 0
ifeq ($(V),1)
Q :=
say := @:
else
Q := @
say := @printf '  %-7s %s\n'
endif

OUT := $(TOP)/build/$(if $(filter 1,$(SAN)),san/)$(NAME)

WARN := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes \
	-Wwrite-strings -Wvla $(if $(filter 1,$(WERROR)),-Werror)
# A comma inside $(if) would end its branch.
SAN_ON := -fsanitize=address,undefined -fno-sanitize-recover=all \
	-fno-omit-frame-pointer -O1 -g
SANFLAGS := $(if $(filter 1,$(SAN)),$(SAN_ON))
CFLAGS ?= -O2 -g
BASE_CFLAGS := -std=gnu11 $(BASE_INCLUDES) $(WARN)

prefix ?= /usr
sbindir ?= $(prefix)/sbin
bindir ?= $(prefix)/bin
mandir ?= $(prefix)/share/man
DESTDIR ?=
