"""From a pool and what is observed of it to what is to be done: pure, derived anew each time, without memory."""
