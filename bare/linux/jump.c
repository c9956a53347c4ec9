// SPDX-License-Identifier: GPL-2.0
/*
 * jump [-p|-l] IMAGE INITRD COMMAND_LINE: loads a kernel and jumps into it, what `kexec -s -l` and
 * `kexec -e` do; with -l it is only loaded, with -p as well, for a crash. jump -u: what is loaded
 * is unloaded; jump -e: it is jumped into. Debian's kexec-tools would bring five libraries into a
 * root file system that has none.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kexec.h>
#include <linux/reboot.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	unsigned long flags = 0;
	int image, initrd, only_load = 0;

	if (argc == 2 && !strcmp(argv[1], "-u")) {
		if (!syscall(SYS_kexec_file_load, -1, -1, 0, NULL, KEXEC_FILE_UNLOAD))
			return 0;
		fprintf(stderr, "jump: not unloaded: %s\n", strerror(errno));
		return 1;
	}
	if (argc == 2 && !strcmp(argv[1], "-e"))
		goto jump;
	if (argc == 5 && (!strcmp(argv[1], "-p") || !strcmp(argv[1], "-l"))) {
		flags = argv[1][1] == 'p' ? KEXEC_FILE_ON_CRASH : 0;
		only_load = 1;
		argv++;
		argc--;
	}
	if (argc != 4) {
		fputs("usage: jump [-p|-l] IMAGE INITRD COMMAND_LINE, or jump -u, or jump -e\n", stderr);
		return 2;
	}
	image = open(argv[1], O_RDONLY);
	initrd = open(argv[2], O_RDONLY);
	if (image < 0 || initrd < 0 || syscall(SYS_kexec_file_load, image, initrd, strlen(argv[3]) + 1, argv[3], flags)) {
		fprintf(stderr, "jump: %s not loaded: %s\n", argv[1], strerror(errno));
		return 1;
	}
	if (only_load)
		return 0;
jump:
	syscall(SYS_reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, LINUX_REBOOT_CMD_KEXEC, NULL);
	fprintf(stderr, "jump: no kexec: %s\n", strerror(errno));
	return 1;
}
