#pragma once
/*
 * Writes ACPI Machine Language (ACPI 6.5 chapter 20) into a buffer of fixed size. Where
 * it is full, writing goes on counting and `size` tells how much would have been needed.
 */

#include <stdint.h>

struct aml {
    uint8_t *data;
    uint32_t size, capacity;
};

void aml_init(struct aml *aml, void *data, uint32_t capacity);
void aml_bytes(struct aml *aml, const void *bytes, uint32_t size);

/* Objects that contain others: begin returns what end takes. */
uint32_t aml_scope_begin(struct aml *aml, const char *name); /* "\\_SB" */
uint32_t aml_device_begin(struct aml *aml, const char *name);
uint32_t aml_package_begin(struct aml *aml, uint8_t elements);
/* A resource template, for _CRS; ends with aml_resources_end. */
uint32_t aml_resources_begin(struct aml *aml);
void aml_end(struct aml *aml, uint32_t begin);
void aml_resources_end(struct aml *aml, uint32_t begin);

/* Name (name, ...): the object follows. Names have four characters. */
void aml_name(struct aml *aml, const char *name);
void aml_integer(struct aml *aml, uint64_t value);
void aml_string(struct aml *aml, const char *text);
/* A compressed EISA identifier: "PNP0501". */
void aml_eisa_id(struct aml *aml, const char *id);

/* Resource descriptors (ACPI 6.5 section 6.4). */
void aml_resource_io(struct aml *aml, uint16_t port, uint8_t count);
void aml_resource_irq(struct aml *aml, uint8_t irq); /* edge, active high */
void aml_resource_memory(struct aml *aml, uint32_t base, uint32_t size);
/* What a bridge forwards, both ends included: bus numbers and ports of 16 bits, memory of
 * 32. */
enum aml_window {
    AML_WINDOW_MEMORY = 0,
    AML_WINDOW_IO = 1,
    AML_WINDOW_BUS = 2,
};
void aml_resource_window(struct aml *aml, enum aml_window kind, uint32_t first,
                         uint32_t last);
/* A global system interrupt: level or edge, active high. */
void aml_resource_interrupt(struct aml *aml, uint32_t gsi, int is_level);
