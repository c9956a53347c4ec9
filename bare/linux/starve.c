// SPDX-License-Identifier: GPL-2.0
/*
 * starve MODULE [PARAMETER...]: loads a module with its first allocation failing, then with its second, and so on, until a load comes to
 * its end before the failure does; that one is unloaded too. Needs a kernel with fault injection. What a failing load leaves behind is the
 * kernel's to find: KASAN, lockdep, a name that is there twice.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Allocations of one load at most. */
#define MOST 20000

static int fail_nth;

static void set_failure(unsigned int number)
{
	char text[16];
	int length = snprintf(text, sizeof(text), "%u", number);

	if (pwrite(fail_nth, text, length, 0) != length) {
		perror("starve: /proc/self/fail-nth");
		exit(2);
	}
}

/* How many allocations are left until one fails; 0: one has failed. */
static unsigned int left(void)
{
	char text[16] = "";

	if (pread(fail_nth, text, sizeof(text) - 1, 0) <= 0) {
		perror("starve: /proc/self/fail-nth");
		exit(2);
	}
	return atoi(text);
}

static void *contents(const char *path, size_t *size)
{
	int file = open(path, O_RDONLY);
	struct stat stat;
	char *bytes;
	size_t done;
	ssize_t now;

	if (file < 0 || fstat(file, &stat))
		return NULL;
	bytes = malloc(stat.st_size);
	for (done = 0; bytes && done < (size_t)stat.st_size; done += now) {
		now = read(file, bytes + done, stat.st_size - done);
		if (now <= 0)
			return NULL;
	}
	close(file);
	*size = done;
	return bytes;
}

int main(int argc, char **argv)
{
	unsigned int number, failed = 0, survived = 0, others = 0;
	char parameters[256] = "", name[64], *end;
	size_t size;
	void *module;
	int index;

	if (argc < 2) {
		fputs("usage: starve MODULE [PARAMETER...]\n", stderr);
		return 2;
	}
	for (index = 2; index < argc; index++) {
		strncat(parameters, argv[index], sizeof(parameters) - strlen(parameters) - 2);
		strcat(parameters, " ");
	}
	snprintf(name, sizeof(name), "%s", strrchr(argv[1], '/') ? strrchr(argv[1], '/') + 1 : argv[1]);
	end = strstr(name, ".ko");
	if (end)
		*end = 0;
	module = contents(argv[1], &size);
	fail_nth = open("/proc/self/fail-nth", O_RDWR);
	if (!module || fail_nth < 0) {
		perror(module ? "starve: /proc/self/fail-nth" : argv[1]);
		return 2;
	}
	for (number = 1; number <= MOST; number++) {
		int why;
		unsigned int unused;

		set_failure(number);
		why = syscall(SYS_init_module, module, size, parameters) ? errno : 0;
		unused = left();
		set_failure(0);
		if (unused && why) {
			printf("starve: allocation %u was not reached, and yet: %s\n", number, strerror(why));
			return 1;
		}
		if (why) {
			failed++;
			if (why != ENOMEM && others++ < 10)
				printf("starve: allocation %u fails: %s\n", number, strerror(why));
			continue;
		}
		if (syscall(SYS_delete_module, name, O_NONBLOCK)) {
			printf("starve: allocation %u fails, the module is loaded and stays (%s); insmod failed at %u allocations before\n",
			       number, strerror(errno), failed);
			return unused ? 0 : 3;
		}
		if (unused) {
			printf("linux: insmod failed at %u allocations (%u not for want of memory), went well without %u, then loaded\n",
			       failed, others, survived);
			return 0;
		}
		survived++;
	}
	printf("starve: more than %u allocations\n", MOST);
	return 1;
}
