"""What gateway, worker and operator must agree on: names, hashes, leases, error reasons. Pure, no I/O."""
