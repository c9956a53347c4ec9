// SPDX-License-Identifier: GPL-2.0
/*
 * starve MODULE [PARAMETER...]: loads a module with its first allocation failing, then with its
 * second, and so on, until a load ends before the failure does; that one is unloaded too. starve -w
 * FILE TEXT: the same with writes of TEXT to FILE. Prints an event. Needs a kernel with fault
 * injection. What a failure leaves behind is found by the kernel: KASAN, lockdep, duplicate names.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Allocations of one attempt at most. */
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
	unsigned int number, unused, failed = 0, survived = 0, others = 0;
	const char *what, *word;
	char name[64] = "", parameters[256] = "";
	int index, why, file = -1;
	void *module = NULL;
	size_t size = 0;

	if (argc < 2 || (!strcmp(argv[1], "-w") && argc != 4)) {
		fputs("usage: starve MODULE [PARAMETER...], starve -w FILE TEXT\n", stderr);
		return 2;
	}
	if (!strcmp(argv[1], "-w")) {
		what = argv[2];
		word = argv[3];
		file = open(what, O_WRONLY);
	} else {
		what = argv[1];
		word = "insmod";
		for (index = 2; index < argc; index++) {
			strncat(parameters, argv[index], sizeof(parameters) - strlen(parameters) - 2);
			strcat(parameters, " ");
		}
		snprintf(name, sizeof(name), "%s", strrchr(what, '/') ? strrchr(what, '/') + 1 : what);
		name[strcspn(name, ".")] = 0;
		module = contents(what, &size);
	}
	fail_nth = open("/proc/self/fail-nth", O_RDWR);
	if ((!module && file < 0) || fail_nth < 0) {
		perror(fail_nth < 0 ? "starve: /proc/self/fail-nth" : what);
		return 2;
	}
	for (number = 1; number <= MOST; number++) {
		set_failure(number);
		if (module)
			why = syscall(SYS_init_module, module, size, parameters) ? errno : 0;
		else
			why = write(file, word, strlen(word)) < 0 ? errno : 0;
		unused = left();
		set_failure(0);
		/* Loaded by an earlier attempt that did without the allocation. */
		if (unused && why == EEXIST && survived)
			why = 0;
		if (unused && why) {
			printf("starve: allocation %u of %s was not reached, and yet: %s\n", number, word, strerror(why));
			return 1;
		}
		if (why) {
			failed++;
			if (why != ENOMEM && others++ < 10)
				printf("starve: without allocation %u of %s: %s\n", number, word, strerror(why));
			continue;
		}
		if (module && syscall(SYS_delete_module, name, O_NONBLOCK)) {
			printf("starve: %s failed at %u allocations; without the next one it went well, and the module stays: %s\n", word,
			       failed, strerror(errno));
			return 1;
		}
		if (unused) {
			printf("@ {\"event\":\"starved\",\"what\":\"%s\",\"failed\":%u,\"not_enomem\":%u,\"survived\":%u}\n",
			       word, failed, others, survived);
			return 0;
		}
		survived++;
	}
	printf("starve: more than %u allocations\n", MOST);
	return 1;
}
