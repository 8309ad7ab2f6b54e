/*
 * Linux bzImage by the 64-bit boot protocol or, for 32-bit kernels, the 32-bit one
 * (Documentation/arch/x86/boot.rst). Normally
 * the compressed kernel inside is unpacked on the host and entered as if it were a
 * vmlinux; where that cannot be done, the image is loaded whole and its own decompressor
 * does it in the guest.
 */

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "base/log.h"
#include "base/scope.h"
#include "machine/cache.h"
#include "machine/elf.h"
#include "machine/entry.h"
#include "machine/kernel.h"
#include "machine/memory_map.h"
#include "machine/payload.h"
#include "machine/zero_page.h"

#define SECTOR                512u
#define VERSION_64            0x020cu /* 2.12: xloadflags */
#define ENTRY_64_OFFSET       0x200u
#define DEFAULT_SETUP_SECTORS 4u

/* A bzImage's parts; offsets are in the file. */
struct bzimage {
    const struct image *image;
    const uint8_t *head;
    bool is_64;
    uint64_t code, code_size;       /* protected-mode part */
    uint64_t payload, payload_size; /* inside of it; size 0: none */
    uint64_t preferred, init_size;  /* where the decompressor wants to be, and how much */
};

static bool detect(const struct boot_probe *probe)
{
    return probe->head_size >= ZP_HEADER + 4 &&
           zp_u16(probe->head, ZP_BOOT_FLAG) == ZP_BOOT_FLAG_VALUE &&
           zp_u32(probe->head, ZP_HEADER) == ZP_HEADER_VALUE;
}

static int check_version(const struct boot_probe *probe, struct error *err)
{
    unsigned version = zp_u16(probe->head, ZP_VERSION);
    if (probe->head_size < ZP_INIT_SIZE + 4) {
        return fail_plain(err, ENOEXEC, "truncated in the setup header");
    }
    if (version < VERSION_64) {
        return fail_plain(err, ENOEXEC,
                          "a Linux kernel of boot protocol %u.%02u; 2.12 or later "
                          "(Linux 3.8) is needed",
                          version >> 8, version & 0xff);
    }
    if (!(probe->head[ZP_LOAD_FLAGS] & ZP_LOADED_HIGH)) {
        return fail_plain(err, ENOEXEC, "a zImage; a bzImage is needed");
    }
    return 0;
}

static int bzimage_open(struct bzimage *bz, const struct boot_probe *probe,
                        struct error *err)
{
    int result = check_version(probe, err);
    if (result < 0) {
        return result;
    }
    const uint8_t *head = probe->head;
    unsigned sectors = head[ZP_SETUP_SECTORS];
    *bz = (struct bzimage){
        .image = probe->image,
        .head = head,
        .is_64 = zp_u16(head, ZP_XLOAD_FLAGS) & ZP_XLF_KERNEL_64,
        .code = ((sectors ? sectors : DEFAULT_SETUP_SECTORS) + 1) * SECTOR,
        .code_size = (uint64_t)zp_u32(head, ZP_SYSTEM_SIZE) * 16,
        .preferred = zp_u64(head, ZP_PREFERRED),
        .init_size = zp_u32(head, ZP_INIT_SIZE),
    };
    /* Linux boot protocol, syssize: in paragraphs, of which a file need not fill the
     * last. */
    uint64_t there = bz->image->size > bz->code ? bz->image->size - bz->code : 0;
    if (there < bz->code_size && bz->code_size - there < 16) {
        bz->code_size = there;
    }
    if (!image_contains(bz->image, bz->code, bz->code_size)) {
        return fail_plain(err, ENOEXEC,
                          "truncated in the kernel proper: the header promises %" PRIu64
                          " bytes, the file has %" PRIu64,
                          bz->code + bz->code_size, bz->image->size);
    }
    if (bz->code_size <= ENTRY_64_OFFSET) {
        return fail_plain(err, ENOEXEC, "its kernel proper has only %" PRIu64 " bytes",
                          bz->code_size);
    }
    uint64_t offset = zp_u32(head, ZP_PAYLOAD_OFFSET);
    uint64_t size = zp_u32(head, ZP_PAYLOAD_SIZE);
    if (offset + size > bz->code_size) {
        return fail_plain(err, ENOEXEC,
                          "its payload (%" PRIu64 " bytes at 0x%" PRIx64
                          ") is outside the kernel proper",
                          size, offset);
    }
    bz->payload = bz->code + offset;
    bz->payload_size = size;
    return 0;
}

