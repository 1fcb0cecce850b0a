// SPDX-License-Identifier: GPL-2.0
/*
 * text.c - small strings, small files, messages and time: see text.h.
 */
#include "sys.h"
#include "nbd-nego.h"
#include "text.h"

/* Longest message; longer ones are cut. */
#define SAY_MAX 1024

static bool write_all(int fd, const char *p, size_t len)
{
	while (len) {
		ssize_t n = write(fd, p, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		p += n;
		len -= (size_t)n;
	}
	return true;
}

/*
 * What of printf() this program uses: %s %.Ns %.*s %c %d %u %lu %llu %x %03o
 * %%. A C library's own is a tenth of the program, and in musl more, because it
 * knows floating point. True when everything fitted in @size bytes.
 */
static bool format(char *d, size_t size, const char *fmt, va_list args)
{
	char digits[24], *const end = d + size - 1;
	bool fits = true;

	for (; *fmt; fmt++) {
		const char *s = fmt;
		size_t len = 1, max = SIZE_MAX;
		unsigned int base = 10, width = 1, longs = 0;
		uint64_t v;

		if (*fmt == '%') {
			fmt++;
			if (*fmt == '0') {
				width = (unsigned int)(fmt[1] - '0');
				fmt += 2;
			}
			if (*fmt == '.') {
				max = 0;
				if (*++fmt == '*') {
					max = (size_t)va_arg(args, int);
					fmt++;
				}
				while (*fmt >= '0' && *fmt <= '9')
					max = max * 10 + (size_t)(*fmt++ - '0');
			}
			for (; *fmt == 'l'; fmt++)
				longs++;
			s = digits;
			switch (*fmt) {
			case '%':
				s = fmt;
				break;
			case 'c':
				digits[0] = (char)va_arg(args, int);
				break;
			case 's':
				s = va_arg(args, const char *);
				for (len = 0; len < max && s[len]; len++)
					;
				break;
			default:
				if (*fmt == 'x')
					base = 16;
				else if (*fmt == 'o')
					base = 8;
				v = longs > 1 ? va_arg(args, unsigned long long) :
				    longs ? va_arg(args, unsigned long) :
					    va_arg(args, unsigned int);
				len = 0;
				do {
					len++;
					digits[sizeof(digits) - len] =
						"0123456789abcdef"[v % base];
					v /= base;
				} while (v || len < width);
				s = digits + sizeof(digits) - len;
			}
		}
		if (len > (size_t)(end - d)) {
			len = (size_t)(end - d);
			fits = false;
		}
		memcpy(d, s, len);
		d += len;
	}
	*d = '\0';
	return fits;
}

void say(const char *fmt, ...)
{
	char line[SAY_MAX] = "nbd-client: ";
	size_t len = strlen(line), shown;
	va_list args;
	char *p;

	va_start(args, fmt);
	format(line + len, sizeof(line) - len - 1, fmt, args);
	va_end(args);
	for (p = line; *p; p += shown ? shown : 1) {
		shown = nbd_printable(p, strlen(p));
		if (!shown)
			*p = '?';
	}
	*p++ = '\n';
	write_all(2, line, (size_t)(p - line));
}

static bool print_failed;

void print(const char *s)
{
	print_failed = print_failed || !write_all(1, s, strlen(s));
}

bool printed(void)
{
	return !print_failed;
}

bool append(char *buf, size_t size, const char *fmt, ...)
{
	va_list args;
	bool fits;

	va_start(args, fmt);
	fits = append_args(buf, size, fmt, args);
	va_end(args);
	return fits;
}

bool append_args(char *buf, size_t size, const char *fmt, va_list args)
{
	size_t len = strlen(buf);

	return format(buf + len, size - len, fmt, args);
}

bool put(char *buf, size_t size, const char *fmt, ...)
{
	va_list args;
	bool fits;

	va_start(args, fmt);
	fits = format(buf, size, fmt, args);
	va_end(args);
	return fits;
}

bool parse_number(const char *s, size_t len, uint64_t max, uint64_t *value)
{
	uint64_t v = 0;
	size_t i;

	if (!len)
		return false;
	for (i = 0; i < len; i++) {
		unsigned int digit = (unsigned int)(s[i] - '0');

		if (digit > 9 || digit > max || v > (max - digit) / 10)
			return false;
		v = v * 10 + digit;
	}
	*value = v;
	return true;
}

int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool starts_with(const char *s, const char *prefix)
{
	return !strncmp(s, prefix, strlen(prefix));
}

static int lower(char c)
{
	return c >= 'A' && c <= 'Z' ? c + ('a' - 'A') : c;
}

bool same_name(const char *a, const char *b)
{
	while (*a && lower(*a) == lower(*b)) {
		a++;
		b++;
	}
	return lower(*a) == lower(*b);
}

const char *packed_find(const char *list, const char *word)
{
	size_t len;

	for (; *list; list += strlen(list) + 1) {
		len = strcspn(list, " ");
		if (!strncmp(list, word, len) && !word[len])
			return list + len + 1;
	}
	return NULL;
}

const char *error_text(int error)
{
	static const unsigned char errors[] = {
		EPERM, ENOENT, EISDIR, ENOMEM, EACCES, EBUSY, ENODEV, EINVAL,
		EAFNOSUPPORT, EADDRNOTAVAIL, ENETDOWN, ENETUNREACH, ECONNRESET,
		ETIMEDOUT, ECONNREFUSED, EHOSTUNREACH,
	};
	/* In that order, each with its NUL. */
	static const char texts[] =
		"not permitted\0"
		"no such file\0"
		"is a directory\0"
		"out of memory\0"
		"permission denied\0"
		"in use\0"
		"no such device\0"
		"invalid\0"
		"this kernel lacks such addresses\0"
		"no address of that kind here\0"
		"network is down\0"
		"network is unreachable\0"
		"connection closed by the server\0"
		"timed out\0"
		"connection refused\0"
		"host is unreachable";
	static char other[24];
	const char *text = texts;
	size_t i;

	for (i = 0; i < sizeof(errors); i++, text += strlen(text) + 1)
		if (errors[i] == error)
			return text;
	put(other, sizeof(other), "error %u", (unsigned int)error);
	return other;
}

bool contains(const char *s, const char *part)
{
	for (; *s; s++)
		if (starts_with(s, part))
			return true;
	return false;
}

long read_file(const char *path, char *buf, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	size_t len = 0;
	ssize_t n;
	int error;

	buf[0] = '\0';
	if (fd < 0)
		return -1;
	do {
		n = read(fd, buf + len, size - 1 - len);
		if (n > 0)
			len += (size_t)n;
	} while (n > 0 || (n < 0 && errno == EINTR));
	error = errno;
	close(fd);
	buf[n < 0 ? 0 : len] = '\0';
	errno = error;
	return n < 0 ? -1 : (long)len;
}

bool write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	size_t len = strlen(text);
	bool ok;

	if (fd < 0)
		return false;
	ok = write(fd, text, len) == (ssize_t)len;
	close(fd);
	return ok;
}

