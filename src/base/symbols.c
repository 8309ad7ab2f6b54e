/* System V ABI, chapter 4: sections, symbol tables. Everything read is checked before it
 * is used. */
#include "base/symbols.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>

#include "base/scope.h"

#define TABLE_MAX (256u << 20) /* bytes; more than any kernel's */

struct symbol {
    uint64_t address, size;
    uint32_t name; /* in names */
    bool is_local;
};

struct symbols {
    struct symbol *symbol; /* by address */
    size_t count;
    char *names; /* ends with a zero */
    size_t names_size;
};

struct file {
    int fd;
    uint64_t size;
};

/* The bytes [offset, offset + size) of the file, with one more for a zero; NULL: they are
 * not there. */
static void *read_part(const struct file *file, uint64_t offset, uint64_t size,
                       struct error *err)
{
    if (size > TABLE_MAX || offset > file->size || size > file->size - offset) {
        fail_plain(err, EINVAL, "the file is damaged: it ends before its tables do");
        return NULL;
    }
    char *part = malloc(size + 1);
    if (!part) {
        fail(err, ENOMEM, "cannot read it");
        return NULL;
    }
    for (uint64_t done = 0; done < size;) {
        ssize_t result =
            pread(file->fd, part + done, size - done, (off_t)(offset + done));
        if (result <= 0) {
            fail(err, result < 0 ? errno : EIO, "cannot read it");
            free(part);
            return NULL;
        }
        done += (uint64_t)result;
    }
    part[size] = '\0';
    return part;
}

static int read_header(const struct file *file, Elf64_Ehdr *header, struct error *err)
{
    if (file->size < sizeof(*header) ||
        pread(file->fd, header, sizeof(*header), 0) != (ssize_t)sizeof(*header) ||
        memcmp(header->e_ident, ELFMAG, SELFMAG) != 0) {
        return fail_plain(err, EINVAL,
                          "this is no ELF file; scripts/kernel-symbols makes one of a "
                          "guest's /proc/kallsyms");
    }
    if (header->e_ident[EI_CLASS] != ELFCLASS64 ||
        header->e_ident[EI_DATA] != ELFDATA2LSB || header->e_machine != EM_X86_64 ||
        header->e_shentsize != sizeof(Elf64_Shdr)) {
        return fail_plain(err, EINVAL, "this is no ELF file for x86-64");
    }
    return 0;
}

static bool is_function(const Elf64_Sym *entry)
{
    /* Code written in assembler often has no type. */
    unsigned type = ELF64_ST_TYPE(entry->st_info);
    return (type == STT_FUNC || type == STT_NOTYPE) && entry->st_shndx != SHN_UNDEF &&
           entry->st_shndx != SHN_ABS;
}

/* At one address the name that others know comes first. */
static int compare(const void *a, const void *b)
{
    const struct symbol *x = a, *y = b;
    if (x->address != y->address) {
        return x->address < y->address ? -1 : 1;
    }
    return x->is_local != y->is_local ? (x->is_local ? 1 : -1)
                                      : (x->name > y->name) - (x->name < y->name);
}

/* What has no size ends where the next one begins. */
static void close_gaps(struct symbols *symbols)
{
    uint64_t next = UINT64_MAX;
    for (size_t i = symbols->count; i-- > 0;) {
        struct symbol *symbol = &symbols->symbol[i];
        bool is_last = i + 1 == symbols->count;
        if (!is_last && symbols->symbol[i + 1].address != symbol->address) {
            next = symbols->symbol[i + 1].address;
        }
        if (symbol->size == 0 && next != UINT64_MAX) {
            symbol->size = next - symbol->address;
        }
        symbol->size = symbol->size ? symbol->size : 1;
    }
}

