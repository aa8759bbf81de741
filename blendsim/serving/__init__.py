"""The serving core: who enters the engine, what each step computes, whose the KV blocks are."""