long read_line(const char *path, char *buf, size_t size)
{
	long len = read_file(path, buf, size);

	while (len > 0 && buf[len - 1] == '\n')
		buf[--len] = '\0';
	return len;
}

bool next_file(const char *dir, const char *prefix, const char *suffix,
	       char last[FILE_NAME])
{
	uint64_t buf[256];
	char best[FILE_NAME];
	int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	long n, at;

	if (fd < 0)
		return false;
	best[0] = '\0';
	while ((n = sys_getdents(fd, buf, sizeof(buf))) > 0) {
		for (at = 0; at < n;) {
			const struct dirent *d =
				(const void *)((const char *)buf + at);
			const char *name = d->d_name;
			size_t len = strlen(name);

			at += d->d_reclen;
			if (name[0] == '.' || !starts_with(name, prefix) ||
			    len < strlen(prefix) + strlen(suffix) ||
			    len >= FILE_NAME ||
			    strcmp(name + len - strlen(suffix), suffix))
				continue;
			if (strcmp(name, last) > 0 &&
			    (!best[0] || strcmp(name, best) < 0))
				strcpy(best, name);
		}
	}
	close(fd);
	strcpy(last, best);
	return best[0];
}

char *next_line(char **text)
{
	char *line = *text, *end;

	if (!*line)
		return NULL;
	end = strchr(line, '\n');
	if (end) {
		*end = '\0';
		*text = end + 1;
	} else {
		*text = line + strlen(line);
	}
	return line;
}

char *next_word(char **text)
{
	char *word = *text + strspn(*text, " \t\r");
	char *end = word + strcspn(word, " \t\r");

	if (!*word)
		return NULL;
	*text = *end ? end + 1 : end;
	*end = '\0';
	return word;
}

unsigned long long clock_ms(void)
{
	/* A 32-bit kernel's count may wrap five minutes after its start. */
	static unsigned long start;
	struct tms tms;
	unsigned long now = (unsigned long)times(&tms);

	if (!start)
		start = now - 1;
	return (now - start) * 10ULL;	/* USER_HZ is 100 */
}

void sleep_ms(unsigned int ms)
{
	poll(NULL, 0, (int)ms);
}

void random_bytes(void *p, size_t len)
{
	int fd = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
	struct timeval tv;
	unsigned long long now;

	/* What the clock gives, should there be no /dev yet. */
	gettimeofday(&tv, NULL);
	now = ((unsigned long long)tv.tv_sec * 1000000 +
	       (unsigned long long)tv.tv_usec) * 6364136223846793005ULL;
	memcpy(p, (char *)&now + sizeof(now) - len, len);
	if (fd < 0)
		return;
	len = (size_t)read(fd, p, len);
	close(fd);
}
