#include "base/barrier.h"

#include <assert.h>
#include <linux/membarrier.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static pthread_once_t once = PTHREAD_ONCE_INIT;
static bool has_membarrier;

/* For hosts and sandboxes that refuse membarrier(2). */
static pthread_mutex_t page_lock = PTHREAD_MUTEX_INITIALIZER;
static _Atomic char *page;
static size_t page_size;

static long membarrier(int command)
{
    return syscall(SYS_membarrier, command, 0, 0);
}

/* The page is made in any case: a sandbox entered later may refuse the call from then on.
 */
static void prepare(void)
{
    has_membarrier = membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED) == 0;
    page_size = (size_t)sysconf(_SC_PAGESIZE);
    page =
        mmap(NULL, page_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert(page != MAP_FAILED);
}

/*
 * Taking write permission from a page that has been written makes the kernel drop it from
 * the TLB of every processor running this process, by interrupting them; entering and
 * leaving the kernel for that is the fence. The page is dirtied each time because the
 * kernel may skip the flush for an entry that no processor can have cached.
 */
static void interrupt_by_mprotect(void)
{
    pthread_mutex_lock(&page_lock);
    int failed = mprotect((void *)page, page_size, PROT_READ | PROT_WRITE);
    atomic_fetch_add(page, 1);
    failed |= mprotect((void *)page, page_size, PROT_NONE);
    pthread_mutex_unlock(&page_lock);
    assert(!failed);
}

void barrier_prepare(void)
{
    pthread_once(&once, prepare);
}

void barrier_all_threads(void)
{
    barrier_prepare();
    atomic_thread_fence(memory_order_seq_cst);
    if (!has_membarrier || membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED) != 0) {
        interrupt_by_mprotect();
    }
    atomic_thread_fence(memory_order_seq_cst);
}
