"""bench/compare: the same workloads under Doppel's engines, QEMU's TCG and on the bare host."""
