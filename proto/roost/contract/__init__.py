"""What gateway, worker and operator must agree on: names, hashes, heads, leases, pool documents, checks of requests,
refusals and their statuses. Pure: no I/O, and no transport (an import contract keeps it so)."""