static int take(struct symbols *symbols, const Elf64_Sym *table, size_t count,
                struct error *err)
{
    symbols->symbol = calloc(count ? count : 1, sizeof(*symbols->symbol));
    if (!symbols->symbol) {
        return fail(err, ENOMEM, "cannot read it");
    }
    for (size_t i = 0; i < count; i++) {
        const Elf64_Sym *entry = &table[i];
        if (is_function(entry) && entry->st_name < symbols->names_size &&
            symbols->names[entry->st_name]) {
            symbols->symbol[symbols->count++] = (struct symbol){
                .address = entry->st_value,
                .size = entry->st_size,
                .name = entry->st_name,
                .is_local = ELF64_ST_BIND(entry->st_info) == STB_LOCAL,
            };
        }
    }
    if (symbols->count == 0) {
        return fail_plain(err, ENOENT, "the file has no symbols");
    }
    qsort(symbols->symbol, symbols->count, sizeof(*symbols->symbol), compare);
    close_gaps(symbols);
    return 0;
}

static int load(struct symbols *symbols, const struct file *file, struct error *err)
{
    Elf64_Ehdr header;
    int result = read_header(file, &header, err);
    if (result < 0) {
        return result;
    }
    SCOPE_FREE Elf64_Shdr *section = read_part(
        file, header.e_shoff, (uint64_t)header.e_shnum * sizeof(Elf64_Shdr), err);
    if (!section) {
        return -err->code;
    }
    const Elf64_Shdr *table = NULL;
    for (unsigned i = 0; i < header.e_shnum; i++) {
        if (section[i].sh_type == SHT_SYMTAB && section[i].sh_link < header.e_shnum) {
            table = &section[i];
        }
    }
    if (!table) {
        return fail_plain(err, ENOENT,
                          "the file has no symbols; scripts/kernel-symbols makes one of "
                          "a guest's /proc/kallsyms");
    }
    const Elf64_Shdr *names = &section[table->sh_link];
    symbols->names = read_part(file, names->sh_offset, names->sh_size, err);
    if (!symbols->names) {
        return -err->code;
    }
    symbols->names_size = names->sh_size;
    SCOPE_FREE Elf64_Sym *entries =
        read_part(file, table->sh_offset, table->sh_size, err);
    if (!entries) {
        return -err->code;
    }
    return take(symbols, entries, table->sh_size / sizeof(*entries), err);
}

struct symbols *symbols_load(const char *path, struct error *err)
{
    struct error local;
    err = err ? err : &local;
    SCOPE_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat status;
    if (fd < 0 || fstat(fd, &status) < 0) {
        fail(err, errno, "cannot open %.200s", path);
        return NULL;
    }
    struct symbols *symbols = calloc(1, sizeof(*symbols));
    if (!symbols) {
        fail(err, ENOMEM, "cannot read %.200s", path);
        return NULL;
    }
    const struct file file = {fd, S_ISREG(status.st_mode) ? (uint64_t)status.st_size : 0};
    if (load(symbols, &file, err) < 0) {
        fail_within(err, "%.200s", path);
        symbols_free(symbols);
        return NULL;
    }
    return symbols;
}

void symbols_free(struct symbols *symbols)
{
    if (symbols) {
        free(symbols->symbol);
        free(symbols->names);
        free(symbols);
    }
}

const char *symbols_find(const struct symbols *symbols, uint64_t address,
                         uint64_t *offset)
{
    size_t low = 0, high = symbols ? symbols->count : 0;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (symbols->symbol[middle].address <= address) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    if (low == 0) {
        return NULL;
    }
    /* Of several at one address the first. */
    const struct symbol *symbol = &symbols->symbol[low - 1];
    while (symbol > symbols->symbol && symbol[-1].address == symbol->address) {
        symbol--;
    }
    *offset = address - symbol->address;
    return *offset < symbol->size ? symbols->names + symbol->name : NULL;
}

int symbols_range(const struct symbols *symbols, const char *name, uint64_t *start,
                  uint64_t *end)
{
    for (size_t i = 0; symbols && i < symbols->count; i++) {
        const struct symbol *symbol = &symbols->symbol[i];
        if (strcmp(symbols->names + symbol->name, name) == 0) {
            *start = symbol->address;
            *end = symbol->address + symbol->size;
            return 0;
        }
    }
    return -1;
}
