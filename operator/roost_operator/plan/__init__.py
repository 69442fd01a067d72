"""From a pool and what is observed of it to what is to be done. Pure; nothing is remembered between two plans."""
