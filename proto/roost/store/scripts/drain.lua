-- Asks a worker to drain: it takes no new attempts from then on. Asking again does not begin the time to drain again.
-- KEYS drain
-- NUMBERS keep_ms
-- Replies OK, or nil when the worker had been asked before

return redis.call('SET', keys.drain, text(now_ms()), 'NX', 'PX', args.keep_ms)
