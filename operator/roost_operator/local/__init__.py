"""`roost up`: a whole pool on one machine, as child processes of one supervisor."""