/* Gets the unpacked payload, from the cache unless that is damaged, or by unpacking. */
static int open_payload(const struct bzimage *bz, const struct boot_target *target,
                        bool is_damaged, struct image *unpacked, struct error *err)
{
    if (bz->payload_size == 0) {
        return fail_plain(err, ENOTSUP, "it is not compressed");
    }
    if (bz->payload_size > target->ram) {
        return fail_plain(err, E2BIG,
                          "its payload of %" PRIu64 " MiB is larger than the guest's "
                          "memory of %" PRIu64 " MiB",
                          bz->payload_size >> 20, target->ram >> 20);
    }
    SCOPE_FD int cache = target->use_cache ? cache_open(NULL) : -1;
    struct cache_key key;
    int result = 0;
    if (cache >= 0) {
        result = cache_key_make(&key, bz->image, bz->payload, bz->payload_size, err);
        if (result == 0 && !is_damaged && cache_find(cache, &key, unpacked)) {
            return 0;
        }
    }
    SCOPE_FREE uint8_t *packed = malloc(bz->payload_size ? bz->payload_size : 1);
    if (!packed) {
        return fail(err, ENOMEM, "cannot read its payload");
    }
    if (result == 0) {
        result = image_read(bz->image, bz->payload, packed, bz->payload_size,
                            "the payload", err);
    }
    if (result < 0) {
        return result;
    }
    uint64_t size;
    uint8_t *data = payload_unpack(packed, bz->payload_size, target->ram, &size, err);
    if (!data) {
        return -err->code;
    }
    image_take_memory(unpacked, data, size);
    if (cache >= 0) {
        cache_store(cache, &key, data, size);
    }
    return 0;
}

static int put_parameters(const struct bzimage *bz, const struct boot_target *target,
                          uint64_t kernel_end, struct error *err)
{
    struct zero_page_config config = {
        .head = bz->head,
        .kernel_end = kernel_end,
        .initrd_max = zp_u32(bz->head, ZP_INITRD_MAX),
        .command_max = zp_u32(bz->head, ZP_COMMAND_MAX),
    };
    return zero_page_put(&config, target, err);
}

/* Where boot_params is goes into RSI either way. */
static int enter(const struct bzimage *bz, const struct boot_target *target, gpa_t rip,
                 struct x86_state *entry, struct error *err)
{
    if (bz->is_64) {
        return entry_long_mode(entry, target->memory, rip, MAP_BOOT_PARAMS, err);
    }
    int result = entry_protected_mode(entry, target->memory, (uint32_t)rip, 0, err);
    entry->gpr[X86_RSI] = MAP_BOOT_PARAMS;
    return result;
}

static int load_unpacked(const struct bzimage *bz, const struct elf *elf,
                         const struct image *unpacked, const struct boot_target *target,
                         struct x86_state *entry, struct error *err)
{
    uint64_t start, end;
    elf_bounds(elf, &start, &end);
    int result = boot_check_elf(target, elf, &boot_low_default, err);
    if (result == 0) {
        result = elf_load(elf, unpacked, target->memory, err);
    }
    if (result == 0) {
        result = put_parameters(bz, target, end, err);
    }
    if (result < 0) {
        return result;
    }
    return enter(bz, target, elf_physical_entry(elf), entry, err);
}

/* The kernel unpacks itself: into init_size bytes from its preferred address. */
static int load_packed(const struct bzimage *bz, const struct boot_target *target,
                       struct x86_state *entry, struct error *err)
{
    uint64_t base = bz->preferred, size = bz->init_size;
    size = size > bz->code_size ? size : bz->code_size;
    if (base > UINT32_MAX) {
        return fail_plain(err, ENOEXEC, "its preferred address 0x%" PRIx64 " is above 4G",
                          base);
    }
    int result = boot_check_range(target, &boot_low_default, base, base + size, err);
    if (result == 0) {
        result = image_load(bz->image, bz->code, bz->code_size, target->memory, base,
                            "the kernel proper", err);
    }
    if (result == 0) {
        result = put_parameters(bz, target, base + size, err);
    }
    if (result < 0) {
        return result;
    }
    return enter(bz, target, base + (bz->is_64 ? ENTRY_64_OFFSET : 0), entry, err);
}

/* A payload that is not an executable as wide as its wrapping is some other build's
 * business. */
static bool is_bootable(const struct bzimage *bz, struct elf *elf,
                        const struct image *unpacked)
{
    uint64_t start, end;
    return elf_open(elf, unpacked, NULL) == 0 && elf->is_64 == bz->is_64 &&
           elf->is_x86_64 == bz->is_64 && elf_bounds(elf, &start, &end);
}

static int load_payload(const struct bzimage *bz, const struct boot_target *target,
                        bool is_damaged, struct x86_state *entry, struct error *err)
{
    struct image unpacked = IMAGE_NONE;
    struct error why = {0};
    struct elf elf;
    int result = open_payload(bz, target, is_damaged, &unpacked, &why);
    if (result == -EBADMSG) {
        log_warning("%s; the kernel's own decompressor gets it as it is", why.message);
    } else if (result == -ENOTSUP) {
        log_info("%s", why.message);
    } else if (result < 0) {
        return fail_plain(err, why.code, "%s", why.message);
    }
    if (result == 0 && is_bootable(bz, &elf, &unpacked)) {
        result = load_unpacked(bz, &elf, &unpacked, target, entry, err);
    } else {
        result = load_packed(bz, target, entry, err);
    }
    image_close(&unpacked);
    return result;
}

static int load(const struct boot_probe *probe, const struct boot_target *target,
                struct x86_state *entry, struct error *err)
{
    struct bzimage bz;
    int result = bzimage_open(&bz, probe, err);
    if (result == 0) {
        result = load_payload(&bz, target, false, entry, err);
    }
    if (result == -EUCLEAN) {
        /* What was loaded until then is loaded again. */
        log_info("kernel cache: an entry is %s and will be replaced", err->message);
        *err = (struct error){0};
        result = load_payload(&bz, target, true, entry, err);
    }
    return result;
}

const struct boot_protocol boot_linux = {"Linux bzImage", detect, load};
