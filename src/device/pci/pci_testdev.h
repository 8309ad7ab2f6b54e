#pragma once
/*
 * QEMU's pci-testdev (docs/specs/pci-testdev): writes to be counted, through memory and
 * through ports, for tests that measure an access or check that none is lost. Each of its
 * two registers begins with a header that says where to write what for the test chosen.
 */

#include "device/pci/pci.h"

struct pci_testdev;

struct pci_testdev *pci_testdev_new(const char *name, struct error *err);
struct device *pci_testdev_device(struct pci_testdev *testdev);
struct pci_function *pci_testdev_function(struct pci_testdev *testdev);
