// SPDX-License-Identifier: GPL-2.0
/*
 * dump FILE [TEXT]...: reads a crash dump to its end. Prints events: when the first byte was read,
 * how much was read, and what in the dump begins with one of these texts, as lines of the kernel's
 * log do. A kernel that takes a machine check prints to its log only: its console is not for that
 * context. dump, without arguments: what time it is now. Time is by the CPU's counter, which goes
 * on in the crash kernel.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <x86intrin.h>

#define PART (1 << 20)
#define LONGEST 256

static char buffer[LONGEST + PART];

/*
 * Up to LONGEST bytes. What has a % is a format string of the kernel, what has a quote the command
 * line of this program: neither is a line of the log.
 */
static void report(const char *text)
{
	int size = 0;

	while (size < LONGEST - 1 && text[size] >= ' ' && text[size] <= '~' && !strchr("%\"\\", text[size]))
		size++;
	if (!text[size] || !strchr("%\"\\", text[size]))
		printf("@ {\"event\":\"dump-line\",\"text\":\"%.*s\"}\n", size, text);
}

/*
 * What begins in the first SIZE bytes. By memchr(), which an emulated CPU does faster than
 * memmem().
 */
static void find(const char *text, size_t size)
{
	const char *at = buffer, *end = buffer + size;

	while ((at = memchr(at, *text, end - at))) {
		if (!strncmp(at, text, strlen(text)))
			report(at);
		at++;
	}
}

int main(int argc, char **argv)
{
	unsigned long long all = 0;
	size_t kept = 0, size;
	struct stat stat;
	ssize_t got;
	int file, text;

	if (argc < 2) {
		printf("@ {\"event\":\"now\",\"tsc\":%llu}\n", __rdtsc());
		return 0;
	}
	if ((file = open(argv[1], O_RDONLY)) < 0 || fstat(file, &stat))
		return 1;
	for (; (got = read(file, buffer + kept, PART)) > 0; all += got) {
		if (!all)
			printf("@ {\"event\":\"dump-begins\",\"tsc\":%llu}\n", __rdtsc());
		size = kept + got;
		/* What begins too near the end waits for the next part. */
		kept = size < LONGEST ? size : LONGEST;
		for (text = 2; text < argc; text++)
			find(argv[text], size - kept);
		memmove(buffer, buffer + size - kept, kept);
	}
	printf("@ {\"event\":\"dump\",\"read\":%llu,\"size\":%llu}\n", all, (unsigned long long)stat.st_size);
	return got < 0;
}
