"""`roost demo`: agents with real tools on a real model, while workers, gateways and Redis are killed."""
