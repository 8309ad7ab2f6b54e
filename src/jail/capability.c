#include "jail/capability.h"

#include <cap-ng.h>
#include <errno.h>

int capability_drop_bounds(void)
{
    if (capng_get_caps_process() < 0 ||
        !capng_have_capability(CAPNG_EFFECTIVE, CAP_SETPCAP)) {
        return -EPERM;
    }
    capng_clear(CAPNG_SELECT_BOUNDS);
    return capng_apply(CAPNG_SELECT_BOUNDS) < 0 ? -EPERM : 0;
}

int capability_drop(void)
{
    capng_clear(CAPNG_SELECT_CAPS);
    return capng_apply(CAPNG_SELECT_CAPS) < 0 ? -EPERM : 0;
}
