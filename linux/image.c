// SPDX-License-Identifier: GPL-2.0
/*
 * The command line of a kexec or crash image that is loaded
 *
 * However it was loaded: one segment of it begins with the boot parameters of Linux. A crash image
 * is where it is executed. The pages of another one are wherever there was memory, and the list of
 * the image says which goes where.
 */
#include <linux/kexec.h>
#include <linux/mm.h>
#include <linux/string.h>
#include <asm/bootparam.h>
#include <asm/setup.h>

#include "cleanslate.h"

/*
 * Linux 6.17 and later may put a whole segment at its place when it is loaded, and then the image's
 * list does not have it. The flag that turns that off came with it.
 */
static bool cleanslate_is_in_place(const struct kimage *image, u64 address)
{
#ifdef KEXEC_FILE_NO_CMA
	unsigned long number;

	for (number = 0; number < image->nr_segments; number++)
		if (image->segment_cma[number] &&
		    address - image->segment[number].mem < image->segment[number].memsz)
			return true;
#endif
	return image->type == KEXEC_TYPE_CRASH;
}

/* What will be at a physical address once the image is in its place, up to the end of the page. */
static const void *cleanslate_image_page(const struct kimage *image, u64 address)
{
	const kimage_entry_t *at = &image->head;
	kimage_entry_t entry;
	u64 to = 0;

	if (cleanslate_is_in_place(image, address))
		return __va(address);
	while ((entry = *at) && !(entry & IND_DONE)) {
		u64 page = entry & PAGE_MASK;

		if (entry & IND_INDIRECTION) {
			at = __va(page);
			continue;
		}
		if (entry & IND_DESTINATION) {
			to = page;
		} else if (entry & IND_SOURCE) {
			if (address - to < PAGE_SIZE)
				return __va(page) + (address - to);
			to += PAGE_SIZE;
		}
		at++;
	}
	return NULL;
}

/* The bytes from an address to the end of the segment that it is in. */
static u64 cleanslate_bytes_in_image(const struct kimage *image, u64 address)
{
	unsigned long number;

	for (number = 0; number < image->nr_segments; number++) {
		const struct kexec_segment *segment = &image->segment[number];

		if (address - segment->mem < segment->memsz)
			return segment->memsz - (address - segment->mem);
	}
	return 0;
}

/* The boot parameters, or NULL if there are none or several. They are a page. */
static const struct boot_params *cleanslate_image_params(const struct kimage *image)
{
	const struct boot_params *found = NULL;
	unsigned long number;

	BUILD_BUG_ON(sizeof(*found) > PAGE_SIZE);
	for (number = 0; number < image->nr_segments; number++) {
		const struct kexec_segment *segment = &image->segment[number];
		const struct boot_params *params;

		if (segment->memsz < sizeof(*params) || !PAGE_ALIGNED(segment->mem))
			continue;
		params = cleanslate_image_page(image, segment->mem);
		if (!params || params->hdr.header != 0x53726448)
			continue;
		if (found)
			return NULL;
		found = params;
	}
	return found;
}

/*
 * The command line of an image, not more than the next kernel reads, or NULL. Callers hold kexec's
 * lock, or run alone: it is in the one place.
 */
const char *cleanslate_image_line(const struct kimage *image)
{
	static char line[COMMAND_LINE_SIZE];
	const struct boot_params *params = cleanslate_image_params(image);
	u64 address, size, done, part;

	if (!params)
		return NULL;
	address = params->hdr.cmd_line_ptr | (u64)params->ext_cmd_line_ptr << 32;
	size = min_t(u64, cleanslate_bytes_in_image(image, address), sizeof(line) - 1);
	if (!size)
		return NULL;
	for (done = 0; done < size; done += part) {
		const void *from = cleanslate_image_page(image, address + done);

		if (!from)
			return NULL;
		part = min_t(u64, size - done, PAGE_SIZE - offset_in_page(address + done));
		memcpy(line + done, from, part);
	}
	line[size] = 0;
	return line;
}

/*
 * The next word of a command line, and its length. NULL at the end: what is behind "--" is for the
 * init process.
 */
const char *cleanslate_next_word(const char **rest, size_t *length)
{
	const char *word = *rest + strspn(*rest, " ");

	*length = strcspn(word, " ");
	*rest = word + *length;
	if (!*length || (*length == 2 && !memcmp(word, "--", 2)))
		return NULL;
	return word;
}

/* The last word of a command line that begins with the parameter's name is this one. */
bool cleanslate_line_names(const char *line, const char *parameter, const char *word)
{
	const char *found;
	bool is_named = false;
	size_t length;

	while ((found = cleanslate_next_word(&line, &length)))
		if (length >= strlen(parameter) && !memcmp(found, parameter, strlen(parameter)))
			is_named = length == strlen(word) && !memcmp(found, word, length);
	return is_named;
}
