/* A processor that cannot deliver an exception, nor the double fault after it, shuts
 * down: the VM ends as crashed. */
#include "cpu.h"
#include "guest.h"

void guest_test(void)
{
    struct descriptor_pointer idtr = {0, 0};
    __asm__ volatile("lidt %0; ud2" : : "m"(idtr));
}
